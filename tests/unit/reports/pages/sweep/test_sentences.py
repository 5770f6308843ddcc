"""Sentences that open a sweep's page."""

from __future__ import annotations

import re
from pathlib import Path

from nexus_tasks.reports import frames, level_figures, levels
from nexus_tasks.reports.pages.sweep import figures, sentences
from tests.report_pages import SIZES, opening_text, stored, sweep_run
from tests.report_records import failure, request, simulate


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


def test_a_sweep_that_failed_has_no_level_at_which_throughput_stops_growing(tmp_path: Path) -> None:
    failed = [failure(index, "http", "HTTP 500.", stage=index // 4, phase="run") for index in range(8)]
    record = sweep_run(tmp_path, requests=failed, plans=[{"concurrency": 1}, {"concurrency": 2}], trailer={"knee": 0})
    said = opening_text(sentences.opening(record))
    assert "stops growing" not in said
    assert "No request that counts came to its end" in said
    assert levels.knee_of(record, frames.stages(record)) is None
    assert "knee" not in figures.against_latency(record).html + level_figures.by_level(record).html
    assert "knee" not in levels.listed(record).html
    assert levels.headline(record).stage == 0


def test_of_a_sweep_with_answers_at_one_level_alone_nothing_stops_growing(tmp_path: Path) -> None:
    rows = [request(index, index * 0.2, stage=0, phase="run") for index in range(4)]
    rows += [failure(index, "http", "HTTP 500.", stage=1, phase="run") for index in range(4, 8)]
    record = sweep_run(tmp_path, requests=rows, plans=[{"concurrency": 1}, {"concurrency": 2}], trailer={"knee": 0})
    said = opening_text(sentences.opening(record))
    assert "stops growing" not in said
    assert "only concurrency 1 gave answers, with" in said
