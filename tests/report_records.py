"""Benchmark records with made-up numbers, in the present schema.

    write(root)                                                 four requests, one after another, the first to warm up
    write(root, **simulate([{"concurrency": 8, "requests": 64}], slots=4))

``simulate`` is a small model of a server with slots: requests beyond them wait, and decoding slows down as slots fill.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from nexus_tasks.records import schema, store
from nexus_tasks.stats import summary

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
Row = dict[str, Any]
PLAN: Mapping[str, Any] = {"concurrency": 1, "requests": 3, "warmup": 1, "ramp_s": 0.0}


def fixed(tokens: int) -> Row:
    """The length of each prompt or output, as a header has it."""
    return {"kind": "fixed", "mean": tokens}


HEADER: Mapping[str, Any] = {
    "type": "header",
    "target": "localhost/main",
    "endpoint": {
        "base_url": "http://127.0.0.1:8600",
        "host": "localhost",
        "instance": "main",
        "engine": "llama.cpp",
        "model": "tiny",
        "tunnel": None,
        "preset": None,
    },
    "model": {
        "name": "tiny",
        "path": "/models/tiny.gguf",
        "size_bytes": 40_000_000,
        "sha256": "ab" * 32,
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
    "workload": {
        "preset": "quick",
        "kind": "synthetic",
        "api": "completion",
        "prompt_tokens": fixed(128),
        "output_tokens": fixed(5),
        "prompts": "unique",
        "turns": 1,
        "prefix_tokens": 0,
        "lengths": None,
        "file": None,
        "documents": None,
        "temperature": 0,
        "ignore_eos": True,
        "seed": 0,
    },
    "load": {
        "engine": "http",
        "mode": "closed",
        "axis": None,
        "planned": [dict(PLAN)],
        "until": None,
        "slo": {},
        "limits": {"token_s": 300.0, "request_s": None, "max_error_rate": None},
        "processes": 1,
        "rounds": 1,
        "interleaved_with": None,
        "commands": None,
        "servers_beside": None,
    },
    "tag": None,
    "host_state": {"driver": None, "power_limit_w": None, "clocks_max_mhz": None, "governor": None},
}
"""What a run's header says unless a test says otherwise; ``create`` adds what names the run."""


def request(
    index: int,
    start_s: float = 0.0,
    *,
    ttft_ms: float = 100.0,
    itl_ms: Sequence[float] = (3.0, 4.0, 3.0, 2.0),
    prompt_tokens: int = 128,
    **changes: Any,
) -> Row:
    """A request that succeeded, after two milliseconds of queue; the server says that it decoded 1 % faster."""
    decode_ms = sum(itl_ms)
    gaps = np.asarray(itl_ms)
    return {
        "type": "request",
        "index": index,
        "stage": 0,
        "round": 0,
        "phase": "run" if index else "warmup",
        "key": None,
        "conversation": index,
        "turn": 0,
        "worker": 0,
        "intended_s": start_s,
        "start_s": start_s,
        "late_ms": 0.0,
        "ok": True,
        "error": None,
        "prompt_tokens": prompt_tokens,
        "output_tokens": len(itl_ms) + 1,
        "reasoning_tokens": 0,
        "cached_tokens": 0,
        "draft": None,
        "finish_reason": "limit",
        "ttft_ms": ttft_ms,
        "ttft_visible_ms": ttft_ms,
        "queue_ms": 2.0,
        "decode_ms": decode_ms,
        "total_ms": ttft_ms + decode_ms + 1,
        "tpot_ms": decode_ms / len(itl_ms) if itl_ms else None,
        "itl_ms": list(itl_ms),
        "stalls": int(np.sum(gaps > max(500.0, 10 * float(np.median(gaps))))) if itl_ms else 0,
        "decode_tps": len(itl_ms) / decode_ms * 1000 if decode_ms else None,
        "prefill_tps": prompt_tokens / (ttft_ms - 2) * 1000,
        "server": {
            "prompt_n": prompt_tokens,
            "prompt_ms": ttft_ms - 2,
            "predicted_n": len(itl_ms) + 1,
            "predicted_ms": decode_ms / 1.01,
            "cache_n": 0,
        },
        "backend": None,
        **changes,
    }


