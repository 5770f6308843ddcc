"""Tables and notes of a benchmark's page; what it has in common with a sweep's is in modules of ``reports``.

    tables.head(record, past)
    tables.summary(record)

Each takes a record, or the history that :func:`nexus_tasks.reports.frames.history` makes of it.
"""

from __future__ import annotations

from nexus_tasks.core.text import MISSING, interval, moment, number, percent, plural, span, whole
from nexus_tasks.records.store import BenchmarkRecord
from nexus_tasks.reports import frames, run_page
from nexus_tasks.reports.frames import History
from nexus_tasks.reports.markup import Block, Cell, Column, Rows, note, table
from nexus_tasks.reports.pages.benchmark import sentences
from nexus_tasks.reports.requests import LISTED_REQUESTS, counted_rows
from nexus_tasks.stats import slo
from nexus_tasks.stats.metrics import DECODE, OF_REQUESTS, parse
from nexus_tasks.views import runs


def head(record: BenchmarkRecord, past: History) -> Block:
    """The top of the page: what was measured, what happened in three sentences, and the main numbers."""
    return run_page.head(record, past, sentences.opening(record), "Benchmark")


def summary(record: BenchmarkRecord) -> Block:
    """The statistics of each metric, as the record's trailer has them, with intervals."""
    figures = runs.metrics(record)
    if not figures:
        return note("No statistics: no request succeeded.", "bad")
    parts = ("min", "median", "mean", "p90", "p95", "p99", "max", "stdev")
    columns = [Column("Metric", numeric=False), Column("n"), *(Column(part) for part in parts)]
    rows: Rows = []
    if runs.figure(figures.get("ttft_visible_ms"), "mean") == runs.figure(figures.get("ttft_ms"), "mean"):
        figures.pop("ttft_visible_ms", None)  # every token was visible: the line would be the same
    if not runs.figure(figures.get("late_ms"), "max"):
        figures.pop("late_ms", None)  # in a closed loop a request is due when it is sent
    for metric in OF_REQUESTS.values():
        if metric.key in figures:
            stats = figures[metric.key]
            values = [
                Cell(number(runs.figure(stats, part)), detail=interval(runs.interval(stats, part))) for part in parts
            ]
            rows.append([f"{metric.title}, {metric.unit}", f"{stats.n:,}", *values])
    several = " Requests of all levels together." if len(runs.stages(record)) > 1 else ""
    return table(
        columns,
        rows,
        "Below a figure is its 95 % confidence interval, by bootstrap over the requests. Percentiles are given "
        f"from 20 points on. Warm-up, ramp and failures don't count.{several}",
    )


def objectives(record: BenchmarkRecord) -> Block:
    """The SLOs, each with the share of the requests that met it; empty where none was given."""
    limits = record.header.load.slo
    counted = [row for row in record.requests if row.phase == "run"]
    if not limits or not counted:
        return Block("")
    columns = [
        Column("SLO", numeric=False),
        Column("Met by", "of the requests"),
        Column("Worst"),
        Column("Unit", numeric=False),
    ]
    rows: Rows = []
    for name, limit in limits.items():
        values = [slo.value(row, name) for row in counted if row.ok]
        known = [value for value in values if value is not None]
        metric, _ = parse(name)
        met = sum(value >= limit if metric.higher_is_better else value <= limit for value in known)
        worst = (min(known) if metric.higher_is_better else max(known)) if known else None
        rows.append([runs.objective_text(name, limit), f"{met / len(counted) * 100:.1f} %", number(worst), metric.unit])
    return table(columns, rows, "A request that failed met none.")


