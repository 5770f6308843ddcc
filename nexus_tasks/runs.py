"""What a benchmark record says as a whole: names, the verdict, the metrics, and what it may be compared with.

runs.verdict(record)                     ("good", "All 3 requests succeeded")
runs.metrics(record)["ttft_ms"]["median"]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nexus_tasks.results import Record, Row
from nexus_tasks.summary import summarise

# Runs may be compared when these agree: the numbers of runs and warm-ups change the spread, not the measure.
WORKLOAD_KEYS = ("prompt_tokens", "output_tokens", "api", "prompts", "temperature", "ignore_eos")


def metrics(record: Record) -> dict[str, Row]:
    """The metrics that have points, by name, as the summary has them.

    A run that was cut short has no summary: its requests so far are summarised the same way.
    """
    if record.summary is not None:
        found = record.summary["metrics"]
    else:
        complete = [row for row in record.requests if row["ok"] and row["phase"] == "run"]
        found = {
            name: summarise([row[name] for row in complete if row.get(name) is not None])
            for name in ("ttft_ms", "total_ms", "decode_tps", "prefill_tps")
        } | {"itl_ms": summarise([gap for row in complete for gap in row["itl_ms"] or []])}
    return {name: stats for name, stats in found.items() if stats}


def verdict(record: Record) -> tuple[str, str]:
    """What became of the run: a tone (good or bad) and a sentence without its full stop."""
    summary = record.summary
    if summary is None:
        return "bad", "Interrupted: the run was cut short"
    if summary["interrupted"]:
        return "bad", f"Interrupted after {_requests(summary['requests'])}"
    if summary["failed"]:
        return "bad", f"{summary['failed']} of {_requests(summary['requests'])} failed"
    if not summary["ok"]:
        return "bad", "Not as asked: some requests are shorter than the workload wants"
    return "good", f"All {_requests(summary['requests'])} succeeded, warm-up included"


def same_workload(one: Record, other: Record) -> bool:
    """Whether two runs asked the same of the server."""
    first, second = one.header["workload"], other.header["workload"]
    return all(first.get(key) == second.get(key) for key in WORKLOAD_KEYS)


def same_model(one: Record, other: Record) -> bool:
    """Whether two runs measured one model: by hash where both know it, else by name."""
    first, second = one.header["model"], other.header["model"]
    if first["sha256"] and second["sha256"]:
        return bool(first["sha256"] == second["sha256"])
    return model_name(one) == model_name(other)


def model_name(record: Record) -> str:
    """What a reader calls the model: the profile's name, else the id that the server gives."""
    return str(record.header["model"]["name"] or record.header["endpoint"]["model"])


def build_name(record: Record) -> str:
    """What a reader calls the server's build: what the server says, else the release."""
    server = record.header["server"]
    return str(server["build"] or server["release"] or "unknown")


def sizes(record: Record) -> str:
    """The workload in a few letters: ``quick 128/64``, prompt and output tokens."""
    workload: Mapping[str, Any] = record.header["workload"]
    return " ".join([*filter(None, [workload["preset"]]), f"{workload['prompt_tokens']}/{workload['output_tokens']}"])


def _requests(count: int) -> str:
    return f"{count} request{'' if count == 1 else 's'}"
