"""Benchmark records with made-up numbers, written and summarised by the code that writes real ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nexus_tasks import benchmark, results

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
WORKLOAD: Mapping[str, Any] = {
    "preset": "quick",
    "prompt_tokens": 128,
    "output_tokens": 5,
    "runs": 3,
    "warmup": 1,
    "api": "completion",
    "prompts": "unique",
    "temperature": 0,
    "ignore_eos": True,
}
Row = dict[str, Any]


def request(
    index: int, start_s: float = 0.0, *, ttft_ms: float = 100.0, itl_ms: Sequence[float] = (3.0, 4.0, 3.0, 2.0)
) -> Row:
    """A request that succeeded; the server says that it decoded 1 % faster than the client saw."""
    decode_ms = sum(itl_ms)
    return {
        "type": "request",
        "index": index,
        "phase": "run" if index else "warmup",
        "start_s": start_s,
        "ok": True,
        "error": None,
        "prompt_tokens": 128,
        "output_tokens": len(itl_ms) + 1,
        "finish_reason": "limit",
        "ttft_ms": ttft_ms,
        "decode_ms": decode_ms,
        "total_ms": ttft_ms + decode_ms + 1,
        "itl_ms": list(itl_ms),
        "decode_tps": len(itl_ms) / decode_ms * 1000,
        "prefill_tps": 128 / ttft_ms * 1000,
        "server": {
            "prompt_n": 128,
            "prompt_ms": ttft_ms,
            "predicted_n": len(itl_ms) + 1,
            "predicted_ms": decode_ms / 1.01,
            "cache_n": 0,
        },
    }


def failure(index: int, kind: str, message: str) -> Row:
    """A request that failed before its first token."""
    unknown = dict.fromkeys(
        ("prompt_tokens", "output_tokens", "finish_reason", "ttft_ms", "decode_ms", "decode_tps", "prefill_tps")
    )
    return {
        **request(index),
        **unknown,
        "ok": False,
        "error": {"kind": kind, "message": message},
        "itl_ms": [],
        "server": None,
    }


def sample(t_s: float, gpus: Sequence[Row] = ()) -> Row:
    """Telemetry at one moment."""
    return {
        "type": "sample",
        "t_s": t_s,
        "cpu_percent": 90.0,
        "memory_used_mib": 2048.0,
        "gpus": list(gpus),
    }


def write(
    root: Path,
    when: datetime = NOON,
    *,
    target: str = "localhost/main",
    requests: Sequence[Row] | None = None,
    samples: Sequence[Row] | None = None,
    sha256: str = "ab" * 32,
    finished: bool = True,
    **workload: Any,
) -> Path:
    """A record of a run that began at ``when``; four requests, the first to warm up, unless told otherwise."""
    rows = [request(index, index * 0.2) for index in range(4)] if requests is None else requests
    run_id = f"{when:%Y%m%dT%H%M%SZ}-{results.new_run_id(target).partition('-')[2]}"
    header: Row = {
        "run_id": run_id,
        "started_at": when.isoformat(timespec="microseconds"),
        "target": target,
        "endpoint": {
            "base_url": "http://127.0.0.1:8600",
            "host": "localhost",
            "instance": "main",
            "engine": "llama.cpp",
            "model": "tiny",
        },
        "model": {
            "name": "tiny",
            "path": "/models/tiny.gguf",
            "size_bytes": 40_000_000,
            "sha256": sha256,
            "n_params": 38_000_000,
            "n_ctx_train": 4096,
        },
        "server": {
            "build": "b1-abc",
            "release": "b1-cpu",
            "argv": ["/bin/llama-server", "--port", "8600", "--alias", "a name"],
            "argv_sha256": "cd" * 32,
            "n_ctx": 4096,
            "total_slots": 1,
        },
        "client": {
            "hostname": "bench",
            "os": "Debian",
            "python": "3.11.2",
            "cpu": "a processor",
            "cpu_count": 2,
            "memory_mib": 8192,
            "local": True,
        },
        "gpus": [],
        "nvml_error": None,
        "git": {"commit": "0123456789abcdef", "dirty": False},
        "workload": {**WORKLOAD, **workload},
    }
    with results.create("benchmark", header, target=target, root=root) as record:
        for row in [*rows, *([sample(0.0), sample(0.5)] if samples is None else samples)]:
            record.append(row)
        if finished:
            record.finish(benchmark.summarise(rows, interrupted=False, wall_s=1.0))
    return record.path.rename(record.path.with_name(f"{run_id}.jsonl"))
