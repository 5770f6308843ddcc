"""Rows of a record, made of the repetitions of a tool."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from nexus_tasks.measurement.llama_bench.parsing import Sample
from nexus_tasks.measurement.llama_bench.tool_plan import ToolPlan
from nexus_tasks.records.benchmark_rows import BenchmarkSummary, RequestRow, StageRow, Throughput, fields
from nexus_tasks.stats import summary


def rows_of(asked: ToolPlan, made: Sequence[Sample], after_s: float) -> tuple[list[RequestRow], list[StageRow]]:
    """The ``request`` rows and the ``stage`` rows of what was measured."""
    levels = {level: stage for stage, level in enumerate(asked.concurrencies)}
    rows = [request_row(index, levels[sample.concurrency], sample, asked, after_s) for index, sample in enumerate(made)]
    stages = [
        stage_row(stage, level, of_stage)
        for level, stage in levels.items()
        if (of_stage := [row for row in rows if row.stage == stage])
    ]
    return rows, stages


def request_row(index: int, stage: int, sample: Sample, asked: ToolPlan, after_s: float) -> RequestRow:
    """A repetition as a record holds it: what each of its sequences had. ``after_s`` is when the tools were started."""
    start_s = round(sample.start_s + after_s, 4)
    parts = (sample.prefill_s, sample.decode_s)
    total_s = sum(part for part in parts if part is not None)
    return RequestRow(
        index=index, stage=stage, round=0, phase=sample.phase, key=None, conversation=None, turn=0, worker=0,
        intended_s=start_s, start_s=start_s, late_ms=None, ok=True, error=None, prompt_tokens=asked.prompt_tokens,
        output_tokens=asked.output_tokens if sample.decode_s else None, reasoning_tokens=None, cached_tokens=0,
        draft=None, finish_reason=None, ttft_ms=None, ttft_visible_ms=None, queue_ms=None,
        decode_ms=_ms(sample.decode_s), total_ms=_ms(total_s) if None not in parts else None,
        # A tool's N tokens are N steps; a server's first token comes with the prefill.
        tpot_ms=_ms(sample.decode_s / asked.output_tokens) if sample.decode_s else None, itl_ms=[], stalls=0,
        decode_tps=asked.output_tokens / sample.decode_s if sample.decode_s else None,
        prefill_tps=asked.prompt_tokens / sample.prefill_s if sample.prefill_s else None, server=None, backend=None,
    )  # fmt: skip


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


def stage_row(stage: int, concurrency: int, rows: Sequence[RequestRow]) -> StageRow:
    """The figures of one concurrency. Its throughput is that of all sequences together."""
    figures = summary.of_requests(rows, window_s=_window_s(rows))
    rates = {name: value and value * concurrency for name, value in fields(figures.throughput).items()}
    return StageRow(
        **fields(msgspec.structs.replace(figures, throughput=Throughput(**rates))), stage=stage, round=0,
        concurrency=concurrency, rate_per_s=None, prompt_tokens=None, watch=None,
    )  # fmt: skip


def _window_s(rows: Iterable[RequestRow]) -> float:
    return sum(row.total_ms or 0.0 for row in rows if row.phase == "run") / 1000


def summary_row(
    rows: Sequence[RequestRow], stages: Sequence[StageRow], *, interrupted: bool, failure: str | None, wall_s: float
) -> BenchmarkSummary:
    """The verdict on a run and the figures of all of its repetitions."""
    windows = [_window_s(row for row in rows if row.stage == stage.stage) for stage in stages]
    throughput: dict[str, float | None] = {}
    for name in ("output_tps", "requests_per_s", "prompt_tps", "total_tps"):
        parts = [
            (getattr(stage.throughput, name), window)
            for stage, window in zip(stages, windows, strict=True)
            if window > 0
        ]
        known = [value * window for value, window in parts if value is not None]
        throughput[name] = sum(known) / sum(windows) if known else None
    figures = summary.of_requests(rows, window_s=sum(windows))
    return BenchmarkSummary(
        **fields(msgspec.structs.replace(figures, throughput=Throughput(**throughput))),
        ok=failure is None and not interrupted, valid=failure is None, reasons=[failure] if failure else [],
        interrupted=interrupted, stopped=None, wall_s=round(wall_s, 3), knee=None, agreement=None, energy=None,
    )  # fmt: skip
