"""Head and foot of a page about one run: of a benchmark's and of a sweep's.

run_page.head(record, past, sentences, "Benchmark")
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nexus_tasks.core.text import SPACE, interval, moment, number
from nexus_tasks.records.store import BenchmarkRecord
from nexus_tasks.reports import levels
from nexus_tasks.reports.earlier_runs import change_cell
from nexus_tasks.reports.frames import History
from nexus_tasks.reports.markup import Block, Cell, fill
from nexus_tasks.stats.metrics import DECODE, ITL, OUTPUT, PREFILL, REQUESTS, TOTAL, TTFT
from nexus_tasks.views import runs

TILES = (TTFT, ITL, DECODE, PREFILL)


def head(record: BenchmarkRecord, past: History, sentences: Sequence[str], kind: str) -> Block:
    """The top of a page about one run."""
    tone, _ = runs.verdict(record)
    return fill(
        "blocks/head.html",
        kicker=" · ".join(filter(None, [kind, moment(record.started_at), record.header.tag])),
        target=record.header.target,
        title=runs.model_name(record),
        subtitle=f"on {record.header.target}",
        subject=f"{runs.sizes(record)} tokens, {runs.load_name(record)}",
        tone=tone,
        badge=runs.badge(record),
        sentences=sentences,
        tiles=tiles(record, past),
        since="the last like it",
    )


def tiles(record: BenchmarkRecord, past: History) -> list[dict[str, Any]]:
    """The main numbers of a run with interval, tail, and how they moved; of several levels, those of the one that the
    first sentence names."""
    stages = runs.stages(record)
    several = len(stages) > 1
    stage = levels.headline(record)
    at = f"at {runs.level_name(stage)}"
    measured = stage.metrics if several else runs.metrics(record)
    figures = {name: stats for name, stats in measured.items() if stats}
    rates = {metric: getattr(stage.throughput, metric.key, None) or 0.0 for metric in (OUTPUT, REQUESTS)}
    rate = next((metric for metric, value in rates.items() if value > 0), None)
    made = [_tile(f"{rate.title}, all requests", number(rates[rate]), rate.unit, at)] if rate else []
    shown = [(metric, metric.heading) for metric in TILES if metric.key in figures] or [(TOTAL, TOTAL.title)]
    for metric, label in shown:
        if metric.key in figures:
            stats = figures[metric.key]
            sure = interval(runs.interval(stats))
            count = f"n{SPACE}={SPACE}{stats.n}"
            tail = f"p99{SPACE}{number(stats.p99)}" if stats.p99 is not None else count
            ends = f"95{SPACE}%:{SPACE}{sure}" if sure else f"{number(stats.min)} to {number(stats.max)}"
            change = None if several else change_cell(metric, past.changes.get(metric.key))
            detail = f"{ends}; {tail}" if stats.n > 1 else count
            made.append(_tile(f"{label}, median", number(stats.median), metric.unit, detail, change))
    goodput = stage.goodput
    if goodput and goodput.share is not None:
        detail = f"{number(goodput.requests_per_s, 'requests/s')} met the SLOs"
        made.append(_tile("Goodput", f"{goodput.share * 100:.0f}", "%", detail))
    energy = record.summary.energy if record.summary else None
    if energy and energy.joules_per_token is not None:
        detail = f"{number(energy.joules, 'J')} in all"
        made.append(_tile("Energy", number(energy.joules_per_token), "J/token", detail))
    return made


def _tile(label: str, value: str, unit: str, detail: str, change: Cell | None = None) -> dict[str, Any]:
    return {"label": label, "value": value, "unit": unit, "detail": detail, "change": change}


def footer(record: BenchmarkRecord) -> Block:
    """The foot: where the numbers come from."""
    return fill("blocks/footer.html", run_id=record.run_id, kind=record.header.kind)
