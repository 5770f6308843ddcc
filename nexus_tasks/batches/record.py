"""Record of a batch: its journal as rows of records (docs/records.md), whose number and size are bounded.

    path = record.write(job, folder, state, journal.entries(folder.journal), origins=..., root=Path("results"))

It is written at each end of a run, and tells all of the job so far: the last record of a job replaces those before it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from nexus_tasks.batches import tally
from nexus_tasks.batches.counts import Cause, Endpoint
from nexus_tasks.batches.entries import Answered, Entry
from nexus_tasks.batches.items import Item, Request
from nexus_tasks.batches.job import Job
from nexus_tasks.batches.state import State
from nexus_tasks.batches.tally import Tally
from nexus_tasks.core import provenance
from nexus_tasks.records import batch_rows, header, store
from nexus_tasks.records.batch_rows import (
    INTERRUPTED,
    AnswerRow,
    BatchHeader,
    BatchSummary,
    EndpointRow,
    Example,
    FailureRow,
    Input,
    JobEnergy,
    Reason,
    SchemaRow,
    ServerRow,
)
from nexus_tasks.records.benchmark_rows import Machine, Part

PROMPT_LETTERS = 600
OPTION_LETTERS = 600  # of what is asked: a system prompt can be long


@dataclass(frozen=True)
class Origin:
    """The place of an item in the input: line and id of its row, and what was asked."""

    line: int
    id: str
    prompt: str | None


Origins = Callable[[Collection[int]], Mapping[int, Origin]]
"""Gives the origins of some items, of those that can be found."""


def origins_in(items: Iterable[Item], wanted: Collection[int]) -> dict[int, Origin]:
    """The origins of some items, taken from all, which are read as far as is needed."""
    found: dict[int, Origin] = {}
    for item in items if wanted else ():
        if item.index in wanted:
            prompt = _prompt(item.request) if item.request else None
            found[item.index] = Origin(item.row.line, item.row.id, prompt)
            if len(found) == len(wanted):
                break
    return found


def write(
    job: Job, folder: Path | str, state: State, entries: Iterable[tuple[int, Entry]], *, origins: Origins,
    secrets: Sequence[str] = (), root: Path = store.ROOT,
) -> Path:  # fmt: skip
    """Write the record of a job so far, and return its path.

    Args:
        folder: of the job, or its address.
        state: what its journal amounts to.
        entries: of the journal, each with the place where it begins.
        origins: gives lines, ids and prompts of the few items that the record shows.
        secrets: keys of the servers, which are masked.

    Raises:
        RecordError: it can't be written.
        BatchError: the journal is damaged.
    """
    counted = Tally(state, secrets)
    for offset, entry in entries:
        counted.add(offset, entry)
    counted.close()
    known = origins(_shown(counted))
    with store.create(_header(job, folder, counted), root=root, started_at=job.created_at) as record:
        for row in _rows(counted, known):
            record.append(row)
        record.finish(_summary(state, counted))
    return record.path


def _header(job: Job, folder: Path | str, counted: Tally) -> BatchHeader:
    source, index = job.input.source, job.index
    return BatchHeader(
        target=job.name,
        git=header.git(),
        job=batch_rows.Job(name=job.name, folder=str(folder), created_at=job.created_at),
        input=Input(
            name=Path(source.path).name, format=source.format, rows=index.rows, items=index.items, sha256=index.sha256
        ),
        asking={name: _option(value, counted) for name, value in job.input.asking.settings().items()},
        running={name: value for name, value in msgspec.to_builtins(job.options).items() if value is not None},
        targets=job.targets,
        client=msgspec.convert(provenance.client(), Machine),
    )  # fmt: skip


def _option(value: Any, counted: Tally) -> Any:
    """An option of what is asked, cut where it is long: a system prompt, a schema."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(text) <= OPTION_LETTERS and not isinstance(value, str):
        return value
    return counted.text(text, OPTION_LETTERS)


def _shown(counted: Tally) -> set[int]:
    """The items that the record has something to tell of."""
    causes = [*counted.failures.values(), *(one for row in counted.schemas.values() for one in row.reasons.values())]
    shown = {item for cause in causes for item, _ in cause.examples}
    shown |= {cause.tried[0] for cause in causes if cause.tried}
    shown |= {entry.item for entry in counted.answers.kept}
    for answerer in counted.servers.values():
        shown |= {item for item in (answerer.first, answerer.last) if item is not None}
    return shown


