"""Headers are whole, whatever is not known of a run."""

from __future__ import annotations

from pathlib import Path

from nexus_tasks.core import provenance
from nexus_tasks.records import header, store

ENDPOINT = {
    "base_url": "http://127.0.0.1:1", "host": None, "instance": None, "engine": "llama.cpp", "model": "tiny",
    "tunnel": None, "preset": None,
}  # fmt: skip
MODEL = dict.fromkeys(("name", "path", "size_bytes", "sha256", "n_params", "n_ctx_train"))
SERVER = dict.fromkeys(("build", "release", "argv", "argv_sha256", "n_ctx", "total_slots"))
WORKLOAD = {
    "preset": None, "kind": "synthetic", "api": "completion", "prompt_tokens": None, "output_tokens": None,
    "prompts": "unique", "turns": 1, "prefix_tokens": 0, "lengths": None, "file": None, "documents": None,
    "temperature": 0.0, "ignore_eos": True, "seed": None,
}  # fmt: skip


def test_a_measurement_of_which_little_is_known_has_a_header_that_can_be_read(tmp_path: Path) -> None:
    load = header.load("llama-bench", mode="closed", axis=None, planned=[{"concurrency": 1}], servers_beside=["rig/b"])
    row = header.benchmark(
        "rig/main", tag=None, endpoint=ENDPOINT, model=MODEL, server=SERVER, local=False, gpus=[], nvml_error=None,
        host_state=None, workload=WORKLOAD, load=load,
    )  # fmt: skip
    with store.create("benchmark", row, target="rig/main", root=tmp_path) as record:
        pass
    read = store.load(record.path).header
    assert (read["target"], read["git"], read["client"]["local"]) == ("rig/main", provenance.git(), False)
    assert read["host_state"] == {"driver": None, "power_limit_w": None, "clocks_max_mhz": None, "governor": None}
    assert read["load"]["limits"] == {"token_s": None, "request_s": None, "max_error_rate": None}
    assert (read["load"]["until"], read["load"]["commands"], read["load"]["servers_beside"]) == (None, None, ["rig/b"])
