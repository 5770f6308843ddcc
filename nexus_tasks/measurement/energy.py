"""The energy that GPUs took, from the samples of a run."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from nexus_tasks.records.benchmark_rows import Energy, GpuState, SampleRow
from nexus_tasks.telemetry.sampling import CLIENT

GAP_S = 5.0
"""The longest time without a reading over which power is taken to be known."""


def energy(samples: Iterable[SampleRow], begun_s: float, ended_s: float) -> Energy | None:
    """The energy that GPUs took between two moments of a run, which is all of theirs, whoever used them.

    By the GPU's own counter where it has one, else its power over time. None where a GPU's power is not known, or not
    for all of the time. Where scraped hosts have GPUs, they count and this machine does not: hand in the samples of
    those machines only that the run is about.

    Returns:
        ``source`` is that of the samples, several joined by commas.
    """
    series: dict[str, dict[int, list[tuple[float, GpuState]]]] = {}
    for row in samples:
        for gpu in row.gpus:
            of_source = series.setdefault(row.source, {})
            of_source.setdefault(gpu.index, []).append((row.t_s, gpu))
    if len(series) > 1:
        series.pop(CLIENT, None)
    joules = [_joules(readings, begun_s, ended_s) for gpus in series.values() for readings in gpus.values()]
    known = [one for one in joules if one is not None]
    if not known or len(known) < len(joules):
        return None
    return Energy(joules=round(sum(known), 3), joules_per_token=None, source=", ".join(sorted(series)))


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
