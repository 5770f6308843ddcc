"""Telemetry beside a run: the machine that measures, the server, and the exporter of its host."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import msgspec

from nexus_tasks.core.errors import EndpointDown
from nexus_tasks.fleet.exporters import Exporter
from nexus_tasks.fleet.targets import Target
from nexus_tasks.records.benchmark_rows import Energy, HostState, SampleRow
from nexus_tasks.servers import endpoint, scrape
from nexus_tasks.servers.endpoint import Endpoint
from nexus_tasks.stats import energy
from nexus_tasks.telemetry import sampling


class RunTelemetry:
    """Samples taken beside a run, and the state of the server's host before it. Use as a context manager.

    Args:
        local: the server runs on this machine.
        exporter: that of the server's host, where there is one.

    ``gpus`` are those of this machine. ``host_state`` is None where nothing is known of the server's host, and
    ``problem`` is why its exporter told nothing.
    """

    def __init__(self, target: Target, server: Endpoint, *, local: bool, exporter: Exporter | None) -> None:
        self.gpus = sampling.Gpus()
        self.host_state: HostState | None = None
        self.problem: str | None = None
        self._target, self._found = target, server
        self._local = local
        self._exporter = None if local else exporter
        self._stack = contextlib.ExitStack()
        self._sources: list[scrape.Source] = []
        self._sampler: sampling.Sampler | None = None
        self._samples: list[SampleRow] = []

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.gpus)
            if self._found.engine == endpoint.LLAMA_CPP:
                source = scrape.Source(self._target.name, self._target.base_url, self._target.api_key)
                self._sources.append(stack.enter_context(source))
            if self._local:
                self.host_state = msgspec.convert(sampling.host_state(self.gpus), HostState)
            elif self._exporter:
                self._ask(self._exporter, stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _ask(self, exporter: Exporter, stack: contextlib.ExitStack) -> None:
        """Sample the exporter, too, and ask it for the state of its host."""
        try:
            source = stack.enter_context(exporter.source())
        except EndpointDown as error:
            self.problem = error.message
            return
        self._sources.append(source)
        look = source.look()
        self.host_state = msgspec.convert(look.machine.host_state(), HostState) if look.machine else None
        self.problem = look.problem

    def begin(self, origin: float) -> None:
        """Sample from now on. ``origin`` is the run's begin on ``time.perf_counter``."""
        self._sampler = self._stack.enter_context(sampling.Sampler(self.gpus, origin=origin, sources=self._sources))

    def take(self) -> list[SampleRow]:
        """The ``sample`` rows since the last call."""
        rows = msgspec.convert(self._sampler.take(), list[SampleRow]) if self._sampler else []
        self._samples += rows
        return rows

    def stop(self) -> None:
        """Sample once more, and no further."""
        if self._sampler:
            self._sampler.stop()

    def energy(self, windows: Sequence[tuple[float, float]], tokens: float) -> Energy | None:
        """The energy that the server's GPUs took in these windows; None where it is not known for all of them."""
        samples = self._samples
        if not self._local:  # the GPUs of this machine had no part in it
            samples = [row for row in samples if row.source != sampling.CLIENT]
        parts = [energy.energy(samples, begun_s, ended_s) for begun_s, ended_s in windows]
        known = [part for part in parts if part is not None]
        if not known or len(known) < len(parts):
            return None
        joules = sum(part.joules for part in known)
        return Energy(joules=joules, joules_per_token=joules / tokens if tokens else None, source=known[0].source)
