"""Run records as pandas frames: what the figures and tables of a report are drawn from.

    requests = frames.requests(record)              # one row a request, warm-ups and failures too
    stages = frames.stages(record)                  # one row a level of load
    rate = frames.token_rate(record)                # tokens per second over the run
    past = frames.history(record, Path("results"))  # this run and earlier ones of the same target

Nothing here measures and nothing draws. Units are in the columns' names.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nexus_tasks.comparison import comparable, medians
from nexus_tasks.comparison.verdicts import BETTER, WORSE
from nexus_tasks.core.errors import RecordError
from nexus_tasks.records import store
from nexus_tasks.records.benchmark_rows import Figures, RequestRow, fields
from nexus_tasks.records.store import BenchmarkRecord
from nexus_tasks.stats import slo
from nexus_tasks.stats.metrics import MAIN, OF_REQUESTS, OUTPUT, REQUESTS
from nexus_tasks.views import runs

Floats = NDArray[np.float64]
Row = dict[str, Any]
"""A row of a frame, by column."""

MIN_BIN_S = 0.02
BINS = 120

REQUEST_COLUMNS = {
    "index": "int64",
    "stage": "int64",
    "phase": "object",
    "key": "object",
    "turn": "int64",
    "ok": "bool",
    "intended_s": "float64",
    "start_s": "float64",
    "late_ms": "float64",
    "prompt_tokens": "float64",
    "cached_tokens": "float64",
    "output_tokens": "float64",
    "reasoning_tokens": "float64",
    "ttft_ms": "float64",
    "ttft_visible_ms": "float64",
    "queue_ms": "float64",
    "decode_ms": "float64",
    "total_ms": "float64",
    "decode_tps": "float64",
    "prefill_tps": "float64",
    "stalls": "float64",
    "backend": "object",
    "itl_median_ms": "float64",
    "itl_max_ms": "float64",
    "server_prompt_ms": "float64",
    "server_prompt_tokens": "float64",
    "server_cached_tokens": "float64",
    "server_output_tokens": "float64",
    "server_decode_ms": "float64",
    "difference_percent": "float64",
    "finish_reason": "object",
    "error_kind": "object",
    "error_message": "object",
}


@dataclass(frozen=True)
class Change:
    """Change of a median since the last comparable run.

    ``distinct`` is True where a comparison calls the median better or worse (docs/compare.md), at each level of load;
    else the change may be noise.
    """

    since: str
    before: float
    after: float
    percent: float
    distinct: bool


@dataclass(frozen=True)
class History:
    """This run and earlier ones of its target, newest first.

    ``runs`` has one row a run, as :func:`run` makes it, with ``comparable`` (same workload, load and model) and
    ``argv_changed`` (against this run).
    ``changes`` are this run's, by metric; empty where no earlier run compares. ``unread`` holds one line for
    each earlier record that cannot be read.
    """

    runs: pd.DataFrame
    changes: dict[str, Change]
    unread: list[str]


def requests(record: BenchmarkRecord) -> pd.DataFrame:
    """One row a request, in the order they were sent, with the columns of REQUEST_COLUMNS; NaN where unknown.

    ``difference_percent`` is the client's decode time against the server's own, NaN without server timings.
    """
    rows = [_request(row) for row in record.requests]
    return pd.DataFrame(rows, columns=list(REQUEST_COLUMNS)).astype(REQUEST_COLUMNS)


def counted(frame: pd.DataFrame) -> pd.DataFrame:
    """The requests that the metrics are made of: complete, and not a warm-up."""
    return frame[frame["ok"] & (frame["phase"] == "run")]


def inter_token_ms(record: BenchmarkRecord) -> Floats:
    """Every gap between two tokens of the counted requests, pooled."""
    gaps = [row.itl_ms for row in record.requests if row.ok and row.phase == "run"]
    return np.concatenate([np.asarray(g, dtype=np.float64) for g in gaps] or [np.empty(0)])


def stages(record: BenchmarkRecord) -> pd.DataFrame:
    """One row a level of load, by its number on the axis: what was asked, what came out, and whether it is valid.

    ``stage``, ``name``, ``level``; ``requests``, ``failed``, ``short``, ``stalls``; ``output_tps``, ``requests_per_s``,
    ``prompt_tps``; ``goodput_share``; of the generator ``in_flight``, ``in_flight_asked``, ``cpu``, ``lag_p99_ms``,
    ``late_p99_ms``, ``valid``; and of each metric ``_median``, its interval ``_low`` and ``_high``, ``_p95``, ``_p99``
    and ``_max``. NaN where unknown.
    """
    rows = []
    for row in runs.stages(record):
        watch, own, throughput = row.watch, fields(row), fields(row.throughput)
        flat: Row = {
            "stage": row.stage,
            "name": runs.level_name(row),
            "level": runs.level(row),
            **{key: own[key] for key in ("requests", "failed", "short", "stalls")},
            **{key: _float(throughput.get(key)) for key in ("output_tps", "requests_per_s", "prompt_tps")},
            "goodput_share": _float(row.goodput.share if row.goodput else None),
            "in_flight": _float(watch.in_flight if watch else None),
            "in_flight_asked": _float(watch.in_flight_asked if watch else None),
            "cpu": _float(watch.cpu_per_process if watch else None),
            "lag_p99_ms": _float(watch.lag_ms.p99 if watch else None),
            "late_p99_ms": _float(watch.late_ms.p99 if watch else None),
            "valid": watch is None or watch.valid,
        }
        for name in OF_REQUESTS:
            figures = row.metrics.get(name)
            low, high = runs.interval(figures) or (None, None)
            known = fields(figures)
            parts = {part: known.get(part) for part in ("median", "p95", "p99", "max")} | {"low": low, "high": high}
            flat |= {f"{name}_{part}": _float(value) for part, value in parts.items()}
        rows.append(flat)
    return pd.DataFrame(rows).sort_values("level", kind="stable", ignore_index=True)


def in_flight(record: BenchmarkRecord) -> pd.DataFrame:
    """Requests in flight over the run: ``t_s`` (start of a bin) and ``in_flight``, the mean within it."""
    begun = np.sort([row.start_s or 0.0 for row in record.requests])
    # Latency counts from the intended start; what failed before it was sent was never under way.
    ends = [max(row.start_s or 0.0, (row.intended_s or 0.0) + (row.total_ms or 0.0) / 1000) for row in record.requests]
    ended = np.sort(ends)
    if not len(begun):
        return pd.DataFrame({"t_s": np.empty(0), "in_flight": np.empty(0)})
    width = max(MIN_BIN_S, float(ended[-1]) / BINS)
    edges = np.arange(0.0, float(ended[-1]) + width, width)
    spent = _elapsed_s(edges, begun) - _elapsed_s(edges, ended)
    return pd.DataFrame({"t_s": edges[:-1], "in_flight": np.diff(spent) / width})


def _elapsed_s(until: Floats, since: Floats) -> Floats:
    """At each moment, the sum of the times that have passed since each of the (sorted) moments before it."""
    before = np.searchsorted(since, until)
    return np.asarray(until * before - np.concatenate([[0.0], np.cumsum(since)])[before])


def token_rate(record: BenchmarkRecord) -> pd.DataFrame:
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


def samples(record: BenchmarkRecord) -> pd.DataFrame:
    """Telemetry: ``source``, ``t_s``, ``cpu_percent``, ``memory_used_mib``, what the server said of itself
    (``slots_busy``, ``waiting``), and ``gpu<index>_<reading>`` for each GPU; ``_throttled`` is a text, empty
    where none.
    """
    rows = []
    for row in record.samples:
        own, server = fields(row), fields(row.server)
        flat = {key: own[key] for key in ("source", "t_s", "cpu_percent", "memory_used_mib")}
        flat |= {key: server.get(key) for key in ("slots_busy", "waiting")}
        for gpu in row.gpus:
            figures = {key: value for key, value in fields(gpu).items() if key not in ("index", "throttled")}
            flat |= {f"gpu{gpu.index}_{key}": value for key, value in figures.items()}
            flat[f"gpu{gpu.index}_throttled"] = ", ".join(gpu.throttled or [])
        rows.append(flat)
    columns = ["source", "t_s", "cpu_percent", "memory_used_mib", "slots_busy", "waiting"]
    frame = pd.DataFrame(rows, columns=None if rows else columns)
    texts = {column for column in frame if column == "source" or str(column).endswith("_throttled")}
    return frame.astype({column: "object" if column in texts else "float64" for column in frame})


def history(record: BenchmarkRecord, root: Path, limit: int = 10) -> History:
    """This run and up to ``limit`` earlier ones of the same target; later runs never show."""
    records, unread = [record], []
    found = store.readable(reversed(_same_target(record, root)), lambda error: unread.append(error.message))
    target = record.header.target
    earlier = (other for other in found if other.header.target == target and other.started_at < record.started_at)
    records += itertools.islice(earlier, max(limit, 0))
    records.sort(key=lambda one: one.started_at, reverse=True)
    rows = pd.DataFrame(
        [
            {
                **run(other),
                "comparable": comparable.measured_alike(other, record),
                "argv_changed": other.header.server.argv_sha256 != record.header.server.argv_sha256,
            }
            for other in records
        ]
    )
    return History(rows, _changes(record, records[1:]), unread)


def target(records: Iterable[BenchmarkRecord]) -> pd.DataFrame:
    """Every run of a target, oldest first, as :func:`run` makes them, each with the number of its ``series``.

    Runs of a series asked the same of the same model, so their numbers can be compared. Series are numbered by how many
    runs they have; of equally many, the one with the newest run is first. No more than one record is held in full.
    """
    headers: list[BenchmarkRecord] = []
    rows = []
    for record in records:
        rows.append(run(record))
        headers.append(BenchmarkRecord(record.path, record.header))
    order = sorted(range(len(rows)), key=lambda place: rows[place]["started_at"])
    groups: list[list[int]] = []
    for position, place in enumerate(order):
        like = (group for group in groups if comparable.measured_alike(headers[order[group[0]]], headers[place]))
        group = next(like, None)
        if group is None:
            groups.append([position])
        else:
            group.append(position)
    groups.sort(key=lambda group: (len(group), group[-1]), reverse=True)
    series = {position: number for number, group in enumerate(groups) for position in group}
    frame = pd.DataFrame([rows[place] for place in order])
    return frame.assign(series=[series[position] for position in range(len(frame))])


def agreement(record: BenchmarkRecord) -> tuple[float, float, float] | None:
    """Decode time by the client and by the server in ms, summed, and how far they differ, in percent.

    As the summary has it, else (a run cut short) from the requests. None for servers without own timings.
    """
    stored = record.summary.agreement if record.summary else None
    if stored:
        return stored.client_decode_ms, stored.server_decode_ms, stored.difference_percent
    both = counted(requests(record)).dropna(subset=["decode_ms", "server_decode_ms"])
    client, server = float(both["decode_ms"].sum()), float(both["server_decode_ms"].sum())
    return (client, server, (client - server) / server * 100) if server else None


def throttled(record: BenchmarkRecord) -> tuple[float, list[str]]:
    """The share of the samples with a GPU in which one was slowed down, and why."""
    with_gpus = [row.gpus for row in record.samples if row.gpus]
    slowed = [[reason for gpu in gpus for reason in gpu.throttled or []] for gpus in with_gpus]
    share = sum(map(bool, slowed)) / len(with_gpus) if with_gpus else 0.0
    return share, sorted({reason for reasons in slowed for reason in reasons})


def _request(row: RequestRow) -> Row:
    own, server = fields(row), row.server
    decode, server_decode = row.decode_ms, server.predicted_ms if server else None
    difference = None
    if decode is not None and server_decode:
        difference = (decode - server_decode) / server_decode * 100
    return {key: own.get(key) for key in REQUEST_COLUMNS} | {
        **{name: slo.value(row, name) for name in ("itl_median_ms", "itl_max_ms")},
        "server_prompt_ms": server.prompt_ms if server else None,
        "server_prompt_tokens": server.prompt_n if server else None,
        "server_cached_tokens": server.cache_n if server else None,
        "server_output_tokens": server.predicted_n if server else None,
        "server_decode_ms": server_decode,
        "difference_percent": difference,
        "error_kind": row.error.kind if row.error else None,
        "error_message": row.error.message if row.error else None,
    }


def _arrivals_s(row: RequestRow) -> Floats:
    """Arrival of each token of a request, in seconds after the run began; latency counts from the intended start."""
    if row.ttft_ms is None or row.intended_s is None:
        return np.empty(0)
    gaps_ms = np.concatenate([[row.ttft_ms], row.itl_ms])
    return np.asarray(row.intended_s + np.cumsum(gaps_ms) / 1000, dtype=np.float64)


def _same_target(record: BenchmarkRecord, root: Path) -> list[Path]:
    """Records that can be earlier runs of the target, oldest first.

    A run id is time, target and a random end, so names alone leave out most of a large results folder.
    """
    stem = record.path.stem
    time, _, rest = stem.partition("-")
    slug = rest.rpartition("-")[0]
    try:
        paths = store.paths("benchmark", root)
    except RecordError:  # a record that was read from elsewhere has no history
        return []
    return [
        path
        for path in paths
        if path.stem != stem
        and path.stem.partition("-")[0] <= time
        and path.stem.partition("-")[2].rpartition("-")[0] == slug
    ]


def run(record: BenchmarkRecord) -> Row:
    """A run in one row: names, versions, the verdict, and the figures of its main metrics.

    ``_median``, ``_min``, ``_max``, ``_low`` and ``_high`` (95 % interval of the median, else the range) of each of
    MAIN, and the best throughput of any level of load.
    """
    header = record.header
    row: Row = {
        "run_id": record.run_id,
        "file": record.path.stem,
        "target": header.target,
        "started_at": record.started_at,
        "workload": runs.sizes(record),
        "load": runs.load_name(record),
        "model": runs.model_name(record),
        "build": runs.build_name(record),
        "release": header.server.release,
        "driver": runs.driver_name(record),
        "tag": header.tag,
        "engine": header.load.engine,
        "ok": bool(record.summary and record.summary.ok and record.summary.valid),
        "argv_sha256": header.server.argv_sha256,
    }
    throughput = stages(record)[[OUTPUT.key, REQUESTS.key]].max()
    row |= {str(name): float(best) for name, best in throughput.items()}
    measured = runs.metrics(record)
    for name in (metric.key for metric in MAIN):
        figures = measured.get(name)
        low, high = likely(figures) if figures else (None, None)
        known = fields(figures)
        parts = {part: known.get(part) for part in ("median", "min", "max")} | {"low": low, "high": high}
        row |= {f"{name}_{part}": _float(value) for part, value in parts.items()}
    return row


def likely(figures: Figures) -> tuple[float, float]:
    """Bounds of the true median: its 95 % confidence interval, else (too few points for one) the range."""
    low, high = runs.interval(figures) or (figures.min, figures.max)
    return low, high


def _float(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _changes(record: BenchmarkRecord, earlier: list[BenchmarkRecord]) -> dict[str, Change]:
    """Against the newest earlier run of the same workload and model that was finished, is valid and has the metric;
    none of a run that is itself not valid."""
    changes: dict[str, Change] = {}
    if record.summary is not None and not record.summary.valid:
        return changes
    alike = [
        other
        for other in earlier
        if other.summary is not None and other.summary.valid and comparable.measured_alike(other, record)
    ]
    judged: dict[str, dict[str, str]] = {}
    for name, now in runs.metrics(record).items():
        since = next((other for other in alike if name in runs.metrics(other)), None)
        then = runs.metrics(since)[name] if since else None
        if since is None or then is None or not then.median:
            continue
        if since.run_id not in judged:
            judged[since.run_id] = medians.verdicts_of(since, record)
        changes[name] = Change(
            since=since.run_id,
            before=then.median,
            after=now.median,
            percent=(now.median - then.median) / then.median * 100,
            distinct=judged[since.run_id].get(name) in (BETTER, WORSE),
        )
    return changes
