from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from nexus_tasks.batches import endpoint, failures, pace, runner, watch
from nexus_tasks.batches.entries import Answered, Begun, Entry, Failed, Server, Session, SetAside
from nexus_tasks.batches.items import Item, Misfit, Row
from nexus_tasks.batches.options import COMPLETE, INTERRUPTED
from nexus_tasks.batches.window import Window
from nexus_tasks.core.errors import BatchError
from nexus_tasks.fleet.targets import Target
from tests.conftest import wait_for
from tests.support.batch_runs import QUICK, Kept, items, request, run
from tests.support.batch_server import BatchServer, Request


@pytest.fixture
def server() -> Iterator[BatchServer]:
    with BatchServer() as running:
        yield running


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "backoff_s", lambda *_, **__: 0.0)
    monkeypatch.setattr(watch, "backoff_s", lambda *_, **__: 0.0)
    monkeypatch.setattr(watch, "FIRST_LOOK_S", 0.02)
    monkeypatch.setattr(pace, "PAUSE_S", 0.02)


def prompts(count: int) -> list[str]:
    return [f"row {number}" for number in range(count)]


def answers(count: int) -> dict[int, str]:
    return {number: f"ROW {number}" for number in range(count)}


def broken_at(prompt: str, status: int, message: str) -> Callable[[Request], None]:
    """A script that answers one prompt with an error."""
    return lambda asked: asked.status(status, message) if asked.prompt == prompt else asked.answer()


def test_each_row_gets_the_answer_to_its_own_prompt(server: BatchServer) -> None:
    outcome, kept = run(prompts(50), server.url)
    assert kept.texts == answers(50)
    assert (outcome.ended, outcome.answered, outcome.prompt_tokens, outcome.output_tokens) == (COMPLETE, 50, 250, 50)
    assert sorted(server.prompts) == sorted(prompts(50))


def test_an_answer_names_the_server_that_gave_it_and_what_it_cost(server: BatchServer) -> None:
    _, kept = run(["a"], server.url)
    answered = kept.of(Answered)[0]
    assert (answered.endpoint, answered.model, answered.build) == (server.url, "tiny", "b1")
    assert answered.key == request("a").key.hex()
    assert (answered.usage.prompt_tokens, answered.usage.output_tokens, answered.attempts) == (5, 1, 1)
    assert 0 < answered.ttft_ms <= answered.latency_ms


def test_the_journal_begins_and_ends_with_a_session_and_says_what_the_server_is(server: BatchServer) -> None:
    _, kept = run(["a"], server.url)
    first, found, *_, last = kept.entries
    assert isinstance(first, Session)
    assert first.ended is None
    assert isinstance(found, Server)
    assert (found.model, found.build, found.slots, found.n_ctx) == ("tiny", "b1", 4, 1024)
    assert isinstance(last, Session)
    assert last.ended == COMPLETE


def test_a_request_is_in_the_journal_before_it_is_sent(server: BatchServer) -> None:
    kept = Kept()
    unwritten = []

    def script(asked: Request) -> None:
        begun = {index for entry in kept.of(Begun) for index in entry.items}
        if int(asked.prompt.split()[1]) not in begun:
            unwritten.append(asked.prompt)
        asked.answer()

    server.script = script
    run(prompts(20), server.url, journal=kept)
    assert unwritten == []


def test_as_many_requests_are_under_way_as_there_are_slots_and_a_few_that_wait(server: BatchServer) -> None:
    def script(asked: Request) -> None:
        wait_for(lambda: server.max_under_way > server.slots, "a request that waits")
        asked.answer()

    server.script = script
    run(prompts(40), server.url)
    assert server.slots < server.max_under_way <= 2 * server.slots


def test_an_answer_that_llama_server_refuses_is_set_aside_at_once_in_its_words(server: BatchServer) -> None:
    server.script = broken_at("row 1", 400, "no such tool")
    outcome, kept = run(prompts(3), server.url)
    assert kept.reasons == {1: ("refused", "HTTP 400: no such tool")}
    assert sorted(kept.texts) == [0, 2]
    assert (server.prompts.count("row 1"), outcome.set_aside) == (1, {"refused": 1})


