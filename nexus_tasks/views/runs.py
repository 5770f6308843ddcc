"""Views of a benchmark record: names, the verdict, the metrics, the levels of load.

runs.verdict(record)                     ("good", "All 3 requests succeeded")
runs.metrics(record)["ttft_ms"].median
runs.stages(record)[0].throughput
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from nexus_tasks.core.text import SPACE
from nexus_tasks.records.benchmark_rows import Figures, Lengths, Percentiles, Planned, StageRow, fields
from nexus_tasks.records.store import BenchmarkRecord
from nexus_tasks.stats.metrics import parse
from nexus_tasks.stats.summary import of_requests

LEVELS = ("concurrency", "rate_per_s", "prompt_tokens")
MODES = {"constant": "at a constant rate", "poisson": "at random moments", "burst": "in bursts"}


def metrics(record: BenchmarkRecord) -> dict[str, Figures]:
    """The metrics that have points, by name, as the summary has them.

    A run that was cut short has no summary: its requests so far are summarised the same way.
    """
    if record.summary is not None:
        figures = record.summary.metrics
    else:
        figures = of_requests(record.requests, window_s=1.0).metrics
    return {name: stats for name, stats in figures.items() if stats}


def figure(figures: Figures | None, part: str = "median") -> float | None:
    """One of the figures of a metric; None where it has none."""
    value: float | None = getattr(figures, part) if figures else None
    return value


def interval(figures: Figures | None, part: str = "median") -> Sequence[float] | None:
    """The 95 % confidence interval of one of the figures, as low and high; None where there is none."""
    bounds: list[float] | None = getattr(figures.ci, part, None) if figures and figures.ci else None
    return bounds


def stages(record: BenchmarkRecord) -> list[StageRow]:
    """The levels of load that were measured, in order, a row of a stage each.

    Stages of one level (the rounds of an interleaved run) are one, summarised anew, with the worst that the generator
    said of any. A record without such rows (an old one, or one cut short) has one, of all its requests: without
    ``watch``.
    """
    by_level: dict[str, list[StageRow]] = {}
    for row in sorted(record.stages, key=lambda row: row.stage):
        by_level.setdefault(level_name(row), []).append(row)
    if by_level:
        return [_merged(record, rows) for rows in by_level.values()]
    planned = record.header.load.planned
    counted = [row for row in record.requests if row.phase == "run"]
    one = planned[0] if len(planned) == 1 else Planned()
    whole = StageRow(
        stage=0,
        round=0,
        concurrency=one.concurrency,
        rate_per_s=one.rate_per_s,
        prompt_tokens=one.prompt_tokens,
        watch=None,
        requests=len(counted),
        failed=sum(not row.ok for row in counted),
        metrics=dict(metrics(record)),
        throughput=record.summary.throughput if record.summary else None,
        goodput=record.summary.goodput if record.summary else None,
        stalls=sum(row.stalls for row in counted),
        short=sum(row.error is not None and row.error.kind == "short" for row in counted),
    )
    return [whole]


def level_names(record: BenchmarkRecord) -> dict[int, str]:
    """Name of each stage's level of load, by the stage's number."""
    return {row.stage: level_name(row) for row in record.stages}


def verdict(record: BenchmarkRecord) -> tuple[str, str]:
    """Verdict about the run itself: a tone (good or bad) and a sentence without its full stop."""
    summary = record.summary
    if summary is None:
        return "bad", "Interrupted: the run was cut short"
    if summary.interrupted:
        return "bad", f"Interrupted after {_requests(summary.requests)}"
    if not summary.valid:
        return "bad", "Not valid: the generator was part of what was measured"
    if summary.failed:
        return "bad", f"{summary.failed} of {_requests(summary.requests)} failed"
    if not summary.ok:
        return "bad", "Not as asked: some requests are shorter than the workload wants"
    return "good", f"All {_requests(summary.requests)} succeeded, warm-up included"


def badge(record: BenchmarkRecord) -> str:
    """The verdict in a word or two."""
    summary = record.summary
    if summary is None or summary.interrupted:
        return "cut short"
    if not summary.valid:
        return "not valid"
    if summary.failed:
        return f"{summary.failed:,} failed"
    return "ok" if summary.ok else "short"


def same_model(one: BenchmarkRecord, other: BenchmarkRecord) -> bool:
    """True if two runs measured one model: by hash where both know it, else by name."""
    first, second = one.header.model, other.header.model
    if first.sha256 and second.sha256:
        return bool(first.sha256 == second.sha256)
    return _model_id(one) == _model_id(other)


def model_name(record: BenchmarkRecord) -> str:
    """Name of the model for readers: the profile's, else the id that the server gives; of a path its last part."""
    name = _model_id(record)
    return name.rpartition("/")[2] if name.endswith(".gguf") else name


def _model_id(record: BenchmarkRecord) -> str:
    return str(record.header.model.name or record.header.endpoint.model)


def build_name(record: BenchmarkRecord) -> str:
    """Name of the server's build for readers: as the server gives it, else the release."""
    server = record.header.server
    return str(server.build or server.release or "unknown")


def driver_name(record: BenchmarkRecord) -> str | None:
    """The driver that the server's GPUs ran with, where it is known."""
    declared = record.header.host_state.driver
    gpus = record.header.gpus if record.header.client.local else []
    return declared or next((gpu.driver for gpu in gpus if gpu.driver), None)


def slots(record: BenchmarkRecord) -> int | None:
    """Number of requests that the server works on at a time; None where it does not say."""
    return record.header.server.total_slots


