"""What a record says about a run of a tool."""

from __future__ import annotations

import msgspec

from nexus_tasks.measurement.llama_bench import header
from nexus_tasks.measurement.llama_bench.tool_plan import BENCH
from tests.llama_bench_runs import bench_lines, instance, planned
from tests.support.known import known


def test_a_key_in_the_command_line_does_not_reach_the_record() -> None:
    written = header.of_run(planned(), instance("--api-key", "sesame"), {"lines": bench_lines()}, beside=[], tag="a")
    assert b"sesame" not in msgspec.json.encode(written)
    assert known(written.server.argv)[-2:] == ["--api-key", "***"]
    assert (written.server.build, written.load.engine, written.tag) == ("b1-012345678", BENCH, "a")
