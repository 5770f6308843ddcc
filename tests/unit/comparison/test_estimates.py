"""How sure a run makes its own figures: few requests, bursts, and what was in flight together."""

from __future__ import annotations

import numpy as np
import pytest

from nexus_tasks.comparison.verdicts import BETTER, CANT_TELL, SAME, WORSE, judge
from nexus_tasks.records.store import BenchmarkRecord
from tests.compare_records import finding, levels, run, width
from tests.support.known import known


def test_a_single_request_on_a_side_can_t_tell() -> None:
    found = judge([run("a", requests=1)], [run("b", requests=1, slower=2.0)])
    decode = finding(found, "decode_tps")
    assert (decode.verdict, decode.low) == (CANT_TELL, None)
    assert decode.change == pytest.approx(-50, abs=2)


def test_one_stalled_request_of_many_doesn_t_hide_a_loss() -> None:
    slow = run("b", slower=1.08)
    slow.requests[3].decode_tps, slow.requests[3].ttft_ms = 10.0, 60_000.0
    assert finding(judge([run("a")], [slow]), "decode_tps").verdict == WORSE


def test_slow_drift_within_a_run_makes_it_less_sure_than_the_same_points_in_disorder() -> None:
    def drifting(name: str, *, ordered: bool) -> BenchmarkRecord:
        record = run(name, requests=120)
        speeds = np.concatenate([np.full(40, 100.0), np.full(40, 110.0), np.full(40, 105.0)])
        if not ordered:
            speeds = np.random.default_rng(5).permutation(speeds)
        for row, speed in zip(record.requests, speeds, strict=True):
            row.decode_tps = speed + known(row.ttft_ms) / 1e4
        return record

    in_order, mixed = [
        judge([drifting("a", ordered=ordered)], [drifting("b", ordered=ordered)]) for ordered in (True, False)
    ]
    assert width(in_order) > 1.3 * width(mixed)


def speed_up(record: BenchmarkRecord) -> None:
    throughput = known(record.stages[0].throughput)
    throughput.output_tps = known(throughput.output_tps) * 1.2


def test_throughput_of_few_requests_and_of_many_differs_by_how_the_load_begins_and_ends() -> None:
    few, many, more = [levels(run(name), {8: 1.0}, count) for name, count in (("a", 16), ("b", 160), ("c", 160))]
    for record in (many, more):
        speed_up(record)
    assert finding(judge([few], [many]), "output_tps").verdict == CANT_TELL
    assert finding(judge([many], [more]), "output_tps").verdict == SAME
    speed_up(more)
    assert finding(judge([many], [more]), "output_tps").verdict == BETTER


def test_stalls_that_are_all_in_one_request_can_t_be_told() -> None:
    b = run("b", requests=20)
    b.requests[7].itl_ms = [gap * (50 if n % 4 == 0 else 1) for n, gap in enumerate(b.requests[7].itl_ms)]
    found = finding(judge([run("a", requests=20)], [b]), "itl_p99_ms")
    assert (found.verdict, found.low) == (CANT_TELL, None)


def test_two_wild_requests_of_many_levels_have_no_interval() -> None:
    few = dict.fromkeys((1, 2, 4, 8, 16), 1.0)
    a, b = levels(run("a"), few, 2), levels(run("b"), few, 2)
    for row in b.requests[::2]:
        row.ttft_ms = known(row.ttft_ms) * 100
    ttft = finding(judge([a], [b]), "ttft_ms", "concurrency 4")
    assert (ttft.verdict, ttft.low, ttft.high) == (CANT_TELL, None, None)
    assert ttft.change is not None
    assert ttft.change > 100


def test_requests_that_were_in_flight_together_say_less_than_as_many_one_after_another() -> None:
    def waves(name: str, users: int) -> BenchmarkRecord:
        record = levels(run(name), {users: 1.0}, 128)
        speeds = np.random.default_rng(9).normal(100, 5, 16)
        for number, row in enumerate(record.requests):
            row.decode_tps = speeds[number // 8] + known(row.ttft_ms) / 1e4
        return record

    together, alone = [judge([waves("a", users)], [waves("b", users)]) for users in (8, 1)]
    assert width(together) > 1.2 * width(alone)
