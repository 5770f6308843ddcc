"""Tables and figures of pages that hold several levels or several runs."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from nexus_tasks import export
from nexus_tasks.core.text import number
from nexus_tasks.records import store
from nexus_tasks.records.store import Record
from nexus_tasks.reports import blocks, compare_blocks, figures, frames, history_blocks, index, stage_blocks
from nexus_tasks.reports.compare_blocks import Compared
from tests.report_records import NOON, failure, fixed, request, simulate, write

SIZES: Mapping[str, Any] = {"prompt_tokens": fixed(512), "output_tokens": fixed(16)}
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Record:
    plans = [{"concurrency": users, "requests": 4 * users} for users in (1, 2, 4, 8, 16)]
    told: dict[str, Any] = {
        "mode": "sweep",
        "axis": "concurrency",
        "slo": {"ttft_ms": 300, "itl_p95_ms": 20},
        "trailer": {"knee": 2},
    }
    watches = {4: {"valid": False, "cpu_per_process": 0.9, "reasons": ["0.90 of a core"]}}
    made = simulate(plans, slots=4, output_tokens=16)
    return store.load(write(tmp_path_factory.mktemp("sweep"), **made, **SIZES, **told, watches=watches))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    """Two runs that differ in one option, with answers to the same prompts."""
    root = tmp_path_factory.mktemp("pair")
    paths = []
    for place, itl_ms in enumerate((8.0, 10.0)):
        made = simulate([{"concurrency": 4, "requests": 60, "warmup": 4}], itl_ms=itl_ms, output_tokens=16, seed=place)
        for row in made["requests"]:
            row["answer"] = f"answer <{place}> & more"
        argv = ["/bin/llama-server", "--parallel", "4", "--ubatch-size", str(512 * (place + 1))]
        made["server"] = {"argv": argv, "total_slots": 4}
        paths.append([str(write(root, NOON + place * HOUR, **made, **SIZES))])
    return compare_blocks.read(paths)


def test_a_sweep_marks_the_knee_the_slots_and_the_slos(sweep: Record) -> None:
    levels, against = stage_blocks.by_level(sweep).html, stage_blocks.against_latency(sweep).html
    assert re.search(r">knee: \d+ at 4</text>", levels)
    assert ">4 slots; beyond, requests wait</text>" in levels
    for figure in (levels, against):
        assert ">SLO 300 ms</text>" in figure
        assert ">SLO 20 ms</text>" in figure
    assert "the knee is at concurrency 4" in against
    assert "Purple diamonds are levels beyond the server's slots" in against.replace("&#39;", "'")


def test_the_table_of_levels_names_the_knee_and_what_is_not_valid(sweep: Record) -> None:
    rows = re.findall(r"<tr>(.*?)</tr>", stage_blocks.levels(sweep).html, re.DOTALL)[1:]
    assert [("the knee" in row, "not valid" in row) for row in rows] == [
        (False, False), (False, False), (True, False), (False, False), (False, True),
    ]  # fmt: skip


def test_a_generator_beyond_its_bounds_stands_out(sweep: Record) -> None:
    html = blocks.generator(sweep).html
    assert "concurrency 16: 0.90 of a core." in html
    assert html.count('class="number bad"') == 1  # its CPU, at that level alone
    assert html.count('class="good">yes') == 4


def test_one_level_needs_no_figure_of_levels(tmp_path: Path) -> None:
    record = store.load(write(tmp_path))
    assert stage_blocks.by_level(record).html == stage_blocks.levels(record).html == ""


def test_tokens_that_were_lost_on_the_way_are_told(tmp_path: Path) -> None:
    lost = request(2)
    lost["server"] = {**lost["server"], "predicted_n": len(lost["itl_ms"]) + 5}
    other = {**request(3), "ok": False, "error": {"kind": "protocol", "message": "the server saw 9 of 8 prompt tokens"}}
    html = blocks.tally(store.load(write(tmp_path, requests=[request(1), lost, other]))).html
    assert "1 of 3 prompts had another number of tokens than asked." in html
    assert '<li class="bad">4 of ' in html
    assert "tokens came with the end of their answers" in html


def test_prompts_from_the_cache_are_told_and_drawn_by_turn(tmp_path: Path) -> None:
    made = simulate([{"concurrency": 1, "requests": 12}], turns=3, output_tokens=16)
    record = store.load(write(tmp_path, **made, kind="conversations", turns=3, **SIZES))
    assert "8 of 12 prompts came from the server&#39;s cache in part" in blocks.tally(record).html
    assert "Of the prompt of turn 3, 67 % came from the cache." in figures.cache(record).html


def test_an_slo_has_the_share_of_the_requests_that_met_it(tmp_path: Path) -> None:
    rows = [request(1, ttft_ms=100.0), request(2, ttft_ms=300.0), request(3, ttft_ms=500.0), failure(4, "timeout", "")]
    html = blocks.objectives(store.load(write(tmp_path, requests=rows, slo={"ttft_ms": 300, "itl_p95_ms": 1}))).html
    assert re.findall(r'<td class="number ">([\d.]+) %</td><td class="number ">([\d.]+)</td>', html) == [
        ("50.0", "500"), ("0.0", "3.85"),
    ]  # fmt: skip


def test_of_many_requests_the_table_lists_what_stands_out_and_the_figure_stays_small(tmp_path: Path) -> None:
    rows = [request(index, index * 0.01, ttft_ms=100.0 + index % 7) for index in range(1, 4000)]
    rows[1000] = failure(1001, "disconnected", "gone", start_s=10.0, intended_s=10.0)
    rows[2000] = request(2001, 20.0, itl_ms=[3.0, 800.0, 3.0])
    rows[3000] = request(3001, 30.0, ttft_ms=9000.0)
    record = store.load(write(tmp_path, requests=rows))
    table = blocks.requests(record).html
    for shown in ("of 3,999", "disconnected", "1 stall<", "9,000"):
        assert shown in table
    assert table.count("<tr>") <= 1 + blocks.LISTED_REQUESTS
    for figure in (figures.breakdown(record), figures.waiting(record)):
        assert len(figure.html) < 110_000
        assert "Of 3,99" in figure.html
    assert "1 failed" in figures.breakdown(record).html
    assert "1 with a stall" in figures.breakdown(record).html


def test_requests_in_flight_are_the_mean_of_each_moment(tmp_path: Path) -> None:
    rows = [request(index, 0.0, ttft_ms=1000.0, itl_ms=[]) for index in (1, 2)]
    rows.append(request(3, 0.5, ttft_ms=1500.0, itl_ms=[]))
    frame = frames.in_flight(store.load(write(tmp_path, requests=rows)))
    middle = frame[(frame["t_s"] > 0.55) & (frame["t_s"] < 0.9)]["in_flight"]
    assert middle.to_numpy() == pytest.approx(3.0)
    assert frame[frame["t_s"] < 0.4]["in_flight"].to_numpy() == pytest.approx(2.0)


def test_a_comparison_shows_each_verdict_with_its_interval(pair: Compared) -> None:
    found = pair.found[0]
    assert not isinstance(found, str)
    html = compare_blocks.judged(pair).html
    for finding in found.findings:
        if finding.change is not None and finding.low is not None and finding.high is not None:
            assert f">{finding.change:+.1f} %</td>" in html
            assert f">{finding.low:+.1f} to {finding.high:+.1f}</td>" in html
    assert '<td class="bad">worse</td>' in html


def test_a_tuning_shows_the_options_that_were_changed_first(pair: Compared) -> None:
    html = compare_blocks.options(pair).html
    changed, same = html.split("<details>")
    assert re.findall(r'<td class="">([^<]*)</td>', changed) == ["--ubatch-size", "512", "1024"]
    assert "1 options that are the same" in same
    assert "--parallel" in same


def test_answers_to_the_same_prompts_are_shown_and_never_markup(pair: Compared) -> None:
    html = compare_blocks.answers(pair, limit=5).html
    assert html.count("<article>") == 10
    assert "answer &lt;0&gt; &amp; more" in html
    assert "55 more prompts were answered by all" in html


def test_prompts_stand_above_their_answers_in_the_order_of_the_file(tmp_path: Path) -> None:
    compared = compare_blocks.read([[str(write(tmp_path, NOON + place * HOUR))] for place in range(2)])
    for record in compared.records:
        for row, (key, turn) in zip(record.requests[-3:], [("10", 0), ("9", 1), ("9", 0)], strict=True):
            row |= {"phase": "run", "key": key, "turn": turn, "answer": "so", "prompt": f"<{key}-{turn}>" + 700 * "x"}
    html = compare_blocks.answers(compared).html
    assert re.findall(r"<h3>(.*?)</h3>", html) == ["9", "9, turn 2", "10"]
    assert [asked[:14] for asked in re.findall(r"<blockquote>(.*?)</blockquote>", html)] == [
        "&lt;9-0&gt;xxx", "&lt;9-1&gt;xxx", "&lt;10-0&gt;xx",
    ]  # fmt: skip
    assert "x…</blockquote>" in html


def test_runs_without_answers_say_how_to_get_them(tmp_path: Path) -> None:
    paths = [[str(write(tmp_path, NOON + place * HOUR))] for place in range(2)]
    assert "--keep-answers" in compare_blocks.answers(compare_blocks.read(paths)).html


def test_only_a_model_that_is_clearly_best_stands_out(pair: Compared) -> None:
    rows = re.findall(r"<tr>(.*?)</tr>", compare_blocks.speeds(pair).html, re.DOTALL)[1:]
    ttft, itl = 2, 3
    cells = [re.findall(r'<td class="([^"]*)"', row) for row in rows]
    assert [cell[itl] for cell in cells] == ["number good", "number "]
    assert [cell[ttft] for cell in cells] == ["number ", "number "]


def test_a_change_is_marked_at_the_first_run_with_it_and_what_is_unknown_is_none(tmp_path: Path) -> None:
    told: list[Mapping[str, Any]] = [
        {"release": "b1", "build": "b1"},
        {"release": None, "build": None},
        {"release": "b1", "build": "b1", "argv_sha256": "ee" * 32},
        {"release": "b2", "build": "b2", "argv_sha256": "ee" * 32},
    ]
    paths = [str(write(tmp_path, NOON + place * HOUR, server=server)) for place, server in enumerate(told)]
    past = history_blocks.read(paths)
    assert [(mark["letter"], mark["at"], mark["what"]) for mark in past.marks] == [
        ("a", pd.Timestamp(NOON + 2 * HOUR), "other options"),
        ("b", pd.Timestamp(NOON + 3 * HOUR), "release b1 → b2"),
    ]
    html = history_blocks.trends(past).html
    assert re.findall(r">([a-z])</text>", html) == ["a", "b"]


def test_runs_of_another_workload_have_a_figure_of_their_own(tmp_path: Path) -> None:
    paths = [str(write(tmp_path, NOON + place * HOUR)) for place in range(3)]
    paths += [str(write(tmp_path, NOON + (3 + place) * HOUR, prompt_tokens=fixed(999))) for place in range(2)]
    paths.append(str(write(tmp_path, NOON + 9 * HOUR, plans=[{"concurrency": 2, "requests": 3}])))
    past = history_blocks.read(paths)
    assert past.runs["series"].tolist() == [0, 0, 0, 1, 1, 2]
    assert history_blocks.trends(past).html.count("<svg") == 2
    assert history_blocks.listed(past, 60).html.count("<tr>") == 7


def test_figures_of_these_pages_share_no_ids(sweep: Record, pair: Compared) -> None:
    for parts in (
        [stage_blocks.by_level(sweep), stage_blocks.against_latency(sweep), figures.waiting(sweep)],
        [compare_blocks.effects(pair), compare_blocks.curves(pair), compare_blocks.dots(pair)],
    ):
        page = "".join(part.html for part in parts)
        ids = Counter(re.findall(r' id="([^"]+)"', page))
        assert max(ids.values()) == 1
        assert set(re.findall(r'(?:href="|url\()#([^")]+)', page)) <= set(ids)
        assert not re.search(r"(?<!, )#[0-9a-f]{6}", page), "a colour that the page can't change"


def _raw(root: Path) -> Path:
    """A run of llama-bench, which measures prefill and decoding by themselves and has no load generator."""
    unknown = dict.fromkeys(("server", "ttft_ms", "ttft_visible_ms", "queue_ms", "total_ms", "late_ms"))
    rows = [{**request(index, index * 1.0), **unknown, "itl_ms": []} for index in range(1, 6)]
    load = {**store.load(write(root, NOON - HOUR)).header["load"], "engine": "llama-bench"}
    path = write(root, NOON, requests=rows, samples=[], header={"load": load})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines = [{**line, "watch": None} if line["type"] == "stage" else line for line in lines]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def test_a_run_of_llama_bench_has_every_block_and_serving_is_held_against_it(tmp_path: Path) -> None:
    record = store.load(_raw(tmp_path))
    past = frames.history(record, tmp_path)
    shown = [
        blocks.head(record, past), blocks.generator(record), blocks.agreement(record, 2.0), blocks.tally(record),
        blocks.summary(record), blocks.objectives(record), blocks.serving(record, past), stage_blocks.by_level(record),
        stage_blocks.levels(record), figures.latencies(record), figures.waiting(record), figures.cache(record),
        figures.timeline(record), figures.breakdown(record), blocks.requests(record), blocks.measured(record),
        figures.history(past), blocks.history(past),
    ]  # fmt: skip
    page = " ".join(part.html for part in shown)
    assert "Prefill ran at 1,306\N{NO-BREAK SPACE}tokens/s and decoding ran at 333\N{NO-BREAK SPACE}tokens/s" in page
    assert "there was no load generator" in page
    assert next(export.tables(record)["stages"])["valid"] is None
    served = store.load(write(tmp_path, NOON + HOUR, requests=[request(1, itl_ms=[4.0] * 4)]))
    html = blocks.serving(served, frames.history(served, tmp_path)).html
    assert "llama-bench decoded 333\N{NO-BREAK SPACE}tokens/s" in html
    assert "reached 250, 75 % of that" in html


def test_the_index_knows_the_throughput_of_rounds_whose_requests_were_not_read(tmp_path: Path) -> None:
    plans = [{"concurrency": 2, "requests": 10}] * 3
    record = store.load(write(tmp_path, **simulate(plans, output_tokens=16), prompt_tokens=fixed(512)))
    page = tmp_path / "reports" / "benchmark" / f"{record.path.stem}.html"
    page.parent.mkdir(parents=True)
    page.write_text("<p>a page</p>")
    listed = index.write(tmp_path, tmp_path / "reports", [dataclasses.replace(record, requests=[])]).read_text()
    assert record.summary is not None
    assert f">{number(record.summary['throughput']['output_tps'])}<" in listed


def test_a_comparison_of_two_targets_says_that_these_differ(tmp_path: Path) -> None:
    plans = [{"concurrency": 2, "requests": 10}]
    paths = [
        [str(write(tmp_path, NOON + timedelta(hours=place), target=f"gpu{place}/main", **simulate(plans, seed=place)))]
        for place in range(2)
    ]
    said = compare_blocks.doubts(compare_blocks.read(paths)).html
    assert "Nothing but the moment and the target differs, as far as the records know." in said


def test_requests_of_several_levels_are_named_by_the_number_of_theirs(sweep: Record) -> None:
    table = blocks.requests(sweep).html
    assert '<th scope="col" class="number">Level</th>' in table
    assert "concurrency" not in table
