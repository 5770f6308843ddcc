"""Conditions of a run: the server, the model, the hardware, the workload and the load, as a page lists them.

conditions.measured(record)
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from nexus_tasks.core.text import MISSING, whole
from nexus_tasks.hostlib.argv import options
from nexus_tasks.records.benchmark_rows import File, Git, Gpu, Lengths, Workload
from nexus_tasks.records.store import BenchmarkRecord
from nexus_tasks.reports.markup import Block, fill
from nexus_tasks.views import runs

Facts = dict[str, Any]
"""Name of a fact -> its value as text; None where it is not known."""


def measured(record: BenchmarkRecord) -> Block:
    """The lists of facts: what was measured, with what, on what."""
    client, argv = record.header.client, record.header.server.argv
    groups = {
        "Server": _server(record),
        "Model": _model(record),
        "Hardware of the client" + (", which is the server's" if client.local else ""): _hardware(record),
        "Workload": _workload(record),
        "Load": _load(record),
    }
    return fill(
        "blocks/measured.html",
        groups={
            title: {key: value for key, value in facts.items() if value not in (None, MISSING, "")}
            for title, facts in groups.items()
        },
        command=_command(argv) if argv else None,
    )


def _server(record: BenchmarkRecord) -> Facts:
    endpoint, server, state = record.header.endpoint, record.header.server, record.header.host_state
    return {
        "Address": endpoint.base_url,
        "Reached": f"by an ssh tunnel to {endpoint.tunnel.host}" if endpoint.tunnel else None,
        "Engine": endpoint.engine,
        "Build": server.build,
        "Release": server.release,
        "Context": whole(server.n_ctx, "tokens"),
        "Slots": whole(server.total_slots),
        "Driver": runs.driver_name(record),
        "Power limit": ", ".join(f"{watts:g} W" for watts in state.power_limit_w or []) or None,
        "Clocks, at most": ", ".join(f"{mhz:g} MHz" for mhz in state.clocks_max_mhz or []) or None,
        "Governor": state.governor,
    }


def _model(record: BenchmarkRecord) -> Facts:
    model = record.header.model
    size = model.size_bytes
    return {
        "Name": runs.model_name(record),
        "File": model.path,
        "Size": f"{size / 2**20:,.1f} MiB" if size else None,
        "Parameters": whole(model.n_params),
        "Trained context": whole(model.n_ctx_train, "tokens"),
        "SHA-256": model.sha256,
    }


def _hardware(record: BenchmarkRecord) -> Facts:
    client = record.header.client
    return {
        "Host": client.hostname,
        "Processor": f"{client.cpu or 'unknown'}, {client.cpu_count} cores",
        "Memory": whole(client.memory_mib, "MiB"),
        "GPU": "; ".join(_gpu(gpu) for gpu in record.header.gpus) or "none",
        "System": client.os,
        "Python": client.python,
    }


def _workload(record: BenchmarkRecord) -> Facts:
    workload = record.header.workload
    return {
        "Preset": workload.preset or ("explicit sizes" if workload.kind == "synthetic" else None),
        "Kind": workload.kind,
        "File": _file(workload.file),
        "Prompt": _length(workload.prompt_tokens, _prompts(workload)),
        "Prompts": ", ".join(f"{length:,}" for length in workload.lengths or []) + " tokens"
        if workload.lengths
        else None,
        "Output": _length(workload.output_tokens, ", end of text ignored" if workload.ignore_eos else ""),
        "Turns": workload.turns if workload.turns > 1 else None,
        "API": workload.api,
        "Temperature": _plain(workload.temperature),
        "Seed": workload.seed,
    }


def _load(record: BenchmarkRecord) -> Facts:
    load = record.header.load
    counts = [plan.requests for plan in load.planned]
    known = [count for count in counts if count]
    return {
        "Load": runs.load_name(record),
        "Requests": f"{sum(known):,} that count" if counts and len(known) == len(counts) else None,
        "Until": f"{load.until.metric} is known to {load.until.percent:g} %" if load.until else None,
        "SLO": ", ".join(runs.objective_text(*one) for one in load.slo.items()) or None,
        "Processes": load.processes if load.processes > 1 else None,
        "Interleaved with": load.interleaved_with,
        "Git revision": revision(record.header.git),
    }


def _length(length: Lengths | None, suffix: str) -> str | None:
    """``512 tokens, different each time``."""
    if length is None:
        return None
    how = {"uniform": ", evenly spread", "lognormal": ", log-normal"}.get(length.kind, "")
    return f"{runs.tokens(length)} tokens{how}{suffix}"


def _prompts(workload: Workload) -> str:
    if workload.prefix_tokens:
        return f", after {workload.prefix_tokens:,} that are the same each time"
    return ", the same each time" if workload.prompts == "same" else ", different each time"


def _file(file: File | None) -> str | None:
    return f"{file.name}, {file.entries:,} entries, SHA-256 {file.sha256[:12]}" if file else None


def _plain(value: float | None) -> str | None:
    return None if value is None else f"{value:g}"


def _gpu(gpu: Gpu) -> str:
    capacity = whole(gpu.memory_total_mib, "MiB") if gpu.memory_total_mib else None
    driver = gpu.driver and f"driver {gpu.driver}"
    return ", ".join(filter(None, [gpu.name or "unnamed", capacity, driver]))


def revision(git: Git) -> str | None:
    commit = git.commit
    return f"{commit[:12]}{' with local changes' if git.dirty else ''}" if commit else None


def _command(argv: Sequence[str]) -> str:
    """One flag a line with its values, quoted as a shell reads them."""
    given = options(argv)
    program = argv[: len(argv) - sum(len(option.words) for option in given)]
    lines = filter(None, [program, *(option.words for option in given)])
    return " \\\n    ".join(shlex.join(line) for line in lines)
