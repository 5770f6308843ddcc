"""Runner of a batch: puts items to endpoints and writes what comes of them into the journal.

    with endpoint.reached(targets.find(["gpu-hosts"]), model=None) as endpoints:      # refuses what can't be used
        outcome = run(items, endpoints, journal, Options(), total=index.items)
    outcome.ended, outcome.answered, outcome.set_aside

``items`` are taken as they are needed, a bounded number ahead; those that are finished may be left out of them. The
journal gets :class:`Session` first and last, :class:`Begun` before requests are sent, and their results before those
count. Ctrl-C, SIGTERM and SIGHUP (a terminal that is closed) stop at once: what is under way stays begun, and is asked
again by the next run.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Iterator, Sequence
from time import perf_counter

import uvloop
from rich.console import Console

from nexus_tasks.batches.endpoint import Reached
from nexus_tasks.batches.entries import Session
from nexus_tasks.batches.items import Item
from nexus_tasks.batches.ledger import History, Ledger, Sink
from nexus_tasks.batches.options import COMPLETE, INTERRUPTED, Options, Outcome
from nexus_tasks.batches.progress import Progress
from nexus_tasks.batches.scheduler import Scheduler
from nexus_tasks.batches.settling import Settling
from nexus_tasks.batches.twins import Twins
from nexus_tasks.batches.window import Window, Work
from nexus_tasks.batches.worker import Worker
from nexus_tasks.core.errors import BatchError
from nexus_tasks.fleet.energy_meter import Meter

TICK_S = 0.1
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
READ_AT_ONCE = 256
"""Rows that are read between two looks at the endpoints."""


def run(
    items: Iterator[Item],
    endpoints: Sequence[Reached],
    journal: Sink,
    options: Options,
    *,
    total: int,
    done_before: int = 0,
    history: History | None = None,
    keys: bytes | None = None,
    console: Console | None = None,
    meter: Meter | None = None,
) -> Outcome:
    """Put items to endpoints until each has its result.

    Args:
        items: in order of their index.
        endpoints: from :func:`nexus_tasks.batches.endpoint.reached`.
        total: number of the batch's items, finished ones too.
        done_before: number of those that are finished.
        history: None where nothing has been asked before.
        keys: KEY_BYTES for each item in order, as rows.index has them; needed for ``options.dedupe`` alone.
        console: gets the progress; None where nothing is to be shown.
        meter: of the energy meanwhile; it is stopped at the end.

    Raises:
        BatchError: the journal can't be written.
    """
    twins = Twins(keys) if options.dedupe and keys is not None else None
    outcome = Outcome(total, done_before)
    began = perf_counter()
    journal.write([Session(time.time())])
    ended = "stopped by an error"
    try:
        with Progress(console, outcome) as progress, _signals_given_back():
            uvloop.run(
                _supervised(
                    items,
                    endpoints,
                    journal,
                    options,
                    Ledger(outcome, history, twins),
                    progress,
                )
            )
        ended = outcome.ended
    except Exception as error:
        ended = " ".join(str(error).split()) or type(error).__name__
        raise
    finally:
        outcome.seconds = perf_counter() - began
        with contextlib.suppress(BatchError):
            journal.write([Session(time.time(), ended, meter.stop() if meter else None)])
    return outcome


@contextlib.contextmanager
def _signals_given_back() -> Iterator[None]:
    """Have signals do afterwards what they did before: a loop that is closed leaves handlers that do nothing."""
    before = {number: signal.getsignal(number) for number in STOPPING}
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # not in the main thread, where nothing was changed
            for number, handler in before.items():
                signal.signal(number, handler)


async def _supervised(
    items: Iterator[Item],
    endpoints: Sequence[Reached],
    journal: Sink,
    options: Options,
    ledger: Ledger,
    progress: Progress,
) -> None:
    loop = asyncio.get_running_loop()
    run_ = _Run(loop, items, endpoints, journal, options, ledger, progress)
    for number in STOPPING:
        if signal.getsignal(number) is signal.SIG_IGN:  # as nohup wants it
            continue
        with contextlib.suppress(ValueError, RuntimeError):  # outside the main thread nobody interrupts
            loop.add_signal_handler(number, run_.interrupt)
    try:
        await run_.work()
    finally:
        run_.close()


class _Run:
    """A run of a batch."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        items: Iterator[Item],
        endpoints: Sequence[Reached],
        journal: Sink,
        options: Options,
        ledger: Ledger,
        progress: Progress,
    ) -> None:
        self._loop, self._items, self._journal, self._options = loop, items, journal, options
        self._ledger, self._outcome, self._progress = ledger, ledger.outcome, progress
        self._news = asyncio.Event()
        model = next(one.server.model for one in endpoints if one.server is not None)
        self._workers = [Worker(loop, one, model, options, self._news.set) for one in endpoints]
        self._outcome.served = [worker.served for worker in self._workers]
        self._window = Window()
        self._scheduler = Scheduler(self._workers, self._window)
        self._settling = Settling(self._workers, self._scheduler, ledger, options.attempts)
        self._is_all_read = False
        self._is_over = False
        self._well_at = perf_counter()

    async def work(self) -> None:
        """Work until everything has its result, or nothing more can be done."""
        self._beat()
        while not self._is_over:
            await self._news.wait()
            self._news.clear()
            if not self._is_over:
                self._step()

    def interrupt(self) -> None:
        """Stop at once."""
        self._stop(INTERRUPTED, "resume the job: what was answered is kept, and what was under way is asked again")

    def close(self) -> None:
        """Give up what is under way."""
        for worker in self._workers:
            worker.served.problem = worker.watch.problem
            worker.close()

    def _beat(self) -> None:
        """Do what time asks for; called several times a second."""
        for worker in self._workers:
            worker.sweep()
        self._progress.update(self._workers)
        self._news.set()
        if not self._is_over:
            self._loop.call_later(TICK_S, self._beat)

    def _step(self) -> None:
        for worker in self._workers:
            self._take_news(worker)
        self._settling.settle_cut()
        self._read()
        if not self._is_done:
            self._give_up_waiting()
        taken = set() if self._is_over else self._take_items()
        self._ledger.write(self._journal)  # before what begins is sent
        for worker in taken:
            worker.send()
        if self._is_done:
            self._stop(COMPLETE, "")
        elif self._ledger.is_behind or (not self._is_all_read and self._scheduler.room > 0):
            self._news.set()  # there is more to do at once

    @property
    def _is_done(self) -> bool:
        """True when every item has its result."""
        is_waiting = self._scheduler.waiting or self._settling.is_waiting or self._ledger.is_behind
        return self._is_all_read and not is_waiting and not any(worker.under_way for worker in self._workers)

    def _stop(self, ended: str, hint: str) -> None:
        self._is_over = True
        self._outcome.ended, self._outcome.hint = ended, hint
        self._news.set()

    # what came

    def _take_news(self, worker: Worker) -> None:
        if worker.watch.error is not None:
            raise worker.watch.error
        self._ledger.server(worker)
        ended, worker.ended = worker.ended, []
        for one in ended:
            self._settling.take(worker, one)

    # what is next

    def _read(self) -> None:
        for _ in range(min(self._scheduler.room, READ_AT_ONCE)):
            if self._is_all_read or self._window.is_full:
                return
            item = next(self._items, None)
            if item is None:
                self._is_all_read = True
            elif not self._ledger.is_open(item):
                continue
            elif item.request is None:
                self._ledger.misfit(item)
            else:
                self._window.add(Work(item, item.request))

    def _take_items(self) -> set[Worker]:
        """Hand out what can be sent; the endpoints that got something."""
        taken: dict[Worker, list[Work]] = {}
        for worker, work in self._scheduler.assignments(is_all_read=self._is_all_read):
            worker.take(work)
            taken.setdefault(worker, []).append(work)
        for worker, works in taken.items():
            self._ledger.begun(worker, works)
        return set(taken)

    def _give_up_waiting(self) -> None:
        """Stop where no endpoint has been well for too long, or none will be."""
        now = perf_counter()
        is_well = any(worker.is_well and not worker.pace.is_paused for worker in self._workers)
        if is_well:
            self._well_at = now
        if is_well or any(worker.under_way for worker in self._workers):
            return
        if now - self._well_at > self._options.wait_s or all(worker.watch.is_lost for worker in self._workers):
            why = "; ".join(f"{worker.name}: {worker.problem}" for worker in self._workers)
            self._stop(
                f"no endpoint could be used any more: {why}",
                "see to an endpoint, then resume the job: what was answered is kept",
            )
