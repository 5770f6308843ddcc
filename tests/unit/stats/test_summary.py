"""The figures of points and of request rows, against values worked out by hand."""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgspec
import numpy as np
import pytest

from nexus_tasks.records.benchmark_rows import Figures, Goodput, Intervals, Measured, RequestRow, Throughput
from nexus_tasks.stats import summary
from nexus_tasks.stats.metrics import OF_REQUESTS
from nexus_tasks.stats.summary import Collector, summarise
from tests import report_records
from tests.support.known import known

NO_INTERVALS = Intervals(median=None, mean=None, p95=None, p99=None)


def row(**changes: Any) -> RequestRow:
    """A request that succeeded: 5 tokens in 112 ms."""
    typed: RequestRow = report_records.typed({
        **report_records.request(1),
        "phase": "run", "ok": True, "error": None, "prompt_tokens": 128, "output_tokens": 5, "cached_tokens": 0,
        "ttft_ms": 100.0, "itl_ms": [3.0, 4.0, 3.0, 2.0], "tpot_ms": 3.0, "total_ms": 112.0, "decode_tps": 333.3,
        "prefill_tps": 1280.0, "queue_ms": None, "late_ms": 0.0, "stalls": 0, **changes,
    })  # fmt: skip
    return typed


def failed(kind: str, **changes: Any) -> RequestRow:
    unknown = dict.fromkeys(("ttft_ms", "tpot_ms", "decode_tps", "prefill_tps"))
    return row(ok=False, error={"kind": kind, "message": "?"}, itl_ms=[], **unknown, **changes)


def figures(*rows: RequestRow, slo: dict[str, float] | None = None, window_s: float = 10.0) -> Measured:
    return summary.of_requests(rows, slo=slo, window_s=window_s)


# --- points


def test_no_points_have_no_summary() -> None:
    assert summarise([]) is None


def test_few_points_are_kept_in_their_order_and_have_no_percentiles() -> None:
    found = summarise([4.0, 1.0, 7.0])
    assert found == Figures(
        n=3, min=1.0, max=7.0, mean=4.0, median=4.0, stdev=3.0, p90=None, p95=None, p99=None, points=[4.0, 1.0, 7.0],
        ci=NO_INTERVALS,
    )  # fmt: skip


def test_one_point_has_no_deviation() -> None:
    found = summarise([5.0])
    assert found is not None
    assert found.stdev is None
    assert (found.min, found.mean, found.max) == (5.0, 5.0, 5.0)


@pytest.mark.parametrize(("count", "has_percentiles"), [(19, False), (20, True)])
def test_percentiles_take_the_place_of_the_points_from_twenty_on(count: int, has_percentiles: bool) -> None:
    found = summarise([float(n) for n in range(count)])
    assert found is not None
    assert (found.p95 is not None) is has_percentiles
    assert (found.points is None) is has_percentiles


def test_percentiles_lie_between_the_nearest_points() -> None:
    found = summarise([float(n) for n in reversed(range(101))])
    assert found is not None
    assert (found.p90, found.p95, found.p99) == (90.0, 95.0, 99.0)
    halfway = summarise([0.0] * 19 + [10.0])
    assert halfway is not None
    assert halfway.p95 == pytest.approx(0.5)  # position 18.05 of 0..19: a twentieth of the way from 0 to 10


def test_the_deviation_is_that_of_a_sample() -> None:
    found = summarise([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0])
    assert found is not None
    assert found.stdev == pytest.approx((32 / 7) ** 0.5)
    assert found.median == 4.5


def test_figures_come_with_the_intervals_that_there_are_enough_points_for() -> None:
    found = summarise(np.random.default_rng(1).normal(10, 1, 60))
    assert found is not None
    ci = known(found.ci)
    low, high = known(ci.median)
    assert low < found.median < high
    assert ci.mean is not None
    assert ci.p99 is None


def test_points_of_one_request_make_an_interval_wide() -> None:
    alike = np.repeat(np.random.default_rng(2).normal(10, 1, 20), 50)
    by_request, by_point = summarise(alike, [50] * 20), summarise(alike)
    assert by_request is not None
    assert by_point is not None

    def width(found: Figures) -> float:
        low, high = known(known(found.ci).mean)
        return high - low

    assert width(by_request) > 5 * width(by_point)
    assert by_request.mean == by_point.mean


# --- rows


def test_requests_are_counted_in_all_phases_and_measured_in_one() -> None:
    found = figures(row(phase="warmup", ttft_ms=900.0), row(phase="ramp"), row(), failed("timeout", phase="warmup"))
    assert (found.requests, found.failed, found.short) == (4, 1, 0)
    assert known(found.metrics["ttft_ms"]).points == [100.0]
    assert known(found.throughput).requests_per_s == pytest.approx(0.1)


def test_short_answers_are_counted_and_not_measured() -> None:
    found = figures(row(), failed("short", output_tokens=3, total_ms=1.0))
    assert (found.failed, found.short) == (1, 1)
    assert known(found.metrics["total_ms"]).n == 1
    assert known(found.throughput).output_tps == pytest.approx(0.5)


