"""Sides of a comparison, A, B and so on: the runs of a side are repeats of one measurement.

    compared = sides.read([["a.jsonl"], ["b.jsonl"]])

Every side is compared with A. The pages of comparisons, of tunings and of models side by side are made of them.
"""

from __future__ import annotations

import string
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from nexus_tasks.comparison import verdicts
from nexus_tasks.comparison.verdicts import BETTER, CANT_TELL, SAME, WORSE, Comparison
from nexus_tasks.core.errors import UsageError
from nexus_tasks.records import store
from nexus_tasks.records.store import BenchmarkRecord
from nexus_tasks.views import runs


@dataclass(frozen=True)
class Compared:
    """Sides of a comparison; of each but the first its comparison with the first, or the reason why there is none."""

    sides: Sequence[Sequence[BenchmarkRecord]]
    comparisons: Sequence[Comparison | str]

    @property
    def records(self) -> list[BenchmarkRecord]:
        """The runs of all sides, in order."""
        return [record for side in self.sides for record in side]


def read(sides: Sequence[Sequence[str]], across: Collection[str] = ()) -> Compared:
    """The sides of a comparison by the paths of their records; sides that can't be compared say why.

    Raises:
        RecordError: a record is damaged.
    """
    loaded = [[store.load(Path(path)) for path in side] for side in sides]
    comparisons: list[Comparison | str] = []
    for side in loaded[1:]:
        try:
            comparisons.append(verdicts.judge(loaded[0], side, across=across))
        except UsageError as error:
            comparisons.append(error.message)
    return Compared(loaded, comparisons)


def worst_verdict(compared: Compared) -> str:
    """The worst of all, in the words of a gate."""
    outcomes = [one.verdict if isinstance(one, Comparison) else "not comparable" for one in compared.comparisons]
    return next((word for word in ("not comparable", WORSE, CANT_TELL, BETTER) if word in outcomes), SAME)


def side_names(compared: Compared) -> list[str]:
    """Names of the sides: their models where each has its own, else letters."""
    models = [runs.model_name(side[0]) for side in compared.sides]
    return models if len(set(models)) == len(models) else [letter(place) for place in range(len(models))]


def letter(place: int) -> str:
    """The name of a side: A, B and so on."""
    return string.ascii_uppercase[place] if place < len(string.ascii_uppercase) else f"#{place + 1}"


def with_letters(text: str, sides: Sequence[Sequence[BenchmarkRecord]]) -> str:
    """A text in which runs are called by the letter of their side instead of their ids."""
    for place, side in enumerate(sides):
        for record in side:
            text = text.replace(record.run_id, letter(place))
    return text


def model_names(records: Sequence[BenchmarkRecord]) -> list[str]:
    """Names of models side by side; of those that have the same name, their letters tell them apart."""
    names = [runs.model_name(record) for record in records]
    return [name if names.count(name) == 1 else f"{name} ({letter(place)})" for place, name in enumerate(names)]
