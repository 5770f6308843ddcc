"""Frames that reports are drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from nexus_tasks.core.errors import ReportError
from nexus_tasks.records import store
from nexus_tasks.reports import earlier_runs, frames, index
from nexus_tasks.views import runs
from tests.report_records import NOON, failure, fixed, request, sample, write

HOUR = timedelta(hours=1)


def test_inter_token_latencies_leave_out_warm_ups_and_failures(tmp_path: Path) -> None:
    rows = [request(0, itl_ms=[50.0] * 4), request(1), failure(2, "timeout", "no token within 30 s")]
    record = store.load(write(tmp_path, requests=rows))
    assert frames.inter_token_ms(record).tolist() == [3.0, 4.0, 3.0, 2.0]


def test_the_token_rate_adds_up_to_the_tokens_after_the_first(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    rows = [request(i, i * 2.0, itl_ms=rng.gamma(5, 2, 63).tolist()) for i in range(4)]
    rate = frames.token_rate(store.load(write(tmp_path, requests=rows)))
    width = rate["t_s"].diff().dropna().unique()
    assert np.ptp(width) < 1e-9
    assert rate["tokens_per_second"].sum() * width[0] == pytest.approx(4 * 63)


def test_the_token_rate_of_concurrent_requests_is_their_sum(tmp_path: Path) -> None:
    steady = [10.0] * 100  # 100 tokens/s each
    rows = [request(1, 0.0, itl_ms=steady), request(2, 0.0, itl_ms=steady)]
    rate = frames.token_rate(store.load(write(tmp_path, requests=rows)))
    middle = rate[(rate["t_s"] > 0.2) & (rate["t_s"] < 0.9)]
    assert middle["tokens_per_second"].to_numpy() == pytest.approx(200.0)


def test_a_request_that_was_sent_late_is_under_way_until_it_ends(tmp_path: Path) -> None:
    late = request(1, 0.0) | {"start_s": 0.9, "late_ms": 900.0, "total_ms": 1000.0}
    flight = frames.in_flight(store.load(write(tmp_path, requests=[late])))
    width = flight["t_s"].diff().iloc[1]
    assert (flight["in_flight"] * width).sum() == pytest.approx(0.1)  # a second after it was due, not after it was sent


def test_a_run_without_a_token_has_an_empty_token_rate(tmp_path: Path) -> None:
    record = store.load(write(tmp_path, requests=[failure(1, "http_status", "HTTP 503")]))
    assert frames.token_rate(record).empty


def test_each_gpu_has_columns_of_its_own(tmp_path: Path) -> None:
    gpus = [{"index": i, "utilization_percent": 50.0 + i, "power_w": None} for i in (0, 1)]
    table = frames.samples(store.load(write(tmp_path, samples=[sample(0.0, gpus), sample(0.5, gpus)])))
    assert table["gpu1_utilization_percent"].tolist() == [51.0, 51.0]
    assert table["gpu0_power_w"].isna().all()


def test_the_difference_between_client_and_server_is_in_percent_of_the_server(tmp_path: Path) -> None:
    table = frames.requests(store.load(write(tmp_path)))
    assert table["difference_percent"].to_numpy() == pytest.approx(1.0)


def test_history_ends_with_the_run_itself(tmp_path: Path) -> None:
    write(tmp_path, NOON - HOUR)
    record = store.load(write(tmp_path, NOON))
    write(tmp_path, NOON + timedelta(milliseconds=1))  # the same second, so the same time in its run id
    write(tmp_path, NOON + HOUR)
    assert [row["started_at"] for row in frames.history(record, tmp_path).runs.to_dict("records")] == [
        NOON,
        NOON - HOUR,
    ]


def test_history_is_of_one_target(tmp_path: Path) -> None:
    write(tmp_path, NOON - HOUR, target="localhost/other")
    write(tmp_path, NOON - 2 * HOUR, target="localhost-main")  # the same slug in its run id
    record = store.load(write(tmp_path, NOON))
    assert len(frames.history(record, tmp_path).runs) == 1


def test_history_keeps_the_newest_runs_when_it_is_limited(tmp_path: Path) -> None:
    for hours in (3, 2, 1):
        write(tmp_path, NOON - hours * HOUR)
    record = store.load(write(tmp_path, NOON))
    shown = frames.history(record, tmp_path, limit=2).runs
    assert shown["started_at"].min() == NOON - 2 * HOUR


def test_the_change_is_against_the_last_run_of_the_same_workload_and_model(tmp_path: Path) -> None:
    like = write(tmp_path, NOON - 4 * HOUR, requests=[request(1, ttft_ms=80.0)])
    write(tmp_path, NOON - 3 * HOUR, requests=[request(1, ttft_ms=10.0)], sha256="ef" * 32)
    write(tmp_path, NOON - 2 * HOUR, requests=[request(1, ttft_ms=20.0)], prompt_tokens=fixed(512))
    write(tmp_path, NOON - HOUR, requests=[request(1, ttft_ms=30.0)], finished=False)
    record = store.load(write(tmp_path, NOON, requests=[request(1, ttft_ms=100.0)], seed=5))
    change = frames.history(record, tmp_path).changes["ttft_ms"]
    assert (change.since, change.before, change.after) == (like.stem, 80.0, 100.0)
    assert change.percent == pytest.approx(25.0)


@pytest.mark.parametrize(
    ("before", "after", "distinct"),
    [
        ((80.0, 85.0, 88.0, 90.0), (100.0, 103.0, 106.0, 110.0), True),
        ((80.0, 85.0, 88.0, 101.0), (100.0, 103.0, 106.0, 110.0), False),
        ((80.0, 85.0, 90.0), (100.0, 103.0, 110.0), False),  # three and three lie apart by chance once in ten cases
        ((80.0,), (160.0,), False),
        (tuple(100.0 + n / 100 for n in range(50)), tuple(103.0 + n / 100 for n in range(50)), False),  # the drift
        (tuple(100.0 + n / 100 for n in range(50)), tuple(108.0 + n / 100 for n in range(50)), True),
    ],
)
def test_a_change_is_distinct_when_neither_noise_nor_drift_explains_it(
    tmp_path: Path, before: Sequence[float], after: Sequence[float], distinct: bool
) -> None:
    for moment, times in ((NOON - HOUR, before), (NOON, after)):
        path = write(tmp_path, moment, requests=[request(i, ttft_ms=t) for i, t in enumerate(times, start=1)])
    record = store.load(path)
    assert frames.history(record, tmp_path).changes["ttft_ms"].distinct is distinct


@pytest.mark.parametrize("which", ["earlier", "later"])
def test_there_is_no_change_from_or_to_a_run_that_is_not_valid(tmp_path: Path, which: str) -> None:
    lost = {"valid": False, "reasons": ["too busy"]}
    write(tmp_path, NOON, trailer=lost if which == "earlier" else {})
    now = store.load(write(tmp_path, NOON + HOUR, trailer=lost if which == "later" else {}))
    past = frames.history(now, tmp_path, limit=10)
    assert past.changes == {}
    assert "no two are valid and finished" in earlier_runs.listed(past).html


def test_a_damaged_earlier_record_is_named_and_does_not_stop_the_history(tmp_path: Path) -> None:
    damaged = write(tmp_path, NOON - HOUR)
    damaged.write_text("{}\n" + damaged.read_text())
    write(tmp_path, NOON - 2 * HOUR)
    past = frames.history(store.load(write(tmp_path, NOON)), tmp_path)
    assert len(past.runs) == 2
    assert past.unread[0].startswith(f"{damaged}, line 1:")


def test_a_run_that_was_cut_short_is_summarised_from_its_requests(tmp_path: Path) -> None:
    complete, cut = (store.load(write(tmp_path, finished=finished)) for finished in (True, False))
    assert cut.summary is None
    assert runs.metrics(cut) == runs.metrics(complete)
    assert frames.agreement(cut) == pytest.approx(frames.agreement(complete), rel=1e-4)
    assert runs.verdict(cut)[0] == "bad"


# --- the index


def test_a_page_in_another_encoding_does_not_stop_the_index(tmp_path: Path) -> None:
    page = tmp_path / "compare" / "old.html"
    page.parent.mkdir()
    page.write_bytes(b"<title>caf\xe9</title>")
    assert "caf\N{REPLACEMENT CHARACTER}" in index.write(tmp_path / "results", tmp_path).read_text()


def test_an_index_that_cannot_be_written_leaves_nothing_half_written(tmp_path: Path) -> None:
    (tmp_path / "index.html").mkdir()
    with pytest.raises(ReportError):
        index.write(tmp_path / "results", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]
