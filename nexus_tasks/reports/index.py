"""``reports/index.html``: every page that there is, by kind, target and date, with its headline numbers.

    index.write(Path("results"), Path("reports"))

It works as a file and behind a web server, loads nothing, and is never taken for the newest when it is not: its links
carry the fingerprint of the page that they lead to, so a page that was rendered anew is another address to a cache, and
behind a web server a few lines of script ask for the index itself once more, past all caches.
"""

from __future__ import annotations

import contextlib
import hashlib
import html
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from nexus_tasks.core.errors import RecordError, ReportError
from nexus_tasks.core.text import MISSING, minute, number
from nexus_tasks.fleet import builds, capacity, deployments
from nexus_tasks.records import store
from nexus_tasks.records.store import BatchRecord, BenchmarkRecord, UsageRecord
from nexus_tasks.reports import markup, sparklines
from nexus_tasks.reports.markup import Cell, Column, Rows
from nexus_tasks.stats.metrics import DECODE, OUTPUT, REQUESTS, TTFT
from nexus_tasks.views import batch_runs, runs

CHOSEN = {"compare": "Comparison", "tuning": "Tuning", "models": "Models"}  # pages of records that somebody chose
HEAD_BYTES = 16_384  # what a page says of itself is among its first lines
TOLD_BYTES = 65_536  # and its first sentence soon after the style
NUMBERS = (
    *(Column.of(metric) for metric in (OUTPUT, TTFT, DECODE)), Column("Verdict", numeric=False),
)  # fmt: skip
LINES_TOLD = (
    f"Lines: medians of up to {sparklines.RUNS} runs that asked what the last one did, oldest first. Dashed: something "
    "was changed. Hollow: a run that is not ok. They say more when one points at them."
)
FINGERPRINT = 12  # letters of it that go into a link


@dataclass(frozen=True)
class Summary:
    """A page made of all deployments, as the index opens with it."""

    title: str
    link: str
    tone: str
    sentences: Sequence[str]


def inputs(page: Path) -> str | None:
    """The fingerprint of what a page was made from; None where there is no page."""
    return meta(page, "llama-nexus-inputs")


