"""Comparability: what of two benchmark runs must agree before their figures are compared, and what of them differs.

comparable.check([before], [after])              raises UsageError, with what differs
comparable.measured_alike(before, after)         whether all of their figures can be compared, without a reason
comparable.pairs(a, b)                           both sides, target by target
comparable.differences(before, after)            what was changed on purpose: model, build, command line
comparable.warnings([before], [after])           what makes a comparison doubtful
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from nexus_tasks.core.errors import UsageError
from nexus_tasks.hostlib.argv import options
from nexus_tasks.records.benchmark_rows import Lengths, fields
from nexus_tasks.records.store import BenchmarkRecord
from nexus_tasks.views import runs

KIND = "benchmark"
WHAT_MAY_DIFFER = ("model",)
NOT_THE_WORKLOAD = ("preset", "seed", "file")
"""A preset is a name; seeds draw other prompts of the same kind; of a file the content counts, whatever its name."""
OWN_OF_AN_INSTANCE = ("--port", "--host", "--alias", "--api-key-file", "--log-file")
"""Options that say where a server listens and keeps its files, and nothing about its speed."""
_PROVENANCE: dict[str, Callable[[BenchmarkRecord], Any]] = {
    "driver": runs.driver_name,
    "power limit in W": lambda record: record.header.host_state.power_limit_w,
    "highest clock in MHz": lambda record: record.header.host_state.clocks_max_mhz,
    "CPU governor": lambda record: record.header.host_state.governor,
    "host": lambda record: record.header.endpoint.host,
    "kind of server": lambda record: record.header.endpoint.engine,
    "tunnel": lambda record: "through ssh" if record.header.endpoint.tunnel else "direct",
    "measuring machine": lambda record: record.header.client.hostname,
    "GPUs": lambda record: [gpu.name for gpu in record.header.gpus],
}


def pairs(
    a: Sequence[BenchmarkRecord], b: Sequence[BenchmarkRecord]
) -> list[tuple[list[BenchmarkRecord], list[BenchmarkRecord]]]:
    """Both sides, target by target where they have several.

    Raises:
        UsageError: the sides have several targets, and not the same ones.
    """
    sides = []
    for side in (a, b):
        by_target: dict[str, list[BenchmarkRecord]] = {}
        for record in side:
            by_target.setdefault(record.header.target, []).append(record)
        sides.append(by_target)
    if len(sides[0]) == len(sides[1]) == 1:
        return [(list(a), list(b))]
    if set(sides[0]) != set(sides[1]):
        raise UsageError(
            f"A has the targets {', '.join(sides[0])}; B has {', '.join(sides[1])}",
            hint="name runs of the same targets",
        )
    return [(records, sides[1][target]) for target, records in sides[0].items()]


def check(a: Sequence[BenchmarkRecord], b: Sequence[BenchmarkRecord], across: Collection[str] = ()) -> None:
    """Refuse what can't be compared.

    Raises:
        UsageError: with what differs.
    """
    both = {record.run_id for record in a} & {record.run_id for record in b}
    if both:
        raise UsageError(
            f"a run can be on one side only: {', '.join(sorted(both))} is on both", hint="name two different runs"
        )
    for record in (*a, *b):
        if reasons := "; ".join(_invalid(record)):
            raise UsageError(
                f"{record.run_id} is not valid: {reasons}",
                hint="its figures are the load generator's; measure again with less else to do, or --processes",
            )
    for other in (*a[1:], *b):
        _same(a[0], other, across)
    for side in (a, b):
        for other in side[1:]:
            changed = differences(side[0], other)
            if changed:
                raise UsageError(
                    f"{side[0].run_id} and {other.run_id} are no repeats of one another: {'; '.join(changed)}",
                    hint="name runs of one build and one command line on each side",
                )


def _invalid(record: BenchmarkRecord) -> list[str]:
    """Reasons why the figures are the load generator's; none where they are the server's.

    A run that was cut short has no summary: then the stages that ended say it.
    """
    if record.summary is not None:
        return [] if record.summary.valid else record.summary.reasons or ["the load generator was too slow"]
    return list(dict.fromkeys(reason for row in record.stages if row.watch for reason in row.watch.reasons))


def same_workload(one: BenchmarkRecord, other: BenchmarkRecord) -> bool:
    """True if two runs asked the same of the server, whatever the levels of load: those that both have can be compared.

    The number of requests, the seed and the name of a preset or file may differ.
    """
    return not _unlike_workload(one, other)


def measured_alike(one: BenchmarkRecord, other: BenchmarkRecord) -> bool:
    """True if one run measured again what the other did: workload, levels of load and model are the same.

    So their figures as a whole can be compared, those over all levels too. The server's build, options and host may
    differ, which is what there is to see. Sweeps find levels of their own, and are alike without.
    """
    return same_workload(one, other) and _levels(one) == _levels(other) and runs.same_model(one, other)


def _same(one: BenchmarkRecord, other: BenchmarkRecord, across: Collection[str]) -> None:
    unlike = _unlike_workload(one, other)
    if unlike:
        raise UsageError(
            f"{one.run_id} and {other.run_id} asked different things: {'; '.join(unlike)}",
            hint="measure both with the same options; only the number of requests may differ",
        )
    if "model" not in across and not runs.same_model(one, other):
        raise UsageError(
            f"{one.run_id} and {other.run_id} measured different models: {_model(one)} against {_model(other)}",
            hint="if the models are what you compare: --across model",
        )


def _unlike_workload(one: BenchmarkRecord, other: BenchmarkRecord) -> list[str]:
    """Differences of what two runs asked for, a few words each."""
    by_length = _axis(one) == "prompt_tokens"
    first, second = (_workload(record, by_length=by_length) for record in (one, other))
    return [
        f"{name} {_short(first.get(name))} against {_short(second.get(name))}"
        for name in dict.fromkeys([*first, *second])
        if first.get(name) != second.get(name)
    ]


def _workload(record: BenchmarkRecord, *, by_length: bool) -> dict[str, Any]:
    """Workload of a run, at whatever level of load; ``by_length``: where levels are lengths of prompts."""
    workload, load = record.header.workload, record.header.load
    # What is the same at each level, and is not in the level's name.
    fixed = ("burst", "concurrency", "rate_per_s") if by_length else ("burst",)
    return {
        **{key: value for key, value in fields(workload).items() if key not in NOT_THE_WORKLOAD},
        "file": workload.file.sha256 if workload.file else None,
        "engine": load.engine,
        "mode": load.mode,
        "axis": _axis(record),
        **{key: _planned(record, key) for key in fixed},
    }


def _levels(record: BenchmarkRecord) -> list[list[Any]]:
    load = record.header.load
    planned = load.planned if load.mode != "sweep" else []
    return [[getattr(plan, key) for key in (*runs.LEVELS, "burst")] for plan in planned]


def _axis(record: BenchmarkRecord) -> str:
    """The key that differs from level to level, or would, if there were more than one."""
    return record.header.load.axis or ("rate_per_s" if _planned(record, "rate_per_s") else "concurrency")


def _planned(record: BenchmarkRecord, key: str) -> Any:
    return next((value for plan in record.header.load.planned if (value := getattr(plan, key))), None)


def _model(record: BenchmarkRecord) -> str:
    sha256 = record.header.model.sha256
    return f"{runs.model_name(record)} ({sha256[:12]})" if sha256 else runs.model_name(record)


def differences(one: BenchmarkRecord, other: BenchmarkRecord) -> list[str]:
    """Changes between two runs that were made on purpose: model, build, command line; a line each."""
    changes = []
    if not runs.same_model(one, other):
        changes.append(f"model: {_model(one)} → {_model(other)}")
    first, second = one.header.server, other.header.server
    changes += [
        f"{key}: {_short(getattr(first, key))} → {_short(getattr(second, key))}"
        for key in ("build", "release", "n_ctx", "total_slots")
        if getattr(first, key) != getattr(second, key)
    ]
    if first.argv and second.argv:
        gone = _without(first.argv, second.argv)
        new = _without(second.argv, first.argv)
        if gone or new:
            changes.append("argv: " + " ".join([*(f"-[{word}]" for word in gone), *(f"+[{word}]" for word in new)]))
    return changes


def _options(argv: Sequence[str]) -> list[str]:
    """An argv as options with their values, without what only says where the server listens and keeps its files."""
    return [" ".join(one.words) for one in options(argv[1:]) if one.words[0] not in OWN_OF_AN_INSTANCE]


def _without(argv: Sequence[str], other: Sequence[str]) -> list[str]:
    there = _options(other)
    return [option for option in _options(argv) if option not in there]


def warnings(a: Sequence[BenchmarkRecord], b: Sequence[BenchmarkRecord], dropped: Iterable[str] = ()) -> list[str]:
    """Reasons to doubt a comparison, a line each: other machines, drivers or limits, and runs that are not whole."""
    doubts = []
    for name, of in _PROVENANCE.items():
        values = [[of(record) for record in side] for side in (a, b)]
        known = [list(dict.fromkeys(_short(value) for value in side if value not in (None, [], ""))) for side in values]
        if known[0] and known[1] and known[0] != known[1]:
            doubts.append(f"{name} differs: {', '.join(known[0])} against {', '.join(known[1])}")
    for record in (*a, *b):
        tone, sentence = runs.verdict(record)
        if tone == "bad":
            doubts.append(f"{record.run_id}: {sentence[0].lower()}{sentence[1:]}")
        throttled = {reason for row in record.samples for gpu in row.gpus for reason in gpu.throttled or []}
        if throttled:
            doubts.append(f"{record.run_id}: a GPU was throttled ({', '.join(sorted(throttled))})")
    if levels := list(dict.fromkeys(dropped)):
        doubts.append(f"not measured in all runs, and left out: {', '.join(levels)}")
    slos = {json.dumps(record.header.load.slo, sort_keys=True) for record in (*a, *b)}
    if len(slos) > 1:
        doubts.append("the objectives (--slo) differ, so goodput is left out")
    return doubts


def _short(value: Any) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, list):
        return ", ".join(map(_short, value))
    if isinstance(value, Lengths):
        return " ".join(_short(part) for part in fields(value).values() if part is not None)
    return f"{value:.12g}" if isinstance(value, float) else str(value)[:60]


def names(records: Sequence[BenchmarkRecord]) -> str:
    """The run ids, for a message."""
    return ", ".join(record.run_id for record in records)
