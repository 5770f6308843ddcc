"""The log of a llama-server about its memory."""

from __future__ import annotations

from plugins.module_utils.llama_server.proof.memory_log import placement

LOG = """\
0.00.068 I load_tensors: offloaded 25/25 layers to GPU
0.00.068 I load_tensors:   CPU_Mapped model buffer size =   379.71 MiB
0.00.068 I load_tensors:        CUDA0 model buffer size = 10694.15 MiB
0.00.061 I clip_ctx: CLIP using CUDA0 backend
0.00.069 I llama_context:  CUDA_Host  output buffer size =     0.77 MiB
0.00.069 I llama_kv_cache:      CUDA0 KV buffer size =  3000.00 MiB
0.00.069 I llama_kv_cache:      CUDA0 KV buffer size =    18.00 MiB
0.00.071 I sched_reserve:      CUDA0 compute buffer size =   398.38 MiB
0.00.072 I load_tensors: offloaded 3/3 layers to GPU
"""


def test_buffers_of_one_kind_are_added_up_by_device() -> None:
    found = placement(LOG.splitlines())
    assert found.projector == "CUDA0"
    assert found.offloaded == (25, 25)  # the second is a draft model's
    assert found.buffers_mib == {
        "CPU_Mapped": {"model": 379.71},
        "CUDA0": {"model": 10694.15, "kv": 3018.0, "compute": 398.38},
        "CUDA_Host": {"compute": 0.77},
    }


def test_of_a_server_that_slept_the_last_load_counts_and_no_sum() -> None:
    load = "0.00.010 I srv    load_model: loading model '/m.gguf'\n" + LOG
    smaller = load.replace("3000.00", "1000.00")
    draft = "0.00.011 I srv    load_model: loading draft model '/d.gguf'\n"
    slept = "0.03.0 I srv  handle_sleep: server is exiting sleeping state\n"
    assert placement((load + draft + slept + smaller).splitlines()) == placement(smaller.splitlines())
    assert placement((load + slept + load + slept + load).splitlines()) == placement(LOG.splitlines())
