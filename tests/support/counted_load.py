"""A load that counts: chats whose answers are known before, checked whole; half of them are streams.

    with counted("http://127.0.0.1:3000", "tiny", clients=8) as load:
        ...                                    # what must not lose a request
        load.wait_for(5000)
    load.whole, load.failures, load.longest_s

Each request asks for a text of its own, by a JSON schema that allows no other: an answer that belongs to another
request, lacks a piece or has one twice is seen. As a program it goes on until Ctrl-C, or for --requests, and prints
what came of it:

    python -m tests.support.counted_load http://127.0.0.1:3000 tiny --clients 8 --requests 5000
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import itertools
import json
import random
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.conftest import wait_for

TIMEOUT_S = 900
LENGTHS = (5, 40)  # characters of an answer, about a token each


class Wrong(Exception):
    """An answer that is not the one that was asked for: what is wrong with it."""


@dataclass(frozen=True)
class Failure:
    """A request that got no whole answer: ``lost`` before an answer began, ``cut`` within it, or ``wrong``.

    ``began`` and ``ended`` are of ``time.time``.
    """

    number: int
    kind: str
    why: str
    stream: bool
    began: float
    ended: float


@dataclass
class Load:
    """Clients that each ask one request after another, and what came of it. ``ends`` are moments of whole answers."""

    base_url: str
    model: str
    key: str | None = None
    limit: int | None = None
    pause_s: float = 0.0  # of a client between two requests
    failures: list[Failure] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    kinds: collections.Counter[str] = field(default_factory=collections.Counter)
    longest_s: float = 0.0
    _over: threading.Event = field(default_factory=threading.Event)

    @property
    def whole(self) -> int:
        return len(self.ends)

    @property
    def longest_gap_s(self) -> float:
        """The longest time in which no answer was completed."""
        return max((after - before for before, after in itertools.pairwise(sorted(self.ends))), default=0.0)

    def wait_for(self, requests: int, seconds: float = 600) -> None:
        """Wait until so many answers more were whole."""
        wanted = self.whole + requests
        wait_for(lambda: self.whole >= wanted or self._over.is_set(), f"{requests} answers", seconds)

    def summary(self) -> str:
        """What came of it, in a line, and a line for each failure."""
        lines = [
            f"{self.whole} whole ({self.kinds['stream']} streams), {len(self.failures)} failed, longest "
            f"{self.longest_s:.1f} s, longest time without an answer {self.longest_gap_s:.1f} s"
        ]
        lines += [
            f"  {each.number} {each.kind} after {each.ended - each.began:.1f} s: {each.why}" for each in self.failures
        ]
        return "\n".join(lines)

    async def run(self, clients: int) -> None:
        """Ask until it is over or the limit is reached; requests that are under way end first."""
        limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        numbers = itertools.count(1)
        async with httpx.AsyncClient(
            base_url=self.base_url, limits=limits, timeout=TIMEOUT_S, headers=headers, trust_env=False
        ) as client:
            await asyncio.gather(*(self._client(client, numbers) for _ in range(clients)))

    async def _client(self, client: httpx.AsyncClient, numbers: Iterator[int]) -> None:
        while not self._over.is_set():
            number = next(numbers)
            if self.limit and number > self.limit:
                return
            await self._ask(client, number)
            await asyncio.sleep(self.pause_s)

    async def _ask(self, client: httpx.AsyncClient, number: int) -> None:
        text, stream = text_of(number), number % 2 == 0
        began, kind = time.time(), "lost"
        try:
            async with client.stream("POST", "/v1/chat/completions", json=body_of(self.model, text, stream)) as answer:
                if answer.status_code != httpx.codes.OK:
                    raise Wrong(f"{answer.status_code} {(await answer.aread())[:200]!r}")
                kind = "cut"
                if stream:
                    check_stream([line async for line in answer.aiter_lines()], text)
                else:
                    check(json.loads(await answer.aread()), text)
        except (Wrong, httpx.HTTPError, ValueError) as error:
            why = f"{type(error).__name__}: {error}"
            kind = "wrong" if kind == "cut" and isinstance(error, Wrong) and "ends" not in why else kind
            self.failures.append(Failure(number, kind, why, stream, began, time.time()))
            await asyncio.sleep(0.05)
            return
        self.ends.append(time.time())
        self.kinds["stream" if stream else "whole"] += 1
        self.longest_s = max(self.longest_s, self.ends[-1] - began)


def text_of(number: int) -> str:
    """The text that a request asks for, and no other does."""
    draw = random.Random(number)  # noqa: S311 - lengths, not secrets
    return f"{number}:" + "".join(draw.choices("abcdefghij", k=draw.randint(*LENGTHS)))


def body_of(model: str, text: str, stream: bool) -> dict[str, Any]:
    """A request for exactly this text."""
    schema = {"type": "json_schema", "json_schema": {"name": "text", "schema": {"const": text}}}
    return {
        "model": model, "messages": [{"role": "user", "content": f"Say {text}"}], "response_format": schema,
        "stream": stream, "max_tokens": 400, **({"stream_options": {"include_usage": True}} if stream else {}),
    }  # fmt: skip


def check(answer: dict[str, Any], text: str) -> None:
    """Raise Wrong where a whole answer is not the one that was asked for."""
    choice = answer["choices"][0]
    _compare(choice["finish_reason"], choice["message"]["content"], answer, text)


def check_stream(lines: list[str], text: str) -> None:
    """Raise Wrong where a stream is not whole, or not the one that was asked for."""
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    if not data or data[-1] != "[DONE]":
        raise Wrong(f"the stream ends without [DONE], after {len(data)} events")
    events = [json.loads(event) for event in data[:-1]]
    choices = [event["choices"][0] for event in events if event.get("choices")]
    said = "".join(choice["delta"].get("content") or "" for choice in choices)
    _compare(choices[-1]["finish_reason"], said, events[-1], text)


def _compare(finish_reason: str | None, said: str, last: dict[str, Any], text: str) -> None:
    if finish_reason != "stop" or json.loads(said) != text:
        raise Wrong(f"{text!r} was asked for, and {said!r} came ({finish_reason})")
    counted, timed = last["usage"]["completion_tokens"], last["timings"]["predicted_n"]
    if not counted or counted != timed:
        raise Wrong(f"{counted} tokens by its usage, {timed} by its timings")


@contextlib.contextmanager
def counted(base_url: str, model: str, *, clients: int, key: str | None = None, pause_s: float = 0.0) -> Iterator[Load]:
    """The load while the block lasts; then what is under way comes to its end."""
    load = Load(base_url, model, key, pause_s=pause_s)
    thread = threading.Thread(target=lambda: asyncio.run(load.run(clients)))
    thread.start()
    try:
        yield load
    finally:
        load._over.set()
        thread.join()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("url", metavar="URL", help="address of the gateway, as http://127.0.0.1:3000")
    parser.add_argument("model", metavar="MODEL", help="name of a model")
    parser.add_argument("--clients", metavar="N", type=int, default=8, help="requests at a time (default: %(default)s)")
    parser.add_argument("--requests", metavar="N", type=int, help="end after so many (default: at Ctrl-C)")
    parser.add_argument("--key", metavar="KEY", help="key of a user")
    options = parser.parse_args()
    load = Load(options.url, options.model, options.key, options.requests)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(load.run(options.clients))
    sys.stdout.write(f"{load.summary()}\n")
    return 1 if load.failures else 0


if __name__ == "__main__":
    sys.exit(main())
