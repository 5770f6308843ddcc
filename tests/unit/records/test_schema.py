"""Records of older versions are read as if they had been written today."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nexus_tasks.core.errors import RecordError
from nexus_tasks.records import store

FIGURES = {"n": 1, "min": 100.0, "max": 100.0, "mean": 100.0, "median": 100.0, "stdev": None, "p90": None, "p95": None,
           "p99": None, "points": [100.0]}  # fmt: skip
FIRST: list[dict[str, Any]] = [
    {
        "type": "header", "schema": 1, "kind": "benchmark", "run_id": "20260102T030405Z-gpu1-main-3f88",
        "started_at": "2026-01-02T03:04:05+00:00", "target": "gpu1/main",
        "endpoint": {"base_url": "http://gpu1:8600", "host": "gpu1", "instance": "main", "engine": "llama.cpp",
                     "model": "m"},
        "model": {"name": "m", "path": None, "size_bytes": None, "sha256": None, "n_params": None,
                  "n_ctx_train": None},
        "server": {"build": "b1", "release": None, "argv": None, "argv_sha256": None, "n_ctx": 4096, "total_slots": 1},
        "client": {"hostname": "here", "os": "Debian", "python": "3.11.2", "cpu": "a processor", "cpu_count": 2,
                   "memory_mib": 8192, "local": False},
        "gpus": [], "nvml_error": None, "git": {"commit": None, "dirty": None},
        "workload": {"preset": "quick", "prompt_tokens": 128, "output_tokens": 3, "runs": 1, "warmup": 1,
                     "api": "completion", "prompts": "unique", "temperature": 0, "ignore_eos": True},
    },
    {
        "type": "request", "index": 0, "phase": "run", "start_s": 0.5, "ok": True, "error": None, "prompt_tokens": 128,
        "output_tokens": 3, "finish_reason": "limit", "ttft_ms": 100.0, "decode_ms": 20.0, "total_ms": 120.0,
        "itl_ms": [10.0, 10.0], "decode_tps": 100.0, "prefill_tps": None,
        "server": {"prompt_n": 120, "prompt_ms": 90.0, "predicted_n": 3, "predicted_ms": 20.0, "cache_n": 8},
    },
    {"type": "sample", "t_s": 0.5, "cpu_percent": 9.0, "memory_used_mib": 100,
     "gpus": [{"index": 0, "utilization_percent": 50.0, "memory_used_mib": 10.0, "power_w": 80.0,
               "temperature_c": None}]},
    {"type": "summary", "finished_at": "2026-01-02T03:05:05+00:00", "ok": True,
     "interrupted": False, "requests": 1, "failed": 0, "wall_s": 1.0,
     "metrics": {"ttft_ms": FIGURES, "prefill_tps": None}, "agreement": None},
]  # fmt: skip


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "benchmark" / f"{rows[0]['run_id']}.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_first_benchmark_record_is_one_stage_with_one_user(tmp_path: Path) -> None:
    record = store.load(write(tmp_path, FIRST))
    assert record.header["schema"] == 2
    assert record.header["load"]["mode"] == "closed"
    assert record.header["load"]["planned"] == [{"concurrency": 1, "requests": 1, "warmup": 1, "ramp_s": 0.0}]
    assert record.header["workload"]["output_tokens"] == {"kind": "fixed", "mean": 3}
    [request], [sample] = record.requests, record.samples
    assert (request["stage"], request["late_ms"], request["intended_s"]) == (0, 0.0, 0.5)
    assert (request["queue_ms"], request["tpot_ms"], request["cached_tokens"]) == (10.0, 10.0, 8)
    assert sample["gpus"] == [
        {"index": 0, "utilization_percent": 50.0, "memory_used_mib": 10.0, "power_w": 80.0, "temperature_c": None,
         "power_limit_w": None, "clock_mhz": None, "throttled": None, "energy_j": None}
    ]  # fmt: skip
    assert record.summary is not None
    assert record.summary["metrics"] == {"ttft_ms": {**FIGURES, "ci": None}, "prefill_tps": None}
    assert record.summary["valid"]


def test_reading_an_old_record_leaves_its_file_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path, FIRST)
    before = path.read_bytes()
    store.load(path)
    assert path.read_bytes() == before


def test_an_old_record_that_lacks_what_it_should_have_is_named(tmp_path: Path) -> None:
    header = {key: value for key, value in FIRST[0].items() if key != "workload"}
    path = write(tmp_path, [header, *FIRST[1:]])
    with pytest.raises(RecordError, match=f"{path} can't be read as its schema 1: KeyError 'workload'"):
        store.load(path)
