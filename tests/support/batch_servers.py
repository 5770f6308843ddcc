"""Servers under a batch, watched: how many slots of a real llama-server were busy, and how many tokens it served.

with watched(server.base_url, every_s=1.0) as samples:
    ...
steady(samples, served, slots=4)            # Steady(busy=0.99, tokens_per_s=41.0, seconds=62.1)
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import httpx

COUNTER = re.compile(r"^llamacpp:(\w+) (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Sample:
    """A server at a moment of ``time.time``: steps of the model so far, and the busy slots of all of them."""

    moment: float
    decodes: float
    busy_decodes: float


@dataclass(frozen=True)
class Served:
    """A request that was answered: the moment of ``time.time`` at which it ended; the tokens of prompt and answer.

    Tokens of the prompt that the server had in its cache are not counted: nothing was computed for them.
    """

    moment: float
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Steady:
    """The time in which requests wait for each slot; ``busy`` is the share of slots that are busy in a step."""

    busy: float
    tokens_per_s: float
    seconds: float


@contextlib.contextmanager
def watched(base_url: str, *, every_s: float) -> Iterator[list[Sample]]:
    """Samples of a server that runs with ``--metrics``, until the block ends. It answers between two steps."""
    samples: list[Sample] = []
    over = threading.Event()

    def watch() -> None:
        with httpx.Client(base_url=base_url, timeout=60) as client:
            while not over.wait(every_s):
                samples.append(_sample(client))

    thread = threading.Thread(target=watch, name="watch")
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def steady(samples: Sequence[Sample], served: Sequence[Served], slots: int) -> Steady:
    """The steady phase: from the end of the first request of each slot to that of the last but one.

    Both edges are moments at which requests ended, so that a whole number of requests lies between them. The server's
    own totals of tokens can't tell it: they grow when a slot is freed, by the tokens of seconds at once.
    """
    ends = sorted(served, key=lambda request: request.moment)
    counted = ends[slots:-slots]
    assert counted, f"{len(ends)} requests are too few for {slots} slots"
    first, last = ends[slots - 1].moment, counted[-1].moment
    within = [sample for sample in samples if first <= sample.moment <= last]
    assert len(within) > 1, "the steady phase is shorter than the time between two samples"
    busy = (within[-1].busy_decodes - within[0].busy_decodes) / (within[-1].decodes - within[0].decodes)
    tokens = sum(request.prompt_tokens + request.output_tokens for request in counted)
    return Steady(busy / slots, tokens / (last - first), last - first)


def _sample(client: httpx.Client) -> Sample:
    counters = {name: float(value) for name, value in COUNTER.findall(client.get("/metrics").text)}
    decodes = counters["n_decode_total"]
    return Sample(time.time(), decodes, counters["n_busy_slots_per_decode"] * decodes)
