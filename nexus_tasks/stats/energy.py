"""The energy that GPUs took, from samples: of a run that has them all, and of one that keeps none for long.

energy(samples, 0.0, 60.0)          # Energy(joules=…, source="rig-1"), None where it is not known

windows = Windows()                 # constant memory, however long it runs
windows.take(samples)
windows.count(10.0)
windows.sum()                       # EnergySum(joules=…, sources=("rig-1",), at_least=False)
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import msgspec

from nexus_tasks.records.benchmark_rows import Energy, GpuState, SampleRow

GAP_S = 5.0
"""The longest time without a reading over which power is taken to be known."""

GpuKey = tuple[str, int]
"""Source and index of a GPU."""


class EnergySum(msgspec.Struct, frozen=True, omit_defaults=True):
    """Energy that GPUs took.

    Args:
        sources: of the samples.
        at_least: it was more, by what GPUs took that told nothing, or not all of the time.
    """

    joules: float
    sources: tuple[str, ...]
    at_least: bool = False


class Windows:
    """Energy since 0 s, summed up window by window; samples are dropped once they are counted."""

    def __init__(self) -> None:
        self.gaps: set[str] = set()
        """Sources with a GPU whose energy is not known for all of the time."""
        self._joules: dict[GpuKey, float] = {}
        self._seen: set[GpuKey] = set()
        self._samples: list[SampleRow] = []
        self._counted_s = 0.0

    def take(self, samples: Iterable[SampleRow]) -> None:
        """Add samples."""
        self._samples += samples

    def count(self, until_s: float) -> None:
        """Count what was taken up to a moment.

        It is final: but for the last window, ``until_s`` is GAP_S in the past, so that the next reading is there.
        """
        taken = joules_by_gpu(self._samples, self._counted_s, until_s)
        if self._counted_s:
            self.gaps |= {source for source, _ in taken.keys() - self._seen}
        self._seen |= taken.keys()
        for gpu in self._seen:
            joules = taken.get(gpu)
            if joules is None:
                self.gaps.add(gpu[0])
            else:
                self._joules[gpu] = self._joules.get(gpu, 0.0) + joules
        self._samples = [row for row in self._samples if row.t_s >= until_s - GAP_S]
        self._counted_s = until_s

    def sum(self) -> EnergySum | None:
        """The energy up to the last moment counted; None where nothing is known of it."""
        if not self._joules:
            return None
        sources = tuple(sorted({source for source, _ in self._joules}))
        return EnergySum(round(sum(self._joules.values()), 3), sources, bool(self.gaps))


def energy(samples: Iterable[SampleRow], begun_s: float, ended_s: float) -> Energy | None:
    """The energy that GPUs took between two moments of a run, which is all of theirs, whoever used them.

    By the GPU's own counter where it has one, else its power over time. None where a GPU's power is not known, or not
    for all of the time. Hand in the samples of those machines only that the run is about.

    Returns:
        ``source`` is that of the samples, several joined by commas.
    """
    joules = joules_by_gpu(samples, begun_s, ended_s)
    known = [one for one in joules.values() if one is not None]
    if not known or len(known) < len(joules):
        return None
    sources = sorted({source for source, _ in joules})
    return Energy(joules=round(sum(known), 3), joules_per_token=None, source=", ".join(sources))


def joules_by_gpu(samples: Iterable[SampleRow], begun_s: float, ended_s: float) -> dict[GpuKey, float | None]:
    """The energy (J) that each GPU took between two moments; None where its samples don't tell."""
    series: dict[GpuKey, list[tuple[float, GpuState]]] = {}
    for row in samples:
        for gpu in row.gpus:
            series.setdefault((row.source, gpu.index), []).append((row.t_s, gpu))
    return {gpu: _joules(readings, begun_s, ended_s) for gpu, readings in series.items()}


def added(one: EnergySum, other: EnergySum) -> EnergySum:
    """Both together."""
    sources = tuple(sorted({*one.sources, *other.sources}))
    return EnergySum(round(one.joules + other.joules, 3), sources, one.at_least or other.at_least)


def _joules(readings: list[tuple[float, GpuState]], begun_s: float, ended_s: float) -> float | None:
    """The energy (J) of one GPU, by its readings; None where they do not tell."""
    readings = sorted(readings, key=lambda reading: reading[0])
    counted = [(at, gpu.energy_j) for at, gpu in readings if gpu.energy_j is not None]
    # A counter begins anew when the driver is replaced.
    rising = all(before <= after for (_, before), (_, after) in itertools.pairwise(counted))
    if rising and _covered([at for at, _ in counted], begun_s, ended_s):
        return _at(counted, ended_s) - _at(counted, begun_s)
    powers = [(at, gpu.power_w) for at, gpu in readings if gpu.power_w is not None]
    if not _covered([at for at, _ in powers], begun_s, ended_s):
        return None
    total, sums = 0.0, [(powers[0][0], 0.0)]
    for (earlier, before), (later, after) in itertools.pairwise(powers):
        total += (before + after) / 2 * (later - earlier)
        sums.append((later, total))
    return _at(sums, ended_s) - _at(sums, begun_s)


def _covered(times: Sequence[float], begun_s: float, ended_s: float) -> bool:
    """True where there is a reading near every moment of the time."""
    near = [at for at in times if begun_s - GAP_S <= at <= ended_s + GAP_S]
    if len(near) < 2:
        return False
    edges = [begun_s, *(at for at in near if begun_s < at < ended_s), ended_s]
    close = all(later - earlier <= GAP_S for earlier, later in itertools.pairwise(edges))
    return close and min(near) - begun_s <= GAP_S and ended_s - max(near) <= GAP_S


def _at(sums: Sequence[tuple[float, float]], moment: float) -> float:
    """A sum at a moment, on the line through its neighbours; before the first and after the last on that of these."""
    after = next((number for number, (at, _) in enumerate(sums) if at >= moment), len(sums) - 1)
    (x0, y0), (x1, y1) = sums[max(0, after - 1)], sums[max(1, after)]
    return y0 if x1 == x0 else y0 + (y1 - y0) * (moment - x0) / (x1 - x0)
