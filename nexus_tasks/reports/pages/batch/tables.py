"""Tables and notes of a batch's page: its top, what failed, who answered, how long it took, what was asked.

    tables.head(record)
    tables.failures(record)

Each takes a record of a batch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from nexus_tasks.core.text import MISSING, SPACE, duration, moment, number, plural, span, whole
from nexus_tasks.records.batch_rows import AnswerRow, Example, Reason, SchemaRow
from nexus_tasks.records.store import BatchRecord
from nexus_tasks.reports import conditions
from nexus_tasks.reports.frames import Floats
from nexus_tasks.reports.markup import Block, Cell, Column, Rows, fill, table
from nexus_tasks.reports.pages.batch import sentences
from nexus_tasks.stats.metrics import DECODE, OUTPUT, TOTAL, TTFT
from nexus_tasks.stats.proportions import wilson
from nexus_tasks.views import batch_runs

PARTS = {"median": 50, "p90": 90, "p95": 95, "p99": 99}
NAMED_TARGETS = 3
SHOWN_SESSIONS = 20
EXAMPLES = 3  # of a cause
OPTIONS_NAMED = 4  # of what was asked, in the line below the title
MEASURES = {
    "latency_ms": (TOTAL.title, "ms"),
    "ttft_ms": (TTFT.title, "ms"),
    "decode_tps": (DECODE.title, DECODE.unit),
    "prompt_tokens": ("Prompt", "tokens"),
    "cached_tokens": ("Of it from the cache", "tokens"),
    "output_tokens": ("Answer", "tokens"),
}


def head(record: BatchRecord) -> Block:
    """The top of the page: what was asked, what came out in three sentences, and the main numbers."""
    header, models = record.header, batch_runs.models(record)
    tone, _ = batch_runs.verdict(record)
    return fill(
        "blocks/head.html",
        kicker=f"Batch · {moment(batch_runs.told_at(record))}",
        target=header.job.name,
        title=header.input.name,
        subtitle=f"answered by {', '.join(models)}" if models else "",
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
            "examples": _examples(row.examples),
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
            _percent(row.busy_share),
            f"{row.requests:,}",
            f"{row.answered:,}",
            Cell(f"{row.failed:,}", "bad" if row.failed else ""),
            whole(row.prompt_tokens),
            whole(row.output_tokens),
            number(row.output_tokens / seconds if row.output_tokens is not None and seconds > 0 else None),
        ]
        for row in sorted(record.endpoints, key=lambda row: -row.answered)
    ]
    return table(
        columns,
        rows,
        "Busy: the mean share of the slots that worked on a request while there was more to begin. Tokens are of all "
        "answers, those that were asked anew later among them.",
    )


def servers(record: BatchRecord) -> Block:
    """The builds and models that answered, and which rows."""
    answered = [row for row in record.servers if row.answered]
    if not answered:
        return Block("")
    columns = [
        Column("Endpoint", numeric=False), Column("Model", numeric=False), Column("Build", numeric=False),
        Column("Context", "tokens a slot"), Column("Slots"), Column(f"{batch_runs.noun(record).capitalize()}s"),
        Column("Lines", "first to last", numeric=False),
    ]  # fmt: skip
    total = sum(row.answered for row in answered)
    rows: Rows = [
        [
            row.endpoint,
            row.model,
            row.build or MISSING,
            whole(row.n_ctx),
            whole(row.slots),
            Cell(f"{row.answered:,}", detail=_percent(row.answered / total)),
            MISSING if row.first_line is None else f"{row.first_line:,} to {whole(row.last_line)}",
        ]
        for row in answered
    ]
    return table(columns, rows, "The journal of the job names the server of each row, and so does its export.")


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


def lengths(record: BatchRecord) -> Block:
    """Statistics of the answered requests: how long they took, and how long they are."""
    columns = [Column("", numeric=False), Column("n"), *(Column(part) for part in ("min", *PARTS, "max"))]
    rows: Rows = []
    for key, (title, unit) in MEASURES.items():
        points = values(record, key)
        if not len(points) or not points.any():  # nothing came from a cache
            continue
        figures = [points.min(), *np.percentile(points, list(PARTS.values())), points.max()]
        shown = whole if unit == "tokens" else number
        rows.append([f"{title}, {unit}", f"{len(points):,}", *(shown(float(figure)) for figure in figures)])
    summary = record.summary
    sampled = summary is not None and summary.sampled < summary.sampled_of
    caption = f"Of {summary.sampled:,} requests, drawn from {summary.sampled_of:,}." if summary and sampled else ""
    return table(columns, rows, caption) if rows else Block("")


def ends(record: BatchRecord) -> Block:
    """The ways in which answers ended, by the servers' words."""
    reasons = record.summary.finish_reasons if record.summary else {}
    if not reasons:
        return Block("")
    total = sum(reasons.values())
    columns = [Column("Answers ended by", numeric=False), Column("Answers"), Column("Share")]
    rows: Rows = [
        [
            Cell(reason, detail="the limit of tokens: cut off" if reason == sentences.CUT else ""),
            f"{count:,}",
            _percent(count / total),
        ]
        for reason, count in reasons.items()
    ]
    return table(columns, rows)


