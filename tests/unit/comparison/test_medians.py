"""Verdicts on the medians that pages show."""

from __future__ import annotations

import pytest

from nexus_tasks.comparison import medians
from nexus_tasks.comparison.verdicts import BETTER, CANT_TELL, SAME, WORSE, judge
from tests.compare_records import changed, finding, levels, run


def test_a_slower_run_has_a_worse_median_of_its_gaps() -> None:
    verdicts = medians.verdicts_of(run("a"), run("b", slower=1.2))
    assert (verdicts["itl_ms"], verdicts["decode_tps"]) == (WORSE, WORSE)
    assert verdicts["ttft_ms"] in (SAME, CANT_TELL)
    assert medians.verdicts_of(run("a", slower=1.2), run("b"))["itl_ms"] == BETTER


@pytest.mark.parametrize("slower", [1.01, 1.02, 1.03, 1.04, 1.05, 1.06])
def test_no_median_is_different_where_a_comparison_can_t_tell(slower: float) -> None:
    a, b = run("a"), run("b", slower=slower)
    compared = judge([a], [b])
    verdicts = medians.verdicts_of(a, b)
    for name in ("decode_tps", "ttft_ms", "prefill_tps"):
        assert verdicts[name] not in (BETTER, WORSE) or finding(compared, name).verdict == verdicts[name]


def test_levels_that_disagree_can_t_tell() -> None:
    a = levels(run("a"), {1: 1.0, 8: 1.0}, 40)
    assert medians.verdicts_of(a, levels(run("b"), {1: 1.2, 8: 1.2}, 40))["decode_tps"] == WORSE
    assert medians.verdicts_of(a, levels(run("b"), {1: 1.2, 8: 1 / 1.2}, 40))["decode_tps"] == CANT_TELL


def test_nothing_is_told_of_runs_that_can_t_be_compared() -> None:
    assert medians.verdicts_of(run("a"), changed(run("b"), {"workload.api": "chat"})) == {}
