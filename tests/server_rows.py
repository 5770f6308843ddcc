"""Rows as the llama_server modules return them, for tests of what is said about them."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]
RELEASE = "b11434-cuda86-f7a5fe87"


def running(name: str = "main", **changes: Any) -> Row:
    """The row of a status for a server on a GPU that is well."""
    cpu = {"CPU_Mapped": {"model": 586.8}, "CPU": {"compute": 12.0}}
    return {
        "name": name, "state": "running", "phase": "verified", "switching": False, "last_error": None, "changed": False,
        "checks": [], "error": None, "health": 200, "url": "http://127.0.0.1:8600", "runtime": "systemd",
        "model": {"name": "gpt-oss-20b-mxfp4"}, "release": RELEASE, "generation": "90d1236ebd64", "previous": None,
        "config": {"model": {"size_bytes": 4 * 2**30}, "models": {}}, "tokens_per_second": 231.42, "n_ctx": 32768,
        "slots": 4, "busy": 1, "offloaded": [25, 25],
        "buffers_mib": {"CUDA0": {"model": 10694.15, "kv": 3018.0}, **cpu},
        **changes,
    }  # fmt: skip


def proven(*checks: Row, **changes: Any) -> Row:
    """The row of a switch that went well, with these checks."""
    row = {
        **running(), "state": "verified", "changed": True, "restored": None, "load_seconds": 3.21,
        "downtime_seconds": 0.94, "checks": list(checks), **changes,
    }  # fmt: skip
    del row["phase"]
    return row


def check(name: str, expected: Any, found: Any, cause: str = "") -> Row:
    return {"check": name, "expected": expected, "found": found, "ok": expected == found, "cause": cause}


def lines(text: str) -> list[str]:
    """The lines of a text without their indentation."""
    return [line.strip() for line in text.splitlines()]