def tokens(length: Lengths | None) -> str:
    """The length of prompts or outputs in a few letters: ``512``, a range, ``~512`` or empty where it is not known."""
    if length is None:
        return ""
    if length.kind == "fixed":
        return f"{length.mean:,.0f}"
    if length.kind == "uniform" and length.min is not None and length.max is not None:
        return f"{length.min:,.0f}\N{EN DASH}{length.max:,.0f}"
    return f"~{length.mean:,.0f}"


def sizes(record: BenchmarkRecord) -> str:
    """The workload in a few letters: ``quick 128/64``, prompt and output tokens."""
    workload = record.header.workload
    kind = None if workload.kind == "synthetic" else workload.file.name if workload.file else workload.kind
    lengths = workload.lengths or []
    prompt = f"{min(lengths):,}\N{EN DASH}{max(lengths):,}" if lengths else tokens(workload.prompt_tokens)
    if workload.prefix_tokens:
        prompt = f"{workload.prefix_tokens:,}+{prompt}"
    both = "/".join(filter(None, [prompt, tokens(workload.output_tokens)]))
    return " ".join(dict.fromkeys(filter(None, [workload.preset, kind, both])))


def load_name(record: BenchmarkRecord) -> str:
    """The load in a few words: ``concurrency 8``, ``concurrency 1 to 32, swept``, ``6 requests/s in bursts``."""
    load = record.header.load
    planned = [row for row in _levels(record) if any(getattr(row, key) for key in LEVELS)]
    if not planned:
        return load.mode
    names = list(dict.fromkeys(level_name(row) for row in planned))
    text = names[0]
    if len(names) > 1:  # the rounds of an interleaved run are of one level
        levels = sorted((level(row) for row in planned), key=float)
        prefix, suffix = _AROUND[_axis(planned[0])]
        text = f"{prefix}{levels[0]:,g} to {levels[-1]:,g}{suffix}"
    if load.axis == "prompt_tokens" and planned[0].concurrency:
        text += f", concurrency {planned[0].concurrency}"
    how = {"sweep": ", swept", **{mode: f" {words}" for mode, words in MODES.items()}}.get(load.mode, "")
    engine = "" if load.engine == "http" else f", {load.engine}"
    return text + how + engine


def level_name(row: StageRow | Planned) -> str:
    """The level of a stage: ``concurrency 8``, ``6 requests/s`` or ``2,048 prompt tokens``."""
    prefix, suffix = _AROUND[_axis(row)]
    value = level(row)
    return f"{prefix}{value:,g}{suffix}" if value == value else "all requests"


def level(row: StageRow | Planned) -> float:
    """The number in :func:`level_name`, by which stages are ordered and drawn; NaN where there is none."""
    return float(getattr(row, _axis(row)) or float("nan"))


def axis(record: BenchmarkRecord) -> str:
    """The key that differs from stage to stage: one of LEVELS."""
    return record.header.load.axis or _axis([*_levels(record), Planned()][0])


def swept(record: BenchmarkRecord) -> bool:
    """True if a sweep found the levels of load."""
    return record.header.load.mode == "sweep"


def objective_text(name: str, limit: float) -> str:
    """An SLO in words: ``TTFT ≤ 500 ms``, ``p95 of ITL ≤ 50 ms``."""
    metric, part = parse(name)
    word = metric.slo_label or metric.label
    return f"{f'{part} of ' if part else ''}{word} \N{LESS-THAN OR EQUAL TO} {limit:,g}{SPACE}{metric.unit}"


_AROUND = {
    "concurrency": ("concurrency ", ""),
    "rate_per_s": ("", " requests/s"),
    "prompt_tokens": ("", " prompt tokens"),
}


def _levels(record: BenchmarkRecord) -> Sequence[StageRow | Planned]:
    """The stages that were measured; those that were planned where none was."""
    return record.stages or record.header.load.planned


def _axis(row: StageRow | Planned) -> str:
    """The key that names a stage: its prompts where their length is its level, else its rate, else its users."""
    return next((key for key in ("prompt_tokens", "rate_per_s") if getattr(row, key)), "concurrency")


def _merged(record: BenchmarkRecord, rows: Sequence[StageRow]) -> StageRow:
    """The stages of one level as one."""
    if len(rows) == 1:
        return rows[0]
    numbers, watches = {row.stage for row in rows}, [row.watch for row in rows if row.watch]
    if not watches:
        return rows[-1]
    seconds = sum(watch.ended_s - watch.begun_s for watch in watches)
    own = [row for row in record.requests if row.stage in numbers]
    figures = of_requests(own, slo=record.header.load.slo, window_s=seconds)
    watch = msgspec.structs.replace(
        watches[0],
        ended_s=watches[-1].ended_s,
        in_flight=min((one.in_flight for one in watches if one.in_flight is not None), default=None),
        in_flight_asked=next((one.in_flight_asked for one in watches if one.in_flight_asked), None),
        cpu_per_process=max(one.cpu_per_process for one in watches),
        lag_ms=_worst([one.lag_ms for one in watches]),
        late_ms=_worst([one.late_ms for one in watches]),
        valid=all(one.valid for one in watches),
        reasons=list(dict.fromkeys(reason for one in watches for reason in one.reasons)),
    )
    return msgspec.structs.replace(rows[0], **fields(figures), watch=watch)


def _worst(delays: Sequence[Percentiles]) -> Percentiles:
    def worst(values: Iterable[float | None]) -> float | None:
        return max((value for value in values if value is not None), default=None)

    return Percentiles(
        p50=worst(one.p50 for one in delays), p99=worst(one.p99 for one in delays),
        max=worst(one.max for one in delays),
    )  # fmt: skip


def _requests(count: int) -> str:
    return f"{count:,} request{'' if count == 1 else 's'}"
