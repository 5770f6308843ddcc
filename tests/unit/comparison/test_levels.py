"""Runs are compared level by level."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from nexus_tasks.comparison import gate, simulation, text
from nexus_tasks.comparison.simulation import Design, Noise
from nexus_tasks.comparison.verdicts import CANT_TELL, SAME, WORSE, judge
from tests import report_records
from tests.compare_records import changed, finding, levels, run


def test_each_level_of_load_is_judged_by_itself() -> None:
    found = judge(
        [levels(run("a"), {1: 1.0, 8: 1.0}, 40)],
        [levels(run("b"), {1: 1.0, 8: 1.2, 16: 1.0}, 40)],
    )
    assert finding(found, "decode_tps", "concurrency 1").verdict != WORSE
    assert finding(found, "decode_tps", "concurrency 8").verdict == WORSE
    assert finding(found, "output_tps", "concurrency 8").verdict == WORSE
    assert finding(found, "output_tps", "concurrency 8").after == pytest.approx(95.0 * 8 / 1.2)
    assert {one.level for one in found.findings if one.name == "output_tps"} == {"concurrency 8"}
    assert "not measured in all runs, and left out: concurrency 16" in found.warnings


def test_a_run_of_one_level_is_compared_with_that_level_of_a_run_of_several() -> None:
    one = changed(levels(run("a"), {8: 1.0}, 40), {"load.axis": None})
    found = judge([one], [levels(run("b"), {1: 1.0, 8: 1.0}, 40)])
    assert {finding.level for finding in found.findings} == {"concurrency 8"}
    assert not found.missing


def test_a_level_that_only_a_has_can_t_be_told() -> None:
    whole, part = levels(run("a"), {1: 1.0, 8: 1.0}, 200), levels(run("b"), {1: 1.0}, 200)
    margins = dict.fromkeys(("decode_tps", "ttft_ms", "ttft_p95_ms", "itl_p99_ms", "prefill_tps"), 50.0)
    found = judge([whole], [part], margins=margins)
    assert {finding.verdict for finding in found.findings} == {SAME}
    assert (found.missing, found.verdict) == (["concurrency 8"], CANT_TELL)
    assert text.sentences(found)[0] == "B against A: not measured in B: concurrency 8."
    assert gate.exit_status([found], "cant-tell") == 4
    assert gate.exit_status([found], "worse") == 0
    assert judge([part], [whole], margins=margins).verdict == SAME
    sweeps = [changed(one, {"load.mode": "sweep"}) for one in (whole, part)]  # find levels of their own
    assert not judge(sweeps[:1], sweeps[1:]).missing


def test_the_round_that_was_cut_short_belongs_to_its_level() -> None:
    a, b = (one for side in simulation.pair(np.random.default_rng(3), Noise(), Design(rounds=5)) for one in side)
    told = {
        "type": "stage", "concurrency": 1, "rate_per_s": None, "prompt_tokens": None, "watch": None,
        **report_records.figures([], 1.0, {}),
        "throughput": {"output_tps": 90.0, "requests_per_s": None, "prompt_tps": None, "total_tps": None},
    }  # fmt: skip
    stages = [report_records.typed({**told, "stage": n, "round": n}) for n in range(5)]
    for row in (*a.requests, *b.requests):
        row.stage = row.round
    whole = dataclasses.replace(a, stages=stages)
    cut = dataclasses.replace(b, stages=stages[:4], summary=None)
    found = judge([whole], [cut])
    assert list(found.warnings) == ["b: interrupted: the run was cut short"]
    assert finding(found, "decode_tps") == finding(
        judge([whole], [dataclasses.replace(b, stages=stages)]), "decode_tps"
    )
