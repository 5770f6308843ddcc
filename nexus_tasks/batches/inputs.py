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
from nexus_tasks.batches.asking import Asking
from nexus_tasks.batches.columns import Columns
from nexus_tasks.batches.formats import RawRow
from nexus_tasks.batches.items import CannotAsk, Item, Request, Row
from nexus_tasks.batches.sources import Source
from nexus_tasks.core.errors import UsageError


class Input(msgspec.Struct, frozen=True):
    """A source, and how its rows become requests. Written and read as JSON, it asks the same."""

    source: Source
    asking: Asking = Asking()

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
    """Refuse an input whose columns are known and can't be asked, before a row of it is read.

    Raises:
        UsageError: a column that is needed is missing.
    """
    there = given.source.columns()
    if there is None:
        return
    asking, columns = given.asking, given.columns
    listed = f"its columns are {', '.join(there)}"
    for name in [*(templates.parse(asking.template).names if asking.template else ()), *columns.single.values()]:
        if name not in there:
            raise UsageError(f"{given.source.path} has no column {name}", hint=listed)
    asked = [columns.prompt, columns.messages if asking.api == "chat" else None]
    names = [name for name in asked if name is not None]
    if asking.template is None and not set(names) & set(there):
        raise UsageError(
            f"{given.source.path} has no column {' or '.join(names)}", hint=f"{listed}; name one with --prompt-column"
        )


def _of_row(given: Input, number: int, raw: RawRow, first: int, indices: list[int]) -> Iterator[Item]:
    read = Row(number, raw[0], str(raw[0]), {})
    try:
        read = row(given, number, raw)
        requests = [_request(given, read, index - first) for index in indices]
    except CannotAsk as unfit:
        yield from (Item(index, read, index - first, misfit=unfit.misfit) for index in indices)
        return
    for index, request in zip(indices, requests, strict=True):
        yield Item(index, read, index - first, request)


def _request(given: Input, read: Row, sample: int) -> Request:
    if given.source.format == "openai":
        return openai_rows.request_of(read.fields)
    return given.asking.request(read, sample)
