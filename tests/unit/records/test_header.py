"""Headers are whole, whatever is not known of a run."""

from __future__ import annotations

from pathlib import Path

from nexus_tasks.records import header, store
from nexus_tasks.records.benchmark_rows import Endpoint, HostState, Limits, Model, Planned, Server, Workload

ENDPOINT = Endpoint(
    base_url="http://127.0.0.1:1", host=None, instance=None, engine="llama.cpp", model="tiny", tunnel=None, preset=None,
)  # fmt: skip
MODEL = Model(name=None, path=None, size_bytes=None, sha256=None, n_params=None, n_ctx_train=None)
SERVER = Server(build=None, release=None, argv=None, argv_sha256=None, n_ctx=None, total_slots=None)
WORKLOAD = Workload(
    preset=None, kind="synthetic", api="completion", prompt_tokens=None, output_tokens=None, prompts="unique", turns=1,
    prefix_tokens=0, lengths=None, file=None, documents=None, temperature=0.0, ignore_eos=True, seed=None,
)  # fmt: skip


def test_a_measurement_of_which_little_is_known_has_a_header_that_can_be_read(tmp_path: Path) -> None:
    load = header.load(
        "llama-bench", mode="closed", axis=None, planned=[Planned(concurrency=1)], servers_beside=["rig/b"]
    )
    row = header.benchmark(
        "rig/main", tag=None, endpoint=ENDPOINT, model=MODEL, server=SERVER, local=False, gpus=[], nvml_error=None,
        host_state=None, workload=WORKLOAD, load=load,
    )  # fmt: skip
    with store.create(row, root=tmp_path) as record:
        pass
    read = store.load(record.path).header
    assert (read.target, read.git, read.client.local) == ("rig/main", header.git(), False)
    assert read.host_state == HostState(driver=None, power_limit_w=None, clocks_max_mhz=None, governor=None)
    assert read.load.limits == Limits(token_s=None, request_s=None, max_error_rate=None)
    assert (read.load.until, read.load.commands, read.load.servers_beside) == (None, None, ["rig/b"])
