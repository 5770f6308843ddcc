"""Benchmark records as tables for other programs: CSV, Parquet or JSON.

    python -m nexus_tasks.export                              the last run, as Parquet, to exports/
    python -m nexus_tasks.export before after --format csv    run ids or their beginnings, tags, baselines

Six tables, each with the column ``run_id``: ``runs``, ``stages``, ``requests``, ``tokens`` (one row a token, when it
came), ``samples`` and ``gpus`` (telemetry). Units are in the columns' names, as in docs/records.md; ``t_s`` is in
seconds after the run began. The rows of warm-ups and failures are there too: ``phase`` and ``ok`` tell them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import pyarrow as pa
from pyarrow import csv, parquet
from rich.console import Console

from nexus_tasks.comparison import selection
from nexus_tasks.comparison.naming import LAST
from nexus_tasks.core.errors import ReportError, command_line
from nexus_tasks.records import runs, store
from nexus_tasks.records.store import Record, Row
from nexus_tasks.stats import slo
from nexus_tasks.stats.metrics import OF_REQUESTS

FORMATS = ("parquet", "csv", "json")
EXPORTS = Path("exports")
TIMINGS = ("prompt_n", "prompt_ms", "predicted_n", "predicted_ms", "cache_n")
CHUNK = 50_000  # rows that are held before they are written

_TEXT, _WHOLE, _NUMBER, _TRUTH = pa.string(), pa.int64(), pa.float64(), pa.bool_()
PARTS = ("n", "min", "median", "median_low", "median_high", "mean", "p90", "p95", "p99", "max", "stdev")

TABLES: Mapping[str, Mapping[str, pa.DataType]] = {
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
        "stalls": _WHOLE,
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
"""The columns of each table, in order."""


class Sink(Protocol):
    """Where the rows of a table go."""

    def write_table(self, table: pa.Table) -> None: ...
    def close(self) -> None: ...


def tables(record: Record) -> dict[str, Iterator[Row]]:
    """The rows of a record by table, made as they are asked for: a run can have a million tokens."""
    return {
        "runs": _runs(record),
        "stages": _stages(record),
        "requests": _requests(record),
        "tokens": _tokens(record),
        "samples": _samples(record),
        "gpus": _gpus(record),
    }


def write(records: Iterable[Record], kind: str, folder: Path) -> list[Path]:
    """Write the tables of some records, one file a table, and return their paths.

    Args:
        records: read one at a time.
        kind: one of FORMATS.
        folder: is made; files of an earlier export are replaced once all is written.

    Raises:
        ReportError: the folder cannot be written.
    """
    paths = {name: folder / f"{name}.{kind}" for name in TABLES}
    partial = {name: folder / f".{name}.{kind}.partial" for name in TABLES}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            sinks = {}
            for name in TABLES:
                sinks[name] = _OPEN[kind](partial[name], _schema(name))
                stack.callback(sinks[name].close)
            for record in records:
                for name, rows in tables(record).items():
                    _pour(rows, sinks[name], _schema(name))
        for name, path in paths.items():
            partial[name].replace(path)
    except OSError as error:
        raise ReportError(
            f"cannot write an export to {folder}: {error.strerror or error}",
            hint="make the folder writable, or choose another one with --to",
        ) from error
    finally:  # a damaged record, a full disk, Ctrl-C: nothing half-written stays
        for path in partial.values():
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
    return list(paths.values())


class _JsonSink:
    """One array of objects, a row a line."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._stream = path.open("w", encoding="utf-8")
        self._between = "[\n"

    def write_table(self, table: pa.Table) -> None:
        for row in table.to_pylist():
            self._stream.write(self._between + json.dumps(row, ensure_ascii=False, allow_nan=False))
            self._between = ",\n"

    def close(self) -> None:
        self._stream.write("[]\n" if self._between == "[\n" else "\n]\n")
        self._stream.close()


_OPEN: Mapping[str, Callable[[Path, pa.Schema], Sink]] = {
    "parquet": parquet.ParquetWriter,
    "csv": csv.CSVWriter,
    "json": _JsonSink,
}


def _schema(name: str) -> pa.Schema:
    return pa.schema(list(TABLES[name].items()))


def _pour(rows: Iterator[Row], sink: Sink, schema: pa.Schema) -> None:
    held: list[Row] = []
    for row in rows:
        held.append(row)
        if len(held) == CHUNK:
            sink.write_table(pa.Table.from_pylist(held, schema))
            held = []
    if held:
        sink.write_table(pa.Table.from_pylist(held, schema))


