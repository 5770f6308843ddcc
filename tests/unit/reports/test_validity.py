"""Validity of a run: the load generator, and what the server worked on."""

from __future__ import annotations

from pathlib import Path

from nexus_tasks.load.health import MIN_IN_FLIGHT, MIN_LATE_LOOKS
from nexus_tasks.records import store
from nexus_tasks.records.store import BenchmarkRecord
from nexus_tasks.reports import validity
from tests.report_records import request, write


def test_a_generator_beyond_its_bounds_stands_out(sweep: BenchmarkRecord) -> None:
    html = validity.generator(sweep).html
    assert "concurrency 16: 0.90 of a core." in html
    assert html.count('class="number bad"') == 1  # its CPU, at that level alone
    assert html.count('class="good">yes') == 4


def test_the_sentence_beside_a_lag_agrees_with_the_verdict(tmp_path: Path) -> None:
    lag = {"p50": 0.1, "p99": 4.2, "max": 9.0}  # of two late looks, which health.too_late forgives
    html = validity.generator(store.load(write(tmp_path, watches={0: {"lag_ms": lag}}))).html
    assert 'class="number ">4.20' in html
    assert 'class="good">yes' in html
    assert f"more does no harm where fewer than {MIN_LATE_LOOKS} looks found it" in html


def test_too_few_requests_in_flight_look_as_few_as_they_are(tmp_path: Path) -> None:
    told = {"in_flight": 0.9996 * MIN_IN_FLIGHT, "in_flight_asked": 1, "valid": False}
    html = validity.generator(store.load(write(tmp_path, watches={0: told}))).html
    assert 'class="number bad">0.97 of 1' in html


def test_tokens_that_were_lost_on_the_way_are_told(tmp_path: Path) -> None:
    lost = request(2)
    lost["server"] = {**lost["server"], "predicted_n": len(lost["itl_ms"]) + 5}
    other = {**request(3), "ok": False, "error": {"kind": "protocol", "message": "the server saw 9 of 8 prompt tokens"}}
    html = validity.tally(store.load(write(tmp_path, requests=[request(1), lost, other]))).html
    assert "1 of 3 prompts had another number of tokens than asked." in html
    assert '<li class="bad">4 of ' in html
    assert "tokens came with the end of their answers" in html


def test_tokens_that_nobody_saw_come_are_told(tmp_path: Path) -> None:
    hidden = {**request(2), "untimed": "its events carried 2 of its 100 tokens", "itl_ms": [], "decode_tps": None}
    html = validity.tally(store.load(write(tmp_path, requests=[request(1), hidden]))).html
    assert "1 of 2 answers have no decode speed and no ITL, because nobody saw when their tokens came" in html
    assert "of request 2, its events carried 2 of its 100 tokens." in html
    assert "tokens came with the end of their answers" not in html


def test_tokens_that_nobody_counted_are_told(tmp_path: Path) -> None:
    uncounted = {**request(1), "output_tokens": None, "decode_tps": None}
    html = validity.tally(store.load(write(tmp_path, requests=[uncounted]))).html
    assert "The server does not say how many tokens 1 of 1 answers have" in html
