"""What a benchmark's record says about its run, without a server."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from nexus_tasks.core import provenance
from nexus_tasks.fleet.inventory import Instance
from nexus_tasks.fleet.targets import Target
from nexus_tasks.load.requests import Stage
from nexus_tasks.measurement import http_header
from nexus_tasks.measurement.plan import Plan
from nexus_tasks.records.benchmark_rows import BenchmarkHeader, Part, Tunnel, fields
from nexus_tasks.servers.endpoint import Endpoint
from nexus_tasks.telemetry.sampling import Gpus
from nexus_tasks.workloads import sizes
from nexus_tasks.workloads.workload import Spec
from tests.support.known import known

LLAMA = Endpoint("http://127.0.0.1:1", "llama.cpp", "tiny", n_ctx=1024, total_slots=1)
SPEC = Spec(prompt_tokens=sizes.fixed(8), output_tokens=sizes.fixed(3), api="completion")
PLAN = Plan(SPEC, (Stage("closed", concurrency=1, requests=2, warmup=1),))
SECRET = "sk-very-secret-0123456789"  # noqa: S105 - the value whose absence is tested


def instance(*argv: str) -> Instance:
    return Instance(
        "gpu1", "main", "http://127.0.0.1:1", SECRET, {"name": "tiny", "path": "/models/tiny.gguf"},
        {"name": "b1-cpu"}, ["llama-server", *argv], "server.log",
    )  # fmt: skip


def header(target: Target, found: Endpoint = LLAMA, plan: Plan = PLAN) -> BenchmarkHeader:
    return http_header.of_run(target, found, plan, Gpus(), host_state=None)


@pytest.mark.parametrize("argv", [("--api-key", SECRET), (f"--api-key={SECRET}",), ("--x", f"a{SECRET}b")])
def test_a_key_that_somebody_put_into_argv_reaches_no_record(argv: tuple[str, ...]) -> None:
    deployed = instance("--port", "1", *argv)
    row = header(Target(deployed.target, deployed.base_url, SECRET, deployed))
    assert SECRET not in str(row)
    written = known(row.server.argv)
    assert written[:3] == ["llama-server", "--port", "1"]
    assert len(written) == 3 + len(argv)


def test_a_target_does_not_show_its_key() -> None:
    deployed = instance()
    assert SECRET not in repr(Target(deployed.target, deployed.base_url, SECRET, deployed))


def test_the_header_has_the_keys_of_the_documentation() -> None:
    documentation = (provenance.ROOT / "docs" / "records.md").read_text()
    row = header(Target("gpu1/main", "http://127.0.0.1:1", None, instance()))
    for key, value in fields(row).items():
        assert f"`{key}`" in documentation
        for inner in fields(value) if isinstance(value, Part) else ():
            assert f"`{inner}`" in documentation


def test_a_server_whose_model_file_is_elsewhere_does_not_run_here() -> None:
    row = header(Target("gpu1/main", "http://127.0.0.1:1", None, instance()))
    assert row.client.local is False


def test_a_server_at_the_end_of_a_tunnel_does_not_run_here(tmp_path: Path) -> None:
    model = tmp_path / "m.gguf"
    model.write_bytes(b"GGUF")
    deployed = dataclasses.replace(instance(), model={"path": str(model)}, base_url="http://127.0.0.1:8600")
    reached = Target("gpu1/main", "http://127.0.0.1:40123", None, deployed, tunnel="gpu1")
    row = header(reached, dataclasses.replace(LLAMA, base_url=reached.base_url))
    assert row.client.local is False
    assert row.endpoint.tunnel == Tunnel(via="ssh", host="gpu1")
    assert row.endpoint.base_url == "http://127.0.0.1:8600"


def test_a_server_on_loopback_with_its_model_file_here_is_local(tmp_path: Path) -> None:
    model = tmp_path / "m.gguf"
    model.write_bytes(b"GGUF")
    found = dataclasses.replace(LLAMA, model_path=str(model))
    row = header(Target("t", "http://127.0.0.1:1", None), found)
    assert row.client.local is True
    assert row.model.size_bytes == 4


def test_the_load_of_each_stage_is_in_the_header() -> None:
    stages = tuple(Stage("closed", concurrency=users, requests=4, warmup=users) for users in (1, 8))
    row = header(Target("t", "http://127.0.0.1:1", None), plan=Plan(SPEC, stages, axis="concurrency"))
    assert (row.load.mode, row.load.axis) == ("closed", "concurrency")
    assert [(stage.concurrency, stage.warmup) for stage in row.load.planned] == [(1, 1), (8, 8)]
