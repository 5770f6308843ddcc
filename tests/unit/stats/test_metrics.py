"""The registry of metrics: names, and what is known of each."""

from __future__ import annotations

import pytest

from nexus_tasks.core.errors import UsageError
from nexus_tasks.stats import bootstrap, metrics
from nexus_tasks.stats.metrics import METRICS, OF_REQUESTS, SLO_NAMES, Source


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("itl_ms", ("itl_ms", None)),
        ("itl_p95_ms", ("itl_ms", "p95")),
        ("itl_max_ms", ("itl_ms", "max")),
        ("ttft_visible_mean_ms", ("ttft_visible_ms", "mean")),
        ("decode_p90_tps", ("decode_tps", "p90")),
    ],
)
def test_names_mean_a_metric_and_a_statistic(name: str, meant: tuple[str, str | None]) -> None:
    metric, statistic = metrics.parse(name)
    assert (metric.key, statistic) == meant


@pytest.mark.parametrize("name", ["itl", "itl_p97_ms", "speed_ms", "", "itl_p95_tps", "itl_max_ms"])
def test_a_name_of_nothing_is_refused_with_those_that_are_known(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        metrics.parse(name, bootstrap.BOUNDED)
    assert repr(name) in caught.value.message
    assert "ttft_ms" in caught.value.hint


def test_names_of_statistics_are_read_as_they_are_written() -> None:
    for metric in OF_REQUESTS.values():
        for statistic in metrics.STATISTICS:
            meant = metrics.parse(metric.name_of(statistic))
            assert meant == (metric, None if statistic == "median" else statistic)


def test_every_objective_is_of_a_value_that_a_request_has() -> None:
    for name in SLO_NAMES:
        metric, statistic = metrics.parse(name)
        assert name in metric.slo_names
        assert (statistic is None) is (metric.source is Source.REQUEST)


def test_keys_end_with_their_units() -> None:
    ends = {"ms": "_ms", "tokens/s": "_tps", "requests/s": "_per_s", "%": ""}
    for key, metric in METRICS.items():
        assert key == metric.key
        assert key.endswith(ends[metric.unit])
