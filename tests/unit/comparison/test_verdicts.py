"""What is judged of two runs, and what is called better or worse."""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pytest

from nexus_tasks.comparison import simulation
from nexus_tasks.comparison.simulation import Design, Noise
from nexus_tasks.comparison.verdicts import BETTER, CANT_TELL, SAME, WORSE, judge
from nexus_tasks.core.errors import UsageError
from nexus_tasks.records.benchmark_rows import Error
from tests.compare_records import changed, finding, levels, names, run, width
from tests.support.known import known


@pytest.mark.parametrize(("slower", "verdict"), [(1.1, WORSE), (1 / 1.1, BETTER)])
def test_a_tenth_of_the_decode_speed_is_seen_in_two_runs(slower: float, verdict: str) -> None:
    found = judge([run("a")], [run("b", slower=slower)])
    decode = finding(found, "decode_tps")
    assert decode.verdict == verdict
    assert decode.low is not None
    assert decode.change is not None
    assert decode.high is not None
    assert decode.low < decode.change < decode.high
    assert decode.change == pytest.approx((1 / slower - 1) * 100, abs=0.5)
    assert finding(found, "ttft_ms").verdict in (SAME, CANT_TELL)


def test_shorter_is_better_of_times_and_worse_of_speeds() -> None:
    slow, fast = [run(name, seed=n) for n, name in enumerate("ab")]
    for row in slow.requests:
        row.ttft_ms = known(row.ttft_ms) * 1.3
    assert finding(judge([slow], [fast]), "ttft_ms").verdict == BETTER
    assert finding(judge([fast], [slow]), "ttft_ms").verdict == WORSE
    assert finding(judge([fast], [slow]), "ttft_ms").change == pytest.approx(30, abs=2)


def test_more_stalls_are_worse_although_the_median_is_the_same() -> None:
    a, b = run("a", requests=40), run("b", requests=40)
    for row in b.requests:
        row.itl_ms = [gap * (4 if n % 50 == 0 else 1) for n, gap in enumerate(row.itl_ms)]
    found = judge([a], [b])
    assert finding(found, "itl_p99_ms").verdict == WORSE
    assert finding(found, "decode_tps").verdict != WORSE  # its rows still say what they said
    assert found.verdict == WORSE


def test_each_further_quantity_makes_all_intervals_wider() -> None:
    a, b = run("a"), run("b")
    few = [
        dataclasses.replace(
            one, requests=[msgspec.structs.replace(row, prefill_tps=None, ttft_ms=None) for row in one.requests]
        )
        for one in (a, b)
    ]
    assert width(judge([a], [b])) > width(judge(few[:1], few[1:]))


def test_what_was_not_measured_is_not_judged() -> None:
    assert names(judge([run("a")], [run("b")])) == {"decode_tps", "ttft_ms", "itl_p99_ms", "prefill_tps"}
    embeddings = run("a"), run("b")
    for record in embeddings:
        for row in record.requests:
            row.ttft_ms = row.decode_tps = row.prefill_tps = row.output_tokens = None
            row.itl_ms = []
    assert names(judge(embeddings[:1], embeddings[1:])) == {"total_ms"}


@pytest.mark.parametrize(("requests", "judged"), [(40, False), (200, True)])
def test_the_slowest_few_are_judged_where_there_are_enough_of_them(requests: int, judged: bool) -> None:
    found = judge([run("a", requests=requests)], [run("b", requests=requests)])
    assert ("ttft_p95_ms" in names(found)) is judged


def test_in_rounds_of_a_few_requests_the_slowest_is_no_p95() -> None:
    few, many = [
        judge(*simulation.pair(np.random.default_rng(6), Noise(), Design(rounds=5, requests=requests)))
        for requests in (19, 20)
    ]
    assert "ttft_p95_ms" not in names(few)
    assert "ttft_p95_ms" in names(many)
    assert "itl_p99_ms" in names(few)  # of thousands of gaps


def test_throughput_at_a_rate_is_the_rate_and_not_judged() -> None:
    sides = [levels(run(name), {8: 1.0}, 40) for name in "ab"]
    at_rate = [changed(one, {"load.mode": "constant"}) for one in sides]
    assert "output_tps" in names(judge(sides[:1], sides[1:]))
    assert "output_tps" not in names(judge(at_rate[:1], at_rate[1:]))


def test_a_quantity_that_only_a_has_can_t_be_told() -> None:
    b = run("b")
    for row in b.requests:
        row.prefill_tps = None
    found = judge([run("a")], [b])
    assert found.missing == ["prefill, tokens/s at concurrency 1"]
    assert "not measured in all runs, and left out: prefill, tokens/s at concurrency 1" in found.warnings
    assert not judge([b], [run("a")]).missing


def test_runs_without_a_good_request_are_refused() -> None:
    b = run("b")
    for row in b.requests:
        row.ok, row.error, row.ttft_ms = False, Error(kind="timeout", message="?"), None
    found = judge([run("a")], [b])
    assert names(found) == {"failed"}
    none = dataclasses.replace(b, requests=[])
    with pytest.raises(UsageError):
        judge([run("a")], [none])