def _runs(record: Record) -> Iterator[Row]:
    header, told = record.header, record.summary or {}
    yield {
        "run_id": record.run_id,
        "started_at": header["started_at"],
        "target": header["target"],
        "tag": header["tag"],
        "model": runs.model_name(record),
        "model_sha256": header["model"]["sha256"],
        "build": header["server"]["build"],
        "release": header["server"]["release"],
        "argv_sha256": header["server"]["argv_sha256"],
        "driver": runs.driver_name(record),
        "engine": header["load"]["engine"],
        "api": header["workload"]["api"],
        "workload": runs.sizes(record),
        "load": runs.load_name(record),
        "mode": header["load"]["mode"],
        "total_slots": runs.slots(record),
        **{key: told.get(key) for key in ("requests", "failed", "short", "stalls", "ok", "valid", "wall_s")},
        "interrupted": told.get("interrupted", True),
        "energy_joules": (told.get("energy") or {}).get("joules"),
        "joules_per_token": (told.get("energy") or {}).get("joules_per_token"),
    }


def _stages(record: Record) -> Iterator[Row]:
    for row in record.stages:
        watch, goodput = row["watch"] or {}, row["goodput"] or {}
        seen = ("begun_s", "ended_s", "in_flight", "in_flight_asked", "cpu_per_process")
        flat = {
            **{key: row.get(key) for key in TABLES["stages"]},
            **(row["throughput"] or {}),
            **{key: watch.get(key) for key in seen},
            "run_id": record.run_id,
            "level": runs.level_name(row),
            "goodput_requests_per_s": goodput.get("requests_per_s"),
            "goodput_share": goodput.get("share"),
            "lag_p99_ms": (watch.get("lag_ms") or {}).get("p99"),
            "late_p99_ms": (watch.get("late_ms") or {}).get("p99"),
            "valid": watch.get("valid"),
        }
        for name, stats in row["metrics"].items():
            low, high = ((stats or {}).get("ci") or {}).get("median") or (None, None)
            parts = {**(stats or {}), "median_low": low, "median_high": high}
            flat |= {f"{name}_{part}": parts.get(part) for part in PARTS}
        yield flat


def _requests(record: Record) -> Iterator[Row]:
    for row in record.requests:
        error, server, draft = (row.get(key) or {} for key in ("error", "server", "draft"))
        yield {
            **{key: row.get(key) for key in TABLES["requests"]},
            "run_id": record.run_id,
            "error_kind": error.get("kind"),
            "error_message": error.get("message"),
            "draft_n": draft.get("n"),
            "draft_accepted": draft.get("accepted"),
            **{name: slo.value(row, name) for name in ("itl_median_ms", "itl_max_ms")},
            **{f"server_{key}": server.get(key) for key in TIMINGS},
        }


def _tokens(record: Record) -> Iterator[Row]:
    """The first token of a request has no gap before it."""
    for row in record.requests:
        if row.get("ttft_ms") is None:
            continue
        t_s = row["intended_s"] + row["ttft_ms"] / 1000
        for token, gap_ms in enumerate([None, *(row.get("itl_ms") or [])]):
            t_s += (gap_ms or 0.0) / 1000
            yield {"run_id": record.run_id, "index": row["index"], "token": token, "t_s": t_s, "gap_ms": gap_ms}


def _samples(record: Record) -> Iterator[Row]:
    for row in record.samples:
        known = {**row, **(row.get("server") or {}), "run_id": record.run_id}
        yield {key: known.get(key) for key in TABLES["samples"]}


def _gpus(record: Record) -> Iterator[Row]:
    for row in record.samples:
        for gpu in row.get("gpus") or []:
            reasons = gpu.get("throttled")
            told = {"throttled": None if reasons is None else ", ".join(reasons)}
            known = {**gpu, **told, "run_id": record.run_id, "source": row.get("source"), "t_s": row["t_s"]}
            yield {key: known.get(key) for key in TABLES["gpus"]}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nox -s export --", description="Write benchmark records as tables for other programs."
    )
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="*",
        default=[LAST],
        help="a run id or its beginning, a tag (all runs that have it), a baseline, or last (default: %(default)s)",
    )
    parser.add_argument("--format", choices=FORMATS, default=FORMATS[0], help="of the files (default: %(default)s)")
    parser.add_argument(
        "--to", metavar="DIR", type=Path, default=EXPORTS, help="where the files go (default: %(default)s)"
    )
    parser.add_argument(
        "--results", metavar="DIR", type=Path, default=store.ROOT, help="where the records are (default: %(default)s)"
    )
    return parser


@command_line
def main(argv: Sequence[str] | None = None) -> int:
    """Command line of this module; see the module's docstring."""
    options = _parser().parse_args(argv)
    out = Console(highlight=False, markup=False, soft_wrap=True)
    found = {record.run_id: record for name in options.runs for record in selection.find(name, options.results)}
    for path in write(found.values(), options.format, options.to):
        out.print(str(path))
    return 0


if __name__ == "__main__":
    sys.exit(main())
