"""Tables and notes of a batch's page: its top, what failed, who worked and answered, what was asked.

    tables.head(record)
    tables.failures(record)

Each takes a record of a batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nexus_tasks.core.text import MISSING, SPACE, duration, moment, number, plural, span, whole
from nexus_tasks.records.batch_rows import JobEnergy
from nexus_tasks.records.store import BatchRecord
from nexus_tasks.reports import conditions
from nexus_tasks.reports.markup import Block, Cell, Column, Rows, fill, note, table
from nexus_tasks.reports.pages.batch import answers, sentences, wording
from nexus_tasks.stats.metrics import OUTPUT, TOTAL, TTFT
from nexus_tasks.stats.proportions import wilson
from nexus_tasks.views import batch_runs

LISTED = 40  # endpoints or servers: more, and nobody reads on
NAMED_TARGETS = 3
SHOWN_SESSIONS = 20
OPTIONS_NAMED = 4  # of what was asked, in the line below the title


def head(record: BatchRecord) -> Block:
    """The top of the page: what was asked, what came out in three sentences, and the main numbers."""
    header, models = record.header, batch_runs.models(record)
    tone, _ = batch_runs.verdict(record)
    return fill(
        "blocks/head.html",
        kicker=f"Batch · {moment(batch_runs.told_at(record))}",
        target=header.job.name,
        title=header.input.name,
        subtitle=f"put to {', '.join(models)}" if models else "",
        subject=_subject(record),
        tone=tone,
        badge=batch_runs.badge(record),
        sentences=sentences.opening(record),
        tiles=_tiles(record),
        since="",
    )


def failures(record: BatchRecord) -> Block:
    """The causes of failures, each with the rows that met it; empty where nothing failed."""
    if not record.failures:
        return Block("")
    causes = [
        {
            "cause": batch_runs.cause(row.kind),
            "kind": row.kind,
            "set_aside": whole(row.set_aside or None),
            "attempts": whole(row.attempts or None),
            "examples": wording.examples(row.examples),
            "tone": "bad" if row.set_aside else "muted",
        }
        for row in record.failures
    ]
    given_up = sum(row.set_aside for row in record.failures)
    return fill("blocks/batch_failures.html", causes=causes, given_up=plural(given_up, batch_runs.noun(record)))


def endpoints(record: BatchRecord) -> Block:
    """Each endpoint with the work that it did."""
    if not record.endpoints:
        return Block("")
    columns = [
        Column("Endpoint", numeric=False), Column("Slots"), Column("Busy", "of the slots"), Column("Requests"),
        Column("Answered"), Column("Failed"), Column("Prompt", "tokens"), Column("Output", "tokens"), Column.of(OUTPUT),
    ]  # fmt: skip
    seconds = record.summary.seconds if record.summary else 0.0
    rows: Rows = [
        [
            row.endpoint,
            whole(row.slots),
            wording.percent(row.busy_share),
            f"{row.requests:,}",
            f"{row.answered:,}",
            Cell(f"{row.failed:,}", "bad" if row.failed else ""),
            whole(row.prompt_tokens),
            whole(row.output_tokens),
            number(row.output_tokens / seconds if row.output_tokens is not None and seconds > 0 else None),
        ]
        for row in sorted(record.endpoints, key=lambda row: -row.answered)[:LISTED]
    ]
    return table(
        columns,
        rows,
        "Busy: the mean share of the slots that worked on a request while there was more to begin. Tokens are of all "
        f"answers, those that were asked anew later among them.{_left_out(len(record.endpoints))}",
    )


def servers(record: BatchRecord) -> Block:
    """The builds and models that answered, and which rows."""
    answered = [row for row in record.servers if row.answered]
    if not answered:
        return note("No row was answered.")
    columns = [
        Column("Endpoint", numeric=False), Column("Model", numeric=False), Column("Build", numeric=False),
        Column("Context", "tokens a slot"), Column("Slots"), Column(f"{batch_runs.noun(record).capitalize()}s"),
        Column("Lines", "first to last", numeric=False),
    ]  # fmt: skip
    total = sum(row.answered for row in answered)
    rows: Rows = [
        [
            row.endpoint,
            batch_runs.model_name(row.model),
            row.build or MISSING,
            whole(row.n_ctx),
            whole(row.slots),
            Cell(f"{row.answered:,}", detail=wording.percent(row.answered / total)),
            MISSING if row.first_line is None else f"{row.first_line:,} to {whole(row.last_line)}",
        ]
        for row in answered[:LISTED]
    ]
    told = "The journal of the job names the server of each row, and so does its export."
    return table(columns, rows, told + _left_out(len(answered)))


def sessions(record: BatchRecord) -> Block:
    """The processes that worked on the job, where there was more than one."""
    if len(record.sessions) < 2:
        return Block("")
    columns = [Column("Began", "UTC", numeric=False), Column("Worked"), Column("Ended", numeric=False)]
    rows: Rows = [
        [
            row.started_at.replace("T", " ")[:19],
            duration(row.seconds),
            row.ended or Cell("killed, or the machine went down", "bad"),
        ]
        for row in record.sessions[-SHOWN_SESSIONS:]
    ]
    left_out = len(record.sessions) - len(rows)
    return table(columns, rows, f"The last {len(rows)} of {len(record.sessions):,}." if left_out else "")


def asked(record: BatchRecord) -> Block:
    """The lists of facts: the input, what was asked, the job, and the machine that it ran on."""
    header = record.header
    client, source = header.client, header.input
    groups: dict[str, dict[str, Any]] = {
        "Input": {
            "File": source.name,
            "Format": source.format,
            "Rows": f"{source.rows:,}",
            "Requests": f"{source.items:,}" if source.items != source.rows else None,
            "SHA-256": source.sha256,
        },
        "Asked": dict(wording.option(*one) for one in header.asking.items() if one[1] is not None),
        "Job": {
            "Name": header.job.name,
            "Folder": header.job.folder,
            "Targets": ", ".join(header.targets) or MISSING,
            **dict(wording.option(*one) for one in header.running.items() if one[1]),
        },
        "Client": {
            "Host": client.hostname,
            "Processor": f"{client.cpu or 'unknown'}, {client.cpu_count} cores",
            "Memory": whole(client.memory_mib, "MiB"),
            "System": client.os,
            "Python": client.python,
            "Git revision": conditions.revision(header.git),
        },
    }
    kept = {
        title: {key: value for key, value in facts.items() if value is not None}
        for title, facts in groups.items()
        if facts
    }
    return fill("blocks/measured.html", groups=kept, command=None)


def footer(record: BatchRecord) -> Block:
    """The foot: where the numbers come from."""
    return fill("blocks/footer.html", run_id=record.run_id, kind=record.header.kind)


def _subject(record: BatchRecord) -> str:
    told, asking = record.header.input, record.header.asking
    parts = [plural(told.rows, "row")]
    if told.items != told.rows:
        parts.append(plural(told.items, "request"))
    short = {name: value for name, value in asking.items() if isinstance(value, int | float) and value is not None}
    parts += [f"{wording.words(name)} {value:g}" for name, value in list(short.items())[:OPTIONS_NAMED]]
    targets = record.header.targets
    more = len(targets) - NAMED_TARGETS
    where = ", ".join(targets[:NAMED_TARGETS]) + (f" and {more} more" if more > 0 else "")
    return ", ".join(parts) + (f", on {where}" if where else "")


def _tiles(record: BatchRecord) -> list[dict[str, Any]]:
    summary, noun = record.summary, batch_runs.noun(record)
    if summary is None:
        return []
    counts = ((summary.set_aside, "failed"), (summary.left, "left"), (summary.twins, "by an identical request"))
    rest = [f"{count:,} {what}" for count, what in counts if count]
    rate = [number(summary.items_per_s, f"{noun}s/s")] if summary.items_per_s else []
    made = [_tile("Answered", f"{summary.answered:,}", f"of {summary.items:,}", ", ".join([*rest, *rate]))]
    if summary.output_tps is not None and summary.output_tokens:
        tokens = f"{summary.output_tokens:,} tokens in {sentences.worked(summary.seconds)}"
        made.append(_tile("Output, all endpoints", number(summary.output_tps), OUTPUT.unit, tokens))
    for key, label in (("latency_ms", TOTAL.title), ("ttft_ms", TTFT.title)):
        points = answers.values(record, key)
        if len(points):
            value, _, unit = span(float(np.median(points))).partition(SPACE)
            detail = f"p95 {span(float(np.percentile(points, 95)))}" if len(points) >= 20 else f"n = {len(points)}"
            made.append(_tile(f"{label}, median", value, unit, detail))
    checked, valid = sum(row.checked for row in record.schemas), sum(row.valid for row in record.schemas)
    if checked:
        low, high = wilson(valid / checked, checked)
        detail = f"95{SPACE}%: {low * 100:.1f}\N{EN DASH}{high * 100:.1f}; {valid:,} of {checked:,}"
        made.append(_tile("Valid answers", f"{valid / checked * 100:.1f}", "%", detail))
    known = [(row.busy_share, row.slots) for row in record.endpoints if row.busy_share is not None and row.slots]
    if known and summary.answered:
        busy = sum(share * slots for share, slots in known) / sum(slots for _, slots in known)
        made.append(_tile("Slots busy", f"{busy * 100:.0f}", "%", "while there was more to begin"))
    if summary.energy:
        made.append(_energy(summary.energy))
    return made


def _energy(energy: JobEnergy) -> dict[str, Any]:
    """The tile of the energy, for each token where all of it is known."""
    if energy.joules_per_token is not None:
        detail = f"{number(energy.joules, 'J')} in all, of {energy.source}"
        return _tile("Energy", number(energy.joules_per_token), "J/token", detail)
    return _tile("Energy", number(energy.joules), "J", f"{'at least, ' if energy.at_least else ''}of {energy.source}")


def _tile(label: str, value: str, unit: str, detail: str) -> dict[str, Any]:
    return {"label": label, "value": value, "unit": unit, "detail": detail, "change": None}


def _left_out(count: int) -> str:
    return f" {count - LISTED:,} more are not listed." if count > LISTED else ""
