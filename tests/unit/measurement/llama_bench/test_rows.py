"""What the lines of the tools come to."""

from __future__ import annotations

import pytest

from nexus_tasks.measurement.llama_bench import parsing, rows
from tests.llama_bench_runs import BATCHED_LINES, BATCHED_PLAN, bench_lines, planned
from tests.support.known import known


def test_a_repetition_of_llama_bench_is_a_prefill_and_a_generation() -> None:
    first, second = parsing.bench_samples(bench_lines())
    assert (first.prefill_s, first.decode_s, first.start_s) == (0.4, 1.0, 2.0)
    assert (second.prefill_s, second.decode_s, second.start_s) == (0.5, 1.1, 2.5)
    row = rows.request_row(0, 0, first, planned(), after_s=10.0)
    assert (row.start_s, row.decode_ms, row.total_ms, row.tpot_ms) == (12.0, 1000.0, 1400.0, 50.0)
    assert (row.decode_tps, row.prefill_tps) == (20.0, 750.0)
    assert (row.ttft_ms, row.itl_ms, row.server) == (None, [], None)


def test_of_an_interrupted_llama_bench_the_prompts_are_kept() -> None:
    samples = parsing.bench_samples(bench_lines(generated=0))
    assert [sample.decode_s for sample in samples] == [None, None]
    requests, stages = rows.rows_of(planned(), samples, 0.0)
    outcome = rows.summary_row(requests, stages, interrupted=True, failure=None, wall_s=1.0)
    assert (outcome.ok, outcome.interrupted) == (False, True)
    assert known(outcome.metrics["prefill_tps"]).n == 2
    assert outcome.metrics["decode_tps"] is None
    assert requests[0].total_ms is None
    assert parsing.bench_samples(bench_lines()[:3]) == []


def test_the_first_time_of_each_concurrency_is_warm_up() -> None:
    samples = parsing.batched_samples(BATCHED_LINES, BATCHED_PLAN)
    assert [sample.phase for sample in samples] == ["warmup", "run", "run", "run"] * 2
    requests, stages = rows.rows_of(BATCHED_PLAN, samples, 0.0)
    assert [row.stage for row in requests] == [0] * 4 + [1] * 4
    assert [(stage.stage, stage.concurrency) for stage in stages] == [(0, 1), (1, 4)]
    # 20 tokens in 0.4, 0.5 and 0.6 s; of the warm-up nothing counts.
    assert known(stages[0].metrics["decode_tps"]).median == pytest.approx(40)
    assert known(stages[0].metrics["decode_tps"]).n == 3


def test_a_sequence_has_its_own_speed_and_a_concurrency_that_of_all() -> None:
    requests, stages = rows.rows_of(BATCHED_PLAN, parsing.batched_samples(BATCHED_LINES, BATCHED_PLAN), 0.0)
    assert known(stages[1].metrics["decode_tps"]).median == pytest.approx(20)
    window_s = 3 * 0.3 + 0.8 + 1.0 + 1.2
    assert known(stages[1].throughput).output_tps == pytest.approx(4 * 3 * 20 / window_s)
    assert known(stages[1].throughput).prompt_tps == pytest.approx(4 * 3 * 300 / window_s)
    outcome = rows.summary_row(requests, stages, interrupted=False, failure=None, wall_s=1.0)
    assert outcome.ok is True
    assert known(outcome.throughput).output_tps == pytest.approx(5 * 3 * 20 / (window_s + 2.4))
