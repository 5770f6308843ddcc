"""The turns of a conversation know the answers before them; users wait where a server wants it or is gone."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest

from nexus_tasks.load.requests import Item, Request, Stage
from tests.conftest import free_port
from tests.support.known import known
from tests.support.load_runs import drive, error
from tests.support.raw_server import CHAT, DONE, EVENTS, FINISH, Peer, delta, quick, serving

pytestmark = pytest.mark.alone


def answered(texts: Sequence[str], ending: str) -> bytes:
    return json.dumps({"said": [*texts, ending]}).encode()


def test_turns_of_a_conversation_know_the_answers_before_them() -> None:
    bodies: list[Any] = []

    def answer(peer: Peer) -> bool:
        bodies.append(json.loads(peer.body))
        peer.raw(EVENTS)
        peer.say(delta(content=f"answer to {bodies[-1]['said'][-1]}"), FINISH, DONE)
        peer.end()
        return True

    turns = tuple(Request(CHAT, functools.partial(answered, ending=name)) for name in ("one", "two", "three"))
    with serving(answer) as address:
        rows, _ = drive(address, Stage("closed", concurrency=1, requests=6), items=iter([Item(turns)] * 2))
    assert bodies[:3] == [
        {"said": ["one"]},
        {"said": ["answer to one", "two"]},
        {"said": ["answer to one", "answer to two", "three"]},
    ]
    assert [(row.conversation, row.turn) for row in rows] == [(c, t) for c in range(2) for t in range(3)]
    assert rows[0].answer is None


def test_a_conversation_whose_turn_failed_is_given_up_and_its_user_goes_on() -> None:
    def answer(peer: Peer) -> bool:
        if peer.number == 0:
            peer.raw(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n")
            return True
        return quick(peer)

    turns = tuple(Request("/completion", b"{}") for _ in range(3))
    with serving(answer) as address:
        rows, _ = drive(address, Stage("closed", concurrency=1, requests=4), items=iter([Item(turns)] * 2))
    assert [(row.conversation, row.turn, row.ok) for row in rows] == [
        (0, 0, False), (1, 0, True), (1, 1, True), (1, 2, True),
    ]  # fmt: skip


def test_a_conversation_that_nobody_answers_is_not_asked_for_again_without_a_pause() -> None:
    turns = tuple(Request("/completion", b"{}") for _ in range(3))
    items = itertools.repeat(Item(turns))
    rows, _ = drive(f"http://127.0.0.1:{free_port()}", Stage("closed", concurrency=1, duration_s=1.0), items=items)
    assert {error(row)[0] for row in rows} == {"connect"}
    assert len(rows) <= 6  # a pause is a quarter of a second


@pytest.mark.parametrize("status", [b"429 Too Many", b"503 Busy"])
def test_a_user_who_is_told_to_wait_waits_and_the_request_has_failed(status: bytes) -> None:
    def answer(peer: Peer) -> bool:
        if peer.number == 0:
            peer.raw(b"HTTP/1.1 %s\r\nRetry-After: 0.4\r\nContent-Length: 2\r\n\r\n{}" % status)
        else:
            peer.completion(2)
            peer.end()
        return True

    with serving(answer) as address:
        (first, second), _ = drive(address, Stage("closed", concurrency=1, requests=2))
    assert error(first)[0] == "http_status"
    assert known(first.error).retry_after_s == 0.4
    assert second.ok is True
    assert known(second.start_s) - known(first.start_s) > 0.4


def test_a_user_whose_connection_breaks_without_an_answer_pauses_too() -> None:
    with serving(lambda peer: None) as address:
        rows, _ = drive(address, Stage("closed", concurrency=1, duration_s=1.0))
    assert {error(row)[0] for row in rows} == {"disconnected"}
    assert len(rows) <= 6