def too_long(asked: Request, prompt_tokens: int) -> None:
    n_ctx = asked.owner.n_ctx
    if prompt_tokens < n_ctx:
        asked.answer()
        return
    asked.status(400, "exceeds", type="exceed_context_size_error", n_prompt_tokens=prompt_tokens, n_ctx=n_ctx)


def test_a_prompt_that_fits_no_slot_is_set_aside_with_the_numbers(server: BatchServer) -> None:
    server.script = lambda asked: too_long(asked, 5014)
    _, kept = run(["a"], server.url)
    kind, message = kept.reasons[0]
    assert kind == "too_long"
    assert "5014" in message
    assert "1024" in message


def test_a_prompt_that_is_too_long_for_one_endpoint_is_asked_at_one_with_a_larger_context(server: BatchServer) -> None:
    server.script = lambda asked: too_long(asked, 3000)
    with BatchServer(n_ctx=4096, slots=1) as larger:
        larger.script = server.script
        _, kept = run(prompts(12), server.url, larger.url)
    assert kept.texts == answers(12)
    assert {entry.endpoint for entry in kept.of(Answered)} == {larger.url}


def test_a_row_is_given_up_after_its_attempts_and_the_others_go_on(server: BatchServer) -> None:
    server.script = broken_at("row 3", 500, "broken")
    outcome, kept = run(prompts(30), server.url, options=dataclasses.replace(QUICK, attempts=3))
    kind, message = kept.reasons[3]
    assert kind == "attempts"
    assert message == "3 attempts failed, the last one so: http_status: HTTP 500: broken"
    assert server.prompts.count("row 3") == 3
    assert len(kept.texts) == 29
    assert outcome.retried == {"http_status": 3}


def test_a_pause_that_a_server_asks_for_is_kept_and_costs_its_row_nothing(server: BatchServer) -> None:
    refusals = iter(range(6))

    def script(asked: Request) -> None:
        if next(refusals, None) is not None:
            asked.status(429, "slow down", headers={"Retry_After": "0.2"})
        else:
            asked.answer()

    server.script = script
    outcome, kept = run(["a"], server.url, options=dataclasses.replace(QUICK, attempts=1))
    assert kept.texts == {0: "A"}
    assert outcome.retried == {"rate_limited": 6}
    assert outcome.seconds > 6 * 0.2


def test_a_server_that_loads_its_model_is_waited_for(server: BatchServer) -> None:
    loading = iter(range(2))

    def script(asked: Request) -> None:
        if next(loading, None) is not None:
            asked.status(503, "Loading model")
        else:
            asked.answer()

    server.script = script
    _, kept = run(["a"], server.url, options=dataclasses.replace(QUICK, attempts=1))
    assert kept.texts == {0: "A"}


def test_a_server_that_dies_and_comes_back_loses_no_row(server: BatchServer) -> None:
    def script(asked: Request) -> None:
        if asked.prompt == "row 7" and not server.deaths:
            server.die_for(0.2)
            asked.hang_up()
        else:
            asked.answer()

    server.script = script
    outcome, kept = run(prompts(40), server.url)
    assert kept.texts == answers(40)
    assert server.deaths == 1
    assert outcome.ended == COMPLETE


def test_a_row_that_kills_its_server_is_set_aside_and_no_other(server: BatchServer) -> None:
    def script(asked: Request) -> None:
        if asked.prompt == "row 5":
            server.die_for(0.3)  # long enough for a look that finds nobody
            asked.hang_up()
        else:
            asked.answer()

    server.script = script
    _, kept = run(prompts(20), server.url)
    assert {index: kind for index, (kind, _) in kept.reasons.items()} == {5: "crashes"}
    assert len(kept.texts) == 19
    assert server.deaths >= failures.MAX_CRASHES


