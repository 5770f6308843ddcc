"""Sessions of a job: a process begins it or goes on with it, and works until each item has its result.

    place = Place(console, Path("results"))
    done = sessions.begin(Path("results/batches"), asked, place)
    done = sessions.resume(folder, lambda job: job, place, allow_change=False)
    done.state.count(SET_ASIDE), done.outcome

Nothing is left of a job that was refused before its first request. Each session ends with a record of the job so far.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.console import Console
from rich.text import Text

from nexus_tasks.batches import changes, endpoint, index, inputs, job, journal, openai_rows, record, runner
from nexus_tasks.batches.endpoint import Reached
from nexus_tasks.batches.entries import Session
from nexus_tasks.batches.index import NO_KEY, Index
from nexus_tasks.batches.inputs import Input
from nexus_tasks.batches.items import KEY_BYTES, Item
from nexus_tasks.batches.job import Folder, Job
from nexus_tasks.batches.journal import Journal
from nexus_tasks.batches.metering import metered
from nexus_tasks.batches.options import COMPLETE, Outcome
from nexus_tasks.batches.record import Origin
from nexus_tasks.batches.state import ANSWERED, SET_ASIDE, Answerer, State
from nexus_tasks.core.errors import BatchError, NexusError, UsageError
from nexus_tasks.core.text import plural
from nexus_tasks.fleet import targets
from nexus_tasks.hostlib import files
from nexus_tasks.records import store


@dataclass(frozen=True)
class Place:
    """Places for what a session tells: ``console`` for its progress, and ``results`` for its record."""

    console: Console
    results: Path

    def say(self, line: str) -> None:
        """Print a line as it is."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)


@dataclass(frozen=True)
class Done:
    """A session that ended: of which job, in which state that is, and what it came to."""

    folder: Folder
    job: Job
    state: State
    outcome: Outcome


def begin(root: Path, asked: Job, place: Place) -> Done:
    """Begin a job, and work on it.

    Args:
        root: the folder of all jobs.
        asked: the job; its index is found out here.

    Raises:
        UsageError: there is a job of that name, or the input or a target can't be used.
        EndpointError: no target answers, or one refuses.
        BatchError: the disk is full.
    """
    job.check_free(root, asked.name)
    inputs.check(asked.input)
    if asked.input.source.format == "openai" and asked.model is None:
        named = openai_rows.model_of(asked.input.source.rows())
        asked = msgspec.structs.replace(asked, input=msgspec.structs.replace(asked.input, model=named), model=named)
    with _reached_at_first(asked, place) as (asked, endpoints), _new_folder(root, asked.name) as folder:
        found = _indexed(asked.input, folder.rows_index, place)
        declared = msgspec.structs.replace(asked, index=found, created_at=store.utc_now())
        folder.declare(declared)
        with journal.opened(folder.journal, found.items, place.say) as log:
            return _run(folder, declared, log, endpoints, place)


def resume(
    folder: Folder, change: Callable[[Job], Job], place: Place, *, allow_change: bool, retry_failed: bool = False
) -> Done:
    """Go on with a job.

    Args:
        change: gives the job with other targets and options.
        allow_change: whether to ask again what differs, of the input and of who answers; else that is refused.
        retry_failed: whether to ask again what was set aside.

    Raises:
        UsageError: another process works on it, or something changed.
        EndpointError: no target answers, or one refuses.
        BatchError: its files are damaged, or the disk is full.
    """
    with folder.held("asks its rows"), contextlib.ExitStack() as stack:
        before = folder.load()
        now = change(before)
        # A result is given up when somebody is there to give another.
        endpoints = stack.enter_context(_reached(now)) if allow_change else []
        now = _with_input(folder, before, now, place, allow_change=allow_change)
        items = now.index.items
        log = stack.enter_context(journal.opened(folder.journal, items, place.say, keys=folder.keys(items)))
        if not allow_change:
            changes.check_journal(folder.journal, log.state)
        left = log.state.total - (log.state.count(ANSWERED) if retry_failed else log.state.done)
        if not left and not allow_change:
            return _nothing_left(folder, now, log, place)
        endpoints = endpoints or stack.enter_context(_reached(now))
        _accept_servers(now, log, endpoints, allow_change=allow_change)
        if retry_failed:
            log.write(changes.reopened(log.state.items(SET_ASIDE), log.state, "retry-failed"))
        return _run(folder, now, log, endpoints, place)


