"""Runner of a batch: puts items to endpoints and writes what comes of them into the journal.

    with endpoint.reached(targets.find(["gpu-hosts"]), model=None) as endpoints:      # refuses what can't be used
        outcome = run(items, endpoints, journal, Options(), total=index.total)
    outcome.ended, outcome.answered, outcome.set_aside

``items`` are taken as they are needed, a bounded number ahead; those that are finished may be left out of them. The
journal gets :class:`Session` first and last, :class:`Begun` before requests are sent, and their results before those
count. Ctrl-C and SIGTERM stop at once: what is under way stays begun, and is asked again by the next run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from rich.console import Console

from nexus_tasks.batches.endpoint import Reached
from nexus_tasks.batches.entries import Answered, Entry
from nexus_tasks.batches.items import Item
from nexus_tasks.batches.options import Options, Outcome


class Sink(Protocol):
    """The journal, as far as the runner needs it."""

    def write(self, entries: Sequence[Entry]) -> None:
        """Append entries in one write: all or none."""


class History(Protocol):
    """Results of earlier runs, by the index of an item."""

    def is_done(self, index: int) -> bool:
        """True where an item is answered or set aside."""

    def answered(self, index: int) -> Answered | None:
        """The entry that answered an item; None where it is not answered."""


def run(
    items: Iterator[Item],
    endpoints: Sequence[Reached],
    journal: Sink,
    options: Options,
    *,
    total: int,
    history: History | None = None,
    keys: bytes | None = None,
    console: Console | None = None,
) -> Outcome:
    """Put items to endpoints until each has its result.

    Args:
        items: in order of their index.
        endpoints: from :func:`nexus_tasks.batches.endpoint.reached`.
        total: number of the batch's items, finished ones too.
        history: None where nothing has been asked before.
        keys: KEY_BYTES for each item in order, as rows.index has them; needed for ``options.dedupe`` alone.
        console: None where nothing is to be shown.

    Raises:
        BatchError: the journal can't be written.
    """
    raise NotImplementedError
