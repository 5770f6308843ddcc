"""Rows of what is watched: what programs read, and what the table shows.

rows.fleet_row(shown)        {"at": ..., "instances": [...], "hosts": [...]}
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from nexus_tasks.fleet.live.watching import Watch, WatchedFleet
from nexus_tasks.servers import scrape

NOT_YET = "has not answered yet"

Row = dict[str, Any]


def instance_row(watch: Watch) -> Row:
    """An instance as JSON has it. Rates are tokens per second since the look before.

    ``rates_are_lower_bounds`` where the server has no counters (``--metrics``): then they are of the requests in its
    slots, and what a request generated between the last look at it and its end is missing.
    """
    now = watch.last()
    row: Row = {
        "host": watch.host or None, "instance": watch.name, "up": now is not None and not now.problem,
        "problem": now.problem if now else NOT_YET,
        "slots_busy": None, "slots": None, "waiting": None, "prompt_tps": None, "decode_tps": None,
        "rates_are_lower_bounds": False, "cached_tokens": None,
    }  # fmt: skip
    if now is None or now.server is None:
        return row
    server, before = now.server, watch.before.server if watch.before else None
    row |= {name: getattr(server, name) for name in ("slots_busy", "slots", "waiting", "cached_tokens")}
    if before is None or watch.before is None:
        return row
    seconds = now.at - watch.before.at
    totals = (
        (before.prompt_tokens_total, server.prompt_tokens_total),
        (before.predicted_tokens_total, server.predicted_tokens_total),
    )
    for number, (name, (earlier, later)) in enumerate(zip(("prompt_tps", "decode_tps"), totals, strict=True)):
        if earlier is not None and later is not None:
            if later >= earlier:  # else the server was started again
                row[name] = round((later - earlier) / seconds, 1)
        elif server.slots is not None:
            row["rates_are_lower_bounds"] = True
            row[name] = round(_by_tasks(before, server, number) / seconds, 1)
    return row


def _by_tasks(before: scrape.Server, now: scrape.Server, number: int) -> int:
    """The tokens that were processed (0) or generated (1) by what the slots work on now."""
    return sum(counts[number] - before.tasks.get(task, (0, 0))[number] for task, counts in now.tasks.items())


def host_row(watch: Watch) -> Row:
    """A host as JSON has it, with its GPUs as in ``sample`` rows and their names and sizes."""
    now = watch.last()
    row: Row = {
        "host": watch.host, "up": now is not None and not now.problem,
        "problem": now.problem if now else NOT_YET,
        "cpu_percent": None, "memory_used_mib": None, "memory_total_mib": None, "gpus": [], "nvml_error": None,
    }  # fmt: skip
    if now is None or now.machine is None:
        return row
    machine = now.machine
    known = {gpu["index"]: gpu for gpu in machine.inventory}
    return row | {
        "cpu_percent": scrape.cpu_percent(watch.before.machine if watch.before else None, machine),
        "memory_used_mib": machine.memory_used_mib,
        "memory_total_mib": machine.memory_total_mib,
        "gpus": [{**known.get(gpu["index"], {}), **gpu} for gpu in machine.gpus],
        "nvml_error": machine.nvml_error,
    }


def fleet_row(shown: WatchedFleet) -> Row:
    """Everything that is known now."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "instances": [instance_row(watch) for watch in shown.instances],
        "hosts": [host_row(watch) for watch in shown.hosts],
    }
