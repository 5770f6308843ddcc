"""Levels of load: the parts of a run that are held against those of another run.

levels.by_name(record)["concurrency 8"]                      its counted requests and its stages
levels.points(level, metrics.ITL)                            the points of a metric, and how many each request has
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nexus_tasks.records.benchmark_rows import Planned, RequestRow, StageRow
from nexus_tasks.records.store import BenchmarkRecord
from nexus_tasks.stats.bootstrap import Floats, Integers
from nexus_tasks.stats.metrics import Metric, Source
from nexus_tasks.views import runs


@dataclass(frozen=True)
class Level:
    """The counted requests of a run at one level of load, in the order they were sent, and the stages of that level."""

    rows: Sequence[RequestRow]
    stages: Sequence[StageRow]

    @property
    def users(self) -> int:
        """The most requests in flight at a time, as the load was planned."""
        return max((row.concurrency or 1 for row in self.stages), default=1)

    def rounds(self) -> dict[int, Level]:
        """The parts of an interleaved run, by round."""
        numbers = sorted({row.round for row in self.rows})
        return {
            number: Level(
                [row for row in self.rows if row.round == number],
                [row for row in self.stages if row.round == number],
            )
            for number in numbers
        }


def by_name(record: BenchmarkRecord) -> dict[str, Level]:
    """A run's levels of load by name; stages of one level are taken together."""
    load = record.header.load
    by_length = load.axis == "prompt_tokens"
    stages: dict[int, StageRow] = {row.stage: row for row in record.stages}

    def name(number: int) -> str:
        # A stage that was cut short has no row: each round has the planned ones again. Those of a sweep are not known.
        planned = load.planned if load.mode != "sweep" or not stages else []
        row = stages.get(number) or (planned[number % len(planned)] if planned else Planned())
        length = row.prompt_tokens if by_length else None
        return runs.level_name(Planned(concurrency=row.concurrency, rate_per_s=row.rate_per_s, prompt_tokens=length))

    rows: dict[str, list[RequestRow]] = {}
    for row in record.requests:
        if row.phase == "run":
            rows.setdefault(name(row.stage), []).append(row)
    return {
        level: Level(
            sorted(of_level, key=lambda row: row.start_s or 0.0),
            [row for row in record.stages if name(row.stage) == level],
        )
        for level, of_level in rows.items()
    }


def points(level: Level, metric: Metric) -> tuple[Floats, Integers]:
    """The points of a metric of good requests, and how many each request has."""
    values = [value for row in level.rows if row.ok and (value := getattr(row, metric.key)) is not None]
    if metric.source is not Source.GAPS:
        return np.array(values, dtype=np.float64), np.ones(len(values), dtype=np.int64)
    values = [gaps for gaps in values if len(gaps)]
    sizes = np.array([len(gaps) for gaps in values], dtype=np.int64)
    return np.concatenate([np.asarray(gaps, dtype=np.float64) for gaps in values] or [np.empty(0)]), sizes
