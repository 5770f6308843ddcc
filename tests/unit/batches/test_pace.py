from __future__ import annotations

import pytest

from nexus_tasks.batches import pace
from nexus_tasks.batches.failures import Problem
from nexus_tasks.batches.pace import Pace

BROKEN = Problem("http_status", "HTTP 500: broken", 500)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The moment that it is, to be set."""
    now = [100.0]
    monkeypatch.setattr(pace, "perf_counter", lambda: now[0])
    return now


def test_an_endpoint_that_failed_often_in_a_row_is_failing_and_gets_pauses() -> None:
    given = Pace()
    for _ in range(pace.FAILURES_IN_A_ROW - 1):
        given.failed(BROKEN)
    assert (given.is_failing, given.is_paused) == (False, False)
    given.failed(BROKEN)
    assert (given.is_failing, given.is_paused) == (True, True)
    assert given.last_problem == "http_status: HTTP 500: broken"


def test_an_answer_and_a_refusal_show_that_an_endpoint_is_well() -> None:
    answering, refusing = Pace(), Pace()
    for _ in range(pace.FAILURES_IN_A_ROW):
        answering.failed(BROKEN)
        refusing.failed(BROKEN)
    answering.succeeded(1.0)
    refusing.refused_one()
    assert not answering.is_failing
    assert not refusing.is_failing


def test_pauses_of_an_endpoint_that_fails_grow_to_a_limit(clock: list[float]) -> None:
    given, pauses_s = Pace(), []
    for _ in range(pace.FAILURES_IN_A_ROW - 1):
        given.failed(BROKEN)
    for _ in range(5):
        given.failed(BROKEN)
        began = clock[0]
        while given.is_paused:
            clock[0] += 0.25
        pauses_s.append(clock[0] - began)
    assert pauses_s == [0.5, 1.0, 2.0, 4.0, 4.0]


def test_failures_that_come_together_make_one_pause(clock: list[float]) -> None:
    given = Pace()
    for _ in range(20):
        given.failed(BROKEN)
    clock[0] += pace.PAUSE_S
    assert not given.is_paused


def test_a_pause_that_the_server_asks_for_is_kept(clock: list[float]) -> None:
    given = Pace()
    given.overloaded(Problem("rate_limited", "slow", 429, 7.0))
    clock[0] += 6.9
    assert given.is_paused
    clock[0] += 0.1
    assert not given.is_paused


def test_a_server_without_slots_gets_more_requests_until_it_refuses_some(clock: list[float]) -> None:
    given = Pace()
    before = given.limit
    for _ in range(200):
        given.succeeded(1.0)
    grown = given.limit
    given.overloaded(Problem("rate_limited", "slow", 429, 1.0))
    given.overloaded(Problem("rate_limited", "slow", 429, 1.0))  # of the same moment
    assert before < grown <= pace.MAX_LIMIT
    assert given.limit == grown // 2


def test_the_latency_follows_the_latest_answers() -> None:
    given = Pace()
    assert given.latency_s is None
    for lasted_s in [1.0] * 20 + [4.0] * 20:
        given.succeeded(lasted_s)
    assert given.latency_s == pytest.approx(4.0, rel=0.05)