def test_gaps_are_those_of_all_good_requests_together() -> None:
    found = figures(row(), row(itl_ms=[1.0, 9.0]), failed("disconnected"))
    assert known(found.metrics["itl_ms"]).points == [3.0, 4.0, 3.0, 2.0, 1.0, 9.0]
    assert set(found.metrics) == set(OF_REQUESTS)
    assert found.metrics["queue_ms"] is None


def test_stalls_count_in_failed_requests_too() -> None:
    assert figures(row(stalls=2), failed("timeout", stalls=1), row(phase="warmup", stalls=5)).stalls == 3


def test_throughput_is_that_of_the_window_and_without_cached_tokens() -> None:
    found = figures(row(), row(cached_tokens=100), row(cached_tokens=None), window_s=2.0).throughput
    assert found == Throughput(output_tps=7.5, requests_per_s=1.5, prompt_tps=142.0, total_tps=149.5)


def test_no_window_has_no_throughput() -> None:
    found = figures(row(), window_s=0.0).throughput
    assert set(msgspec.to_builtins(known(found)).values()) == {None}


def test_requests_without_tokens_have_no_token_throughput() -> None:
    answer = row(output_tokens=None, itl_ms=[], ttft_ms=None, tpot_ms=None)
    found = figures(answer)
    assert known(found.throughput).output_tps is None
    assert known(found.throughput).prompt_tps == pytest.approx(12.8)
    assert found.metrics["itl_ms"] is None


def test_prompts_of_unknown_length_have_no_throughput() -> None:
    found = known(figures(row(prompt_tokens=None)).throughput)
    assert (found.prompt_tps, found.total_tps, found.output_tps) == (None, None, 0.5)
    assert known(figures(failed("timeout", prompt_tokens=None)).throughput).prompt_tps == 0.0


def test_goodput_is_of_the_requests_that_kept_every_objective() -> None:
    slo = {"ttft_ms": 150.0, "itl_p95_ms": 5.0}
    late, jumpy = row(ttft_ms=151.0), row(itl_ms=[1.0] * 10 + [50.0] * 10)
    found = figures(row(), late, jumpy, failed("timeout"), row(phase="warmup"), slo=slo)
    assert found.goodput == Goodput(requests_per_s=0.1, share=0.25)
    assert figures(row()).goodput is None


def test_a_collector_knows_at_any_time_what_it_has() -> None:
    collector = Collector()
    for n in range(30):
        collector.add(row(ttft_ms=100.0 + n))
        assert collector.counted == n + 1
    values, sizes = collector.points("ttft_ms")
    assert values.tolist() == [100.0 + n for n in range(30)]
    assert sizes.tolist() == [1] * 30
    gaps, of_requests = collector.points("itl_ms")
    assert (len(gaps), of_requests.tolist()) == (120, [4] * 30)


def test_a_thousand_long_answers_don_t_fill_the_memory() -> None:
    gaps = np.random.default_rng(3).normal(5, 0.1, 1000).tolist()
    collector = Collector(kept_gaps=100_000)
    tracemalloc.start()
    try:
        for _ in range(1000):
            collector.add(row(itl_ms=gaps))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 4e6  # a million gaps are 8 MB as numbers, 32 MB as a list


def test_gaps_beyond_what_is_kept_are_drawn_at_random_and_leave_the_figures() -> None:
    rng = np.random.default_rng(4)
    whole, thinned = Collector(), Collector(kept_gaps=20_000)
    for _ in range(200):
        gaps = rng.lognormal(1.6, 0.2, 1000).tolist()
        for collector in (whole, thinned):
            collector.add(row(itl_ms=gaps))
    values, sizes = thinned.points("itl_ms")
    assert 8_000 < len(values) == sizes.sum() <= 20_000
    assert len(sizes) == 200
    exact, found = (known(each.figures(1.0).metrics["itl_ms"]) for each in (whole, thinned))
    for name in ("n", "min", "max"):
        assert getattr(found, name) == getattr(exact, name)
    for name in ("mean", "stdev"):
        assert getattr(found, name) == pytest.approx(getattr(exact, name), rel=1e-9)
    for name in ("median", "p95", "p99"):
        assert getattr(found, name) == pytest.approx(getattr(exact, name), rel=0.02)


def test_a_rhythm_in_the_gaps_survives_thinning() -> None:
    # Several tokens come in one event: every fourth gap is long. Every second one in turn would be all or nothing.
    collector = Collector(kept_gaps=5_000)
    for _ in range(40):
        collector.add(row(itl_ms=[0.0, 0.0, 0.0, 20.0] * 250))
    values, _ = collector.points("itl_ms")
    assert (values > 0).mean() == pytest.approx(0.25, abs=0.03)


def test_a_look_takes_a_part_of_the_gaps_of_every_request() -> None:
    collector = Collector()
    for _ in range(20):
        collector.add(row(itl_ms=[1.0] * 1000))
    values, sizes = collector.points("itl_ms", 2_000)
    assert len(values) == sizes.sum() == pytest.approx(2_000, rel=0.15)
    assert sizes.min() > 0
