"""Counts of a batch, and samples."""

from __future__ import annotations

from collections import Counter

import pytest

from nexus_tasks.batches.counts import EXAMPLES, Cause, Endpoint, Reservoir, Tokens
from nexus_tasks.batches.entries import Usage


def offered(size: int, ones: range, seed: int = 0) -> list[int]:
    sample: Reservoir[int] = Reservoir(size, seed)
    for one in ones:
        if (place := sample.place()) is not None:
            sample.put(place, one)
    assert sample.offered == len(ones)
    return sample.kept


def test_a_sample_has_all_while_there_is_room_and_never_more_than_its_size() -> None:
    assert offered(10, range(7)) == list(range(7))
    assert len(set(offered(10, range(1000)))) == 10


def test_each_has_the_same_chance_to_be_in_a_sample() -> None:
    times = Counter(one for seed in range(2000) for one in offered(5, range(50), seed))
    assert len(times) == 50
    assert all(140 < count < 260 for count in times.values())  # 200 each: four and a half standard deviations


def test_a_cause_keeps_few_examples_and_counts_all() -> None:
    cause = Cause()
    for item in range(100):
        cause.meet(item, "no")
    assert cause.final == 100
    assert [item for item, _ in cause.examples] == list(range(EXAMPLES))


def test_tokens_are_unknown_until_a_server_counts_them() -> None:
    tokens = Tokens()
    tokens.add(Usage())
    assert tokens == Tokens(None, None, None)
    tokens.add(Usage(prompt_tokens=3))
    tokens.add(Usage(prompt_tokens=4, output_tokens=0))
    assert tokens == Tokens(7, 0, None)


def test_slots_are_busy_until_the_last_request_that_began() -> None:
    endpoint = Endpoint(slots=2)
    endpoint.begin(0.0, 2)
    endpoint.end(1.0)  # one of two slots is free for a second
    endpoint.begin(2.0, 1)
    endpoint.end(3.0)
    endpoint.end(9.0)  # there was no more to begin: that is no idle time
    assert endpoint.busy_share == pytest.approx(3 / 4)


def test_a_pause_between_sessions_is_no_idle_time() -> None:
    endpoint = Endpoint(slots=1)
    for start in (0.0, 100.0):
        endpoint.session()
        endpoint.begin(start, 1)
        endpoint.end(start + 1)
        endpoint.begin(start + 1, 1)
    assert endpoint.busy_share == 1.0


@pytest.mark.parametrize("slots", [None, 0])
def test_the_share_of_slots_that_nobody_knows_is_unknown(slots: int | None) -> None:
    endpoint = Endpoint(slots=slots)
    endpoint.begin(0.0, 1)
    endpoint.end(1.0)
    endpoint.begin(1.0, 1)
    assert endpoint.busy_share is None