def meta(page: Path, name: str) -> str | None:
    """A value that a page carries in its head; None where there is no page, or no such value."""
    try:
        with page.open("rb") as stream:
            head = stream.read(HEAD_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return None
    for tag in re.findall(r"<meta [^>]*>", head):
        if f'name="{name}"' in tag and (content := re.search(r"""content=(["'])(.*?)\1""", tag)):
            return html.unescape(content[2])
    return None


def history_page(target: str, reports_dir: Path) -> Path:
    """The path of a target's history; targets that differ only in punctuation have pages of their own."""
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", target).strip("-")[:60] or "target"
    return reports_dir / "history" / f"{slug}-{hashlib.sha256(target.encode()).hexdigest()[:4]}.html"


def write(results_dir: Path, reports_dir: Path, records: Iterable[BenchmarkRecord] | None = None) -> Path:
    """Write ``<reports_dir>/index.html`` and return its path.

    Args:
        results_dir: where records are looked for.
        reports_dir: only what has a page there is listed.
        records: the benchmark records, where they were read already.

    Raises:
        ReportError: the folder cannot be written.
    """
    listed = _records(results_dir) if records is None else records
    shown = [record for record in listed if _page(record, reports_dir).is_file()]
    shown.sort(key=lambda record: record.started_at, reverse=True)
    body = markup.fill(
        "index.html",
        told=_fleet_summaries(results_dir, reports_dir),
        targets=_targets(shown, reports_dir),
        chosen=_chosen(reports_dir),
        batches=_batches(results_dir, reports_dir),
        usage=_usage(results_dir, reports_dir),
        table=_runs(shown, reports_dir),
        count=len(shown),
    ).html
    made = hashlib.sha256(body.encode()).hexdigest()[:16]
    path = reports_dir / "index.html"
    try:
        replace(path, body.replace("{fingerprint}", made))
    except OSError as error:
        raise unwritable(reports_dir, error) from error
    return path


def link(page: Path, reports_dir: Path) -> str:
    """A page's address as seen from the index, with its fingerprint."""
    address = page.relative_to(reports_dir).as_posix()
    made = inputs(page)
    return f"{address}?{made[:FINGERPRINT]}" if made else address


def replace(path: Path, text: str) -> None:
    """Write a page so that a reader sees the old one or the new one, never a part; what it holds is clean."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(markup.clean(text), encoding="utf-8")
        partial.replace(path)
    except OSError:  # as of a full disk
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def unwritable(folder: Path, error: OSError) -> ReportError:
    """The error for a reports folder that cannot be written."""
    return ReportError(
        f"cannot write reports to {folder}: {error.strerror}",
        hint="make the folder writable, or choose another one with --reports",
    )


def _records(results_dir: Path) -> Iterable[BenchmarkRecord]:
    found = sorted((results_dir / "benchmark").glob("*.jsonl"))
    return store.readable(found, lambda error: None)  # who renders it hears of it; a list isn't the place


def _page(record: BenchmarkRecord | BatchRecord | UsageRecord, reports_dir: Path) -> Path:
    return reports_dir / record.header.kind / f"{record.path.stem}.html"


def _batches(results_dir: Path, reports_dir: Path) -> str:
    """A row for each job that has a page, as its last record with one tells it."""
    found = sorted((results_dir / "batch").glob("*.jsonl"))
    listed = [path for path in found if (reports_dir / "batch" / f"{path.stem}.html").is_file()]
    records = batch_runs.newest(store.readable(listed, lambda error: None, "batch"))
    columns = [
        Column("When", "UTC", numeric=False), Column("Job", numeric=False), Column("Input", numeric=False),
        Column("Model", numeric=False), Column("Answered"), Column("Of"), Column.of(OUTPUT),
        Column("Verdict", numeric=False),
    ]  # fmt: skip
    rows: Rows = []
    for record in reversed(records):
        summary = record.summary
        rows.append(
            [
                Cell(minute(batch_runs.told_at(record)), "when", link(_page(record, reports_dir), reports_dir)),
                record.header.job.name,
                record.header.input.name,
                ", ".join(batch_runs.models(record)) or MISSING,
                f"{summary.answered:,}" if summary else MISSING,
                f"{record.header.input.items:,}",
                number(summary.output_tps if summary else None),
                Cell(batch_runs.badge(record), batch_runs.verdict(record)[0]),
            ]
        )
    return markup.table(columns, rows).html if rows else ""


def _usage(results_dir: Path, reports_dir: Path) -> str:
    """A row for each record of usage that has a page, newest first."""
    found = sorted((results_dir / "usage").glob("*.jsonl"), reverse=True)
    listed = [path for path in found if (reports_dir / "usage" / f"{path.stem}.html").is_file()]
    columns = [
        Column("When", "UTC", numeric=False), Column("Gateways", numeric=False), Column("Since", "UTC", numeric=False),
        Column("Requests"), Column("Answered"), Column("Prompt", "tokens"), Column("Answers", "tokens"),
    ]  # fmt: skip
    rows: Rows = []
    for record in store.readable(listed, lambda error: None, "usage"):
        summary = record.summary
        figures = (
            [summary.requests, summary.answered, summary.prompt_tokens, summary.completion_tokens] if summary else []
        )
        rows.append(
            [
                Cell(minute(record.started_at), "when", link(_page(record, reports_dir), reports_dir)),
                ", ".join(record.header.gateways),
                minute(datetime.fromisoformat(record.header.since)),
                *([f"{figure:,}" for figure in figures] or [MISSING] * 4),
            ]
        )
    return markup.table(columns, rows).html if rows else ""


def _fleet_summaries(results_dir: Path, reports_dir: Path) -> list[Summary]:
    """The pages of all deployments and of all plans, of those that there are."""
    notes = []
    for name in ("fleet", "builds", "capacity"):
        page = reports_dir / name / f"{name}.html"
        if not page.is_file():
            continue
        try:
            if name == "fleet":
                state = deployments.read(results_dir)
                tone, sentences = "good" if state.well else "bad", deployments.sentences(state)
            elif name == "builds":
                made = builds.read(results_dir)
                tone, sentences = builds.tone(made), builds.sentences(made)
            else:
                planned = capacity.read(results_dir)
                tone, sentences = capacity.tone(planned), capacity.sentences(planned)
        except RecordError:
            continue
        notes.append(Summary(name.capitalize(), link(page, reports_dir), tone, sentences))
    return notes


def _targets(records: Sequence[BenchmarkRecord], reports_dir: Path) -> str:
    """A row for each target: how its last run went. ``records`` are newest first."""
    by_target: dict[str, list[BenchmarkRecord]] = {}
    for record in records:
        by_target.setdefault(str(record.header.target), []).append(record)
    columns = [
        Column("Target", numeric=False), Column("Runs"), Column("Last", "UTC", numeric=False),
        Column("Model", numeric=False), Column("Workload, load", numeric=False),
        *NUMBERS,
    ]  # fmt: skip
    rows: Rows = []
    for target in sorted(by_target):
        last, page = by_target[target][0], history_page(target, reports_dir)
        rows.append(
            [
                Cell(
                    target,
                    link=link(page, reports_dir) if page.is_file() else "",
                    figure=sparklines.drawn(by_target[target]),
                ),
                f"{len(by_target[target]):,}",
                Cell(minute(last.started_at), "when", link(_page(last, reports_dir), reports_dir)),
                runs.model_name(last),
                f"{runs.sizes(last)}, {runs.load_name(last)}",
                *_numbers(last),
            ]
        )
    cells = [row[0] for row in rows if isinstance(row[0], Cell)]
    told = [
        "A name that is a link leads to the target's history." if any(cell.link for cell in cells) else "",
        LINES_TOLD if any(cell.figure.html for cell in cells) else "",
    ]
    return markup.table(columns, rows, " ".join(filter(None, told))).html if rows else ""


def _runs(records: Sequence[BenchmarkRecord], reports_dir: Path) -> str:
    columns = [
        Column("When", "UTC", numeric=False), Column("Target", numeric=False), Column("Model", numeric=False),
        Column("Workload", "prompt/output tokens", numeric=False), Column("Load", numeric=False),
        *NUMBERS,
    ]  # fmt: skip
    rows: Rows = [
        [
            Cell(
                f"{record.started_at:%Y-%m-%d %H:%M:%S}", link=link(_page(record, reports_dir), reports_dir),
                detail=record.header.tag or "",
            ),
            str(record.header.target),
            runs.model_name(record),
            runs.sizes(record),
            runs.load_name(record),
            *_numbers(record),
        ]
        for record in records
    ]  # fmt: skip
    return markup.table(columns, rows).html


def _numbers(record: BenchmarkRecord) -> list[Cell | str]:
    """The best throughput of any level, two medians, and the verdict."""
    tone, _ = runs.verdict(record)
    measured = runs.metrics(record)
    levels = runs.stages(record)
    # Of one level the summary has it, also where it was measured in rounds and the requests weren't read.
    rates = [row.throughput for row in levels if row.throughput]
    if len(levels) == 1 and record.summary and record.summary.throughput:
        rates.append(record.summary.throughput)
    tokens = max((rate.output_tps or 0.0 for rate in rates), default=0.0)
    answers = max((rate.requests_per_s or 0.0 for rate in rates), default=0.0)
    return [
        Cell(number(tokens or None), detail="" if tokens or not answers else number(answers, REQUESTS.unit)),
        number(runs.figure(measured.get(TTFT.key))),
        number(runs.figure(measured.get(DECODE.key))),
        Cell(runs.badge(record), tone),
    ]


def _chosen(reports_dir: Path) -> str:
    """The pages of chosen records, newest runs first, each with its first sentence."""
    pages = [(kind, page) for kind in CHOSEN for page in sorted((reports_dir / kind).glob("*.html"), reverse=True)]
    columns = [Column("Kind", numeric=False), Column("Of", numeric=False), Column("What it says", numeric=False)]
    rows: Rows = []
    for kind, page in pages:
        with page.open(encoding="utf-8", errors="replace") as stream:
            text = stream.read(TOLD_BYTES)
        title = re.search(r"<title>(.*?)</title>", text, re.DOTALL)
        note = re.search(r'<p class="note (\w+)"><b>(.*?)</b>', text, re.DOTALL)
        rows.append(
            [
                CHOSEN[kind],
                Cell(_text(title[1]) if title else page.stem, link=link(page, reports_dir)),
                Cell(_text(note[2]), note[1]) if note else "",
            ]
        )
    return markup.table(columns, rows).html if rows else ""


def _text(markup_: str) -> str:
    """The text of a piece of a page, without its tags."""
    return html.unescape(re.sub(r"<[^>]*>", "", markup_))