def failure(index: int, kind: str, message: str, **changes: Any) -> Row:
    """A request that failed before its first token."""
    unknown = dict.fromkeys(
        (
            "prompt_tokens", "output_tokens", "reasoning_tokens", "cached_tokens", "finish_reason", "ttft_ms",
            "ttft_visible_ms", "queue_ms", "decode_ms", "tpot_ms", "decode_tps", "prefill_tps", "server",
        )
    )  # fmt: skip
    return {
        **request(index),
        **unknown,
        "ok": False,
        "error": {"kind": kind, "message": message},
        "itl_ms": [],
        **changes,
    }


def embedding(index: int, start_s: float, total_ms: float, **changes: Any) -> Row:
    """A request for an embedding that succeeded: no token comes back."""
    unknown = dict.fromkeys(("output_tokens", "ttft_ms", "ttft_visible_ms", "queue_ms", "decode_ms", "tpot_ms",
                             "decode_tps", "prefill_tps", "server", "finish_reason"))  # fmt: skip
    return {**request(index, start_s), **unknown, "itl_ms": [], "total_ms": total_ms, **changes}


GPU = dict.fromkeys(
    ("index", "utilization_percent", "memory_used_mib", "power_w", "temperature_c", "power_limit_w", "clock_mhz",
     "throttled", "energy_j")
)  # fmt: skip


def sample(t_s: float, gpus: Sequence[Row] = (), **changes: Any) -> Row:
    """Telemetry at one moment."""
    return {
        "type": "sample",
        "source": "client",
        "t_s": t_s,
        "cpu_percent": 90.0,
        "memory_used_mib": 2048.0,
        "gpus": [{**GPU, **gpu} for gpu in gpus],
        "server": None,
        **changes,
    }


def watch(begun_s: float, ended_s: float, asked: int | None = 1, **changes: Any) -> Row:
    """What a generator says of itself that had nothing to do with the figures."""
    return {
        "begun_s": begun_s,
        "ended_s": ended_s,
        "stopped": None,
        "in_flight": asked * 0.995 if asked else 3.2,
        "in_flight_asked": asked,
        "cpu_per_process": 0.11,
        "processes": 1,
        "lag_ms": {"p50": 0.02, "p99": 0.4, "max": 1.9},
        "late_ms": {"p50": 0.03, "p99": 0.3, "max": 1.1},
        "valid": True,
        "reasons": [],
        **changes,
    }


def typed(row: Mapping[str, Any]) -> Any:
    """A row of a benchmark as code has it."""
    return schema.row("benchmark", row)


def figures(rows: Sequence[Row], window_s: float, slo: Mapping[str, float]) -> Row:
    """What a stage or a summary says of its requests."""
    plain: Row = msgspec.to_builtins(summary.of_requests(map(typed, rows), slo=slo, window_s=window_s))
    return plain


def stages_of(
    rows: Sequence[Row], plans: Sequence[Mapping[str, Any]], slo: Mapping[str, float], watches: Mapping[int, Row]
) -> list[Row]:
    """A row for each stage, made of its requests."""
    made = []
    for number, plan in enumerate(plans):
        own = [row for row in rows if row["stage"] == number]
        counted = [row for row in own if row["phase"] == "run"]
        begun = min((row["start_s"] for row in counted), default=0.0)
        ended = max((row["start_s"] + (row["total_ms"] or 0) / 1000 for row in counted), default=begun + 1.0)
        told = watch(begun, ended, plan.get("concurrency"))
        levels = {key: plan.get(key) for key in ("concurrency", "rate_per_s", "prompt_tokens")}
        made.append(
            {
                "type": "stage",
                "stage": number,
                "round": 0,
                **levels,
                "watch": {**told, **watches.get(number, {})},
                **figures(own, ended - begun, slo),
            }
        )
    return made