def structured(record: BatchRecord) -> Block:
    """The rate of valid answers of each schema, and the reasons of the others; empty where there was no schema."""
    checked = [row for row in record.schemas if row.checked]
    if not checked:
        return Block("")
    columns = [Column("Schema", numeric=False), Column("Checked"), Column("Valid"), Column("Rate")]
    rows: Rows = []
    for row in checked:
        share, low, high = batch_runs.valid_share(row)
        bounds = f"{low * 100:.1f}\N{EN DASH}{high * 100:.1f}{SPACE}%"
        rows.append([row.name, f"{row.checked:,}", f"{row.valid:,}", Cell(_percent(share), detail=bounds)])
    invalid = [(row, reason) for row in checked for reason in row.reasons]
    return fill(
        "blocks/batch_structured.html",
        table=table(columns, rows, "Below a rate is its 95 % confidence interval (Wilson's).").html,
        reasons=[_reason(row, reason) for row, reason in invalid],
        several=len(checked) > 1,
    )


def answers(record: BatchRecord, limit: int) -> Block:
    """A few answers, drawn at random, each below what was asked."""
    shown = [
        {
            "key": _place(row.line, row.id) or f"request {row.item}",
            "asked": _cut(row.prompt, row.prompt_letters),
            "answers": [
                {"name": row.model, "facts": _facts(row), "text": _cut(row.answer, row.answer_letters) or "(empty)"}
            ],
        }
        for row in record.answers[:limit]
    ]
    return fill("blocks/answers.html", prompts=shown, left_out=0) if shown else Block("")


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
        "Asked": {_words(name): _text(value) for name, value in header.asking.items() if value is not None},
        "Job": {
            "Name": header.job.name,
            "Folder": header.job.folder,
            "Targets": ", ".join(header.targets) or MISSING,
            **{_words(name): _text(value) for name, value in header.running.items() if value},
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


def values(record: BatchRecord, key: str) -> Floats:
    """A measure of the sampled requests, of those that have it."""
    return np.asarray([one for row in record.requests if (one := getattr(row, key)) is not None], dtype=np.float64)


def _subject(record: BatchRecord) -> str:
    told, asking = record.header.input, record.header.asking
    parts = [plural(told.rows, "row")]
    if told.items != told.rows:
        parts.append(plural(told.items, "request"))
    short = {name: value for name, value in asking.items() if isinstance(value, int | float) and value is not None}
    parts += [f"{_words(name)} {value:g}" for name, value in list(short.items())[:OPTIONS_NAMED]]
    targets = record.header.targets
    more = len(targets) - NAMED_TARGETS
    where = ", ".join(targets[:NAMED_TARGETS]) + (f" and {more} more" if more > 0 else "")
    return ", ".join(parts) + (f", on {where}" if where else "")


def _tiles(record: BatchRecord) -> list[dict[str, Any]]:
    summary, noun = record.summary, batch_runs.noun(record)
    if summary is None:
        return []
    rest = [f"{count:,} {what}" for count, what in ((summary.set_aside, "failed"), (summary.left, "left")) if count]
    rate = [number(summary.items_per_s, f"{noun}s/s")] if summary.items_per_s else []
    made = [_tile("Answered", f"{summary.answered:,}", f"of {summary.items:,}", ", ".join([*rest, *rate]))]
    if summary.output_tps is not None and summary.output_tokens:
        tokens = f"{summary.output_tokens:,} tokens in {sentences.worked(summary.seconds)}"
        made.append(_tile("Output, all endpoints", number(summary.output_tps), OUTPUT.unit, tokens))
    for key, label in (("latency_ms", TOTAL.title), ("ttft_ms", TTFT.title)):
        points = values(record, key)
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
    if known:
        busy = sum(share * slots for share, slots in known) / sum(slots for _, slots in known)
        made.append(_tile("Slots busy", f"{busy * 100:.0f}", "%", "while there was more to begin"))
    return made


def _tile(label: str, value: str, unit: str, detail: str) -> dict[str, Any]:
    return {"label": label, "value": value, "unit": unit, "detail": detail, "change": None}


def _examples(examples: Sequence[Example]) -> list[dict[str, str]]:
    """Examples with the places that show them; those of one message are one."""
    places: dict[str, list[str]] = {}
    for one in examples:
        told = one.line is not None and re.search(rf"\bline {one.line}\b", one.message)
        place = _place(None if told else one.line, None if told else one.id)
        places.setdefault(one.message, []).append(place)
    return [
        {"message": message, "place": ", ".join(filter(None, found))}
        for message, found in list(places.items())[:EXAMPLES]
    ]


def _place(line: int | None, name: str | None) -> str:
    """The place of a row in the input: its line, and its id where that is another."""
    at = "" if line is None else f"line {line:,}"
    return " · ".join(filter(None, [at, name if name is not None and name != str(line) else ""]))


def _reason(row: SchemaRow, reason: Reason) -> dict[str, Any]:
    return {
        "schema": row.name,
        "reason": reason.reason,
        "answers": f"{reason.answers:,}",
        "share": _percent(reason.answers / row.checked),
        "examples": _examples(reason.examples[:1]),
    }


def _facts(row: AnswerRow) -> str:
    verdict = "" if row.valid is None else "valid" if row.valid else f"not valid: {row.invalid_reason}"
    end = "cut off" if row.finish_reason == sentences.CUT else row.finish_reason or ""
    return ", ".join(filter(None, [whole(row.output_tokens, "tokens").strip(MISSING), end, row.endpoint, verdict]))


def _cut(text: str | None, letters: int) -> str:
    """A text as the record keeps it, with a word about what was cut."""
    if not text or letters <= len(text):
        return text or ""
    return f"{text}… ({letters - len(text):,} more letters)"


def _percent(share: float | None) -> str:
    return MISSING if share is None else f"{share * 100:.1f}{SPACE}%"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
