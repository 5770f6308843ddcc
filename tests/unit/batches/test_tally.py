"""Tally of a batch: each item counts once, work that was done counts however it ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from nexus_tasks.batches import journal
from nexus_tasks.batches.counts import ServerKey
from nexus_tasks.batches.entries import (
    KINDS,
    Answer,
    Answered,
    Begun,
    Entry,
    Failed,
    Reopened,
    Server,
    Session,
    SetAside,
    Usage,
)
from nexus_tasks.batches.state import State
from nexus_tasks.batches.tally import ANSWER_LETTERS, MAX_REASONS, OTHERS, Tally, answer_text
from tests.batch_runs import Run, unequal
from tests.batch_runs import Server as Simulated

RIG = "rig/main"
TIMES = {"latency_ms": 1000.0, "ttft_ms": 100.0}


def answered(item: int, at: float = 1.0, **told: Any) -> Answered:
    made = {"key": "aa", "endpoint": RIG, "model": "qwen", "build": "b1", "answer": Answer(text="Hi"),
            "usage": Usage(3, 5), **TIMES, **told}  # fmt: skip
    return Answered(item=item, at=at, **made)


def counted(entries: Sequence[Entry], items: int, secrets: Sequence[str] = ()) -> Tally:
    """The tally of a journal with these entries."""
    state, placed = State(items), []
    offset = 0
    for entry in entries:
        line = journal.line_of(entry)
        state.apply(line[9:-1], offset)
        placed.append((offset, entry))
        offset += len(line)
    tally = Tally(state, secrets)
    for place, entry in placed:
        tally.add(place, entry)
    tally.close()
    return tally


def test_the_tally_agrees_with_the_state() -> None:
    run = unequal()
    run.entries += [Reopened(list(range(50)), run.at, "retry")]
    run.work(range(50))
    state, offset = State(400), 0
    for entry in run.entries:
        line = journal.line_of(entry)
        state.apply(line[9:-1], offset)
        offset += len(line)
    tally = counted(run.entries, 400)
    assert {kind: one.final for kind, one in tally.failures.items() if one.final} == state.set_aside()
    assert {ServerKey(one.endpoint, one.model, one.build): count for one, count in state.answers_by().items()} == {
        key: one.answered for key, one in tally.servers.items() if one.answered
    }
    assert tally.answered + tally.set_aside == state.done == 400


def test_an_item_that_was_reopened_counts_by_its_last_end_and_its_work_twice() -> None:
    tally = counted(
        [
            Session(0.0), Begun([0, 1], RIG, 0.0), answered(0, valid=False, schema="s", invalid_reason="no"),
            SetAside(1, 1.0, "stalled", "silence", 1, RIG), Session(1.0, "complete"), Reopened([0, 1], 2.0, "changed"),
            Session(2.0), Begun([0, 1], RIG, 2.0), answered(0, 3.0, valid=True, schema="s"), answered(1, 3.0),
            Session(3.0, "complete"),
        ],
        2,
    )  # fmt: skip
    assert (tally.answered, tally.set_aside, tally.sent, tally.repeated) == (2, 0, 4, 2)
    assert (tally.schemas["s"].checked, tally.schemas["s"].valid, tally.schemas["s"].reasons) == (1, 1, {})
    assert tally.endpoints[RIG].tokens.output == 15
    assert (tally.failures["stalled"].final, tally.failures["stalled"].attempts) == (0, 1)
    assert tally.clock.seconds == 2.0


def test_items_that_are_twins_cost_nothing() -> None:
    tally = counted([Session(0.0), Begun([0], RIG, 0.0), answered(0), answered(1, same_as=0)], 2)
    assert (tally.answered, tally.twins, tally.sent) == (2, 1, 1)
    assert tally.endpoints[RIG].tokens.output == 5
    assert tally.requests.offered == 1


def test_attempts_that_failed_count_by_cause_whatever_became_of_the_item() -> None:
    tally = counted(
        [
            Session(0.0), Begun([0, 1], RIG, 0.0), Failed(0, RIG, 0.5, "disconnected", "cut off"),
            Failed(1, RIG, 0.5, "disconnected", "cut off, too"), Begun([0, 1], RIG, 0.6), answered(0),
            SetAside(1, 2.0, "attempts", "2 attempts", 2, RIG),
        ],
        2,
    )  # fmt: skip
    assert (tally.failures["disconnected"].attempts, tally.failures["disconnected"].final) == (2, 0)
    assert tally.failures["disconnected"].tried == (0, "cut off")
    assert tally.failures["attempts"].examples == [(1, "2 attempts")]
    assert (tally.endpoints[RIG].requests, tally.endpoints[RIG].answered, tally.endpoints[RIG].failed) == (4, 1, 3)
    assert tally.repeated == 2


def test_an_item_that_was_never_sent_is_no_failure_of_an_endpoint() -> None:
    tally = counted([Session(0.0), SetAside(0, 0.0, "malformed", "line 1 is not valid JSON")], 1)
    assert tally.set_aside == 1
    assert tally.endpoints == {}


def test_sessions_are_told_apart_by_how_they_ended() -> None:
    run = Run({RIG: Simulated(slots=1)})
    left = run.work(range(20), seconds=3.0, ended=None)  # killed
    run.at += 500.0
    run.work(left, ended="the disk is full")
    sessions = list(counted(run.entries, 20).sessions)
    assert [one.ended for one in sessions] == [None, "the disk is full"]
    assert 0.0 < sessions[0].seconds <= 3.0
    assert sessions[1].t_s == pytest.approx(sessions[0].seconds)


def test_a_server_that_came_back_as_another_build_is_one_of_two() -> None:
    tally = counted(
        [
            Session(0.0), Server(RIG, 0.0, "qwen", "b1", 4, 8192), Begun([0, 1, 2], RIG, 0.0), answered(2), answered(0),
            Server(RIG, 1.0, "qwen", "b2", 8, 8192), answered(1, build="b2"),
        ],
        3,
    )  # fmt: skip
    first, second = tally.servers[ServerKey(RIG, "qwen", "b1")], tally.servers[ServerKey(RIG, "qwen", "b2")]
    assert (first.answered, first.first, first.last, first.slots) == (2, 0, 2, 4)
    assert (second.answered, second.first, second.last, second.slots) == (1, 1, 1, 8)


def test_names_that_servers_make_up_are_counted_together_beyond_a_limit() -> None:
    entries = [
        answered(item, model=f"m{item}", valid=False, schema=f"s{item}", invalid_reason=f"r{item}",
                 answer=Answer(finish_reason=f"end {item}"))
        for item in range(3000)
    ]  # fmt: skip
    tally = counted(entries, 3000)
    for names in (tally.servers, tally.schemas, tally.finish_reasons):
        assert len(names) <= 201
    assert tally.servers[ServerKey(OTHERS, OTHERS, None)].answered == 2800
    assert tally.finish_reasons[OTHERS] == 2800
    assert len(tally.schemas[OTHERS].reasons) == MAX_REASONS + 1


def test_no_secret_is_kept() -> None:
    secret = "-".join(["sesame", "open", "12345"])
    entries: list[Entry] = [
        Session(0.0), SetAside(0, 0.0, "http_status", f"http://me:pw@rig/v1: {secret}\nis wrong"),
        answered(1, valid=False, schema="s", invalid_reason=f"{secret} is no city", answer=Answer(text=secret)),
        Session(9.0, f"no such key: {secret}"),
    ]  # fmt: skip
    tally = counted(entries, 2, [secret])
    assert tally.failures["http_status"].examples == [(0, "http://rig/v1: *** is wrong")]
    [(reason, cause)] = tally.schemas["s"].reasons.items()
    assert (reason, cause.examples) == ("*** is no city", [(1, "***")])
    assert tally.sessions[-1].ended == "no such key: ***"
    assert tally.text("x" * (ANSWER_LETTERS - 6) + secret, ANSWER_LETTERS) == "x" * (ANSWER_LETTERS - 6) + "***"


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (Answer(text="Hi"), "Hi"),
        (Answer(), ""),
        (Answer(text="Let me look.", tool_calls=[{"name": "weather"}]), 'Let me look.\n[{"name": "weather"}]'),
        (Answer(embedding=[0.1] * 1024), "an embedding of 1,024 numbers"),
    ],
)
def test_any_answer_has_a_text(answer: Answer, text: str) -> None:
    assert answer_text(answer) == text


def test_a_kind_that_is_not_known_is_counted_like_the_others() -> None:
    assert "unheard_of" not in KINDS
    assert counted([SetAside(0, 0.0, "unheard_of", "why not")], 1).failures["unheard_of"].final == 1


def test_the_time_from_a_kill_until_the_job_is_cancelled_is_no_work() -> None:
    tally = counted([Session(0.0), Begun([0], RIG, 1.0), answered(0, 3.0), Session(1800.0, "cancelled")], 2)
    assert tally.clock.seconds == 3.0
    assert [(one.seconds, one.ended) for one in tally.sessions] == [(3.0, "cancelled")]
