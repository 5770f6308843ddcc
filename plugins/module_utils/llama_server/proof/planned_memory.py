"""Memory of a server as its log says it, beside its plan, buffer by buffer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ...hostlib.buffers import is_host
from ...hostlib.instances import MemoryPart
from .checks import Checks
from .subject import Subject

KINDS = {"weights": "model", "KV": "kv", "compute": "compute"}  # as a placement has them
HOST = "host"
LARGE_MIB, LARGE_SHARE = 64.0, 0.25  # a difference that is over both is told

Buffers = Mapping[str, Mapping[str, float]]


def compare_with_plan(subject: Subject, loads: Mapping[str, Buffers]) -> None:
    """Set the row's ``memory``, and warn of large differences.

    The plan is that of this deployment, or the one that the last proof of this generation was compared with.

    Args:
        loads: by model its buffers, as its process logged them; of a server of one model its name is empty.
    """
    planned = _plan_of(subject)
    if planned:
        planned += _unplanned(planned, loads)
    compared = [_compared(part, loads.get(part.model)) for part in planned]
    subject.row["memory"] = [part.as_json() for part in compared]
    _warn(compared, subject.checks)


def _plan_of(subject: Subject) -> list[MemoryPart]:
    plan, last = subject.wanted.get("plan"), subject.folder.last_proof()
    if plan:
        return [MemoryPart.from_json(part) for part in plan["parts"]]
    return list(last.memory) if last.generation == subject.config.id else []


def _unplanned(planned: Iterable[MemoryPart], loads: Mapping[str, Buffers]) -> list[MemoryPart]:
    """Parts on devices of which the plan says nothing: 0 was planned there."""
    known = {(part.model, part.device) for part in planned}
    found = {(model, _device(buffer)) for model, buffers in loads.items() for buffer in buffers}
    return [
        MemoryPart.from_json({"device": device, "part": part, "plan_mib": 0.0, **({"model": model} if model else {})})
        for model, device in sorted(found - known) for part in KINDS
    ]  # fmt: skip


def _compared(part: MemoryPart, buffers: Buffers | None) -> MemoryPart:
    measured = None
    if buffers:
        kind = KINDS[part.part]
        sizes = [one.get(kind, 0.0) for device, one in buffers.items() if part.device == _device(device)]
        measured = round(sum(sizes), 2)
    known = {"device": part.device, "part": part.part, "plan_mib": part.plan_mib, "measured_mib": measured}
    return MemoryPart.from_json({**known, "model": part.model} if part.model else known)


def _device(buffer: str) -> str:
    """The device of a buffer, as plans name it."""
    return HOST if is_host(buffer) else buffer


def _warn(parts: Iterable[MemoryPart], checks: Checks) -> None:
    for part in parts:
        planned, measured = part.plan_mib or 0.0, part.measured_mib
        if measured is None or abs(measured - planned) <= max(LARGE_MIB, LARGE_SHARE * planned):
            continue
        what = " ".join(filter(None, (part.model, part.device, part.part)))
        checks.differ(
            what, f"{planned:.0f} MiB planned", f"{measured:.0f} MiB",
            "the plan of memory was wrong about it: see that what else is planned for this device still fits",
        )  # fmt: skip
