"""Records of memory plans: what was planned for which models, devices and hosts, and how memory grows with context.

    plan_records.of_fleet("gpu-hosts", fleet, rows, results=Path("results"), began=time.monotonic())
    plan_records.of_model(asked, plan, remedies, results=Path("results"), began=time.monotonic(), tag="before")

docs/records.md has the keys.
"""

from __future__ import annotations

import contextlib
import functools
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from nexus_tasks.core import provenance
from nexus_tasks.core.errors import UsageError
from nexus_tasks.fleet import hardware
from nexus_tasks.fleet.planned import Fleet, Row
from nexus_tasks.hostlib.model_shape import ModelShape
from nexus_tasks.hostlib.tensor_types import TENSOR_TYPES
from nexus_tasks.model_store import plan_text
from nexus_tasks.model_store.curves import contexts, curve
from nexus_tasks.model_store.memory import DOES_NOT_FIT, FITS, IS_TIGHT, UNKNOWN, MemoryPlan
from nexus_tasks.model_store.planning import Planning
from nexus_tasks.model_store.remedies import Remedy
from nexus_tasks.records import header, store
from nexus_tasks.records.benchmark_rows import Machine
from nexus_tasks.records.plan_rows import (
    CurvePoint,
    CurveRow,
    MachineRow,
    ModelRow,
    PlanHeader,
    PlanRow,
    PlanSummary,
    ServerRow,
)

DIGITS = 4


@dataclass
class _Numbered:
    """Rows that others name, each written once."""

    write: Callable[[Any], None]
    numbers: dict[Any, int] = field(default_factory=dict)

    def of(self, key: Any, row: Callable[[int], Any]) -> int:
        """The number of a row, which is written where there is none yet."""
        if key not in self.numbers:
            number = len(self.numbers)
            self.write(row(number))  # what it names comes before it
            self.numbers[key] = number
        return self.numbers[key]


@dataclass
class _Plans:
    """Models, curves and plans of a record."""

    models: _Numbered
    curves: _Numbered
    plans: _Numbered

    @classmethod
    def of(cls, record: store.Writer) -> _Plans:
        """Those that go into a record."""
        return cls(*(_Numbered(record.append) for _ in range(3)))

    def add(
        self, plan: MemoryPlan, words: Sequence[str], profile: str | None, quantization: str | None,
        found: Sequence[Remedy] = (),
    ) -> int:  # fmt: skip
        """The number of a plan's row."""
        # By the object itself: two models may have one name, and one of each is read once.
        model = self.models.of(id(plan.shape), lambda number: _model(number, plan.shape, profile, quantization))
        # llama.cpp itself is asked about one context.
        curve_ = None
        if plan.engine == "analytic":
            others = _without_context(words)
            row = functools.partial(_curve, model, plan, others)
            curve_ = self.curves.of((model, *others, *contexts(plan)), row)
        return self.plans.of(id(plan), lambda number: _plan(number, model, curve_, plan, words, found))


def of_fleet(
    pattern: str, fleet: Fleet, rows: Sequence[Row], *, results: Path, began: float, tag: str | None = None
) -> Path:
    """Write the record of what hosts declare.

    Args:
        pattern: of the inventory, which names the record.
        began: when planning began, by the monotonic clock.

    Raises RecordError where it can't be written.
    """
    with store.create(_header(pattern, (), tag), root=results) as record:
        for name, one in sorted(fleet.hardware.items()):
            record.append(_machine(name, one))
        for name in sorted({row.declared.host for row in rows} - set(fleet.hardware)):
            record.append(_machine(name, hardware.Hardware((), None, hardware.NOT_KNOWN)))
        plans = _Plans.of(record)
        for row in rows:
            record.append(_server(row, plans))
        record.finish(_summary([row.verdict for row in rows], began))
    return record.path


