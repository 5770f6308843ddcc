"""Why a server can't start, as its log tells: the first error of its own life."""

from __future__ import annotations

import pytest

from plugins.module_utils.llama_server.proof.readiness import complaint

LAUNCH = "launch: process 7 is main, pending generation 0"
INFO = "0.00.004.611 I cmn  common_param: verbosity = 4 (default), 0 errors, failed: none, cannot be denied"
OOM = "0.00.100.000 E ggml_backend_cuda_buffer_type_alloc_buffer: allocating 9000.00 MiB on device 0: cudaMalloc failed"
SECOND_PART = """\
0.00.021.643 E llama_model_load: error loading model: illegal split file idx: 1 (file: m-00002-of-00002.gguf), model must be loaded with the first split
0.00.021.667 E llama_model_load_from_file_impl: failed to load model
0.00.021.715 E common_fit_params: encountered an error while trying to fit params to free device memory: failed to load model
0.00.022.721 E srv    load_model: failed to load model, 'm-00002-of-00002.gguf'
0.00.023.131 E srv  llama_server: exiting due to model loading error
""".splitlines()  # fmt: skip  # noqa: E501 - as the server says it
ABORT = "/src/ggml/src/ggml-cuda/ggml-cuda.cu:88: GGML_ASSERT(tensor->view_src == nullptr) failed"
BACKTRACE = [f"#{number}  0x00007f in ggml_abort () from /opt/lib/libggml-base.so" for number in range(400)]
TEMPLATE = ["0.00.03 I srv  init: chat template, example_format: '<|system|>", "if the call failed, say error", "'"]


@pytest.mark.parametrize(
    ("lives", "said"),
    [
        (
            [[LAUNCH, INFO, *SECOND_PART]],
            "illegal split file idx: 1 (file: m-00002-of-00002.gguf), model must be loaded",
        ),
        ([[LAUNCH, INFO, ABORT, *BACKTRACE]], "GGML_ASSERT(tensor->view_src == nullptr) failed"),
        ([[LAUNCH, INFO, *TEMPLATE, ABORT, *BACKTRACE]], "GGML_ASSERT(tensor->view_src == nullptr) failed"),
        (
            [[LAUNCH, OOM, *SECOND_PART]],
            "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 9000.00 MiB on device 0",
        ),
        ([[LAUNCH, *SECOND_PART], [LAUNCH, OOM]], "allocating 9000.00 MiB"),  # the last one
        ([[LAUNCH, OOM], [LAUNCH, INFO]], "allocating 9000.00 MiB"),  # which has just begun
        ([[LAUNCH, OOM], ["launch: the GPU is not there: /dev/nvidia-uvm"]], "launch: the GPU is not there"),
        ([[LAUNCH, f"[ 8080] {OOM}"]], "allocating 9000.00 MiB"),  # a router's model
        ([[LAUNCH, "llama-server: error while loading shared libraries: libcuda.so.1: cannot open"]], "libcuda.so.1"),
        ([["llama-server@main.service: Failed at step EXEC spawning python3: No such file"]], "Failed at step EXEC"),
        ([[LAUNCH, INFO]], "the log does not say why"),
        ([[]], "the log does not say why"),
        ([], "the log does not say why"),
    ],
)
def test_the_cause_is_the_first_error_of_the_last_life_that_has_one(lives: list[list[str]], said: str) -> None:
    assert said in complaint(lives)