def write(
    root: Path,
    when: datetime = NOON,
    *,
    target: str = "localhost/main",
    requests: Sequence[Row] | None = None,
    samples: Sequence[Row] | None = None,
    plans: Sequence[Mapping[str, Any]] = (PLAN,),
    mode: str = "closed",
    axis: str | None = None,
    slo: Mapping[str, float] = {},
    watches: Mapping[int, Row] = {},
    model: Mapping[str, Any] = {},
    server: Mapping[str, Any] = {},
    header: Mapping[str, Any] = {},
    trailer: Mapping[str, Any] = {},
    sha256: str = "ab" * 32,
    finished: bool = True,
    **workload: Any,
) -> Path:
    """A record of a run that began at ``when``; four requests, the first to warm up, unless told otherwise.

    ``watches`` changes what the generator said of a stage, ``model``, ``server``, ``header`` and ``trailer`` what the
    header and the summary say, and further keywords are keys of the workload.
    """
    made = store.new_run_id(target).partition("-")[2]
    run_id = f"{when:%Y%m%dT%H%M%S%f}"[:-3] + f"Z-{made}"
    rows = [request(index, index * 0.2) for index in range(4)] if requests is None else list(requests)
    stages = stages_of(rows, plans, slo, watches)
    head = {
        **HEADER,
        "started_at": when.isoformat(timespec="microseconds"),
        "target": target,
        "model": {**HEADER["model"], "sha256": sha256, **model},
        "server": {**HEADER["server"], **server},
        "workload": {**HEADER["workload"], **workload},
        "load": {
            **HEADER["load"],
            "mode": mode,
            "axis": axis,
            "planned": [dict(plan) for plan in plans],
            "slo": dict(slo),
        },
        **header,
    }
    with store.create(typed(head), root=root, run_id=run_id, started_at=head["started_at"]) as record:
        for row in [*rows, *([sample(0.0), sample(0.5)] if samples is None else samples)]:
            record.append(typed(row))
        if finished:
            for row in stages:
                record.append(typed(row))
            record.finish(typed({**summary_of(rows, stages, slo), **trailer}))
    return record.path


def summary_of(rows: Sequence[Row], stages: Sequence[Row], slo: Mapping[str, float]) -> Row:
    """The trailer of a run that came to its end."""
    ended = max((stage["watch"]["ended_s"] for stage in stages), default=1.0)
    begun = min((stage["watch"]["begun_s"] for stage in stages), default=0.0)
    told = figures(rows, max(ended - begun, 0.001), slo)
    failed = sum(not row["ok"] for row in rows)
    both = [row for row in rows if row["ok"] and row["phase"] == "run" and row["server"] and row["decode_ms"]]
    client, server = (
        sum(row["decode_ms"] for row in both),
        sum(row["server"]["predicted_ms"] for row in both),
    )
    return {
        "type": "summary",
        **told,
        "ok": failed == 0,
        "valid": all(stage["watch"]["valid"] for stage in stages),
        "reasons": [reason for stage in stages for reason in stage["watch"]["reasons"]],
        "interrupted": False,
        "stopped": None,
        "requests": len(rows),
        "failed": failed,
        "wall_s": ended,
        "knee": None,
        "agreement": {
            "client_decode_ms": client,
            "server_decode_ms": server,
            "difference_percent": (client - server) / server * 100,
        }
        if server
        else None,
        "energy": None,
    }


@dataclass(frozen=True)
class _Server:
    """A server with slots, as far as it is simulated."""

    slots: int
    output_tokens: int
    prefill_tps: float
    itl_ms: float
    slowdown: float
    noise: float
    gpu: bool


def simulate(
    plans: Sequence[Mapping[str, Any]],
    *,
    slots: int = 4,
    prompt_tokens: int = 512,
    output_tokens: int = 64,
    prefill_tps: float = 4000.0,
    itl_ms: float = 8.0,
    slowdown: float = 0.10,
    noise: float = 0.03,
    turns: int = 1,
    gpu: bool = True,
    seed: int = 7,
) -> dict[str, Any]:
    """Requests and samples of a run at a server with slots, as keywords of :func:`write`.

    Prompts wait for a free slot; the gap between tokens grows by ``slowdown`` for each other slot that is taken.
    """
    rng = np.random.default_rng(seed)
    server = _Server(slots, output_tokens, prefill_tps, itl_ms, slowdown, noise, gpu)
    rows: list[Row] = []
    samples: list[Row] = []
    origin = 0.0
    for number, plan in enumerate(plans):
        stage = {
            "prompt_tokens": prompt_tokens,
            **{key: value for key, value in plan.items() if value},
            "stage": number,
        }
        own = _requests_of(server, stage, origin, rng, turns=turns, first=len(rows))
        rows += own
        ended = max(row["start_s"] + row["total_ms"] / 1000 for row in rows)
        samples += [_sample_at(server, float(t_s), own, ended, rng) for t_s in np.arange(origin, ended, 0.5)]
        origin = ended + 0.4
    return {"requests": rows, "samples": samples, "plans": plans, "server": {"total_slots": slots}}


