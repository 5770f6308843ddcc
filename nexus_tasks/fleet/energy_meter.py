"""Meter of the energy that the GPUs of servers take, of this machine and of hosts with an exporter.

    with Meter(local=False, exporters=exporters.beside(targets).values()) as meter:
        ...                                 # the work, however long it takes
        meter.stop()                        # EnergySum(joules=…, sources=("rig-1",), at_least=False)

It samples in threads of its own, keeps sums only, and does nothing where there are neither GPUs nor exporters.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import msgspec

from nexus_tasks.core.errors import EndpointDown
from nexus_tasks.fleet.exporters import Exporter
from nexus_tasks.records.benchmark_rows import GpuState, SampleRow
from nexus_tasks.servers import scrape
from nexus_tasks.stats.energy import GAP_S, EnergySum, Windows
from nexus_tasks.telemetry import sampling

WINDOW_S = 10.0
ASKED_AT_ONCE = 16


@dataclass(frozen=True)
class _Opened:
    """An exporter that was asked once, at a moment of ``time.perf_counter``; ``source`` is None where ssh failed."""

    host: str
    way: contextlib.ExitStack
    at: float = 0.0
    source: scrape.Source | None = None
    gpus: Sequence[Mapping[str, Any]] = ()
    problem: str | None = None

    @property
    def has_none(self) -> bool:
        """True for a host without GPUs."""
        return self.problem is None and not self.gpus


class Meter:
    """Energy of GPUs from the moment the ``with`` block is entered until :meth:`stop`.

    Args:
        local: whether servers run on this machine.
        exporters: those of the other hosts.
        is_partial: servers run elsewhere, too: the sum is a lower bound.

    ``problems`` has by host why its exporter told nothing at the beginning; it is asked on.
    """

    def __init__(self, *, local: bool, exporters: Collection[Exporter], is_partial: bool = False) -> None:
        self.problems: dict[str, str] = {}
        self._local, self._exporters, self._is_partial = local, exporters, is_partial
        self._stack = contextlib.ExitStack()
        self._windows = Windows()
        self._sampler: sampling.Sampler | None = None
        self._origin = 0.0
        self._ended = threading.Event()
        self._counting = threading.Thread(target=self._count_on, name="energy", daemon=True)

    @property
    def gaps(self) -> list[str]:
        """Sources of which the energy is not known for all of the time, as far as it was counted."""
        return sorted(self._windows.gaps)

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            gpus = sampling.Gpus()
            if self._local:
                stack.enter_context(gpus)
            opened = self._open(stack)
            self._origin = time.perf_counter()
            self.problems = {one.host: one.problem for one in opened if one.problem}
            sources = [one.source for one in opened if one.source and not one.has_none]
            if gpus.inventory or sources:
                # With these a short work has two readings of each GPU, too.
                first = [_row(sampling.CLIENT, 0.0, gpus.read()), *(
                    _row(one.host, one.at - self._origin, one.gpus) for one in opened
                )]  # fmt: skip
                self._windows.take(first)
                self._sampler = stack.enter_context(sampling.Sampler(gpus, origin=self._origin, sources=sources))
                self._counting.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._stack.close()

    def stop(self) -> EnergySum | None:
        """Sample once more, and no further; the energy so far, None where nothing is known of it."""
        if self._sampler and not self._ended.is_set():
            ended_s = time.perf_counter() - self._origin
            self._sampler.stop()
            self._ended.set()
            self._counting.join()
            self._count(ended_s)
        known = self._windows.sum()
        if known and (self._is_partial or self.problems):
            return msgspec.structs.replace(known, at_least=True)
        return known

    def _open(self, stack: contextlib.ExitStack) -> list[_Opened]:
        if not self._exporters:
            return []
        with ThreadPoolExecutor(ASKED_AT_ONCE) as threads:
            opened = list(threads.map(_opened, self._exporters))
        for one in opened:
            stack.enter_context(one.way)
        return opened

    def _count_on(self) -> None:
        while not self._ended.wait(WINDOW_S):
            self._count(time.perf_counter() - self._origin - GAP_S)

    def _count(self, until_s: float) -> None:
        if self._sampler:
            self._windows.take(msgspec.convert(self._sampler.take(), list[SampleRow]))
            self._windows.count(until_s)


def named(source: str) -> str:
    """A source for readers."""
    return "this machine" if source == sampling.CLIENT else source


def _opened(exporter: Exporter) -> _Opened:
    """The exporter, asked for the first time."""
    way = contextlib.ExitStack()
    try:
        source = way.enter_context(exporter.source())
    except EndpointDown as error:
        return _Opened(exporter.host, way, problem=error.message)
    look = source.look()
    if look.machine is None:
        return _Opened(exporter.host, way, time.perf_counter(), source, problem=look.problem)
    gpus, why = look.machine.gpus, look.machine.nvml_error
    problem = why if not gpus and why != sampling.NO_LIBRARY else None
    return _Opened(exporter.host, way, time.perf_counter(), source, gpus, problem)


def _row(source: str, t_s: float, gpus: Sequence[Mapping[str, Any]]) -> SampleRow:
    states = msgspec.convert(gpus, list[GpuState])
    return SampleRow(source=source, t_s=t_s, cpu_percent=None, memory_used_mib=None, gpus=states, server=None)
