"""Run records as pandas frames: what the figures and tables of a report are drawn from.

    requests = frames.requests(record)              # one row a request, warm-ups and failures too
    rate = frames.token_rate(record)                # tokens per second over the run
    past = frames.history(record, Path("results"))  # this run and earlier ones of the same target

Nothing here measures and nothing draws. Units are in the columns' names.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nexus_tasks import results, runs
from nexus_tasks.errors import RecordError
from nexus_tasks.results import Record, Row

Floats = NDArray[np.float64]

MIN_BIN_S = 0.02
BINS = 120

REQUEST_COLUMNS = {
    "index": "int64",
    "phase": "object",
    "ok": "bool",
    "start_s": "float64",
    "prompt_tokens": "float64",
    "output_tokens": "float64",
    "ttft_ms": "float64",
    "decode_ms": "float64",
    "total_ms": "float64",
    "decode_tps": "float64",
    "prefill_tps": "float64",
    "itl_median_ms": "float64",
    "itl_max_ms": "float64",
    "server_decode_ms": "float64",
    "difference_percent": "float64",
    "finish_reason": "object",
    "error_kind": "object",
    "error_message": "object",
}


@dataclass(frozen=True)
class Change:
    """How a median moved since the last comparable run.

    ``distinct`` is False while the ranges (min to max) of the two runs overlap: the change may be noise.
    """

    since: str
    before: float
    after: float
    percent: float
    distinct: bool


@dataclass(frozen=True)
class History:
    """This run and earlier ones of its target, newest first.

    ``runs`` has one row a run: ``run_id``, ``started_at``, ``workload``, ``model``, ``build``, ``ok``,
    ``comparable`` (same workload, same model), ``argv_changed`` (against this run), and ``_median``, ``_min``,
    ``_max`` of ``ttft_ms``, ``itl_ms``, ``decode_tps`` and ``prefill_tps``.
    ``changes`` are this run's, by metric; empty where no earlier run compares. ``unread`` holds one line for
    each earlier record that cannot be read.
    """

    runs: pd.DataFrame
    changes: dict[str, Change]
    unread: list[str]


def requests(record: Record) -> pd.DataFrame:
    """One row a request, in the order they were sent, with the columns of REQUEST_COLUMNS; NaN where unknown.

    ``difference_percent`` is the client's decode time against the server's own, NaN without server timings.
    """
    rows = [_request(row) for row in record.requests]
    return pd.DataFrame(rows, columns=list(REQUEST_COLUMNS)).astype(REQUEST_COLUMNS)


def counted(frame: pd.DataFrame) -> pd.DataFrame:
    """The requests that the metrics are made of: complete, and not a warm-up."""
    return frame[frame["ok"] & (frame["phase"] == "run")]


def inter_token_ms(record: Record) -> Floats:
    """Every gap between two tokens of the counted requests, pooled."""
    gaps = [row["itl_ms"] or [] for row in record.requests if row["ok"] and row["phase"] == "run"]
    return np.concatenate([np.asarray(g, dtype=np.float64) for g in gaps] or [np.empty(0)])


def token_rate(record: Record) -> pd.DataFrame:
    """Tokens decoded per second over the run: ``t_s`` (start of a bin) and ``tokens_per_second``.

    Each token is spread evenly over the gap it took, so that a bin of a few tokens doesn't flicker. First
    tokens are left out, as in ``decode_tps``: they belong to the prefill. Concurrent requests add up.
    """
    arrivals = [_arrivals_s(row) for row in record.requests]
    arrivals = [times for times in arrivals if len(times) > 1]
    if not arrivals:
        return pd.DataFrame({"t_s": np.empty(0), "tokens_per_second": np.empty(0)})
    end = max(float(times[-1]) for times in arrivals)
    width = max(MIN_BIN_S, end / BINS)
    edges = np.arange(0.0, end + width, width)
    produced = np.zeros(len(edges))
    for times in arrivals:
        produced += np.interp(edges, times, np.arange(len(times), dtype=np.float64))
    return pd.DataFrame({"t_s": edges[:-1], "tokens_per_second": np.diff(produced) / width})


def samples(record: Record) -> pd.DataFrame:
    """Telemetry: ``t_s``, ``cpu_percent``, ``memory_used_mib``, and ``gpu<index>_<reading>`` for each GPU."""
    rows = []
    for row in record.samples:
        flat: dict[str, Any] = {key: row.get(key) for key in ("t_s", "cpu_percent", "memory_used_mib")}
        for gpu in row.get("gpus") or []:
            flat |= {f"gpu{gpu['index']}_{key}": value for key, value in gpu.items() if key != "index"}
        rows.append(flat)
    return pd.DataFrame(rows, columns=None if rows else ["t_s", "cpu_percent", "memory_used_mib"], dtype=float)


def history(record: Record, root: Path, limit: int = 10) -> History:
    """This run and up to ``limit`` earlier ones of the same target; later runs never show."""
    found, unread = [record], []
    for path in reversed(_same_target(record, root)):
        if len(found) > limit:
            break
        try:
            other = results.load(path)
        except RecordError as error:
            unread.append(error.message)
            continue
        if other.header["target"] == record.header["target"] and other.started_at < record.started_at:
            found.append(other)
    found.sort(key=lambda one: one.started_at, reverse=True)
    rows = pd.DataFrame([_run(other, record) for other in found])
    return History(rows, _changes(record, found[1:]), unread)


def agreement(record: Record) -> tuple[float, float, float] | None:
    """Decode time by the client and by the server in ms, summed, and how far they differ, in percent.

    As the summary has it, else (a run cut short) from the requests. None for servers without own timings.
    """
    stored = (record.summary or {}).get("agreement")
    if stored:
        return stored["client_decode_ms"], stored["server_decode_ms"], stored["difference_percent"]
    both = counted(requests(record)).dropna(subset=["decode_ms", "server_decode_ms"])
    client, server = float(both["decode_ms"].sum()), float(both["server_decode_ms"].sum())
    return (client, server, (client - server) / server * 100) if server else None


def _request(row: Row) -> Row:
    error, server, gaps = row.get("error") or {}, row.get("server") or {}, row.get("itl_ms") or []
    decode, server_decode = row.get("decode_ms"), server.get("predicted_ms")
    difference = None
    if decode is not None and server_decode:
        difference = (decode - server_decode) / server_decode * 100
    return {key: row.get(key) for key in REQUEST_COLUMNS} | {
        "itl_median_ms": float(np.median(gaps)) if gaps else None,
        "itl_max_ms": max(gaps) if gaps else None,
        "server_decode_ms": server_decode,
        "difference_percent": difference,
        "error_kind": error.get("kind"),
        "error_message": error.get("message"),
    }


def _arrivals_s(row: Row) -> Floats:
    """When each token of a request came, in seconds after the run began."""
    if row.get("ttft_ms") is None:
        return np.empty(0)
    gaps_ms = np.concatenate([[row["ttft_ms"]], row.get("itl_ms") or []])
    return np.asarray(row["start_s"] + np.cumsum(gaps_ms) / 1000, dtype=np.float64)


def _same_target(record: Record, root: Path) -> list[Path]:
    """Records that can be earlier runs of the target, oldest first.

    A run id is time, target and a random end, so names alone leave out most of a large results folder.
    """
    kind, stem = str(record.header["kind"]), record.path.stem
    time, _, rest = stem.partition("-")
    slug = rest.rpartition("-")[0]
    try:
        found = results.paths(kind, root)
    except RecordError:  # a record that was read from elsewhere has no history
        return []
    return [
        path
        for path in found
        if path.stem != stem
        and path.stem.partition("-")[0] <= time
        and path.stem.partition("-")[2].rpartition("-")[0] == slug
    ]


def _run(record: Record, against: Record) -> Row:
    row: Row = {
        "run_id": record.run_id,
        "started_at": record.started_at,
        "workload": runs.sizes(record),
        "model": runs.model_name(record),
        "build": runs.build_name(record),
        "ok": bool(record.summary and record.summary["ok"]),
        "comparable": runs.same_workload(record, against) and runs.same_model(record, against),
        "argv_changed": record.header["server"]["argv_sha256"] != against.header["server"]["argv_sha256"],
    }
    measured = runs.metrics(record)
    for name in ("ttft_ms", "itl_ms", "decode_tps", "prefill_tps"):
        for part in ("median", "min", "max"):
            row[f"{name}_{part}"] = measured.get(name, {}).get(part, float("nan"))
    return row


def _changes(record: Record, earlier: list[Record]) -> dict[str, Change]:
    """Against the newest earlier run of the same workload and model that was finished and has the metric."""
    changes: dict[str, Change] = {}
    comparable = [
        other
        for other in earlier
        if other.summary is not None and runs.same_workload(other, record) and runs.same_model(other, record)
    ]
    for name, now in runs.metrics(record).items():
        then, since = next(
            ((runs.metrics(other)[name], other) for other in comparable if name in runs.metrics(other)),
            (None, None),
        )
        if then is None or since is None or not then["median"]:
            continue
        changes[name] = Change(
            since=since.run_id,
            before=then["median"],
            after=now["median"],
            percent=(now["median"] - then["median"]) / then["median"] * 100,
            distinct=now["min"] > then["max"] or now["max"] < then["min"],
        )
    return changes
