"""Schemas of run records: which rows a kind has, and how the rows of older versions are read. Files stay as they are.

    header, rows = schema.upgrade(header, rows)           # JSON objects of any schema, as those of the newest
    schema.row("benchmark", rows[0])                      # RequestRow(...)

The number is that of a kind's rows, since kinds change at different times. docs/records.md says what each key means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from nexus_tasks.records import batch_rows, benchmark_rows, deployment_rows, plan_rows, usage_rows

Row = dict[str, Any]
"""A row as JSON has it."""

NEWEST = {"benchmark": 2, "deployment": 1, "batch": 1, "plan": 1, "usage": 1}

ROWS: dict[str, dict[str, type[benchmark_rows.Part]]] = {
    "benchmark": {
        "header": benchmark_rows.BenchmarkHeader, "request": benchmark_rows.RequestRow,
        "sample": benchmark_rows.SampleRow, "stage": benchmark_rows.StageRow,
        "summary": benchmark_rows.BenchmarkSummary,
    },
    "deployment": {
        "header": deployment_rows.DeploymentHeader, "host": deployment_rows.HostRow,
        "release": deployment_rows.ReleaseRow, "summary": deployment_rows.DeploymentSummary,
    },
    "batch": {
        "header": batch_rows.BatchHeader, "endpoint": batch_rows.EndpointRow, "interval": batch_rows.IntervalRow,
        "session": batch_rows.SessionRow, "failure": batch_rows.FailureRow, "server": batch_rows.ServerRow,
        "schema": batch_rows.SchemaRow, "request": batch_rows.RequestRow, "answer": batch_rows.AnswerRow,
        "summary": batch_rows.BatchSummary,
    },
    "plan": {
        "header": plan_rows.PlanHeader, "model": plan_rows.ModelRow, "curve": plan_rows.CurveRow,
        "plan": plan_rows.PlanRow, "host": plan_rows.MachineRow, "server": plan_rows.ServerRow,
        "summary": plan_rows.PlanSummary,
    },
    "usage": {
        "header": usage_rows.UsageHeader, "usage": usage_rows.UsageRow, "summary": usage_rows.UsageSummary,
    },
}  # fmt: skip
"""By kind and type the rows that its records have."""


def row(kind: str, plain: Mapping[str, Any]) -> Any:
    """A row of one of a kind's types, by its JSON in the newest schema.

    Raises:
        ValueError: it lacks a key, or a value is of another type; the message says which.
    """
    try:
        return msgspec.convert(plain, ROWS[kind][plain["type"]])
    except msgspec.ValidationError as error:
        raise ValueError(str(error).replace("Object missing required field", "it lacks")) from error


# --- the rows of before


def upgrade(header: Row, rows: Sequence[Row]) -> tuple[Row, list[Row]]:
    """The rows of a record in the newest schema of its kind; ``header`` is one of them, ``rows`` are the others."""
    kind, rows = header["kind"], list(rows)
    while header["schema"] < NEWEST[kind]:
        header, rows = _STEPS[kind, header["schema"]](header, rows)
    if kind == "benchmark" and "documents" not in header["workload"]:
        return _with_rounds(header, rows)
    return header, rows


def _with_rounds(header: Row, rows: Sequence[Row]) -> tuple[Row, list[Row]]:
    """The first runs of llama.cpp's own tools had no rounds and no documents, in the schema of today."""
    complete = {**header, "workload": {**header["workload"], "documents": None}}
    return complete, [{"round": 0, **row} if row["type"] in ("request", "stage") else row for row in rows]


def _benchmark_2(header: Row, rows: Sequence[Row]) -> tuple[Row, list[Row]]:
    """Schema 1 knew requests that go out one after another, and nothing else: one stage with one user."""
    work = header["workload"]
    sizes = {name: {"kind": "fixed", "mean": work[name]} for name in ("prompt_tokens", "output_tokens")}
    planned = {"concurrency": 1, "requests": work.get("runs"), "warmup": work.get("warmup"), "ramp_s": 0.0}
    upgraded = {
        **header,
        "schema": 2,
        "endpoint": {**header["endpoint"], "tunnel": None, "preset": None},
        "workload": {
            "preset": work["preset"], "kind": "synthetic", "api": work["api"], **sizes, "prompts": work["prompts"],
            "turns": 1, "prefix_tokens": 0, "lengths": None, "file": None, "documents": None,
            "temperature": work["temperature"], "ignore_eos": work["ignore_eos"], "seed": None,
        },
        "load": {
            "engine": "http", "mode": "closed", "axis": None, "planned": [planned], "until": None, "slo": {},
            "limits": {"token_s": None, "request_s": None, "max_error_rate": None}, "processes": 1,
            "rounds": 1, "interleaved_with": None, "commands": None, "servers_beside": None,
        },
        "tag": None,
        "host_state": {"driver": None, "power_limit_w": None, "clocks_max_mhz": None, "governor": None},
    }  # fmt: skip
    turned = {"request": _request_2, "sample": _sample_2, "summary": _summary_2}
    return upgraded, [turned.get(row["type"], dict)(row) for row in rows]


def _request_2(row: Row) -> Row:
    server = row.get("server") or {}
    ttft_ms, prompt_ms = row.get("ttft_ms"), server.get("prompt_ms")
    decode_ms, tokens = row.get("decode_ms"), row.get("output_tokens")
    return {
        **row,
        "stage": 0, "round": 0, "key": None, "conversation": row["index"], "turn": 0, "worker": 0,
        "intended_s": row.get("start_s"), "late_ms": 0.0,
        "reasoning_tokens": None, "cached_tokens": server.get("cache_n"), "draft": None, "ttft_visible_ms": None,
        "queue_ms": ttft_ms - prompt_ms if ttft_ms is not None and prompt_ms is not None else None,
        "tpot_ms": decode_ms / (tokens - 1) if decode_ms is not None and tokens and tokens > 1 else None,
        "stalls": 0, "backend": None,
    }  # fmt: skip


def _sample_2(row: Row) -> Row:
    gpus = [
        {**gpu, "power_limit_w": None, "clock_mhz": None, "throttled": None, "energy_j": None}
        for gpu in row.get("gpus") or []
    ]
    return {**row, "source": "client", "gpus": gpus, "server": None}


def _summary_2(row: Row) -> Row:
    def figures(old: Row | None) -> Row | None:
        return None if old is None else {**old, "ci": None}

    return {
        **row,
        "valid": True, "reasons": [], "stopped": None, "short": 0, "stalls": 0, "throughput": None, "goodput": None,
        "knee": None, "energy": None,
        "metrics": {name: figures(old) for name, old in row["metrics"].items()},
    }  # fmt: skip


_STEPS: dict[tuple[str, int], Callable[[Row, Sequence[Row]], tuple[Row, list[Row]]]] = {("benchmark", 1): _benchmark_2}
