"""Sentences that open a benchmark's page."""

from __future__ import annotations

import re
from pathlib import Path

from nexus_tasks.reports.pages.benchmark import sentences
from tests.report_pages import SIZES, opening_text, stored
from tests.report_records import embedding, failure, request, simulate

USERS_8 = [{"concurrency": 8, "requests": 24, "warmup": 4}]


def test_users_beyond_the_slots_are_told_to_wait(tmp_path: Path) -> None:
    record = stored(tmp_path, **simulate(USERS_8, slots=4, output_tokens=16), **SIZES)
    said = opening_text(sentences.opening(record))
    assert said.startswith("All 28 requests succeeded: at concurrency 8 the server gave ")
    assert "of it not prefill but queue, template and network" in said
    assert "the server has 4 slots, so of 8 requests at a time 4 waited" in said.lower()


def test_a_run_whose_generator_was_too_slow_opens_with_that(tmp_path: Path) -> None:
    watch = {"valid": False, "reasons": ["5.1 of 8 requests were in flight"]}
    record = stored(tmp_path, **simulate(USERS_8, output_tokens=16), **SIZES, watches={0: watch})
    said = opening_text(sentences.opening(record))
    assert said.startswith("Not valid: the generator was part of what was measured (5.1 of 8 requests were in flight);")


def test_reasons_that_differ_in_their_numbers_are_told_once_with_the_largest(tmp_path: Path) -> None:
    late = "the load generator's loop was late by {} ms (p99): this machine is too busy"
    watches = {stage: {"valid": False, "reasons": [late.format(ms)]} for stage, ms in enumerate((7.1, 27.6, 16.0))}
    plans = [{"concurrency": users, "requests": 8} for users in (1, 2, 4)]
    record = stored(tmp_path, **simulate(plans, slots=4, output_tokens=16, gpu=False), **SIZES, watches=watches)
    said = opening_text(sentences.opening(record))
    assert f"({late.format(27.6)}; at 2 other levels likewise)" in said
    assert said.count("was late by") == 1
    assert "nothing was seen to stand in the way" not in said.lower()


def test_a_rate_that_the_server_did_not_keep_up_with_is_told(tmp_path: Path) -> None:
    plans = [{"rate_per_s": 20.0, "requests": 60}]
    record = stored(
        tmp_path, **simulate(plans, slots=1, output_tokens=16), **SIZES, mode="constant", slo={"ttft_ms": 200}
    )
    said = opening_text(sentences.opening(record))
    assert "of 20.0 requests/s asked, " in said
    assert re.search(r"[\d.]+ requests were under way on average, more than the server has slots \(1\)", said)
    assert "% of the requests met TTFT ≤ 200 ms" in said


def test_growing_prompts_are_told_from_the_shortest_to_the_longest(tmp_path: Path) -> None:
    plans = [{"concurrency": 1, "requests": 3, "prompt_tokens": length} for length in (100, 8192)]
    told = simulate(plans, slots=1, output_tokens=16)
    record = stored(tmp_path, **told, axis="prompt_tokens", kind="context", lengths=[100, 8192])
    assert "from 100 prompt tokens to 8,192 prompt tokens the median time to first token went from" in opening_text(
        sentences.opening(record)
    )


def test_embeddings_are_told_without_tokens(tmp_path: Path) -> None:
    rows = [embedding(index, index * 0.02, 30.0) for index in range(1, 40)]
    record = stored(tmp_path, requests=rows, kind="embeddings", api="embeddings", output_tokens=None)
    said = opening_text(sentences.opening(record))
    assert "requests/s and " in said
    assert "prompt tokens/s" in said
    assert "A request took 30.0 ms in the median" in said
    assert "first token" not in said


def test_stalls_short_answers_and_cached_prompts_are_told(tmp_path: Path) -> None:
    rows = [
        request(1, itl_ms=[3.0] * 5 + [900.0]),
        request(2, cached_tokens=64, prefill_tps=None),
        failure(3, "short", "5 tokens of 8 came"),
    ]
    said = opening_text(sentences.opening(stored(tmp_path, requests=rows)))
    assert "1 of 3 requests failed" in said
    assert "1 gap between tokens was a stall" in said
    assert "1 answer ended before the tokens asked for" in said
    assert "1 of 2 prompts came from the prompt cache in part" in said


def test_a_run_without_an_answer_tells_the_first_failure(tmp_path: Path) -> None:
    record = stored(tmp_path, requests=[failure(1, "connect", "nothing listens on port 8600.")])
    assert opening_text(sentences.opening(record)).endswith("The first failure: nothing listens on port 8600.")
