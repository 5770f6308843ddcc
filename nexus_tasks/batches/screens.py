"""Jobs on a terminal: one with all that is known of it, or several in a table.

screens.show(summary, console)
screens.show_all(summaries, console)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nexus_tasks.batches.options import Outcome
from nexus_tasks.batches.summary import Summary
from nexus_tasks.core.text import MISSING, duration, listing, minute, number, plural
from nexus_tasks.fleet.energy_meter import named
from nexus_tasks.hostlib.terminal_text import plain
from nexus_tasks.stats.energy import EnergySum

MIN_LIST = 72
"""Width of a list of jobs at least: a narrower terminal breaks its lines, and no column is left out."""


def show(summary: Summary, console: Console) -> None:
    """A job: its state, counts, failures, and who answered."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _lines(summary):
        table.add_row(name, Text(plain(value)))
    console.print(table)


def show_session(outcome: Outcome, console: Console) -> None:
    """The work of a session that ended: how much in what time, and the endpoints that could not be used at its end."""
    lines = []
    if outcome.answered and outcome.seconds:
        rows_per_s, tps = outcome.answered / outcome.seconds, outcome.output_tokens / outcome.seconds
        answers = f"{plural(outcome.answered, 'answer')} in {duration(outcome.seconds)}"
        lines.append(f"{answers}, {number(rows_per_s)} rows/s, {number(tps)} tokens/s")
    lines += [f"{one.endpoint} was not in use at the end: {one.problem}" for one in outcome.served if one.problem]
    for line in lines:
        console.print(plain(line), markup=False, highlight=False, soft_wrap=True)


def show_all(summaries: Sequence[Summary], console: Console) -> None:
    """Jobs, a line each."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("job", overflow="fold")
    table.add_column("state", no_wrap=True)
    table.add_column("begun (UTC)", no_wrap=True)
    for name in ("answered", "failed", "of"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in summaries:
        counts = (one.answered, sum(one.set_aside.values()), one.items)
        begun = minute(datetime.fromisoformat(one.created_at))
        table.add_row(Text(plain(one.name)), one.state, begun, *(f"{count:,}" for count in counts))
    console.width = max(console.width, MIN_LIST)
    console.print(table)


def _lines(one: Summary) -> Iterator[tuple[str, str]]:
    """Names and values of what there is to say."""
    yield "job", one.name
    yield "state", f"{one.state}, by {one.holder}" if one.holder else _ended(one)
    yield "input", one.input
    failed = sum(one.set_aside.values())
    yield "answered", f"{one.answered:,} of {one.items:,}"
    if failed:
        yield "failed", _counts(failed, one.set_aside)
    for kind, example in one.examples.items():
        yield "", f"{kind}, row {example.row:,}: {example.message}"
    if one.remaining:
        under_way = f", {one.under_way:,} of them under way" if one.under_way else ""
        yield "remaining", f"{one.remaining:,}{under_way}"
    if one.retried:
        yield "tried again", _counts(sum(one.retried.values()), one.retried)
    if one.invalid:
        yield "invalid", f"{plural(one.invalid, 'answer')} against the schema"
    if one.twins:
        yield "answered alike", f"{one.twins:,}, by the answer of an identical request"
    tokens = one.tokens
    yield "tokens", f"{tokens['prompt']:,} prompt, {tokens['output']:,} output"
    if one.energy:
        yield "energy", _energy(one.energy, one.joules_per_token)
    if one.holder and one.rows_per_s:
        left = MISSING if one.remaining_s is None else duration(one.remaining_s)
        yield "rate", f"{number(one.rows_per_s)} rows/s, {left} left"
    for server in one.answers_by:
        build = f", build {server['build']}" if server["build"] else ""
        yield server["endpoint"], f"{server['answered']:,} answered by {Path(server['model']).name}{build}"
    yield "folder", one.folder


def _ended(one: Summary) -> str:
    """The state of a job that no process works on, with the error that ended it."""
    return f"{one.state}: {one.ended}" if one.state == "failed" and one.ended else one.state


def _energy(energy: EnergySum, joules_per_token: float | None) -> str:
    """``4,200 J of rig-1, 0.35 J a token``, or ``at least 4,200 J of rig-1``."""
    sources = [named(source) for source in energy.sources]
    told = f"{'at least ' if energy.at_least else ''}{number(energy.joules, 'J')} of {listing(sources)}"
    return told if joules_per_token is None else f"{told}, {number(joules_per_token, 'J')} a token"


def _counts(total: int, by_kind: dict[str, int]) -> str:
    """``12: 10 too_long, 2 timeout``."""
    parts: Iterable[str] = (f"{count:,} {kind}" for kind, count in by_kind.items())
    return f"{total:,}: {', '.join(parts)}"
