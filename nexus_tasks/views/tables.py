"""Benchmark records as flat tables: their columns, and the rows that a record has in each.

    tables.COLUMNS["tokens"]                    {"run_id": string, "index": int64, ...}, in order
    next(tables.rows(record)["runs"])           {"run_id": ..., "started_at": ..., "target": ..., ...}

Units are in the columns' names, as in docs/records.md; ``t_s`` is in seconds after the run began.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from nexus_tasks.records.benchmark_rows import fields
from nexus_tasks.records.store import BenchmarkRecord
from nexus_tasks.stats import slo
from nexus_tasks.stats.metrics import OF_REQUESTS
from nexus_tasks.views import runs

Row = dict[str, Any]
"""A row of a table, by column."""

TIMINGS = ("prompt_n", "prompt_ms", "predicted_n", "predicted_ms", "cache_n")

_TEXT, _WHOLE, _NUMBER, _TRUTH = pa.string(), pa.int64(), pa.float64(), pa.bool_()
PARTS = ("n", "min", "median", "median_low", "median_high", "mean", "p90", "p95", "p99", "max", "stdev")

COLUMNS: Mapping[str, Mapping[str, pa.DataType]] = {
    "runs": {
        **dict.fromkeys(("run_id", "started_at", "target", "tag", "model", "model_sha256", "build", "release",
                         "argv_sha256", "driver", "engine", "api", "workload", "load", "mode"), _TEXT),
        **dict.fromkeys(("total_slots", "requests", "failed", "short", "stalls"), _WHOLE),
        **dict.fromkeys(("ok", "valid", "interrupted"), _TRUTH),
        **dict.fromkeys(("wall_s", "energy_joules", "joules_per_token"), _NUMBER),
    },
    "stages": {
        "run_id": _TEXT, "stage": _WHOLE, "round": _WHOLE, "level": _TEXT, "concurrency": _WHOLE, "rate_per_s": _NUMBER,
        "prompt_tokens": _WHOLE, "requests": _WHOLE, "failed": _WHOLE, "short": _WHOLE, "stalls": _WHOLE,
        **dict.fromkeys(("output_tps", "prompt_tps", "total_tps", "requests_per_s", "goodput_requests_per_s",
                         "goodput_share", "begun_s", "ended_s", "in_flight", "in_flight_asked", "cpu_per_process",
                         "lag_p99_ms", "late_p99_ms"), _NUMBER),
        "valid": _TRUTH,
        **{f"{name}_{part}": _NUMBER for name in OF_REQUESTS for part in PARTS},
    },
    "requests": {
        "run_id": _TEXT, "index": _WHOLE, "stage": _WHOLE, "round": _WHOLE, "phase": _TEXT, "key": _TEXT,
        "conversation": _WHOLE, "turn": _WHOLE, "worker": _WHOLE, "ok": _TRUTH, "error_kind": _TEXT,
        "error_message": _TEXT,
        **dict.fromkeys(("intended_s", "start_s", "late_ms"), _NUMBER),
        **dict.fromkeys(("prompt_tokens", "output_tokens", "reasoning_tokens", "cached_tokens", "draft_n",
                         "draft_accepted"), _WHOLE),
        "finish_reason": _TEXT, "backend": _TEXT,
        **dict.fromkeys(("ttft_ms", "ttft_visible_ms", "queue_ms", "decode_ms", "total_ms", "tpot_ms", "itl_median_ms",
                         "itl_max_ms", "decode_tps", "prefill_tps"), _NUMBER),
        "stalls": _WHOLE, "untimed": _TEXT,
        **dict.fromkeys(("server_prompt_n", "server_cache_n", "server_predicted_n"), _WHOLE),
        **dict.fromkeys(("server_prompt_ms", "server_predicted_ms"), _NUMBER),
        "prompt": _TEXT, "answer": _TEXT,
    },
    "tokens": {"run_id": _TEXT, "index": _WHOLE, "token": _WHOLE, "t_s": _NUMBER, "gap_ms": _NUMBER},
    "samples": {
        "run_id": _TEXT, "source": _TEXT,
        **dict.fromkeys(("t_s", "cpu_percent", "memory_used_mib", "slots_busy", "slots", "waiting",
                         "prompt_tokens_total", "predicted_tokens_total"), _NUMBER),
    },
    "gpus": {
        "run_id": _TEXT, "source": _TEXT, "t_s": _NUMBER, "index": _WHOLE,
        **dict.fromkeys(("utilization_percent", "memory_used_mib", "power_w", "power_limit_w", "clock_mhz",
                         "temperature_c"), _NUMBER),
        "throttled": _TEXT,
    },
}  # fmt: skip
"""The columns of each table and their types, in order."""


def rows(record: BenchmarkRecord) -> dict[str, Iterator[Row]]:
    """The rows of a record by table, made as they are asked for: a run can have a million tokens."""
    return {
        "runs": _runs(record),
        "stages": _stages(record),
        "requests": _requests(record),
        "tokens": _tokens(record),
        "samples": _samples(record),
        "gpus": _gpus(record),
    }


def _runs(record: BenchmarkRecord) -> Iterator[Row]:
    header, summary = record.header, record.summary
    energy = summary.energy if summary else None
    told = fields(summary)
    yield {
        "run_id": record.run_id,
        "started_at": header.started_at,
        "target": header.target,
        "tag": header.tag,
        "model": runs.model_name(record),
        "model_sha256": header.model.sha256,
        "build": header.server.build,
        "release": header.server.release,
        "argv_sha256": header.server.argv_sha256,
        "driver": runs.driver_name(record),
        "engine": header.load.engine,
        "api": header.workload.api,
        "workload": runs.sizes(record),
        "load": runs.load_name(record),
        "mode": header.load.mode,
        "total_slots": runs.slots(record),
        **{key: told.get(key) for key in ("requests", "failed", "short", "stalls", "ok", "valid", "wall_s")},
        "interrupted": summary is None or summary.interrupted,
        "energy_joules": energy.joules if energy else None,
        "joules_per_token": energy.joules_per_token if energy else None,
    }


def _stages(record: BenchmarkRecord) -> Iterator[Row]:
    for row in record.stages:
        watch, own = row.watch, fields(row)
        told = fields(watch)
        seen = ("begun_s", "ended_s", "in_flight", "in_flight_asked", "cpu_per_process", "valid")
        flat = {
            **{key: own.get(key) for key in COLUMNS["stages"]},
            **fields(row.throughput),
            **{key: told.get(key) for key in seen},
            "run_id": record.run_id,
            "level": runs.level_name(row),
            "goodput_requests_per_s": row.goodput.requests_per_s if row.goodput else None,
            "goodput_share": row.goodput.share if row.goodput else None,
            "lag_p99_ms": watch.lag_ms.p99 if watch else None,
            "late_p99_ms": watch.late_ms.p99 if watch else None,
        }
        for name, figures in row.metrics.items():
            low, high = runs.interval(figures) or (None, None)
            parts = {**fields(figures), "median_low": low, "median_high": high}
            flat |= {f"{name}_{part}": parts.get(part) for part in PARTS}
        yield flat


def _requests(record: BenchmarkRecord) -> Iterator[Row]:
    for row in record.requests:
        own, server = fields(row), fields(row.server)
        yield {
            **{key: own.get(key) for key in COLUMNS["requests"]},
            "run_id": record.run_id,
            "error_kind": row.error.kind if row.error else None,
            "error_message": row.error.message if row.error else None,
            "draft_n": row.draft.n if row.draft else None,
            "draft_accepted": row.draft.accepted if row.draft else None,
            **{name: slo.value(row, name) for name in ("itl_median_ms", "itl_max_ms")},
            **{f"server_{key}": server.get(key) for key in TIMINGS},
        }


def _tokens(record: BenchmarkRecord) -> Iterator[Row]:
    """The first token of a request has no gap before it."""
    for row in record.requests:
        if row.ttft_ms is None or row.intended_s is None:
            continue
        t_s = row.intended_s + row.ttft_ms / 1000
        for token, gap_ms in enumerate([None, *row.itl_ms]):
            t_s += (gap_ms or 0.0) / 1000
            yield {"run_id": record.run_id, "index": row.index, "token": token, "t_s": t_s, "gap_ms": gap_ms}


def _samples(record: BenchmarkRecord) -> Iterator[Row]:
    for row in record.samples:
        known = {**fields(row), **fields(row.server), "run_id": record.run_id}
        yield {key: known.get(key) for key in COLUMNS["samples"]}


def _gpus(record: BenchmarkRecord) -> Iterator[Row]:
    for row in record.samples:
        for gpu in row.gpus:
            reasons = None if gpu.throttled is None else ", ".join(gpu.throttled)
            known = {**fields(gpu), "throttled": reasons, "run_id": record.run_id, "source": row.source, "t_s": row.t_s}
            yield {key: known.get(key) for key in COLUMNS["gpus"]}
