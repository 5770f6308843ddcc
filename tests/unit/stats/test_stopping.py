"""When a stage has measured enough."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from nexus_tasks.core.errors import UsageError
from nexus_tasks.records.benchmark_rows import RequestRow
from nexus_tasks.stats import stopping
from nexus_tasks.stats.summary import Collector
from tests import report_records


@pytest.mark.parametrize(
    ("text", "meant"),
    [("ci=2%", ("decode_tps", 2.0)), ("ci=0.5", ("decode_tps", 0.5)), ("itl_p95_ms:ci=3%", ("itl_p95_ms", 3.0))],
)
def test_until_names_a_metric_and_a_width(text: str, meant: tuple[str, float]) -> None:
    assert stopping.parse(text) == meant


@pytest.mark.parametrize("text", ["2%", "ci=", "ci=0%", "ci=-1%", "ttft_ms", "ci=2%x", "speed:ci=2%"])
def test_an_until_that_says_nothing_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        stopping.parse(text)


def row(decode_tps: float, itl_ms: Sequence[float] = ()) -> RequestRow:
    """A request that succeeded, of whose prompt nothing is known."""
    known = {"decode_tps": decode_tps, "itl_ms": list(itl_ms), "prefill_tps": None}
    typed: RequestRow = report_records.typed({**report_records.request(1), **known})
    return typed


def collector_of(speeds: list[float]) -> Collector:
    collector = Collector()
    for speed in speeds:
        gaps = np.random.default_rng(int(speed * 1e6)).normal(1000 / speed, 0.1, 50).tolist()
        collector.add(row(speed, gaps))
    return collector


def speeds(count: int, deviation: float) -> list[float]:
    return [float(speed) for speed in np.random.default_rng(8).normal(100, deviation, count)]


def test_a_metric_is_known_enough_when_its_interval_is_narrow() -> None:
    assert stopping.enough(collector_of(speeds(100, 5.0)), "decode_tps", 2.0)  # 1.25 * 5 / 10 * 1.96: 1.2 %
    assert not stopping.enough(collector_of(speeds(100, 5.0)), "decode_tps", 0.5)
    assert not stopping.enough(collector_of(speeds(20, 10.0)), "decode_tps", 2.0)
    assert stopping.enough(collector_of(speeds(100, 1.0)), "itl_p95_ms", 2.0)


def test_a_few_lucky_requests_are_never_enough() -> None:
    assert not stopping.enough(collector_of([100.0] * 9), "decode_tps", 2.0)
    assert stopping.enough(collector_of([100.0] * 10), "decode_tps", 2.0)


def test_a_metric_without_points_is_never_enough() -> None:
    assert not stopping.enough(collector_of([100.0] * 20), "prefill_tps", 2.0)


def test_it_is_looked_at_again_only_when_a_tenth_more_is_there() -> None:
    noisy = collector_of(speeds(100, 20.0))
    assert not stopping.enough(noisy, "decode_tps", 1.0)
    assert noisy.next_look == 111
    for _ in range(10):
        noisy.add(row(100.0))
    assert not stopping.enough(noisy, "decode_tps", 1000.0)  # 110 requests: not looked at
    noisy.add(row(100.0))
    assert stopping.enough(noisy, "decode_tps", 1000.0)
