"""A stage of load: closed and open loop, phases, how it ends, and whether the generator was good enough."""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any

import pytest

from nexus_tasks.load import health
from nexus_tasks.load.requests import Limits, Stage
from nexus_tasks.records.benchmark_rows import RequestRow
from tests.support.known import known
from tests.support.load_runs import asked, drive
from tests.support.raw_server import Peer, quick, serving, slow

pytestmark = pytest.mark.alone


def test_rows_tell_phase_and_place_of_each_request() -> None:
    with serving(quick) as address:
        rows, watch = drive(
            address, Stage("closed", concurrency=2, requests=6, warmup=3), index=10, number=4, limits=Limits()
        )
    rows.sort(key=lambda row: row.index)
    assert [row.index for row in rows] == list(range(10, 19))
    assert [row.phase for row in rows] == ["warmup"] * 3 + ["run"] * 6
    assert {row.stage for row in rows} == {4}
    assert rows[4].key == "item-4"
    assert watch.stopped is None
    assert all(row.intended_s == row.start_s for row in rows)


def test_requests_of_the_ramp_are_on_top_of_those_that_count() -> None:
    with serving(slow) as address:
        rows, _ = drive(address, Stage("closed", concurrency=4, requests=10, ramp_s=0.3))
    phases = [row.phase for row in rows]
    assert phases.count("run") == 10
    assert phases.count("ramp") >= 4
    assert set(phases) == {"ramp", "run"}


def test_a_duration_ends_the_stage_and_what_is_under_way_is_finished() -> None:
    with serving(slow) as address:
        rows, watch = drive(address, Stage("closed", concurrency=2, duration_s=0.5))
    assert all(row.ok for row in rows)
    assert len(rows) >= 4
    assert max(known(row.start_s) for row in rows) - watch.begun_s < 1  # the last may have been begun late


@pytest.mark.parametrize("rate", [{"mode": "closed", "concurrency": 1}, {"mode": "constant", "rate_per_s": 20}])
def test_a_duration_begins_after_the_warm_up(rate: dict[str, Any]) -> None:
    with serving(slow) as address:
        rows, watch = drive(address, Stage(**rate, warmup=20, duration_s=0.8))  # the warm-up takes longer
    rows.sort(key=lambda row: row.index)
    assert [row.phase for row in rows[:20]] == ["warmup"] * 20
    assert len(rows) >= 23
    starts = [known(row.intended_s) for row in rows if row.phase == "run"]
    assert starts[0] == watch.begun_s
    assert 0.3 < starts[-1] - starts[0] < 1.3


def test_the_users_of_two_processes_share_the_requests() -> None:
    with serving(slow) as address:
        rows, watch = drive(address, Stage("closed", concurrency=4, requests=16), processes=2)
    assert sorted(row.index for row in rows) == list(range(16))
    assert {row.worker for row in rows} == {0, 1}
    assert watch.processes == 2


def test_at_a_rate_latency_counts_from_when_a_request_was_due() -> None:
    """One worker thread: while the first request takes half a second, others wait though they were due."""
    busy = threading.Lock()

    def answer(peer: Peer) -> bool:
        with busy:
            if peer.number == 0:
                time.sleep(0.5)
            return quick(peer)

    with serving(answer) as address:
        rows, watch = drive(address, Stage("constant", rate_per_s=20, requests=6))
    rows.sort(key=lambda row: row.index)
    steps = [known(later.intended_s) - known(row.intended_s) for row, later in itertools.pairwise(rows)]
    assert steps == pytest.approx([0.05] * 5, abs=1e-4)
    assert known(rows[1].ttft_ms) > 400
    assert all(known(row.late_ms) >= 0 for row in rows)
    assert watch.in_flight_asked is None


def test_bursts_begin_together() -> None:
    with serving(quick) as address:
        rows, _ = drive(address, Stage("burst", rate_per_s=20, burst=3, requests=6))
    assert len({row.intended_s for row in rows}) == 2


def test_the_first_requests_at_a_rate_are_not_held_back_and_sent_together() -> None:
    with serving(quick) as address:
        rows, _ = drive(address, Stage("constant", rate_per_s=50, requests=12))
    starts = sorted(known(row.start_s) for row in rows)
    assert starts[-1] - starts[0] > 0.05  # of the 0.22 s that they should take


def test_a_generator_that_begins_requests_late_is_not_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "MAX_DISPATCH_DELAY_P99_MS", -1.0)  # nothing can be as early as that
    with serving(quick) as address:
        _, at_a_rate = drive(address, Stage("constant", rate_per_s=50, requests=5))
        _, closed = drive(address, Stage("closed", concurrency=1, requests=5))
    assert any("the load generator did not keep up" in reason for reason in at_a_rate.reasons)
    assert not any("did not keep up" in reason for reason in closed.reasons)


def test_a_rate_stage_of_a_duration_begins_as_many_as_are_due() -> None:
    with serving(quick) as address:
        rows, watch = drive(address, Stage("constant", rate_per_s=50, duration_s=0.5), processes=2)
    assert len(rows) == 25
    assert watch.stopped is None


def test_the_stage_ends_when_there_is_enough() -> None:
    rows: list[RequestRow] = []
    with serving(slow) as address:
        _, watch = drive(
            address, Stage("closed", concurrency=2, requests=100_000), on_rows=rows.extend, enough=lambda: len(rows) > 5
        )
    assert watch.stopped == "enough"
    assert 5 < len(rows) < 1000
    assert all(row.ok for row in rows)


def test_the_stage_ends_when_too_much_fails() -> None:
    def answer(peer: Peer) -> bool:
        if peer.number % 2:
            peer.raw(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n")
            return True
        return quick(peer)

    with serving(answer) as address:
        rows, watch = drive(address, Stage("closed", concurrency=1, requests=100_000), Limits(max_error_rate=0.2))
    assert watch.stopped == "errors"
    assert 10 <= len(rows) < 1000


def test_a_supply_that_ends_early_is_told() -> None:
    with serving(quick) as address:
        rows, watch = drive(address, Stage("closed", concurrency=2, requests=9), items=asked(count=4))
    assert (len(rows), watch.stopped) == (4, "exhausted")


def test_fewer_requests_than_users_make_the_stage_invalid() -> None:
    with serving(quick) as address:
        _, watch = drive(address, Stage("closed", concurrency=4, requests=3))
    assert watch.valid is False
    assert "there were 3 requests for 4 users" in watch.reasons


def test_a_request_of_each_user_makes_the_stage_invalid_too() -> None:
    with serving(quick) as address:
        _, watch = drive(address, Stage("closed", concurrency=4, requests=4))
    assert "each of 4 users sent one request: nothing but the first wave was measured" in watch.reasons


def test_the_wall_clock_plays_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(quick) as address:
        monkeypatch.setattr(time, "time", lambda: pytest.fail("the wall clock was asked"))
        rows, _ = drive(address, Stage("closed", concurrency=1, requests=3))
    assert all(row.ok for row in rows)