def _rows(counted: Tally, known: Mapping[int, Origin]) -> Iterator[Part]:
    for name, endpoint in counted.endpoints.items():
        yield _endpoint(name, endpoint)
    yield from counted.sessions
    yield from counted.intervals.rows()
    for kind, cause in sorted(counted.failures.items(), key=lambda pair: (-pair[1].final, -pair[1].attempts)):
        yield FailureRow(kind=kind, set_aside=cause.final, attempts=cause.attempts, examples=_examples(cause, known))
    for key, answerer in counted.servers.items():
        first, last = (_line(item, known) for item in (answerer.first, answerer.last))
        yield ServerRow(
            endpoint=key.endpoint, model=key.model, build=key.build, slots=answerer.slots, n_ctx=answerer.n_ctx,
            answered=answerer.answered, first_line=first, last_line=last,
        )  # fmt: skip
    for name, checked in counted.schemas.items():
        reasons = sorted(checked.reasons.items(), key=lambda pair: -pair[1].final)
        yield SchemaRow(
            name=name, checked=checked.checked, valid=checked.valid,
            reasons=[Reason(reason=reason, answers=one.final, examples=_examples(one, known))
                     for reason, one in reasons],
        )  # fmt: skip
    yield from sorted(counted.requests.kept, key=lambda row: row.item)
    for entry in sorted(counted.answers.kept, key=lambda entry: entry.item):
        yield _answer(entry, counted, known)


def _endpoint(name: str, endpoint: Endpoint) -> EndpointRow:
    tokens = endpoint.tokens
    return EndpointRow(
        endpoint=name, model=endpoint.model, build=endpoint.build, slots=endpoint.slots, requests=endpoint.requests,
        answered=endpoint.answered, failed=endpoint.failed, prompt_tokens=tokens.prompt, output_tokens=tokens.output,
        cached_tokens=tokens.cached, busy_share=endpoint.busy_share,
    )  # fmt: skip


def _examples(cause: Cause, known: Mapping[int, Origin]) -> list[Example]:
    """Rows by which a cause shows: those that ended so; where none did, the first that met it."""
    met = cause.examples or ([cause.tried] if cause.tried else [])
    origins = [(known.get(item), message) for item, message in met]
    return [
        Example(line=origin.line if origin else None, id=origin.id if origin else None, message=message)
        for origin, message in origins
    ]


def _line(item: int | None, known: Mapping[int, Origin]) -> int | None:
    origin = None if item is None else known.get(item)
    return origin.line if origin else None


def _answer(entry: Answered, counted: Tally, known: Mapping[int, Origin]) -> AnswerRow:
    origin, text = known.get(entry.item), tally.answer_text(entry.answer)
    prompt = origin.prompt if origin else None
    return AnswerRow(
        item=entry.item,
        line=origin.line if origin else None,
        id=origin.id if origin else None,
        prompt=None if prompt is None else counted.text(prompt, PROMPT_LETTERS),
        prompt_letters=len(prompt or ""),
        answer=counted.text(text, tally.ANSWER_LETTERS),
        answer_letters=len(text),
        endpoint=entry.endpoint,
        model=entry.model,
        output_tokens=entry.usage.output_tokens,
        finish_reason=entry.answer.finish_reason,
        valid=entry.valid,
        invalid_reason=entry.invalid_reason,
    )


def _summary(state: State, counted: Tally) -> BatchSummary:
    ended = counted.sessions[-1].ended if counted.sessions else None
    seconds = counted.clock.seconds
    sums = {
        name: [count for one in counted.endpoints.values() if (count := getattr(one.tokens, name)) is not None]
        for name in ("prompt", "output", "cached")
    }
    prompt, output, cached = (sum(counts) if counts else None for counts in sums.values())
    total = None if prompt is None and output is None else max(0, (prompt or 0) - (cached or 0)) + (output or 0)
    return BatchSummary(
        ok=counted.answered == state.total > 0,
        outcome=ended or INTERRUPTED,
        items=state.total,
        answered=counted.answered,
        twins=counted.twins,
        set_aside=counted.set_aside,
        left=state.total - counted.answered - counted.set_aside,
        requests=counted.sent,
        repeated=counted.repeated,
        prompt_tokens=prompt,
        output_tokens=output,
        cached_tokens=cached,
        seconds=seconds,
        items_per_s=_rate(counted.answered, seconds),
        output_tps=_rate(output, seconds),
        total_tps=_rate(total, seconds),
        finish_reasons=dict(counted.finish_reasons.most_common()),
        sampled=len(counted.requests.kept),
        sampled_of=counted.requests.offered,
        energy=_energy(state),
    )


def _energy(state: State) -> JobEnergy | None:
    energy = state.energy
    if energy is None:
        return None
    return JobEnergy(
        joules=energy.joules, joules_per_token=state.joules_per_token, source=", ".join(energy.sources),
        at_least=energy.at_least,
    )  # fmt: skip


def _rate(count: int | None, seconds: float) -> float | None:
    return None if count is None or seconds <= 0 else count / seconds


def _prompt(request: Request) -> str | None:
    """The end of what a request asks: the last message, the prompt, or the text to embed."""
    try:
        body = msgspec.json.decode(request.body)
    except msgspec.DecodeError:
        return None
    if not isinstance(body, dict):
        return None
    messages = body.get("messages")
    asked = messages[-1] if isinstance(messages, list) and messages else body.get("prompt", body.get("input"))
    content = asked.get("content") if isinstance(asked, dict) else asked
    if isinstance(content, list):
        content = "\n".join(
            one["text"] for one in content if isinstance(one, dict) and isinstance(one.get("text"), str)
        )
    return content if isinstance(content, str) else None
