"""Batches against real llama-servers that are killed, stopped and started again meanwhile."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from nexus_tasks.batches.entries import Answered, Entry, Failed, Server
from nexus_tasks.batches.items import KEY_BYTES, Request
from nexus_tasks.batches.options import COMPLETE
from tests.conftest import RunningServer, run_server
from tests.support.batch_runs import QUICK, Kept, request, run

TOKENS = 24
SCHEMA = {"type": "object", "properties": {"color": {"enum": ["red", "blue"]}}, "required": ["color"]}

Start = Callable[..., RunningServer]


@pytest.fixture
def start(llama_server_bin: Path, small_model: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts servers with four slots, which end with the test."""
    with contextlib.ExitStack() as stack:

        def started(*flags: str, slots: int = 4) -> RunningServer:
            log = tmp_path / f"{len(list(tmp_path.iterdir()))}.log"
            options = ("--parallel", str(slots), "--metrics", *flags)
            return stack.enter_context(run_server(llama_server_bin, small_model, log, *options))

        yield started


@pytest.fixture
def again() -> Iterator[Callable[[RunningServer], None]]:
    """Starts a server again that was killed, at its place and as it was."""
    started: list[subprocess.Popen[bytes]] = []

    def once_more(server: RunningServer) -> None:
        argv = server.process.args
        assert isinstance(argv, list)
        started.append(subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

    yield once_more
    for process in started:
        process.kill()
        process.wait()


def prompts(count: int, tokens: int = TOKENS) -> list[Request]:
    return [request(f"row {number}", max_tokens=tokens, ignore_eos=True) for number in range(count)]


class Doing(Kept):
    """A journal that does something each time when so many items are answered."""

    def __init__(self, do: Callable[[], object], *answers: int) -> None:
        super().__init__()
        self._do, self._answers = do, list(answers)

    def write(self, entries: Sequence[Entry]) -> None:
        super().write(entries)
        if self._answers and len(self.of(Answered)) >= self._answers[0]:
            del self._answers[0]
            self._do()


def decoded(server: RunningServer) -> tuple[float, float]:
    """Steps of decoding so far, and slots that were busy in them, summed up."""
    text = httpx.get(f"{server.base_url}/metrics").text
    steps, busy = (
        float(re.findall(rf"^llamacpp:{name} (\S+)", text, re.MULTILINE)[0])
        for name in ("n_decode_total", "n_busy_slots_per_decode")
    )
    return steps, steps * busy


def test_a_real_server_answers_all_rows(start: Start) -> None:
    server = start()
    outcome, kept = run(prompts(40), server.base_url)
    assert (outcome.ended, outcome.answered, outcome.output_tokens) == (COMPLETE, 40, 40 * TOKENS)
    found = kept.of(Server)[0]
    assert (found.model, found.slots, found.n_ctx) == ("tiny", 4, 1024)
    assert {(entry.model, entry.build) for entry in kept.of(Answered)} == {("tiny", found.build)}
    assert all(entry.decode_tps and entry.ttft_ms for entry in kept.of(Answered))


def test_slots_are_busy_while_there_is_enough_to_do(start: Start) -> None:
    server = start()
    looks: list[tuple[float, float]] = []
    run(prompts(120, 64), server.base_url, journal=Doing(lambda: looks.append(decoded(server)), 10, 110))
    (steps_before, busy_before), (steps, busy) = looks
    # Three of four would be 0.75; how near it comes to all is measured by tests/batch_rates.py, on a machine at rest.
    assert (busy - busy_before) / (steps - steps_before) > 0.85 * 4


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_a_server_that_ends_and_is_started_again_as_by_a_deployment_loses_no_row(
    start: Start, again: Callable[[RunningServer], None], number: signal.Signals
) -> None:
    server = start()

    def comes_back() -> None:
        server.process.kill()  # one that was asked to stop may hold its streams
        server.process.wait()
        again(server)

    def end() -> None:
        server.process.send_signal(number)
        threading.Timer(0.5, comes_back).start()

    outcome, kept = run(prompts(80), server.base_url, journal=Doing(end, 20))
    assert (outcome.ended, len(kept.texts), kept.reasons) == (COMPLETE, 80, {})
    assert {entry.kind for entry in kept.of(Failed)} <= {"disconnected", "connect", "http_status"}
    assert kept.of(Failed)


def test_of_two_endpoints_one_may_die_for_good(start: Start) -> None:
    first, second = start(), start(slots=1)
    outcome, kept = run(prompts(80), first.base_url, second.base_url, journal=Doing(first.process.kill, 20))
    assert (outcome.ended, len(kept.texts)) == (COMPLETE, 80)
    assert [bool(one.problem) for one in outcome.served] == [True, False]
    assert all(one.answered for one in outcome.served)


def test_rows_of_a_server_that_hangs_are_answered_by_another(start: Start) -> None:
    first, second = start(), start()

    def hang() -> None:
        first.process.send_signal(signal.SIGSTOP)

    options = dataclasses.replace(QUICK, token_s=1.0)
    outcome, kept = run(prompts(60), first.base_url, second.base_url, options=options, journal=Doing(hang, 20))
    assert (outcome.ended, len(kept.texts)) == (COMPLETE, 60)
    assert "stalled" in {entry.kind for entry in kept.of(Failed)}


def test_answers_are_held_against_their_schema_and_what_is_none_is_refused(start: Start) -> None:
    def held(schema: dict[str, Any]) -> Request:
        form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
        asked = request("Which color?", max_tokens=40, response_format=form)
        return Request(asked.path, asked.body, asked.key, schema=schema)

    endless = {"$ref": "#/$defs/one", "$defs": {"one": {"$ref": "#/$defs/one"}}}  # a schema, and no grammar
    _, kept = run([held(SCHEMA), held(endless)], start().base_url)
    answered = kept.of(Answered)[0]
    assert (answered.item, answered.valid, answered.invalid_reason) == (0, True, None)
    assert json.loads(answered.answer.text)["color"] in ("red", "blue")
    assert kept.reasons == {1: ("schema", "HTTP 400: Failed to initialize samplers: failed to parse grammar")}


def test_embeddings_are_asked_of_a_server_that_has_them(start: Start) -> None:
    def embedded(text: str) -> Request:
        body = json.dumps({"input": text}).encode()
        return Request("/v1/embeddings", body, hashlib.blake2b(body, digest_size=KEY_BYTES).digest(), stream=False)

    server = start("--embeddings", "--pooling", "mean")
    outcome, kept = run([embedded(f"text {number}") for number in range(20)], server.base_url)
    assert (outcome.ended, outcome.answered) == (COMPLETE, 20)
    assert {len(entry.answer.embedding) for entry in kept.of(Answered)} == {128}


def test_a_prompt_that_no_slot_takes_is_set_aside_with_the_numbers(start: Start) -> None:
    _, kept = run([request("word " * 3000), request("short", max_tokens=4)], start().base_url)
    kind, message = kept.reasons[0]
    assert kind == "too_long"
    assert re.fullmatch(
        r"the prompt has \d{4,5} tokens \(n_prompt_tokens\), and the context of a slot 1024 \(n_ctx\)", message
    )
    assert list(kept.texts) == [1]