def test_one_of_two_endpoints_may_die_for_good(server: BatchServer) -> None:
    with BatchServer() as other:

        def script(asked: Request) -> None:
            if len(other.prompts) > 5:
                threading.Thread(target=other.die).start()
                asked.hang_up()
            else:
                asked.answer()

        other.script = script
        outcome, kept = run(prompts(60), server.url, other.url)
    assert kept.texts == answers(60)
    assert [one.problem is None for one in outcome.served] == [True, False]


def test_an_endpoint_that_lets_nobody_in_any_more_is_not_used(server: BatchServer) -> None:
    with BatchServer() as other:
        other.script = lambda asked: asked.status(401, "Invalid API Key")
        outcome, kept = run(prompts(20), server.url, other.url)
    assert kept.texts == answers(20)
    assert outcome.served[1].problem == "HTTP 401: Invalid API Key"
    assert len(other.prompts) <= 2 * other.slots


def test_an_endpoint_that_comes_back_with_another_model_is_not_used(server: BatchServer) -> None:
    with BatchServer() as other:

        def becomes_another(asked: Request) -> None:
            other.model = "another"
            other.die_for(0.05)
            asked.hang_up()

        def waits(asked: Request) -> None:
            wait_for(lambda: other.model == "another", "the other model")
            asked.answer()

        server.script, other.script = waits, becomes_another
        outcome, kept = run(prompts(60), server.url, other.url)
    assert kept.texts == answers(60)
    assert {entry.model for entry in kept.of(Answered)} == {"tiny"}
    assert outcome.served[1].problem == "serves another instead of tiny: it is not used"


def test_an_answer_of_another_model_is_not_accepted(server: BatchServer) -> None:
    def script(asked: Request) -> None:
        if asked.prompt == "row 20" and server.model == "tiny":
            server.model = "another"  # as a switch does that no request noticed
        asked.answer()

    server.script = script
    outcome, kept = run(prompts(30), server.url, options=dataclasses.replace(QUICK, wait_s=0.3))
    assert {entry.model for entry in kept.of(Answered)} == {"tiny"}
    assert 20 not in kept.texts
    assert "serves another instead of tiny" in outcome.ended


def test_another_build_that_takes_over_goes_on_and_is_written(server: BatchServer) -> None:
    def script(asked: Request) -> None:
        if asked.prompt == "row 20":
            server.build = "b2"
        asked.answer()

    server.script = script
    _, kept = run(prompts(40), server.url)
    assert kept.texts == answers(40)
    assert [entry.build for entry in kept.of(Server)] == ["b1", "b2"]
    assert {entry.build for entry in kept.of(Answered)} == {"b1", "b2"}


def test_builds_other_than_the_servers_own_are_looked_at_once_each(server: BatchServer) -> None:
    server.props_build, server.build = "b1", "b2"
    _, kept = run(prompts(60), server.url)
    assert kept.texts == answers(60)
    assert {entry.build for entry in kept.of(Answered)} == {"b2"}
    assert server.looks <= 4  # and not after each answer


def test_an_answer_that_stalls_is_asked_for_again_when_its_server_has_been_looked_at(server: BatchServer) -> None:
    stalled = threading.Event()

    def script(asked: Request) -> None:
        if asked.prompt == "row 1" and not stalled.is_set():
            asked.begin()
            asked.delta(content="RO")
            server.slots = 2  # as a server has that took this one's place
            stalled.set()
            ended.wait(30)
        else:
            asked.answer()

    ended = threading.Event()
    server.script = script
    try:
        _, kept = run(prompts(3), server.url, options=dataclasses.replace(QUICK, token_s=0.5))
    finally:
        ended.set()
    assert kept.texts == answers(3)
    assert [(entry.item, entry.kind) for entry in kept.of(Failed)] == [(1, "stalled")]
    assert [entry.slots for entry in kept.of(Server)] == [4, 2]


