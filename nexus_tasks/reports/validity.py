"""Validity of a run: the load generator against its bounds, and what was asked against what the server worked on.

validity.generator(record)
validity.tally(record)
"""

from __future__ import annotations

from nexus_tasks.core.text import apart, number, plural
from nexus_tasks.load.health import MAX_CPU, MAX_LAG_P99_MS, MIN_IN_FLIGHT, MIN_LATE_LOOKS
from nexus_tasks.load.rows import uncounted_sentence, untimed_sentence
from nexus_tasks.records.store import BenchmarkRecord
from nexus_tasks.reports import frames
from nexus_tasks.reports.markup import Block, Cell, Column, Rows, fill, note, table
from nexus_tasks.reports.requests import counted_rows
from nexus_tasks.views import runs

HELD_BACK_MAX_PERCENT = 5.0  # a few wait for the rest of a character; more were lost on the way


def generator(record: BenchmarkRecord) -> Block:
    """The load generator's watch over itself at each level, against its bounds: whether it was the bottleneck."""
    watched = [(runs.level_name(row), row.watch) for row in runs.stages(record) if row.watch]
    if record.header.load.engine != "http":
        return note("llama.cpp's own tool measured on the host itself, so there was no load generator to be too slow.")
    if not watched:
        return note(
            "This record is older than the generator's watch over itself, or was cut short before a level ended."
        )
    rows: Rows = []
    for name, watch in watched:
        asked = watch.in_flight_asked
        late = (watch.lag_ms.p99 or 0) > MAX_LAG_P99_MS and not watch.valid
        low = bool(asked and watch.in_flight is not None and watch.in_flight < MIN_IN_FLIGHT * asked)
        in_flight = number(watch.in_flight)
        if low and watch.in_flight is not None and asked:
            in_flight = apart(watch.in_flight, asked)
        rows.append(
            [
                name,
                Cell(in_flight + (f" of {asked:g}" if asked else ""), "bad" if low else ""),
                Cell(number(watch.cpu_per_process), "bad" if watch.cpu_per_process >= MAX_CPU else ""),
                Cell(number(watch.lag_ms.p99), "bad" if late else ""),
                number(watch.late_ms.p50),
                number(watch.late_ms.p99),
                number(watch.late_ms.max),
                {"enough": "known well enough", "errors": "too many errors", "exhausted": "no more prompts"}.get(
                    watch.stopped or "", "done"
                ),
                Cell("yes", "good") if watch.valid else Cell("no", "bad"),
            ]
        )
    columns = [
        Column("Level", numeric=False),
        Column("In flight", "mean"),
        Column("CPU", "cores a process"),
        Column("Loop lag", "p99, ms"),
        Column("Late", "median, ms"),
        Column("Late", "p99, ms"),
        Column("Late", "most, ms"),
        Column("Ended", numeric=False),
        Column("Valid", numeric=False),
    ]
    caption = (
        f"Valid: at least {MIN_IN_FLIGHT * 100:.0f} % of the requests asked for in flight, less than {MAX_CPU:g} of a "
        f"core in each process, and at most {MAX_LAG_P99_MS:g} ms of lag; more does no harm where fewer than "
        f"{MIN_LATE_LOOKS} looks found it. Late is from the moment at which a request was due to that at which it was "
        "sent; its latency counts from the former."
    )
    reasons = [f"{name}: {reason}." for name, watch in watched for reason in watch.reasons]
    reasons_html = fill("blocks/tally.html", lines=[(reason, "bad") for reason in reasons]).html if reasons else ""
    return Block(reasons_html + table(columns, rows, caption).html)


def tally(record: BenchmarkRecord) -> Block:
    """The tally: what was asked against what the server says it worked on, and which backends answered."""
    counted = frames.counted(frames.requests(record))
    lines = []
    prompts = [row for row in record.requests if row.phase == "run" and row.server and row.server.prompt_n is not None]
    if prompts and record.header.workload.prompt_tokens:
        off = sum(row.error is not None and row.error.message.startswith("the server saw") for row in prompts)
        lines.append(
            (f"{off} of {len(prompts):,} prompts had another number of tokens than asked.", "bad")
            if off
            else (f"All {len(prompts):,} prompts had as many tokens at the server as asked.", "good")
        )
    lacks = filter(None, (uncounted_sentence(record.requests), untimed_sentence(record.requests)))
    lines += [(f"{told[0].upper()}{told[1:]}.", "bad") for told in lacks]
    generated, late = _held_back(record)
    if generated:
        share = late / generated * 100
        lines.append(
            (
                f"{late:,} of {generated:,} tokens came with the end of their answers ({share:.2g} %): they have no "
                "moment of their own, and no part in the speeds.",
                "bad" if share > HELD_BACK_MAX_PERCENT else "muted",
            )
            if late
            else (f"All {generated:,} tokens that the server generated arrived, each with its moment.", "good")
        )
    cached = int((counted["cached_tokens"] > 0).sum())
    if cached:
        share = counted["cached_tokens"].sum() / counted["prompt_tokens"].sum() * 100
        text = (
            f"{cached:,} of {len(counted):,} prompts came from the server's cache in part ({share:.0f} % of all tokens)"
        )
        lines.append((f"{text}: they count in every figure but the prefill rate.", "muted"))
    drafts = [row.draft for row in counted_rows(record) if row.draft and row.draft.n]
    if drafts:
        share = sum(draft.accepted or 0 for draft in drafts) / sum(draft.n for draft in drafts) * 100
        lines.append((f"{share:.0f} % of the drafted tokens were accepted.", "muted"))
    reasoning = counted["reasoning_tokens"].sum()
    if reasoning > 0:
        share = reasoning / counted["output_tokens"].sum() * 100
        lines.append((f"{share:.0f} % of the output tokens were reasoning, which a user doesn't see.", "muted"))
    share, why = frames.throttled(record)
    if share:
        lines.append((f"A GPU was slowed down in {share * 100:.0f} % of the samples: {', '.join(why)}.", "bad"))
    backends = counted["backend"].dropna().value_counts()
    if len(backends):
        text = ", ".join(f"{name} ({plural(count, 'request')})" for name, count in backends.items())
        lines.append((f"Answered by: {text}.", "muted"))
    return fill("blocks/tally.html", lines=lines) if lines else Block("")


def _held_back(record: BenchmarkRecord) -> tuple[int, int]:
    """Tokens that llama-server generated in good answers, and how many of them came without a moment of their own.

    Only its own completions say with each event how many tokens there are.
    """
    if record.header.workload.api != "completion" or record.header.endpoint.engine != "llama.cpp":
        return 0, 0
    generated = arrived = 0
    for row in counted_rows(record):
        if row.server and row.server.predicted_n is not None and row.ttft_ms and not row.untimed:
            generated += row.server.predicted_n
            arrived += len(row.itl_ms) + 1
    return generated, generated - arrived