def of_model(
    asked: Planning, plan: MemoryPlan, found: Sequence[Remedy], *, results: Path, began: float, tag: str
) -> Path:
    """Write the record of one model's plan. Raises RecordError where it can't be written."""
    with store.create(_header(asked.model, asked.words, tag, plan.engine), root=results) as record:
        profile = asked.catalogue.get(asked.model)
        quantization = profile.get("quantization") if profile else None
        _Plans.of(record).add(plan, asked.words, asked.model if profile else None, quantization, found)
        record.finish(_summary([plan.verdict], began))
    return record.path


def _header(target: str, words: Sequence[str], tag: str | None, engine: str = "analytic") -> PlanHeader:
    return PlanHeader(
        target=target, git=header.git(), engine=engine, options=list(words), tag=tag,
        client=msgspec.convert(provenance.client(), Machine),
    )  # fmt: skip


def _machine(name: str, one: hardware.Hardware) -> MachineRow:
    return MachineRow(
        host=name, gpus_mib=list(one.gpus_mib), memory_mib=one.memory_mib, source=one.source, asked_at=one.asked_at
    )


def _server(row: Row, plans: _Plans) -> ServerRow:
    one, number = row.declared, None
    if row.plan is not None:
        quantization = json.loads(one.profiles).get(one.model, {}).get("quantization")
        number = plans.add(row.plan, one.argv[2:], one.model, quantization)
    return ServerRow(
        host=one.host, instance=one.instance, model=one.model, plan=number, gpus=[number for number, _ in one.gpus],
        verdict=row.verdict, problem=row.problem or None,
    )  # fmt: skip


def _model(number: int, shape: ModelShape, profile: str | None, quantization: str | None) -> ModelRow:
    types: Counter[str] = Counter()
    parameters = 0
    for tensor in shape.tensors.values():
        types[TENSOR_TYPES[tensor.type].name if tensor.type in TENSOR_TYPES else str(tensor.type)] += tensor.size_bytes
        count = 1
        for length in tensor.shape:
            count *= length
        parameters += count
    return ModelRow(
        number=number, name=shape.name, file=shape.files[0].name, profile=profile, architecture=shape.architecture,
        quantization=quantization, size_mib=_mib(shape.size_bytes), parameters=parameters, n_layer=shape.n_layer,
        n_ctx_train=shape.n_ctx_train, types_mib={name: _mib(size) for name, size in types.most_common()},
    )  # fmt: skip


def _without_context(words: Sequence[str]) -> list[str]:
    """Options of llama-server but for the context's length, of which a curve has all."""
    others = list(words)
    for flag in ("-c", "--ctx-size"):
        while flag in others:
            del others[others.index(flag) : others.index(flag) + 2]
    return others


def _curve(model: int, plan: MemoryPlan, words: Sequence[str], number: int) -> CurveRow:
    points: list[CurvePoint] = []
    with contextlib.suppress(UsageError):  # of options that this model does not take with another context
        points = [
            CurvePoint(
                n_ctx=one.n_ctx, weights_mib=_mib(one.weights), kv_mib=_mib(one.kv), compute_mib=_mib(one.compute)
            )
            for one in curve(plan)
        ]
    return CurveRow(number=number, model=model, options=list(words), points=points)


def _plan(
    number: int, model: int, curve_: int | None, plan: MemoryPlan, words: Sequence[str], found: Sequence[Remedy]
) -> PlanRow:
    told = plan_text.as_json(plan, found, [])
    kept = ("engine", "context", "layers_on_gpus", "devices", "verdict", "remedies", "notes")
    said = {key: told[key] for key in kept}
    return msgspec.convert(
        {"type": "plan", "number": number, "model": model, "curve": curve_, "options": list(words), **said}, PlanRow
    )


def _summary(verdicts: Sequence[str], began: float) -> PlanSummary:
    counts = Counter(verdicts)
    return PlanSummary(
        fits=counts[FITS], tight=counts[IS_TIGHT], does_not_fit=counts[DOES_NOT_FIT], unknown=counts[UNKNOWN],
        wall_s=round(time.monotonic() - began, 3),
    )  # fmt: skip


def _mib(size: float) -> float:
    return round(size / (1 << 20), DIGITS)
