from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import cast

import pytest
from rich.console import Console

from nexus_tasks.batches import progress
from nexus_tasks.batches.options import Outcome
from nexus_tasks.batches.progress import Progress, duration
from nexus_tasks.batches.worker import Worker


@dataclass
class Standing:
    name: str = "gpu1/main"
    is_well: bool = True
    problem: str = "connection refused"
    under_way: dict[int, object] = field(default_factory=lambda: {1: None, 2: None})


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The moment that it is, to be set."""
    now = [0.0]
    monkeypatch.setattr(progress, "perf_counter", lambda: now[0])
    return now


def told(outcome: Outcome, worker: Standing, clock: list[float], *moments: tuple[float, int]) -> list[str]:
    """The lines that are told, of moments and the answers that there are by then."""
    text = io.StringIO()
    with Progress(Console(file=text, width=200), outcome) as given:
        for moment, answered in moments:
            clock[0], outcome.answered, outcome.output_tokens = moment, answered, 50 * answered
            given.update(cast("list[Worker]", [worker]))
    return text.getvalue().splitlines()


def test_a_line_tells_how_far_it_is_and_how_long_it_will_take(clock: list[float]) -> None:
    outcome = Outcome(1000, done_before=100)
    assert told(outcome, Standing(), clock, (0.0, 0), (5.0, 50), (10.0, 100)) == [
        "200 of 1,000, 2 under way at 1 of 1 endpoints, 10.0 rows/s, 500 tokens/s, 1 min 20 s left"
    ]


def test_failures_are_part_of_the_line(clock: list[float]) -> None:
    outcome = Outcome(1000)
    outcome.set_aside["refused"], outcome.retried["connect"] = 3, 5
    [line] = told(outcome, Standing(), clock, (0.0, 0), (10.0, 0))
    assert "3 set aside, 5 retried" in line
    assert "left" not in line


def test_an_endpoint_that_goes_and_comes_back_is_told_once_each(clock: list[float]) -> None:
    worker, text = Standing(), io.StringIO()
    with Progress(Console(file=text, width=200), Outcome(10)) as given:
        for is_well in (True, False, False, True, True):
            worker.is_well = is_well
            given.update(cast("list[Worker]", [worker]))
    assert text.getvalue().splitlines() == ["gpu1/main: connection refused", "gpu1/main is back"]


def test_nothing_is_told_where_there_is_nobody_to_tell() -> None:
    with Progress(None, Outcome(10)) as given:
        given.update(cast("list[Worker]", [Standing()]))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (80, "1 min 20 s"), (3700, "1 h 1 min"), (200_000, "2 d 7 h")],
    ids=["none", "rounded", "minutes", "hours", "days"],
)
def test_a_duration_has_its_two_largest_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text
