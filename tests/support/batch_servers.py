"""Servers under a batch, watched: how many slots of a real llama-server were busy, and how many tokens it made.

with watched(server.base_url) as samples:
    ...
steady(samples, slots=4)            # Steady(busy=0.99, tokens_per_s=41.0, seconds=62.1)
"""

from __future__ import annotations

import contextlib
import itertools
import re
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import httpx

SAMPLE_S = 0.05
COUNTER = re.compile(r"^llamacpp:(\w+) (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Sample:
    """A server at a moment of ``time.monotonic``: slots that are busy, and totals so far.

    ``tokens`` are those of prompts and answers, ``decodes`` steps of the model, ``busy_decodes`` the busy slots of all
    of them.
    """

    moment: float
    busy: int
    tokens: float
    decodes: float
    busy_decodes: float


@dataclass(frozen=True)
class Steady:
    """The time from the first moment at which all slots are busy to the last.

    ``busy`` is the share of slots that are busy in a step of the model, ``busy_between`` between two of them, where one
    that was freed may be free for an instant though a request waits for it.
    """

    busy: float
    busy_between: float
    tokens_per_s: float
    seconds: float


@contextlib.contextmanager
def watched(base_url: str) -> Iterator[list[Sample]]:
    """Samples of a server that runs with ``--metrics``, until the block ends."""
    samples: list[Sample] = []
    over = threading.Event()

    def watch() -> None:
        with httpx.Client(base_url=base_url, timeout=60) as client:
            while not over.wait(SAMPLE_S):
                samples.append(_sample(client))

    thread = threading.Thread(target=watch, name="watch")
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def steady(samples: Sequence[Sample], slots: int) -> Steady:
    """The steady phase of a run; AssertionError where the slots were never all busy."""
    full = [place for place, sample in enumerate(samples) if sample.busy >= slots]
    assert len(full) > 1, "the slots were never all busy"
    phase = samples[full[0] : full[-1] + 1]
    first, last = phase[0], phase[-1]
    seconds = last.moment - first.moment
    # Each sample stands for the time since the one before.
    between = sum(now.busy * (now.moment - before.moment) for before, now in itertools.pairwise(phase))
    busy = (last.busy_decodes - first.busy_decodes) / (last.decodes - first.decodes)
    return Steady(busy / slots, between / (slots * seconds), (last.tokens - first.tokens) / seconds, seconds)


def _sample(client: httpx.Client) -> Sample:
    counters = {name: float(value) for name, value in COUNTER.findall(client.get("/metrics").text)}
    tokens = counters["prompt_tokens_total"] + counters["tokens_predicted_total"]
    decodes = counters["n_decode_total"]
    busy_decodes = counters["n_busy_slots_per_decode"] * decodes
    return Sample(time.monotonic(), int(counters["requests_processing"]), tokens, decodes, busy_decodes)
