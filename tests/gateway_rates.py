"""Rates of the gateway: what it adds and how fairly it queues, beside the same servers without it, on this machine.

    python -m tests.gateway_rates [--size 0.1] [NAME ...]

    fairness   32 clients on two servers of four slots: waiting within a server, TTFT, requests of each client
    unequal    one of two servers is three times slower: TTFT beside that of one ideal queue
    added      TTFT through the gateway less that without, at 1, 16 and 64 streams at a time
    cpu        processor seconds of HAProxy for a million tokens
    turns      eight users talk to two real servers: prompt tokens computed, beside one server with all slots

Each prints its figures. The gateway is what role gateway makes of the servers; all but those of ``turns`` have a known
schedule (tests/mock_server). ``nox -s soak`` holds the bounds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import heapq
import itertools
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from urllib.parse import urlsplit

import httpx

from nexus_tasks.load.selfcheck.mock_server import mock_server, program, true_times
from tests.batch_rates import syllables
from tests.conftest import cache_folder, run_server
from tests.support.mock_gateway import MODEL, gateway_before

SLOTS, CLIENTS = 4, 32
TTFT_MS, ITL_MS, TOKENS = 60.0, 8.0, 30
SLOWER = 3
LEFT_OUT = 2  # requests of each client at the beginning, when all come at once to an empty queue
USERS, TURN_TOKENS, THINKING_S = 8, 16, 2.0


@dataclass(frozen=True)
class Asked:
    """One request of a client: moments in seconds of the monotonic clock."""

    client: int
    sent: float
    first: float

    @property
    def ttft_s(self) -> float:
        return self.first - self.sent


@dataclass(frozen=True)
class Fairness:
    """``waited_in_server_ms``: the longest that a request waited within a server for one of its slots."""

    waited_in_server_ms: float
    max_over_median_ttft: float
    requests_per_client: tuple[int, int]


@dataclass(frozen=True)
class Unequal:
    """The 90th percentile of TTFT beside that of one queue before both servers; requests by server."""

    p90_ttft_s: float
    ideal_p90_ttft_s: float
    requests: tuple[int, int]

    @property
    def ratio(self) -> float:
        return self.p90_ttft_s / self.ideal_p90_ttft_s


@dataclass(frozen=True)
class Cpu:
    """Processor seconds of HAProxy for a million tokens, and those of the bare client for as many."""

    gateway_s: float
    client_s: float


@dataclass(frozen=True)
class Turns:
    """Prompt tokens that were computed, as shares of those of one server with all slots; medians of TTFT."""

    with_affinity: float
    without: float | None
    ttft_ms: Mapping[str, float]


# --- servers with a known schedule


def fairness(folder: Path, requests: int) -> Fairness:
    """Closed loop of 32 clients on two servers that are alike."""
    logs = [folder / "first.log", folder / "second.log"]
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(_mock(log=log)) for log in logs]
        gateway = stack.enter_context(gateway_before(folder / "fleet", servers, SLOTS))
        asked = asyncio.run(_closed_loop(gateway.url, CLIENTS, requests))
    waits = [
        (int(moments[0]) - received) / 1e6 - TTFT_MS for log in logs for received, moments in true_times(log).values()
    ]
    ttfts = [one.ttft_s for one in _steady(asked)]
    counts = Counter(one.client for one in asked)
    return Fairness(max(waits), max(ttfts) / median(ttfts), (min(counts.values()), max(counts.values())))


def unequal(folder: Path, requests: int) -> Unequal:
    """Closed loop of 32 clients on two servers, of which one takes three times as long for everything."""
    logs = [folder / "fast.log", folder / "slow.log"]
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(_mock(times, log=log)) for times, log in zip((1, SLOWER), logs, strict=True)]
        gateway = stack.enter_context(gateway_before(folder / "fleet", servers, SLOTS))
        asked = asyncio.run(_closed_loop(gateway.url, CLIENTS, requests))
    return Unequal(
        _p90([one.ttft_s for one in _steady(asked)]),
        _p90([one.ttft_s for one in _steady(_ideal(CLIENTS, requests))]),
        (len(true_times(logs[0])), len(true_times(logs[1]))),
    )


def added(folder: Path, requests: int, streams: int, pairs: int = 5) -> float:
    """Milliseconds that the gateway adds to TTFT at the median: runs with and without it in turns.

    The server takes so long for the first token that neither is anywhere near its limit of requests per second.
    """
    with (
        mock_server(ttft_ms=5 * streams, slots=64) as server,
        gateway_before(folder / "fleet", [server], 64) as gateway,
    ):
        direct: list[float] = []
        through: list[float] = []
        for _ in range(pairs):
            for address, found in ((server, direct), (gateway.url, through)):
                rows, _ = _bare_client(address, streams, requests, tokens=4)
                found.append(median(first - sent for _, sent, first, _ in rows) / 1e6)
    return median(there - here for there, here in zip(through, direct, strict=True))


def cpu(folder: Path, requests: int, streams: int = 64, tokens: int = 128) -> Cpu:
    """Streams of 100 tokens per second each: every token is a piece of its own to the gateway, as in use.

    At full speed many come at once, and a token costs a fraction.
    """
    with (
        mock_server(itl_ms=10, slots=streams) as server,
        gateway_before(folder / "fleet", [server], streams) as gateway,
    ):
        before = gateway.cpu_s()
        _, client_s = _bare_client(gateway.url, streams, requests, tokens)
        million = requests * tokens / 1e6
        return Cpu((gateway.cpu_s() - before) / million, client_s / million)


def _mock(times: float = 1, *, log: Path) -> contextlib.AbstractContextManager[str]:
    return mock_server(ttft_ms=TTFT_MS * times, itl_ms=ITL_MS * times, slots=SLOTS, log=log)


def _steady(asked: Sequence[Asked]) -> list[Asked]:
    """The requests without the first ones of each client."""
    seen: Counter[int] = Counter()
    kept = []
    for one in sorted(asked, key=lambda one: one.sent):
        seen[one.client] += 1
        if seen[one.client] > LEFT_OUT:
            kept.append(one)
    return kept


def _p90(values: Sequence[float]) -> float:
    return quantiles(values, n=10)[-1]


def _ideal(clients: int, requests: int) -> list[Asked]:
    """One queue, first come, first served, whose head goes to whichever slot is free first."""
    slots = [(0.0, factor) for factor in (1, SLOWER) for _ in range(SLOTS)]
    heapq.heapify(slots)
    waiting = [(0.0, client) for client in range(clients)]
    heapq.heapify(waiting)
    asked = []
    for _ in range(requests):
        sent, client = heapq.heappop(waiting)
        free, factor = heapq.heappop(slots)
        first = max(sent, free) + factor * TTFT_MS / 1000
        end = first + factor * ITL_MS * (TOKENS - 1) / 1000
        heapq.heappush(slots, (end, factor))
        heapq.heappush(waiting, (end, client))
        asked.append(Asked(client, sent, first))
    return asked


async def _closed_loop(base_url: str, clients: int, requests: int) -> list[Asked]:
    """Each client asks one request after another, until so many were begun."""
    numbers = itertools.count()
    asked: list[Asked] = []

    async def client(name: int, session: httpx.AsyncClient) -> None:
        while (number := next(numbers)) < requests:
            body = {"model": MODEL, "messages": [], "stream": True, "max_tokens": TOKENS, "seed": number}
            sent, first = time.monotonic(), 0.0
            async with session.stream("POST", "/v1/chat/completions", json=body) as answer:
                assert answer.status_code == httpx.codes.OK, await answer.aread()
                async for _ in answer.aiter_raw():
                    first = first or time.monotonic()
            asked.append(Asked(name, sent, first))

    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=base_url, timeout=600, limits=limits, trust_env=False) as session:
        await asyncio.gather(*(client(name, session) for name in range(clients)))
    return asked


def _bare_client(
    address: str, streams: int, requests: int, tokens: int
) -> tuple[list[tuple[int, int, int, int]], float]:
    """Rows of (seed, sent, first byte, end) in nanoseconds, and the processor seconds of the client."""
    asked = (urlsplit(address).port, streams, requests, tokens, -1, "/v1/chat/completions")
    done = subprocess.run(
        [program("client"), *map(str, asked)], check=True, capture_output=True, text=True, timeout=600
    )
    *lines, last = done.stdout.splitlines()
    rows = [(int(seed), int(sent), int(first), int(end)) for seed, sent, first, end in map(str.split, lines)]
    return rows, float(last.split()[0])


# --- real servers


def turns(folder: Path, turns_each: int, *, both_ways: bool = True) -> Turns:
    """The same conversations three times: one server with all slots, then two with half of them each, both ways.

    Args:
        both_ways: whether they are held without affinity, too.
    """
    computed, ttfts = {}, {}
    ways = [("one", 1, False), ("affinity", 2, True), *([("none", 2, False)] if both_ways else [])]
    for way, servers, affinity in ways:
        place = folder / way
        place.mkdir()
        with contextlib.ExitStack() as stack:
            slots = USERS // servers
            running = [
                stack.enter_context(_real_server(place / f"server-{number}.log", folder, slots))
                for number in range(servers)
            ]
            gateway = stack.enter_context(gateway_before(place / "fleet", running, slots, affinity=affinity))
            ttfts[way] = asyncio.run(_conversations(gateway.url, turns_each))
            computed[way] = sum(_prompt_tokens(address) for address in running)
    return Turns(
        computed["affinity"] / computed["one"],
        computed["none"] / computed["one"] if both_ways else None,
        {way: round(1000 * median(found), 1) for way, found in ttfts.items()},
    )


@contextlib.contextmanager
def _real_server(log: Path, folder: Path, slots: int) -> Iterator[str]:
    from nexus_tasks.model_store import tiny_model

    model = folder / "tiny.gguf"
    if not model.exists():
        tiny_model.write(model)
    flags = ("--parallel", str(slots), "--ctx-size", str(1024 * slots), "--metrics", "--alias", MODEL)
    with run_server(cache_folder() / "current" / "bin" / "llama-server", model, log, *flags) as server:
        yield server.base_url


def _prompt_tokens(address: str) -> float:
    text = httpx.get(f"{address}/metrics", timeout=60).text
    return next(
        float(line.split()[1]) for line in text.splitlines() if line.startswith("llamacpp:prompt_tokens_total ")
    )


async def _conversations(base_url: str, turns_each: int) -> list[float]:
    """Seconds to the first token of each turn; eight users talk at a time, each about something else."""
    ttfts: list[float] = []

    async def user(number: int, session: httpx.AsyncClient) -> None:
        messages: list[dict[str, str]] = []
        pauses = random.Random(number)  # noqa: S311 - no secret
        for turn in range(turns_each):
            # Without a pause the only free slot is the one that the user just left.
            await asyncio.sleep(pauses.uniform(0, THINKING_S))
            messages.append({"role": "user", "content": syllables(1000 * number + turn)})
            body = {"model": MODEL, "messages": messages, "stream": True, "max_tokens": TURN_TOKENS}
            sent, first, said = time.monotonic(), 0.0, ""
            async with session.stream("POST", "/v1/chat/completions", json=body) as answer:
                assert answer.status_code == httpx.codes.OK, await answer.aread()
                async for line in answer.aiter_lines():
                    if line.startswith("data: {"):
                        first = first or time.monotonic()
                        said += "".join(
                            one["delta"].get("content") or "" for one in json.loads(line[6:]).get("choices", [])
                        )
            ttfts.append(first - sent)
            messages.append({"role": "assistant", "content": said})

    async with httpx.AsyncClient(base_url=base_url, timeout=600, trust_env=False) as session:
        await asyncio.gather(*(user(number, session) for number in range(USERS)))
    return ttfts


# --- the program


def main(words: Sequence[str]) -> None:
    """Print the figures that are asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*TRIALS, []], help=", ".join(TRIALS))
    parser.add_argument("--size", type=float, default=1.0, help="a share of the full sizes")
    given = parser.parse_args(words)
    for name in given.names or TRIALS:
        with tempfile.TemporaryDirectory(prefix="llama-nexus-gateway-") as folder:
            print(f"{name}: {TRIALS[name](Path(folder), given.size)}", flush=True)  # noqa: T201 - the program's output


def _added(folder: Path, size: float) -> str:
    found = []
    for streams in (1, 16, 64):
        place = folder / str(streams)
        place.mkdir()
        found.append(f"{added(place, max(round(400 * size), streams), streams):+.3f} ms at {streams}")
    return ", ".join(found)


TRIALS: dict[str, Callable[[Path, float], object]] = {
    "fairness": lambda folder, size: fairness(folder, round(640 * size)),
    "unequal": lambda folder, size: unequal(folder, round(640 * size)),
    "added": _added,
    "cpu": lambda folder, size: cpu(folder, round(1280 * size)),
    "turns": lambda folder, size: turns(folder, max(2, round(8 * size))),
}

if __name__ == "__main__":
    main(sys.argv[1:])
