"""Headers of records: one builder of what a kind's header has, over what all kinds have in common.

    header.benchmark("rig-1/main", tag=None, endpoint={...}, model={...}, ..., load=header.load("http", planned=[...]))
    header.common("gpu-hosts")                  {"target": "gpu-hosts", "git": {"commit": ..., "dirty": ...}}

:func:`store.create` adds what tells a record from others: its kind, schema and id, and when it began. docs/records.md
says what each key means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nexus_tasks.core import provenance

Row = dict[str, Any]

HOST_STATE = ("driver", "power_limit_w", "clocks_max_mhz", "governor")
"""The keys of ``host_state``, which are all there where nothing is known of the host."""
LIMITS = ("token_s", "request_s", "max_error_rate")


def common(target: str, root: Path = provenance.ROOT) -> Row:
    """The part that the header of each kind has; ``root`` is the project that is measured or deploys."""
    return {"target": target, "git": provenance.git(root)}


def benchmark(
    target: str,
    *,
    tag: str | None,
    endpoint: Mapping[str, Any],
    model: Mapping[str, Any],
    server: Mapping[str, Any],
    local: bool,
    gpus: Sequence[Mapping[str, Any]],
    nvml_error: str | None,
    host_state: Mapping[str, Any] | None,
    workload: Mapping[str, Any],
    load: Mapping[str, Any],
) -> Row:
    """The header of a measurement. The machine that measures, and the revision of the project, are looked up here.

    Args:
        local: whether the server runs on this machine.
        host_state: that of the server's host; None where nothing is known of it.
        load: what :func:`load` makes.
    """
    return {
        **common(target),
        "tag": tag,
        "endpoint": dict(endpoint),
        "model": dict(model),
        "server": dict(server),
        "client": {**provenance.client(), "local": local},
        "gpus": list(gpus),
        "nvml_error": nvml_error,
        "host_state": dict(host_state or dict.fromkeys(HOST_STATE)),
        "workload": dict(workload),
        "load": dict(load),
    }


def load(
    engine: str,
    *,
    mode: str,
    axis: str | None,
    planned: Sequence[Mapping[str, Any]],
    until: tuple[str, float] | None = None,
    slo: Mapping[str, float] | None = None,
    limits: Mapping[str, float | None] | None = None,
    processes: int = 1,
    rounds: int = 1,
    interleaved_with: str | None = None,
    commands: Sequence[Sequence[str]] | None = None,
    servers_beside: Sequence[str] | None = None,
) -> Row:
    """The ``load`` of a measurement's header.

    Args:
        engine: ``http``, or the tool of llama.cpp that measured.
        axis: what differs between the levels.
        planned: the levels.
        until: the metric, and to how many per cent its median was to be known.
        commands: of a tool.
        servers_beside: those that ran on the host while a tool measured.
    """
    return {
        "engine": engine,
        "mode": mode,
        "axis": axis,
        "planned": [dict(level) for level in planned],
        "until": {"metric": until[0], "percent": until[1]} if until else None,
        "slo": dict(slo or {}),
        "limits": dict(limits or dict.fromkeys(LIMITS)),
        "processes": processes,
        "rounds": rounds,
        "commands": None if commands is None else [list(command) for command in commands],
        "servers_beside": None if servers_beside is None else list(servers_beside),
        "interleaved_with": interleaved_with,
    }
