from __future__ import annotations

from collections import Counter

import pytest

from nexus_tasks.batches import window
from nexus_tasks.batches.items import Item, Request, Row
from nexus_tasks.batches.window import Window, Work


def work(number: int, prefix: str | None = None, body: bytes | None = None) -> Work:
    content = b'{"prompt": "%d"}' % number if body is None else body
    request = Request("/v1/completions", content, bytes(16), prefix=prefix.encode() if prefix else None)
    return Work(Item(number, Row(number, number, str(number), {}), 0, request), request)


def filled(*prefixes: str | None) -> Window:
    made = Window()
    for number, prefix in enumerate(prefixes):
        made.add(work(number, prefix))
    return made


def taken(given: Window, *endpoints: str) -> list[int | None]:
    found = [given.take(endpoint) for endpoint in endpoints]
    return [one.item.index if one else None for one in found]


def test_items_without_anything_in_common_come_in_their_order() -> None:
    assert taken(filled(None, None, None), "a", "b", "a", "a") == [0, 1, 2, None]


def test_an_endpoint_goes_on_with_one_prefix_as_long_as_there_is_some_of_it() -> None:
    assert taken(filled("p", "q", "p", "q"), "a", "a", "a", "a") == [0, 2, 1, 3]


def test_two_endpoints_keep_to_a_prefix_each_until_there_is_no_other() -> None:
    given = filled("p", "q", "p", "q", "p")
    assert taken(given, "a", "b", "a", "b", "b") == [0, 1, 2, 3, 4]


def test_requests_with_a_long_common_beginning_are_kept_together() -> None:
    given = Window()
    beginnings = [b"x" * window.BEGINNING_BYTES, b"y" * window.BEGINNING_BYTES]
    for number in range(4):
        given.add(work(number, body=beginnings[number % 2] + b"%d" % number))
    assert taken(given, "a", "a", "a", "a") == [0, 2, 1, 3]


def test_what_was_sent_before_comes_first() -> None:
    given = filled(None, None)
    again = given.take("a")
    assert again is not None
    given.put_back(again)
    assert taken(given, "a", "a") == [0, 1]


def test_an_endpoint_that_fails_gets_what_was_read_last() -> None:
    given = filled("p", "q", "p", "q")
    again = given.take("a")
    assert again is not None
    given.put_back(again)
    newest = [given.take("a", newest=True) for _ in range(4)]
    assert [one.item.index if one else None for one in newest] == [3, 1, 2, 0]


def test_a_prefix_without_end_does_not_keep_the_others_waiting_for_ever() -> None:
    given, next_number = Window(max_items=8), 0
    seen: Counter[bytes | None] = Counter()
    for _ in range(40):
        while not given.is_full:
            given.add(work(next_number, "pq"[next_number % 2]))
            next_number += 1
        one = given.take("a")
        assert one is not None
        seen[one.request.prefix] += 1
    assert min(seen.values()) > 10


@pytest.mark.parametrize(("count", "size"), [(4, 10), (2, window.MAX_BYTES // 2)], ids=["items", "bytes"])
def test_a_window_is_full_with_many_items_and_with_large_ones(count: int, size: int) -> None:
    given = Window(max_items=4)
    for number in range(count):
        assert not given.is_full
        given.add(work(number, body=b"x" * size))
    assert given.is_full
    given.take("a")
    assert not given.is_full
