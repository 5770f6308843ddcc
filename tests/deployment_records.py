"""Deployment records with made-up facts, as the callback writes real ones."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nexus_tasks.records import schema, store

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
GOOD = {"check": "model", "expected": "tiny", "found": "tiny", "ok": True, "cause": None}
SLOW = {
    "check": "decode speed",
    "expected": "at least 180 tokens/s",
    "found": 41.5,
    "ok": False,
    "cause": "layers were left on the processor",
}
Row = dict[str, Any]


def instance(name: str = "main", state: str = "verified", **more: Any) -> Row:
    """An instance as role llama_server reports it."""
    proven = state in ("verified", "restored")
    return {
        "name": name,
        "state": state,
        "changed": proven,
        "generation": "3f9a01",
        "runtime": "systemd",
        "release": "b11434-cuda-89-1a2b3c4d",
        "build": "b11434-0c1e57098",
        "model": {"name": "gpt-oss-20b-mxfp4", "sha256": "ab12cd34" * 8},
        "url": "http://127.0.0.1:8600",
        "checks": [GOOD] if proven else [],
        "tokens_per_second": 212.5 if proven else None,
        "n_ctx": 32768,
        "slots": 4,
        "pid": 4711,
        "offloaded": [25, 25],
        "buffers_mib": {
            "CUDA0": {"model": 10694.15, "kv": 3018.0, "compute": 324.5},
            "CPU": {"model": 586.8, "kv": None, "compute": 27.0},
        },
        "gpu_processes_mib": {"GPU-0a1b": 14320},
        "load_seconds": 6.2,
        "downtime_seconds": 7.0,
        "drained": True,
        "trial": False,
        "error": None,
        "restored": None,
        "log_tail": [],
        **more,
    }


def restored(name: str = "main", before: Row | None = None, **more: Any) -> Row:
    """An instance that failed its proof, so that what was there before serves again."""
    failed: Row = {
        "state": "restored",
        "checks": [SLOW, GOOD],
        "error": "main is slower than declared",
        "log_tail": ["a"],
    }
    return {**instance(name), **failed, "restored": before or instance(name), **more}


def host(name: str, *instances: Row, **more: Any) -> Row:
    """A host of a deployment; it failed where one of its instances is not as declared."""
    broken = [row for row in instances if row["state"] in ("failed", "restored")]
    task = {"name": "Switch", "role": "llama_server", "message": "main is not what was declared"}
    return {
        "type": "host",
        "host": name,
        "release": "b11434-cuda-89-1a2b3c4d",
        "instances": list(instances),
        "changed": sum(row["changed"] for row in instances),
        "ok": not broken,
        "failed": bool(broken),
        "unreachable": False,
        "failed_task": task if broken else None,
        "seconds": 41.2,
        **more,
    }


def lost(name: str, message: str = "the build failed\nnvcc: out of memory", *, unreachable: bool = False) -> Row:
    """A host that failed before it came to its instances."""
    task = {"name": "Follow the build", "role": "llama_cpp", "message": message}
    return host(name, ok=False, failed=not unreachable, unreachable=unreachable, failed_task=task)


def release(name: str, host: str, how: str = "there", /, *, at: datetime = NOON, **more: Any) -> Row:
    """A row of type release: what is ``taken`` was built at ``at`` on ``rig``; ``more`` replaces keys of any part."""
    inputs: Row = {
        "ref": name.partition("-")[0],
        "commit": "0c1e57098bba43ac29e6e3b677cdceebdd22334f",
        "source": {"kind": "git", "url": "https://github.com/ggml-org/llama.cpp.git"},
        "backend": "cuda",
        "machine": "x86_64",
        "targets": ["llama-bench", "llama-server"],
        "cuda_architectures": ["89"],
        "cuda_toolkit": "12.9",
        "fa_quants": ["f16-f16", "q8_0-q8_0"],
        "cpu": "portable",
        "cmake_options": {},
        "web_page": "off",
    }
    build: Row = {
        "compiler": "c++ (Debian 12.2.0-14) 12.2.0",
        "ccache": {"hits": 779, "misses": 41},
        "built_on": "rig.example.org",
        "built_at": at.isoformat(timespec="seconds"),
        "build_seconds": 745.2,
        "size": 700 << 20,
    }
    parts = [{key: value for key, value in more.items() if key in part} for part in (inputs, build)]
    made = how in ("there", "built", "taken")
    row: Row = {
        "type": "release",
        "host": host,
        "name": name,
        "how": how,
        "from": {"built": host, "taken": "rig"}.get(how),
        "inputs": inputs | parts[0],
        "build": build | parts[1] if made else None,
        "releases": [name] if made else [],
        "removed": [],
        "error": "compiling failed (nvcc): out of memory" if how == "failed" else None,
    }
    return row | {key: value for key, value in more.items() if key in row}


def write(
    root: Path,
    when: datetime = NOON,
    *hosts: Row,
    releases: Any = (),  # rows of type release
    finished: bool = True,
    interrupted: bool = False,
    **header: Any,
) -> Path:
    """A record of a deployment that began at ``when``; without hosts, of one instance on one host."""
    rows: Sequence[Row] = hosts or [host("gpu-01", instance())]
    target = header.get("limit") or "all"
    run_id = f"{when:%Y%m%dT%H%M%S}000Z-{store.new_run_id(target).partition('-')[2]}"
    first: Row = {
        "type": "header",
        "started_at": when.isoformat(timespec="microseconds"),
        "target": target,
        "playbook": "deploy.yml",
        "check": False,
        "limit": None,
        "tags": [],
        "skip_tags": [],
        "extra_vars": [],
        "ansible": "2.19.14",
        "git": {"commit": "0123456789abcdef", "dirty": False},
        "controller": {"user": "ops", "host": "desk"},
        **header,
    }
    ok = [row for row in rows if row["ok"]]
    tally = {
        "ok": len(ok),
        "changed": sum(1 for row in ok if row["changed"]),
        "failed": sum(row["failed"] for row in rows),
        "unreachable": sum(row["unreachable"] for row in rows),
    }
    with store.create(typed(first), root=root, run_id=run_id, started_at=first["started_at"]) as record:
        for row in [*rows, *releases]:
            record.append(typed(row))
        if finished:
            done = len(ok) == len(rows) and not interrupted
            trailer = {"ok": done, "interrupted": interrupted, "hosts": tally, "wall_s": 48.7}
            record.finish(typed({"type": "summary", **trailer}))
    return record.path


def typed(row: Row) -> Any:
    """A row of a deployment as code has it."""
    return schema.row("deployment", row)
