"""Tables of a page that shows models side by side: their speeds, and their answers to the same prompts.

tables.speeds(compared)
tables.answers(compared, 12)
"""

from __future__ import annotations

from nexus_tasks.core.text import MISSING, interval, number
from nexus_tasks.records.benchmark_rows import RequestRow
from nexus_tasks.records.store import BenchmarkRecord
from nexus_tasks.reports import frames, levels
from nexus_tasks.reports.markup import Block, Cell, Column, Rows, fill, note, table
from nexus_tasks.reports.pages.compare.sides import Compared, model_names
from nexus_tasks.reports.pages.compare.tables import page_head
from nexus_tasks.reports.pages.models import sentences
from nexus_tasks.reports.requests import answers_by_prompt
from nexus_tasks.stats.metrics import DECODE, ITL, OUTPUT, PREFILL, TOTAL, TTFT, Metric
from nexus_tasks.views import runs

ANSWERS, ASKED = 12, 600  # more prompts, or more characters of one, and nobody reads on


def head(compared: Compared) -> Block:
    """The top of a page that shows models side by side."""
    return page_head(compared, sentences.opening(compared), "Models")


def speeds(compared: Compared) -> Block:
    """Each run's speed in a row, with intervals; the best of a column stands out."""
    shown = [metric for metric in (TTFT, ITL, DECODE, PREFILL, TOTAL)
             if any(metric.key in runs.metrics(record) for record in compared.records)]  # fmt: skip
    columns = [
        Column("Model", numeric=False), Column("Size", "GiB"),
        *(Column.of(metric, f"median, {metric.unit}") for metric in shown),
        Column.of(OUTPUT, f"{OUTPUT.unit}, all"), Column("Answer", "median, tokens"), Column("Failed"),
    ]  # fmt: skip
    rows: Rows = []
    best = {metric: _best(compared, metric) for metric in shown}
    for label, record in zip(model_names(compared.records), compared.records, strict=True):
        figures = runs.metrics(record)
        cells = []
        for metric in shown:
            stats = figures.get(metric.key)
            sure = interval(runs.interval(stats))
            cells.append(Cell(number(runs.figure(stats)), "good" if record is best[metric] else "", detail=sure))
        stage, size = levels.headline(record), record.header.model.size_bytes
        lengths = frames.counted(frames.requests(record))["output_tokens"].median()
        rows.append(
            [
                Cell(
                    label,
                    link=f"../benchmark/{record.path.stem}.html",
                    detail=runs.build_name(record),
                ),
                number(size / 2**30 if size else None),
                *cells,
                number(stage.throughput.output_tps if stage.throughput else None),
                MISSING if lengths != lengths else f"{lengths:,.0f}",
                Cell(f"{stage.failed:,}", "bad" if stage.failed else ""),
            ]
        )
    return table(
        columns,
        rows,
        "Green is the best of a column, where its interval overlaps no other. Below a median is its 95 % "
        "confidence interval.",
    )


def _best(compared: Compared, metric: Metric) -> BenchmarkRecord | None:
    """The run with the best median, where it is distinct from all others."""
    known = [
        (record, runs.metrics(record)[metric.key]) for record in compared.records if metric.key in runs.metrics(record)
    ]
    known.sort(key=lambda one: one[1].median, reverse=metric.higher_is_better)
    (first, stats), *others = known
    low, high = frames.likely(stats)
    apart = all(end[1] < low or end[0] > high for end in (frames.likely(other) for _, other in others))
    return first if apart else None


def answers(compared: Compared, limit: int = ANSWERS) -> Block:
    """The answers to the same prompts, beside each other."""
    by_run = [answers_by_prompt(record) for record in compared.records]
    common = sorted(set.intersection(*map(set, by_run)), key=_in_order)
    if not common:
        return note("The records hold no answers to the same prompts. Measure a file of prompts with --keep-answers.")
    names = model_names(compared.records)
    prompts = []
    for key, turn in common[:limit]:
        rows = [by_key[key, turn] for by_key in by_run]
        asked = rows[0].prompt or ""
        prompts.append(
            {
                "key": key + (f", turn {turn + 1}" if turn else ""),
                "asked": asked[:ASKED] + ("…" if len(asked) > ASKED else ""),
                "answers": [
                    {"name": name, "text": row.answer, "facts": _facts(row)}
                    for name, row in zip(names, rows, strict=True)
                ],
            }
        )
    return fill("blocks/answers.html", prompts=prompts, left_out=len(common) - len(prompts))


def _in_order(prompt: tuple[str, int]) -> tuple[int, str, int]:
    """The order of a file: its lines by number, and names by the alphabet."""
    key, turn = prompt
    return (int(key) if key.isdecimal() else 0, key, turn)


def _facts(row: RequestRow) -> str:
    facts = [
        f"{row.output_tokens or 0:,} tokens",
        f"TTFT {number(row.ttft_ms, 'ms')}" if row.ttft_ms is not None else "",
        number(row.decode_tps, "tokens/s") if row.decode_tps else "",
        row.finish_reason or "",
    ]
    return ", ".join(filter(None, facts))
