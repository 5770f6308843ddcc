"""Input of a batch: a file, and what is asked about its rows.

    given = Input(source, Asking(system="Be short."))
    inputs.check(given)                                     # UsageError where no row could be asked
    for item in inputs.items(given): ...                     # an Item a sample, in the file's order
    for item in input.items(given, lambda index: not done[index]): ...

Reading it again gives the same items; what is passed over is hardly decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from nexus_tasks.batches import openai_rows, templates
from nexus_tasks.batches.asking import Asking, parameter_problem
from nexus_tasks.batches.columns import Columns
from nexus_tasks.batches.formats import RawRow
from nexus_tasks.batches.items import CannotAsk, Item, Request, Row
from nexus_tasks.batches.sources import Source
from nexus_tasks.core.errors import UsageError


class Input(msgspec.Struct, frozen=True):
    """A source, and how its rows become requests. Written and read as JSON, it asks the same.

    ``model`` is the one that rows of OpenAI's format are to name; None where they may name any.
    """

    source: Source
    asking: Asking = Asking()
    model: str | None = None

    @property
    def columns(self) -> Columns:
        """The columns that are no metadata, and the one with the id."""
        return openai_rows.COLUMNS if self.source.format == "openai" else self.asking.columns


def all_items(index: int) -> bool:
    """Pass over none."""
    return True


def items(given: Input, wanted: Callable[[int], bool] = all_items) -> Iterator[Item]:
    """Items of the input, in its order.

    Args:
        given: the input.
        wanted: by an item's index, whether to give it; others are counted and passed over.

    Raises:
        UsageError: the file can't be read to its end.
    """
    samples = given.asking.samples
    for number, raw in enumerate(given.source.rows(), start=1):
        first = (number - 1) * samples
        indices = [index for index in range(first, first + samples) if wanted(index)]
        if indices:
            yield from _of_row(given, number, raw, first, indices)


def row(given: Input, number: int, raw: RawRow) -> Row:
    """The row with its id.

    Raises:
        CannotAsk: it is damaged.
    """
    line, fields = raw
    return given.columns.row(number, line, fields())


def check(given: Input) -> None:
    """Refuse an input that can't be asked whatever its rows are, before one is read.

    Raises:
        UsageError: a column that is needed is missing, or options exclude each other.
    """
    _check_options(given)
    there = given.source.columns()
    if there is None:
        return
    asking, columns = given.asking, given.columns
    listed = f"its columns are {', '.join(there)}"
    needed = {*(templates.parse(asking.template).names if asking.template is not None else ()), *columns.named()}
    if missing := sorted(needed - set(there)):
        raise UsageError(f"{given.source.path} has no column {', '.join(missing)}", hint=listed)
    asked = [columns.prompt, columns.messages if asking.api == "chat" else None]
    names = [name for name in asked if name is not None]
    if asking.template is None and not set(names) & set(there):
        raise UsageError(
            f"{given.source.path} has no column {' or '.join(names)}", hint=f"{listed}; name one with --prompt-column"
        )


def _check_options(given: Input) -> None:
    asking = given.asking
    if given.source.format == "openai" and asking != Asking():
        raise UsageError(
            f"{given.source.path} is in OpenAI's format, whose rows say themselves what is asked",
            hint="leave out the options that say it for all, or give another --format",
        )
    problem = parameter_problem(asking.api, asking.parameters)
    if asking.system is not None and asking.api != "chat":
        problem = "a system prompt needs --api chat"
    if problem:
        raise UsageError(f"what is asked can't be: {problem}", hint="see nox -s batch -- --help")


def _of_row(given: Input, number: int, raw: RawRow, first: int, indices: list[int]) -> Iterator[Item]:
    read = Row(number, raw[0], str(raw[0]), {})
    try:
        read = row(given, number, raw)
    except CannotAsk as unfit:
        yield from (Item(index, read, index - first, misfit=unfit.misfit) for index in indices)
        return
    for index in indices:
        try:
            request = _request(given, read, index - first)
        except CannotAsk as unfit:
            yield Item(index, read, index - first, misfit=unfit.misfit)
        else:
            yield Item(index, read, index - first, request)


def _request(given: Input, read: Row, sample: int) -> Request:
    if given.source.format == "openai":
        return openai_rows.request_of(read.fields, given.model)
    return given.asking.request(read, sample)
