"""Page of a benchmark run as a whole."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import msgspec

from nexus_tasks.records import store
from nexus_tasks.reports import (
    conditions,
    earlier_runs,
    frames,
    level_figures,
    levels,
    requests,
    run_page,
    timeline,
    validity,
    waiting,
)
from nexus_tasks.reports.pages.benchmark import figures, tables
from nexus_tasks.reports.requests import LISTED_REQUESTS
from nexus_tasks.views import tables as record_tables
from tests.report_pages import SIZES
from tests.report_records import NOON, failure, request, simulate, write

HOUR = timedelta(hours=1)


def test_a_run_in_which_everything_failed_still_has_every_block(tmp_path: Path) -> None:
    record = store.load(write(tmp_path, requests=[failure(1, "timeout", "no token")], samples=[]))
    past = frames.history(record, tmp_path)
    shown = [
        tables.head(record, past), requests.failures(record), conditions.measured(record), tables.summary(record),
        figures.latencies(record), figures.breakdown(record), tables.requests(record), timeline.over_time(record),
        tables.agreement(record, 2.0), figures.agreement(record, 2.0), earlier_runs.trends(past),
        earlier_runs.listed(past), run_page.footer(record),
    ]  # fmt: skip
    text = " ".join(block.html for block in shown)
    assert "1 of 1 request failed" in text
    assert "No statistics: no request succeeded." in text


def test_a_run_of_llama_bench_has_every_block_and_serving_is_held_against_it(tmp_path: Path) -> None:
    record = store.load(_raw(tmp_path))
    past = frames.history(record, tmp_path)
    shown = [
        tables.head(record, past), validity.generator(record), tables.agreement(record, 2.0), validity.tally(record),
        tables.summary(record), tables.objectives(record), tables.serving(record, past), level_figures.by_level(record),
        levels.listed(record), figures.latencies(record), waiting.before_first_token(record), figures.cache(record),
        timeline.over_time(record), figures.breakdown(record), tables.requests(record), conditions.measured(record),
        earlier_runs.trends(past), earlier_runs.listed(past),
    ]  # fmt: skip
    page = " ".join(part.html for part in shown)
    assert "Prefill ran at 1,306\N{NO-BREAK SPACE}tokens/s and decoding ran at 333\N{NO-BREAK SPACE}tokens/s" in page
    assert "there was no load generator" in page
    assert next(record_tables.rows(record)["stages"])["valid"] is None
    served = store.load(write(tmp_path, NOON + HOUR, requests=[request(1, itl_ms=[4.0] * 4)]))
    html = tables.serving(served, frames.history(served, tmp_path)).html
    assert "llama-bench decoded 333\N{NO-BREAK SPACE}tokens/s" in html
    assert "reached 250, 75 % of that" in html


def _raw(root: Path) -> Path:
    """A run of llama-bench, which measures prefill and decoding by themselves and has no load generator."""
    unknown = dict.fromkeys(("server", "ttft_ms", "ttft_visible_ms", "queue_ms", "total_ms", "late_ms"))
    rows = [{**request(index, index * 1.0), **unknown, "itl_ms": []} for index in range(1, 6)]
    load = {**msgspec.to_builtins(store.load(write(root, NOON - HOUR)).header.load), "engine": "llama-bench"}
    path = write(root, NOON, requests=rows, samples=[], header={"load": load})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines = [{**line, "watch": None} if line["type"] == "stage" else line for line in lines]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def test_of_many_requests_the_table_lists_what_stands_out_and_the_figure_stays_small(tmp_path: Path) -> None:
    rows = [request(index, index * 0.01, ttft_ms=100.0 + index % 7) for index in range(1, 4000)]
    rows[1000] = failure(1001, "disconnected", "gone", start_s=10.0, intended_s=10.0)
    rows[2000] = request(2001, 20.0, itl_ms=[3.0, 800.0, 3.0])
    rows[3000] = request(3001, 30.0, ttft_ms=9000.0)
    record = store.load(write(tmp_path, requests=rows))
    table = tables.requests(record).html
    for shown in ("of 3,999", "disconnected", "1 stall<", "9,000"):
        assert shown in table
    assert table.count("<tr>") <= 1 + LISTED_REQUESTS
    for figure in (figures.breakdown(record), waiting.before_first_token(record)):
        assert len(figure.html) < 110_000
        assert "Of 3,99" in figure.html
    assert "1 failed" in figures.breakdown(record).html
    assert "1 with a stall" in figures.breakdown(record).html


def test_prompts_from_the_cache_are_told_and_drawn_by_turn(tmp_path: Path) -> None:
    made = simulate([{"concurrency": 1, "requests": 12}], turns=3, output_tokens=16)
    record = store.load(write(tmp_path, **made, kind="conversations", turns=3, **SIZES))
    assert "8 of 12 prompts came from the server&#39;s cache in part" in validity.tally(record).html
    assert "Of the prompt of turn 3, 67 % came from the cache." in figures.cache(record).html