def _nothing_left(folder: Folder, asked: Job, log: Journal, place: Place) -> Done:
    """The end of a job whose last process was killed when each item had its result, or which ended before."""
    if log.state.ended != COMPLETE:
        log.write([Session(log.state.last_at or time.time(), ended=COMPLETE)])
        keys: list[str | None] = []
        with contextlib.suppress(NexusError):
            keys = [target.api_key for target in targets.find(asked.targets)]
        _record(folder, asked, log.state, keys, place)
    return Done(folder, asked, log.state, Outcome(log.state.total, log.state.done, ended=COMPLETE))


def _run(folder: Folder, asked: Job, log: Journal, endpoints: Sequence[Reached], place: Place) -> Done:
    total = log.state.total
    place.say(f"job {folder.name}: {plural(total - log.state.done, 'request')} of {total:,}")
    keys = folder.rows_index.read_bytes()
    items = _open_items(asked.input, keys, log)
    try:
        with metered(endpoints, place.say) as meter:
            outcome = runner.run(
                items, endpoints, log, asked.options,
                total=total, done_before=log.state.done, history=log, keys=keys, console=place.console, meter=meter,
            )  # fmt: skip
    finally:
        _record(folder, asked, log.state, [one.target.api_key for one in endpoints], place)
    return Done(folder, asked, log.state, outcome)


def _open_items(given: Input, keys: bytes, log: Journal) -> Iterator[Item]:
    """The items that are not done, for as long as the input is what it was when its index was made.

    Raises:
        BatchError: a row is another than it was, new or gone.
        UsageError: the file can't be read to its end.
    """
    total, read = log.state.total, 0

    def is_open(item: int) -> bool:
        nonlocal read
        read = item + 1
        return item >= total or not log.is_done(item)

    for item in inputs.items(given, is_open):
        key = item.request.key if item.request else NO_KEY
        if key != keys[item.index * KEY_BYTES : (item.index + 1) * KEY_BYTES]:  # which are none beyond the total
            raise _changed(given, index.place(given, item.row.line))
        yield item
    if read < total:
        raise _changed(given, f"row {read // given.asking.samples + 1}")


def _changed(given: Input, where: str) -> BatchError:
    return BatchError(
        f"{given.source.path} changed while it was asked, at {where}",
        hint=f"bring it back and resume the job, or resume it with {changes.ALLOW}, which asks what differs",
    )


def _record(folder: Folder, asked: Job, state: State, keys: Iterable[str | None], place: Place) -> None:
    """Write the record of a job so far. The job is what it is without one: a full disk is only told of."""

    def origins(wanted: Collection[int]) -> Mapping[int, Origin]:
        try:
            return record.origins_in(inputs.items(asked.input, wanted.__contains__), wanted)
        except (NexusError, OSError):  # the input is gone: the record has no lines and prompts then
            return {}

    try:
        path = record.write(
            asked, folder.path, state, journal.entries(folder.journal), origins=origins,
            secrets=list(filter(None, keys)), root=place.results,
        )  # fmt: skip
    except NexusError as error:
        place.say(f"no record was written: {error.message}")
    else:
        place.say(f"record: {path}")


def _reached(asked: Job) -> contextlib.AbstractContextManager[list[Reached]]:
    found = targets.find(asked.targets)
    if asked.model:
        found = [dataclasses.replace(target, model=asked.model) for target in found]
    return endpoint.reached(found, model=None)


