"""Sentences that open a sweep's page."""

from __future__ import annotations

import re
from pathlib import Path

from nexus_tasks.reports import frames, levels
from nexus_tasks.reports.pages.sweep import sentences
from tests.report_pages import SIZES, opening_text, stored, sweep_run
from tests.report_records import simulate


def test_a_sweep_tells_its_knee_what_is_beyond_and_how_far_the_slos_hold(tmp_path: Path) -> None:
    record = sweep_run(tmp_path, trailer={"knee": 1})
    stages = frames.stages(record)
    said = opening_text(sentences.opening(record))
    assert re.search(
        r"throughput stops growing at concurrency 2, with \d+ tokens/s; the most was \d+ tokens/s, at", said
    )
    assert "the server has 4 slots, and what is beyond them waits" in said
    held = stages[stages["goodput_share"] >= 0.95]["name"].iloc[-1]
    assert f"TTFT ≤ 300 ms held in 95 % of the requests up to {held}" in said


def test_a_sweep_that_just_filled_the_slots_does_not_say_that_they_were_never_all_taken(tmp_path: Path) -> None:
    plans = [{"concurrency": users, "requests": 4 * users} for users in (1, 2, 4)]
    made = simulate(plans, slots=4, output_tokens=16)
    record = stored(tmp_path, **made, mode="sweep", axis="concurrency", slo={"ttft_ms": 60_000}, **SIZES)
    assert "the server has 4 slots." in opening_text(sentences.opening(record))


def test_slos_that_all_levels_met_held_up_to_the_highest_not_to_the_one_with_the_most_throughput(
    tmp_path: Path,
) -> None:
    record = sweep_run(tmp_path, slo={"ttft_ms": 60_000})
    throughput = record.stages[-1].throughput
    assert throughput is not None
    throughput.output_tps = 100.0
    best = levels.best(frames.stages(record))
    assert best["level"] < 16
    said = opening_text(sentences.opening(record))
    output = f"{best['output_tps']:.0f} tokens/s, at {best['name']}"
    assert f"held in 95 % of the requests up to concurrency 16, with at most {output}" in said
