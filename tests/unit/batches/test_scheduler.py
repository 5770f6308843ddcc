from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, cast

from nexus_tasks.batches.failures import Problem
from nexus_tasks.batches.items import Item, Request, Row
from nexus_tasks.batches.pace import Pace
from nexus_tasks.batches.scheduler import Scheduler
from nexus_tasks.batches.window import Window, Work
from nexus_tasks.batches.worker import Worker


@dataclass(eq=False)
class Standing:
    """A worker that only takes items."""

    name: str
    latency_s: float | None = None
    slots: int = 2
    is_here: bool = True
    under_way: dict[int, Work] = field(default_factory=dict)
    own: deque[Work] = field(default_factory=deque)
    alone: Work | None = None
    silent_s: float = 0.0
    pace: Pace = field(default_factory=Pace)

    def __post_init__(self) -> None:
        self.pace.latency_s = self.latency_s

    @property
    def is_well(self) -> bool:
        return self.is_here

    @property
    def rate(self) -> float:
        return self.slots / self.latency_s if self.latency_s else 0.0

    def has_room(self, *, plenty: bool) -> bool:
        return self.is_here and self.alone is None and len(self.under_way) < self.slots + plenty

    def recall(self) -> list[Work]:
        return []

    def take(self, work: Work) -> None:
        self.under_way[work.item.index] = work


def work(number: int, **more: Any) -> Work:
    request = Request("/v1/completions", b'{"prompt": "%d"}' % number, bytes(16))
    return Work(Item(number, Row(number, number, str(number), {}), 0, request), request, **more)


def scheduled(count: int, *workers: Standing) -> Scheduler:
    window = Window()
    for number in range(count):
        window.add(work(number))
    return Scheduler(cast("list[Worker]", list(workers)), window)


def assigned(scheduler: Scheduler, *, is_all_read: bool = False) -> dict[str, list[int]]:
    """The items that are handed out now, by worker."""
    found: dict[str, list[int]] = {}
    for worker, one in scheduler.assignments(is_all_read=is_all_read):
        worker.take(one)
        found.setdefault(worker.name, []).append(one.item.index)
    return found


def test_endpoints_take_turns_until_all_are_full() -> None:
    assert assigned(scheduled(10, Standing("a"), Standing("b"))) == {"a": [0, 2, 4], "b": [1, 3, 5]}


def test_nothing_waits_at_a_server_while_items_are_few() -> None:
    assert assigned(scheduled(5, Standing("a")), is_all_read=True) == {"a": [0, 1, 2]}
    assert assigned(scheduled(4, Standing("a")), is_all_read=True) == {"a": [0, 1]}


def test_an_endpoint_that_is_away_gets_nothing() -> None:
    assert assigned(scheduled(2, Standing("a", is_here=False), Standing("b"))) == {"b": [0, 1]}


def test_the_last_items_are_left_to_the_endpoint_that_ends_them_earlier() -> None:
    fast, slow = Standing("fast", latency_s=1.0), Standing("slow", latency_s=10.0)
    assert assigned(scheduled(4, slow, fast), is_all_read=True) == {"fast": [0, 1]}


def test_a_slow_endpoint_works_as_long_as_the_fast_one_has_enough() -> None:
    fast, slow = Standing("fast", latency_s=1.0), Standing("slow", latency_s=10.0)
    assert "slow" in assigned(scheduled(60, slow, fast), is_all_read=True)


def test_a_slow_endpoint_that_is_the_only_one_has_the_last_items() -> None:
    fast, slow = Standing("fast", latency_s=1.0, is_here=False), Standing("slow", latency_s=10.0)
    assert assigned(scheduled(1, slow, fast), is_all_read=True) == {"slow": [0]}


def test_nothing_is_left_to_an_endpoint_that_takes_none_or_answers_no_longer() -> None:
    paused, suspect = Standing("fast", latency_s=1.0), Standing("fast", latency_s=1.0, alone=work(9))
    paused.pace.overloaded(Problem("rate_limited", "slow down", 429, 3600.0))
    hung = Standing("fast", latency_s=1.0, silent_s=3.0, under_way={8: work(8), 9: work(9)})
    for fast in (paused, suspect, hung):
        found = assigned(scheduled(1, Standing("slow", latency_s=10.0), fast), is_all_read=True)
        assert found["slow"] == [0], fast


def test_what_the_fast_endpoint_has_under_way_comes_before_what_is_left_to_it() -> None:
    slow = Standing("slow", latency_s=10.0)
    busy = Standing("fast", latency_s=4.0, under_way={number: work(number) for number in range(10, 15)})
    assert assigned(scheduled(1, slow, busy), is_all_read=True) == {"slow": [0]}


def test_what_is_asked_again_waits_for_its_moment() -> None:
    scheduler = scheduled(0, Standing("a"))
    scheduler.again(work(7), 3600.0)
    scheduler.again(work(8))
    assert assigned(scheduler) == {"a": [8]}
    assert scheduler.waiting == 1


def test_a_suspect_is_asked_when_nothing_else_is_under_way_there() -> None:
    worker = Standing("a")
    scheduler = scheduled(2, worker)
    assert assigned(scheduler) == {"a": [0, 1]}
    scheduler.again_alone(work(7))
    assert assigned(scheduler) == {}
    worker.under_way.clear()
    assert assigned(scheduler) == {"a": [7]}


def test_what_only_one_endpoint_can_do_is_its_own() -> None:
    larger, other = Standing("larger"), Standing("other")
    scheduler = scheduled(1, other, larger)
    larger.own.append(work(7))
    assert assigned(scheduler) == {"other": [0], "larger": [7]}