def test_an_answer_whose_messages_are_all_empty_stalls(server: BatchServer) -> None:
    def script(asked: Request) -> None:
        if server.prompts.count(asked.prompt) > 1:
            asked.answer()
            return
        asked.begin()
        with contextlib.suppress(OSError):
            while True:
                asked.delta(content="")
                time.sleep(0.02)

    server.script = script
    _, kept = run(["a"], server.url, options=dataclasses.replace(QUICK, token_s=0.5))
    assert kept.texts == {0: "A"}
    assert [entry.kind for entry in kept.of(Failed)] == ["stalled"]


def test_a_run_stops_when_no_endpoint_is_there_for_too_long(server: BatchServer) -> None:
    def script(asked: Request) -> None:
        threading.Thread(target=server.die).start()
        asked.hang_up()

    server.script = script
    outcome, kept = run(prompts(10), server.url, options=dataclasses.replace(QUICK, wait_s=0.2))
    assert outcome.ended.startswith(f"no endpoint could be used any more: {server.url}: ")
    assert "resume" in outcome.hint
    assert (kept.texts, kept.reasons) == ({}, {})


def test_a_server_that_fails_every_request_stops_the_run_with_its_words(server: BatchServer) -> None:
    server.script = lambda asked: asked.status(500, "CUDA error")
    outcome, kept = run(prompts(100), server.url, options=dataclasses.replace(QUICK, wait_s=0.2))
    assert "CUDA error" in outcome.ended
    assert len(kept.reasons) < 30


def test_rows_that_fail_together_are_set_aside_and_do_not_keep_the_others(server: BatchServer) -> None:
    bad = {f"row {number}" for number in range(20)}
    server.script = lambda asked: asked.status(500, "broken") if asked.prompt in bad else asked.answer()
    _, kept = run(prompts(40), server.url, options=dataclasses.replace(QUICK, attempts=2))
    assert sorted(kept.reasons) == list(range(20))
    assert sorted(kept.texts) == list(range(20, 40))


def test_ctrl_c_stops_at_once_and_leaves_what_was_under_way_begun(server: BatchServer) -> None:
    ended = threading.Event()

    def script(asked: Request) -> None:
        if asked.prompt == "row 30":
            os.kill(os.getpid(), signal.SIGINT)
            ended.wait(30)
        asked.answer()

    server.script = script
    before = [signal.getsignal(number) for number in runner.STOPPING]
    try:
        outcome, kept = run(prompts(500), server.url)
    finally:
        ended.set()
    assert [signal.getsignal(number) for number in runner.STOPPING] == before  # the next Ctrl-C counts, too
    assert outcome.ended == INTERRUPTED
    assert kept.ended == INTERRUPTED
    assert 30 in {index for entry in kept.of(Begun) for index in entry.items} - set(kept.texts)


def test_an_endpoint_that_asks_for_a_pause_of_days_is_not_waited_for(server: BatchServer) -> None:
    server.script = lambda asked: asked.status(429, "come back on Monday", {"Retry-After": "172800"})
    outcome, _ = run(prompts(5), server.url, options=dataclasses.replace(QUICK, wait_s=0.5))
    assert "no endpoint could be used any more" in outcome.ended
    assert "come back on Monday" in outcome.ended


def test_rows_that_cannot_be_asked_are_set_aside_with_their_reason(server: BatchServer) -> None:
    misfit = Item(1, Row(2, 2, "2", {}), 0, misfit=Misfit("no_prompt", "it has no prompt"))
    first, third = [one for one in items(prompts(3)) if one.index != 1]
    outcome, kept = run([first, misfit, third], server.url)
    assert kept.reasons == {1: ("no_prompt", "it has no prompt")}
    assert sorted(kept.texts) == [0, 2]
    assert outcome.set_aside == {"no_prompt": 1}


def test_identical_requests_are_answered_once(server: BatchServer) -> None:
    asked = [f"row {number % 3}" for number in range(30)]
    keys = b"".join(request(prompt).key for prompt in asked)
    outcome, kept = run(asked, server.url, options=dataclasses.replace(QUICK, dedupe=True), keys=keys)
    assert kept.texts == {index: prompt.upper() for index, prompt in enumerate(asked)}
    assert sorted(server.prompts) == prompts(3)
    assert {entry.item: entry.same_as for entry in kept.of(Answered) if entry.item >= 3} == {
        index: index % 3 for index in range(3, 30)
    }
    assert (outcome.answered, outcome.twins, outcome.output_tokens) == (30, 27, 3)