def serving(record: BenchmarkRecord, past: History) -> Block:
    """The cost of serving: the decode rate of this run beside that of llama.cpp's own tools on the same host.

    Empty where none of them was run with this model before.
    """
    mine = runs.metrics(record).get("decode_tps")
    raw = [
        row
        for row in past.runs.to_dict("records")
        if row["engine"] != "http" and row["model"] == runs.model_name(record) and row["decode_tps_median"] > 0
    ]
    if record.header.load.engine != "http" or not mine or not raw:
        return Block("")
    newest = raw[0]
    share = mine.median / newest["decode_tps_median"] * 100
    raw_speed = number(newest["decode_tps_median"], DECODE.unit)
    raw_load = newest["load"].removesuffix(f", {newest['engine']}")
    return note(
        f"{newest['engine']} decoded {raw_speed} on this host at {raw_load} ({moment(newest['started_at'])}). "
        f"A request that was served here reached {number(mine.median)}, {share:.0f} % of that, at "
        f"{runs.load_name(record)}."
    )


def agreement(record: BenchmarkRecord, limit_percent: float) -> Block:
    """The client's decode times beside the server's own, and whether they agree."""
    agreed = frames.agreement(record)
    if agreed is None and not counted_rows(record):
        return Block("")
    if agreed is None:
        return note("This server reports no timings of its own, so there is nothing to hold the client's against.")
    client, server, difference = agreed
    within = abs(difference) <= limit_percent
    return note(
        f"Decoding took {span(client)} in all by the client's clock and {span(server)} by the server's: "
        f"{percent(difference)}, {'within' if within else 'outside'} the mark of ±{limit_percent:g} %.",
        "good" if within else "bad",
    )


def requests(record: BenchmarkRecord) -> Block:
    """Every request, those that don't count too; of many, those that failed, stalled or took longest."""
    frame = frames.requests(record).sort_values("index", ignore_index=True)
    if frame.empty:
        return Block("")  # the figure above says so
    caption = ""
    if len(frame) > LISTED_REQUESTS:
        apart = frame[~frame["ok"] | (frame["stalls"] > 0)].head(LISTED_REQUESTS // 2)
        slow = frame.drop(index=apart.index).nlargest(LISTED_REQUESTS // 2, "total_ms")
        caption = (
            f"{len(apart) + len(slow)} of {len(frame):,}: what failed or stalled, and the slowest of the others. An "
            "export has all of them."
        )
        frame = frame.loc[sorted([*apart.index, *slow.index])]
    measures = {
        "queue_ms": ("Queue", "ms"),
        "ttft_ms": ("TTFT", "ms"),
        "decode_ms": ("Decode", "ms"),
        "total_ms": ("Total", "ms"),
        "decode_tps": ("Decode", "tokens/s"),
        "prefill_tps": ("Prefill", "tokens/s"),
        "itl_median_ms": ("ITL", "median, ms"),
        "itl_max_ms": ("ITL", "most, ms"),
    }
    shown = {key: title for key, title in measures.items() if frame[key].notna().any()}
    level_of = {row.stage: runs.level(row) for row in record.stages}
    several = len(set(level_of.values())) > 1
    columns = [
        Column("Request", numeric=False),
        *([Column("Level")] if several else []),
        Column("Sent", "s"),
        Column("Prompt", "tokens"),
        Column("Output", "tokens"),
        *(Column(*title) for title in shown.values()),
        Column("End", numeric=False),
    ]
    rows: Rows = []
    for row in frame.to_dict("records"):
        tone = "bad" if not row["ok"] else "muted" if row["phase"] != "run" else ""
        end = str((row["finish_reason"] if row["ok"] else row["error_kind"]) or MISSING)
        phase = "" if row["phase"] == "run" else row["phase"].replace("warmup", "warm-up")
        texts = [
            *([f"{level_of[row['stage']]:,g}" if row["stage"] in level_of else MISSING] if several else []),
            number(row["start_s"]),
            *(whole(row[key]) for key in ("prompt_tokens", "output_tokens")),
            *(number(row[key]) for key in shown),
        ]
        stalled = plural(int(row["stalls"]), "stall") if row["stalls"] > 0 else ""
        name = Cell(f"{row['index']}", tone, detail=phase)
        rows.append([name, *(Cell(text, tone) for text in texts), Cell(end, tone, detail=stalled)])
    return table(columns, rows, caption)