def _requests_of(
    server: _Server, stage: Mapping[str, Any], origin: float, rng: np.random.Generator, *, turns: int, first: int
) -> list[Row]:
    """The requests of a stage that begins at ``origin``; ``first`` is the index of its first."""
    rows: list[Row] = []
    free = [origin] * server.slots
    size, tokens = stage["prompt_tokens"], server.output_tokens
    for position, (worker, begun, wait) in enumerate(_arrivals(stage, origin, rng)):
        start = heapq.heappop(wait) if wait is not None else begun
        ready = max(start, heapq.heappop(free))
        taken = 1 + sum(1 for until in free if until > ready)
        turn = position % turns
        cached = turn * size
        prompt_ms = size / server.prefill_tps * 1000 * rng.normal(1, server.noise)
        pace = server.itl_ms * (1 + server.slowdown * (taken - 1)) * (1 + 0.00001 * (size + cached))
        gaps = np.abs(rng.normal(pace, pace * server.noise * 2, tokens - 1))
        gaps[rng.random(tokens - 1) < 0.01] *= 3
        queue_ms = (ready - start) * 1000 + abs(rng.normal(1.5, 0.3))
        ttft_ms = queue_ms + prompt_ms
        ended = start + (ttft_ms + float(gaps.sum()) + 0.3) / 1000
        heapq.heappush(free, ended)
        if wait is not None:
            heapq.heappush(wait, ended)
        rows.append(
            request(
                first + position, round(start, 6), ttft_ms=ttft_ms, itl_ms=gaps.round(4).tolist(),
                prompt_tokens=size + cached, stage=stage["stage"],
                phase="warmup" if position < stage.get("warmup", 0) else "run", worker=worker, queue_ms=queue_ms,
                cached_tokens=cached, conversation=position // turns, turn=turn, key=f"entry-{position}",
                prefill_tps=None if cached else size / prompt_ms * 1000, late_ms=abs(float(rng.normal(0, 0.05))),
                server={
                    "prompt_n": size, "prompt_ms": prompt_ms, "predicted_n": tokens,
                    "predicted_ms": float(gaps.sum()) / 1.004, "cache_n": cached,
                },
            )
        )  # fmt: skip
    return rows


def _sample_at(server: _Server, t_s: float, rows: Sequence[Row], ended_s: float, rng: np.random.Generator) -> Row:
    """Telemetry at one moment of a stage with these requests, in a run that has come to ``ended_s`` by its end."""
    active = [row for row in rows if row["start_s"] <= t_s < row["start_s"] + row["total_ms"] / 1000]
    waiting = sum(1 for row in active if row["start_s"] + row["queue_ms"] / 1000 > t_s + 0.002)
    busy = len(active) - waiting
    load = {
        "slots_busy": busy, "slots": server.slots, "waiting": waiting, "prompt_tokens_total": None,
        "predicted_tokens_total": None,
    }  # fmt: skip
    hot = bool(server.gpu and busy >= server.slots and t_s > 0.4 * ended_s)
    gpus = [{
        "index": 0, "utilization_percent": min(99.0, 12.0 + 88.0 * busy / server.slots),
        "memory_used_mib": 21_400.0 + 40 * busy,
        "power_w": 90 + 250 * busy / server.slots + float(rng.normal(0, 4)), "temperature_c": 45.0 + 30 * t_s / ended_s,
        "power_limit_w": 350.0, "clock_mhz": 2520.0 - (180.0 if hot else 0.0),
        "throttled": ["power cap"] if hot else [],
    }] if server.gpu else []  # fmt: skip
    return sample(round(t_s, 3), gpus, cpu_percent=22.0 + 3 * float(rng.random()), server=load)


def _arrivals(
    plan: Mapping[str, Any], origin: float, rng: np.random.Generator
) -> Iterable[tuple[int, float, list[float] | None]]:
    """Worker, earliest start and, where users wait for their answers, when each of them is free."""
    count = plan["requests"] + plan.get("warmup", 0)
    if plan.get("rate_per_s"):
        begun = origin + np.cumsum(rng.exponential(1 / plan["rate_per_s"], count))
        return [(0, float(at), None) for at in begun]
    users = plan["concurrency"]
    free = [origin] * users
    return [(position % users, origin, free) for position in range(count)]