def test_twins_of_a_row_that_is_set_aside_are_so_too(server: BatchServer) -> None:
    server.script = lambda asked: asked.status(400, "no")
    keys = request("a").key * 2
    _, kept = run(["a", "a"], server.url, options=dataclasses.replace(QUICK, dedupe=True), keys=keys)
    assert kept.reasons == {0: ("refused", "HTTP 400: no"), 1: ("refused", "HTTP 400: no")}
    assert len(server.prompts) == 1


class Earlier:
    """Results of an earlier run."""

    def __init__(self, *entries: Entry) -> None:
        self.entries = {entry.item: entry for entry in entries if isinstance(entry, Answered | SetAside)}

    def is_done(self, index: int) -> bool:
        return index in self.entries

    def answered(self, index: int) -> Answered | None:
        entry = self.entries.get(index)
        return entry if isinstance(entry, Answered) else None


def test_what_an_earlier_run_answered_is_not_asked_and_its_twins_have_that_answer(server: BatchServer) -> None:
    asked = ["a", "b", "a"]
    keys = b"".join(request(prompt).key for prompt in asked)
    _, first = run(["a"], server.url)
    options = dataclasses.replace(QUICK, dedupe=True)
    _, kept = run(asked, server.url, options=options, keys=keys, history=Earlier(*first.entries))
    assert kept.texts == {1: "B", 2: "A"}
    assert kept.of(Answered)[0].same_as == 0
    assert server.prompts == ["a", "b"]


def test_a_journal_that_cannot_be_written_stops_the_run(server: BatchServer) -> None:
    class Full(Kept):
        def write(self, entries: Sequence[Entry]) -> None:
            if any(isinstance(entry, Answered) for entry in entries):
                raise BatchError("the disk is full", hint="make room")
            super().write(entries)

    kept = Full()
    with pytest.raises(BatchError, match="the disk is full"):
        run(prompts(5), server.url, journal=kept)
    assert kept.ended == "the disk is full"


def test_the_input_is_read_a_bounded_number_of_rows_ahead(server: BatchServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "Window", lambda: Window(16))
    read, ahead = [], []

    def given() -> Iterator[Item]:
        for item in items(prompts(100)):
            read.append(item.index)
            yield item

    def script(asked: Request) -> None:
        ahead.append(len(read) - len(server.prompts))
        asked.answer()

    server.script = script
    with endpoint.reached([Target(server.url, server.url)], model=None) as endpoints:
        outcome = runner.run(given(), endpoints, Kept(), QUICK, total=100)
    assert outcome.answered == 100
    assert max(ahead) <= 16 + 2 * server.slots


def test_slots_that_other_clients_use_are_left_to_them(server: BatchServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "SLOTS_S", 0.0)
    most: list[int] = []

    def script(asked: Request) -> None:
        server.busy = server.under_way + 2
        if len(server.prompts) > 50:
            most.append(server.under_way)
        asked.answer()

    server.script = script
    run(prompts(120), server.url)
    assert sorted(most)[len(most) // 2] <= server.slots - 1


def test_requests_carry_the_name_of_the_model_that_is_there(server: BatchServer) -> None:
    def script(asked: Request) -> None:
        asked.answer(asked.body["model"])

    server.script = script
    _, kept = run(["a"], server.url)
    assert kept.texts == {0: "tiny"}


def test_a_key_that_a_server_repeats_is_masked(server: BatchServer) -> None:
    server.script = lambda asked: asked.status(400, "no model for sk-secret-12345")
    kept = Kept()
    with endpoint.reached([Target(server.url, server.url, "sk-secret-12345")], model=None) as endpoints:
        runner.run(items(["a"]), endpoints, kept, QUICK, total=1)
    assert "sk-secret" not in kept.reasons[0][1]
