"""The three sentences that open a page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from nexus_tasks.core.text import SPACE
from nexus_tasks.records import runs, store
from nexus_tasks.records.store import Record
from nexus_tasks.reports import compare_blocks, frames, history_blocks, stories
from tests.report_records import NOON, embedding, failure, fixed, request, simulate, write

SIZES: Mapping[str, Any] = {"prompt_tokens": fixed(512), "output_tokens": fixed(16)}
USERS_8 = [{"concurrency": 8, "requests": 24, "warmup": 4}]


def _record(tmp_path: Path, **told: Any) -> Record:
    return store.load(write(tmp_path, **told))


def _said(sentences: Sequence[str]) -> str:
    assert len(sentences) == 3
    assert all(sentence.endswith(".") for sentence in sentences), sentences
    return " ".join(sentences).replace(SPACE, " ")


def test_users_beyond_the_slots_are_told_to_wait(tmp_path: Path) -> None:
    record = _record(tmp_path, **simulate(USERS_8, slots=4, output_tokens=16), **SIZES)
    said = _said(stories.benchmark(record))
    assert said.startswith("All 28 requests succeeded: at concurrency 8 the server gave ")
    assert "of it not prefill but queue, template and network" in said
    assert "the server has 4 slots, so of 8 requests at a time 4 waited" in said.lower()


def test_a_run_whose_generator_was_too_slow_opens_with_that(tmp_path: Path) -> None:
    watch = {"valid": False, "reasons": ["5.1 of 8 requests were in flight"]}
    record = _record(tmp_path, **simulate(USERS_8, output_tokens=16), **SIZES, watches={0: watch})
    said = _said(stories.benchmark(record))
    assert said.startswith("Not valid: the generator was part of what was measured (5.1 of 8 requests were in flight);")


def test_reasons_that_differ_in_their_numbers_are_told_once_with_the_largest(tmp_path: Path) -> None:
    late = "the load generator's loop was late by {} ms (p99): this machine is too busy"
    watches = {stage: {"valid": False, "reasons": [late.format(ms)]} for stage, ms in enumerate((7.1, 27.6, 16.0))}
    plans = [{"concurrency": users, "requests": 8} for users in (1, 2, 4)]
    record = _record(tmp_path, **simulate(plans, slots=4, output_tokens=16, gpu=False), **SIZES, watches=watches)
    said = _said(stories.benchmark(record))
    assert f"({late.format(27.6)}; at 2 other levels likewise)" in said
    assert said.count("was late by") == 1
    assert "nothing was seen to stand in the way" not in said.lower()


def test_a_rate_that_the_server_did_not_keep_up_with_is_told(tmp_path: Path) -> None:
    plans = [{"rate_per_s": 20.0, "requests": 60}]
    record = _record(
        tmp_path, **simulate(plans, slots=1, output_tokens=16), **SIZES, mode="constant", slo={"ttft_ms": 200}
    )
    said = _said(stories.benchmark(record))
    assert "of 20.0 requests/s asked, " in said
    assert re.search(r"[\d.]+ requests were under way on average, more than the server has slots \(1\)", said)
    assert "% of the requests met TTFT ≤ 200 ms" in said


def test_growing_prompts_are_told_from_the_shortest_to_the_longest(tmp_path: Path) -> None:
    plans = [{"concurrency": 1, "requests": 3, "prompt_tokens": length} for length in (100, 8192)]
    told = simulate(plans, slots=1, output_tokens=16)
    record = _record(tmp_path, **told, axis="prompt_tokens", kind="context", lengths=[100, 8192])
    assert "from 100 prompt tokens to 8,192 prompt tokens the median time to first token went from" in _said(
        stories.benchmark(record)
    )


def test_embeddings_are_told_without_tokens(tmp_path: Path) -> None:
    rows = [embedding(index, index * 0.02, 30.0) for index in range(1, 40)]
    record = _record(tmp_path, requests=rows, kind="embeddings", api="embeddings", output_tokens=None)
    said = _said(stories.benchmark(record))
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
    said = _said(stories.benchmark(_record(tmp_path, requests=rows)))
    assert "1 of 3 requests failed" in said
    assert "1 gap between tokens was a stall" in said
    assert "1 answer ended before the tokens asked for" in said
    assert "1 of 2 prompts came from the prompt cache in part" in said


def test_a_run_without_an_answer_tells_the_first_failure(tmp_path: Path) -> None:
    record = _record(tmp_path, requests=[failure(1, "connect", "nothing listens on port 8600.")])
    assert _said(stories.benchmark(record)).endswith("The first failure: nothing listens on port 8600.")


def _sweep(tmp_path: Path, **told: Any) -> Record:
    plans = [{"concurrency": users, "requests": 4 * users} for users in (1, 2, 4, 8, 16)]
    kept = {"mode": "sweep", "axis": "concurrency", "slo": {"ttft_ms": 300}, **SIZES, **told}
    return _record(tmp_path, **simulate(plans, slots=4, output_tokens=16), **kept)


def test_a_sweep_tells_its_knee_what_is_beyond_and_how_far_the_slos_hold(tmp_path: Path) -> None:
    record = _sweep(tmp_path, trailer={"knee": 1})
    stages = frames.stages(record)
    said = _said(stories.sweep(record))
    assert re.search(
        r"throughput stops growing at concurrency 2, with \d+ tokens/s; the most was \d+ tokens/s, at", said
    )
    assert "the server has 4 slots, and what is beyond them waits" in said
    held = stages[stages["goodput_share"] >= 0.95]["name"].iloc[-1]
    assert f"TTFT ≤ 300 ms held in 95 % of the requests up to {held}" in said


def test_a_sweep_that_just_filled_the_slots_does_not_say_that_they_were_never_all_taken(tmp_path: Path) -> None:
    plans = [{"concurrency": users, "requests": 4 * users} for users in (1, 2, 4)]
    made = simulate(plans, slots=4, output_tokens=16)
    record = _record(tmp_path, **made, mode="sweep", axis="concurrency", slo={"ttft_ms": 60_000}, **SIZES)
    assert "the server has 4 slots." in _said(stories.sweep(record))


def test_slos_that_all_levels_met_held_up_to_the_highest_not_to_the_one_with_the_most_throughput(
    tmp_path: Path,
) -> None:
    record = _sweep(tmp_path, slo={"ttft_ms": 60_000})
    record.stages[-1]["throughput"]["output_tps"] = 100.0
    best = stories.most(frames.stages(record))
    assert best["level"] < 16
    said = _said(stories.sweep(record))
    output = f"{best['output_tps']:.0f} tokens/s, at {best['name']}"
    assert f"held in 95 % of the requests up to concurrency 16, with at most {output}" in said


def test_a_sweep_whose_knee_is_not_on_record_has_it_where_5_percent_are_left(tmp_path: Path) -> None:
    record = _sweep(tmp_path)
    stages = frames.stages(record)
    knee = stories.knee_of(record, stages)
    assert knee["output_tps"] >= 0.95 * stages["output_tps"].max()
    assert (stages[stages["level"] < knee["level"]]["output_tps"] < 0.95 * stages["output_tps"].max()).all()


def _compared(tmp_path: Path, *sides: Mapping[str, Any], across: Sequence[str] = ()) -> compare_blocks.Compared:
    plans = [{"concurrency": 4, "requests": 120, "warmup": 4}]
    paths = []
    for place, side in enumerate(sides):
        model = {key: value for key, value in side.items() if key in ("itl_ms", "prefill_tps")}
        made = simulate(plans, output_tokens=16, seed=place, gpu=False, **model)
        rest = {key: value for key, value in side.items() if key not in model}
        paths.append([str(write(tmp_path, NOON + place * timedelta(hours=1), **{**made, **SIZES, **rest}))])
    return compare_blocks.read(paths, across)


def test_a_comparison_opens_with_what_became_worse_and_by_how_much(tmp_path: Path) -> None:
    compared = _compared(tmp_path, {"itl_ms": 8.0}, {"itl_ms": 10.0})
    said = _said(stories.compare(compared.sides, compared.found))
    assert said.startswith("B is worse in ")
    assert re.search(r"decode \(-(19|20)\.\d %, between -2\d\.\d and -1\d\.\d\)", said), said
    assert "some drift between them is assumed" in said
    assert compared.sides[0][0].run_id not in said


def test_runs_that_asked_different_things_are_not_compared(tmp_path: Path) -> None:
    compared = _compared(tmp_path, {}, {"temperature": 1})
    said = _said(stories.compare(compared.sides, compared.found))
    assert said.startswith("B can't be compared with A: A and B asked different things: temperature 0 against 1")


def test_a_tuning_opens_with_the_options_that_were_changed(tmp_path: Path) -> None:
    argv = ["/bin/llama-server", "--ubatch-size", "512", "--no-mmap", "--parallel", "4"]
    tuned = ["/bin/llama-server", "--ubatch-size", "1024", "--parallel", "4", "--flash-attn", "on"]
    compared = _compared(
        tmp_path,
        {"server": {"argv": argv, "total_slots": 4}},
        {"server": {"argv": tuned, "total_slots": 4}, "prefill_tps": 8000.0},
    )
    said = _said(stories.tuning(compared.sides, compared.found))
    assert said.startswith("Changed: --ubatch-size 512 → 1024; --no-mmap removed; --flash-attn added, on.")
    assert re.search(r"It made .*prefill \(\+(99|100)\.\d %, between .* better", said), said


def test_models_are_ranked_and_their_answers_to_the_same_prompts_counted(tmp_path: Path) -> None:
    compared = _compared(
        tmp_path,
        {"itl_ms": 8.0, "model": {"name": "slow"}, "sha256": "aa" * 32},
        {"itl_ms": 4.0, "model": {"name": "fast"}, "sha256": "bb" * 32},
        across=["model"],
    )
    for side, words in zip(compared.sides, ("yes", "no"), strict=True):
        for row in side[0].requests:
            row["answer"] = "the same" if row["key"] == "entry-7" else words
    said = _said(stories.models(compared.sides, compared.found))
    assert said.startswith("fast decodes fastest, with ")
    assert "times as fast as slow." in said
    assert "All answered 120 prompts that were the same for each; 1 of the answers is alike to the letter." in said


def test_models_of_one_name_are_told_apart_and_an_invalid_one_is_not_ranked(tmp_path: Path) -> None:
    compared = _compared(tmp_path, {"itl_ms": 8.0}, {"itl_ms": 4.0}, across=["model"])
    said = _said(stories.models(compared.sides, compared.found))
    assert re.match(
        r"(\S+) \(B\) decodes fastest, with \S+ tokens/s for each request: \S+ times as fast as \1 \(A\)\.", said
    )
    before, after = (float(one) for one in re.findall(r"\([AB]\) ([\d.]+) ms", said))
    assert before == pytest.approx(after, rel=0.2)
    [[after_]] = compared.sides[1:]
    assert after_.summary
    after_.summary["valid"] = False
    said = _said(stories.models(compared.sides, compared.found))
    assert re.match(r"Speeds can't be compared: those of \S+ \(B\) are partly the load generator's", said)


def test_a_history_tells_the_largest_step_and_what_came_with_it(tmp_path: Path) -> None:
    paths = []
    for day in range(6):
        made = simulate(
            [{"concurrency": 1, "requests": 12}], itl_ms=8.0 if day < 3 else 6.0, output_tokens=16, seed=day
        )
        made["server"] = {"release": "b1-cuda" if day < 3 else "b2-cuda", "build": "b1" if day < 3 else "b2"}
        paths.append(str(write(tmp_path, NOON + timedelta(days=day), **made, **SIZES)))
    paths.append(str(write(tmp_path, NOON + timedelta(days=4, hours=1))))
    past = history_blocks.read(paths)
    said = _said(stories.history(past.runs, past.target, past.marks))
    assert said.startswith(
        "7 runs of localhost/main in 5 days: 6 of quick 512/16 at concurrency 1, 1 of other workloads"
    )
    assert "the largest step, +3" in said
    assert "came on 2026-11-25 with release b1-cuda → b2-cuda" in said


def test_a_history_tells_nothing_of_runs_that_are_not_valid_and_of_what_no_record_knows(tmp_path: Path) -> None:
    unknown = {"argv": None, "argv_sha256": None, "release": None}
    lost: Mapping[str, Any] = {"valid": False, "reasons": ["too busy"]}
    paths = [
        str(write(tmp_path, NOON + timedelta(hours=hour), server=unknown, trailer=lost if hour else {}))
        for hour in range(3)
    ]
    past = history_blocks.read(paths)
    said = _said(stories.history(past.runs, past.target, past.marks))
    assert said.startswith("3 runs of localhost/main within a day: 3 of quick 128/5 at concurrency 1.")
    assert "Only one of these was finished and is valid, so there is no change to tell." in said
    assert said.endswith("Model and build were the same in all runs; release, driver and options are not on record.")


def test_rounds_of_one_level_are_one_load(tmp_path: Path) -> None:
    plans = [{"concurrency": 2, "requests": 10}] * 3
    assert runs.load_name(_record(tmp_path, **simulate(plans, output_tokens=16), **SIZES)) == "concurrency 2"


def test_a_model_that_is_known_by_its_path_alone_is_called_by_its_file(tmp_path: Path) -> None:
    record = _record(tmp_path, model={"name": "/opt/models/tiny.gguf"})
    assert runs.model_name(record) == "tiny.gguf"
    assert runs.model_name(_record(tmp_path, model={"name": "maker/tiny"})) == "maker/tiny"


def test_a_level_of_several_rounds_is_one(tmp_path: Path) -> None:
    plans = [{"concurrency": 2, "requests": 10}] * 3
    record = _record(
        tmp_path, **simulate(plans, output_tokens=16), **SIZES, watches={1: {"valid": False, "in_flight": 1.1}}
    )
    (stage,) = runs.stages(record)
    assert stage["requests"] == 30
    assert stage["metrics"]["ttft_ms"]["n"] == 30
    assert (stage["watch"]["in_flight"], stage["watch"]["valid"]) == (1.1, False)


@pytest.mark.parametrize(
    ("name", "limit", "text"), [("ttft_ms", 500.0, "TTFT ≤ 500 ms"), ("itl_p95_ms", 50.0, "p95 of ITL ≤ 50 ms")]
)
def test_an_slo_is_told_in_words(name: str, limit: float, text: str) -> None:
    assert runs.objective_text(name, limit).replace(SPACE, " ") == text