@contextlib.contextmanager
def _reached_at_first(asked: Job, place: Place) -> Iterator[tuple[Job, list[Reached]]]:
    """The endpoints of a new job, and the job with the model that they are asked for: the one that rows of OpenAI's
    format name, where the targets have it, and else the one that answers there, which is told.
    """
    named = asked.input.model
    with contextlib.ExitStack() as stack:
        try:
            endpoints = stack.enter_context(_reached(asked))
        except UsageError:
            if named is None:
                raise
            asked = msgspec.structs.replace(asked, model=None)
            endpoints = stack.enter_context(_reached(asked))
            served = next(one.server.model for one in endpoints if one.server)
            place.say(f"the rows ask for the model {named}, which the targets don't serve: {served} answers them")
        yield asked, endpoints


@contextlib.contextmanager
def _new_folder(root: Path, name: str) -> Iterator[Folder]:
    """The folder of a new job, held; nothing stays of one that is not declared."""
    folder = job.create(root, name)
    with folder.held("asks its rows"):
        try:
            yield folder
        finally:
            if not folder.declaration.exists():
                folder.discard()


def _with_input(folder: Folder, before: Job, now: Job, place: Place, *, allow_change: bool) -> Job:
    """The job with its input as it is now; what differs is reopened where that is allowed, and else refused."""
    path, renewed = now.input.source.file, folder.path / "rows.index.new"
    if now.input.asking.samples != before.input.asking.samples:
        raise UsageError(f"the job {before.name} keeps its number of samples", hint="begin another job with this one")
    is_same_file = path.is_file() and files.sha256_of(str(path)) == before.index.sha256
    is_same = is_same_file and now.input == before.input
    if not (is_same and folder.has_index(before.index.items)):
        try:
            found = _indexed(now.input, renewed, place)
            now = msgspec.structs.replace(now, index=found)
            if not is_same:
                told = [] if is_same_file else [f"{path} changed since it was begun"]
                _accept_requests(folder, before, now, renewed, told, allow_change=allow_change)
            renewed.replace(folder.rows_index)
        finally:
            renewed.unlink(missing_ok=True)
    if now != before:
        folder.declare(now)
    return now


def _indexed(given: Input, path: Path, place: Place) -> Index:
    """The index of an input, which is read to its end."""
    reads = f"reads {given.source.path}"
    if not place.console.is_terminal:
        place.say(reads)
    with place.console.status(Text(reads)) as status:
        return index.write(given, path, lambda rows: status.update(Text(f"{reads}: {rows:,} rows")))


def _accept_requests(
    folder: Folder, before: Job, now: Job, renewed: Path, told: list[str], *, allow_change: bool
) -> None:
    """Refuse other requests than those that were asked before, or have them asked anew."""
    totals = (before.index.items, now.index.items)
    if not any(map(folder.has_index, totals)):  # the one of a resume that was killed in between counts, too
        folder.rows_index.write_bytes(
            changes.keys_of_answers(folder.journal, totals[0], renewed)
        )  # lost in a power cut
    requests = changes.of_requests(now.input, folder.rows_index, renewed)
    if not told and not requests.are_any:  # other ids, for one
        return
    if not allow_change:
        asked = changes.of_asking(before.input.asking, now.input.asking)
        raise changes.refusal(before.name, [*told, *asked, str(requests)])
    with journal.opened(folder.journal, max(totals)) as log:
        log.write(changes.reopened(requests.reopened, log.state, "its request changed"))


def _accept_servers(asked: Job, log: Journal, endpoints: Sequence[Reached], *, allow_change: bool) -> None:
    """Refuse another model or build than those that answered before, or have the former model's items asked again."""
    serving = [Answerer(one.name, one.server.model, one.server.build) for one in endpoints if one.server]
    told, others = changes.of_servers(log.state, serving)
    if told and not allow_change:
        raise changes.refusal(asked.name, told)
    log.write(changes.reopened(others, log.state, "another model answers"))
