"""Drives requests at a server and tells what came of each, and whether the generator itself was good enough.

    stage = Stage("closed", concurrency=16, requests=200, warmup=16)
    watch = run("http://gpu1:8600", key, items, stage, Limits(), index=0, origin=time.perf_counter(), on_rows=keep)
    watch.valid, watch.reasons

The requests are sent by processes of :mod:`nexus_tasks.load.sender`, which only stamp and keep what arrives. This
process feeds them, and reads what they hand back: :mod:`nexus_tasks.load.response` makes tokens and timings of the
bytes, and :func:`request_row` the row of a record. So no decoding ever delays a stamp.

Load is *closed* (a number of users, each of whom waits for an answer before asking again) or comes at a *rate*
(constant, Poisson, bursts) whether or not answers came. At a rate, latencies count from the moment a request was
due, not from when it could be sent: a server or a client that falls behind can't hide it (coordinated omission).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import selectors
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import FrameType
from typing import Any

import httpx
import msgspec
import numpy as np

from nexus_tasks.core import provenance
from nexus_tasks.core.errors import EndpointDown, UsageError
from nexus_tasks.load import sender
from nexus_tasks.load.response import COMPLETION, Answer, Reading, Segment, StreamError
from nexus_tasks.servers import endpoint

Row = dict[str, Any]
Body = bytes | Callable[[Sequence[str]], bytes]

MODES = ("closed", "constant", "poisson", "burst")
SERVER_TIMINGS = ("prompt_n", "prompt_ms", "predicted_n", "predicted_ms", "cache_n")
STOP_REASONS = ("stop", "eos", "word", "tool_calls", "function_call", "content_filter")
"""Why a model may end before the length it was given; ``limit`` and ``length`` are that length."""
MIN_IN_FLIGHT = 0.97
MAX_CPU = 0.7
MAX_LAG_P99_MS = 3.0
MIN_LOOKS_LATE = 3
MAX_BEGUN_LATE_P99_MS = 10.0
STALL_MS = 500.0
STALL_FACTOR = 10.0
MASK = "***"

_BEFORE_ERRORS_COUNT = 10
_HORIZON_S = 2.0
"""At a rate, requests are handed to the processes so long before they are due."""
_RESERVE = 32
_ENOUGH_EVERY_S = 0.5
_START_S = 30.0
_END_S = 10.0


@dataclass(frozen=True)
class Request:
    """One request.

    Args:
        path: below the base URL: ``/completion``, ``/v1/chat/completions``, ``/v1/embeddings``, ``/v1/rerank``.
        body: JSON; or a function that makes it of the texts of the conversation's earlier answers.
        prompt_tokens: the number that the server must have seen; None where that is up to the server.
        output_tokens: the number asked for; fewer without a reason to stop is the failure ``short``.
        exact_output: fewer is ``short`` whatever the reason.
        stream: without it, the answer is one JSON document (embeddings, reranking).
        text: what is asked in words, where it has words; kept beside the answer.
    """

    path: str
    body: Body
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    exact_output: bool = False
    stream: bool = True
    text: str | None = None


@dataclass(frozen=True)
class Item:
    """What one user does: a request, or the turns of a conversation one after another.

    ``key`` is a stable name, by which the same prompt is found in another run.
    """

    requests: tuple[Request, ...]
    key: str | None = None


@dataclass(frozen=True)
class Stage:
    """One level of load.

    Args:
        mode: one of MODES.
        concurrency: users of the closed mode.
        rate_per_s: requests begun per second, in the other modes (of conversations: the first of each).
        burst: requests that begin together; ``rate_per_s`` stays the mean rate.
        requests: how many count; or
        duration_s: the seconds in which requests that count begin, after warm-up and ramp. With both, whichever
            ends first.
        ramp_s: closed: the users start one after another within it; else: the rate grows linearly over it.
            Requests begun in it don't count (phase ``ramp``).
        warmup: so many first requests don't count (phase ``warmup``).
        seed: of the Poisson process.
    """

    mode: str
    concurrency: int | None = None
    rate_per_s: float | None = None
    burst: int | None = None
    requests: int | None = None
    duration_s: float | None = None
    ramp_s: float = 0.0
    warmup: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Limits:
    """When to give up: times in seconds, ``max_error_rate`` a share (0-1) of the requests that count."""

    connect_s: float = endpoint.CONNECT_TIMEOUT_S
    token_s: float = 300.0
    request_s: float | None = None
    max_error_rate: float | None = None
    keep_answers: bool = False


@dataclass(frozen=True)
class Watch:
    """How well the generator did in one stage; ``valid`` says whether its figures are the server's.

    ``begun_s`` and ``ended_s`` bound the requests that count, in seconds after the run's begin. ``in_flight`` is
    the mean number of requests under way while there were more to begin; None where that was no time at all.
    ``cpu_per_process`` is the share of a core (0-1) of the busiest process, ``cpu_s`` what all of them used.
    """

    begun_s: float
    ended_s: float
    stopped: str | None
    in_flight: float | None
    in_flight_asked: int | None
    cpu_per_process: float
    cpu_s: float
    processes: int
    lag_ms: dict[str, float | None]
    late_ms: dict[str, float | None]
    valid: bool
    reasons: list[str] = field(default_factory=list)

    def as_row(self) -> Row:
        """As a record holds it."""
        return asdict(self)


@dataclass
class _Sent:
    """A request that a process has, and what of its answer came so far."""

    number: int  # within the stage
    item: Item
    conversation: int
    turn: int
    process: int
    phase: str
    intended: float | None
    answer: Answer
    texts: tuple[str, ...]

    @property
    def request(self) -> Request:
        return self.item.requests[self.turn]


# --- pure functions


def check(stage: Stage) -> None:
    """Refuse a stage that can't be run.

    Raises:
        UsageError: it contradicts itself.
    """
    closed = stage.mode == "closed"
    wrong = (
        f"mode {stage.mode!r} is none of {', '.join(MODES)}"
        if stage.mode not in MODES
        else "closed mode takes a concurrency of at least 1"
        if closed and (stage.concurrency or 0) < 1
        else f"mode {stage.mode} takes a rate above 0"
        if not closed and not (stage.rate_per_s or 0) > 0
        else "mode burst takes a number of requests that begin together"
        if stage.mode == "burst" and (stage.burst or 0) < 1
        else "a stage ends after a number of requests or a duration: neither is given"
        if stage.requests is None and stage.duration_s is None
        else "requests, duration, ramp and warm-up can't be negative"
        if min(stage.requests or 0, stage.duration_s or 0, stage.ramp_s, stage.warmup) < 0
        else None
    )
    if wrong:
        raise UsageError(wrong, hint="see nox -s benchmark -- --help")


def arrivals(stage: Stage) -> Iterator[float]:
    """When requests begin at a rate, in seconds after the stage's begin; endless.

    While the rate grows from 0 to r over ramp_s, n requests are due after sqrt(2 n ramp_s / r) seconds.
    """
    rate, ramp_s = stage.rate_per_s or 1.0, stage.ramp_s
    chance = random.Random(stage.seed)  # noqa: S311 - arrivals, not secrets
    together = stage.burst or 1 if stage.mode == "burst" else 1
    due = 0.0  # in requests at the full rate
    for number in itertools.count():
        if stage.mode == "poisson":
            due += chance.expovariate(1.0)
        elif number:
            due += together
        in_ramp = rate * ramp_s / 2  # requests that begin in the ramp
        moment = (2 * due * ramp_s / rate) ** 0.5 if due < in_ramp else ramp_s + (due - in_ramp) / rate
        for _ in range(together):
            yield moment


def request_row(
    request: Request, reading: Reading, *, intended: float, sent: float, ended: float, origin: float
) -> Row:
    """What a record says of one request, but for where it belongs (index, stage, phase and the like).

    Args:
        intended: when it should have begun, seconds on the clock of ``reading``, as all moments here.
        sent: when it was.
        ended: when nothing more came; not used where the answer has an end of its own.
        origin: the run's begin.
    """
    tokens = reading.tokens
    timings = reading.timings or {}
    output = reading.output_tokens if reading.output_tokens is not None else timings.get("predicted_n")
    complete = reading.end is not None
    failure = reading.failure or _wrong_length(request, reading, output)
    ended = reading.end if reading.end is not None else ended
    decode_s = tokens[-1] - tokens[0] if tokens and complete else None
    # llama-server says how many tokens an event brings; those that come with the very last have no moment of their own.
    timed = len(tokens) if request.path == COMPLETION else output
    gaps: list[float] = np.round(np.diff(tokens) * 1000, 3).tolist() if len(tokens) > 1 else []
    prompt_n, prompt_ms = timings.get("prompt_n"), timings.get("prompt_ms")
    cached = bool(reading.cached_tokens)
    drafted = timings.get("draft_n")
    error: Row | None = None
    if failure:
        error = {"kind": failure.kind, "message": failure.message}
        if failure.retry_after_s is not None:
            error["retry_after_s"] = failure.retry_after_s
    return {
        "intended_s": round(intended - origin, 6),
        "start_s": round(sent - origin, 6),
        "late_ms": _ms(sent - intended),
        "ok": failure is None,
        "error": error,
        "prompt_tokens": _whole(reading.prompt_tokens, timings),
        "output_tokens": output if complete else len(tokens),
        "reasoning_tokens": reading.reasoning_tokens if tokens else None,
        "cached_tokens": reading.cached_tokens,
        "draft": {"n": drafted, "accepted": timings.get("draft_n_accepted")} if drafted is not None else None,
        "finish_reason": reading.finish_reason,
        "ttft_ms": _ms(tokens[0] - intended) if tokens else None,
        "ttft_visible_ms": _ms(reading.visible - intended) if reading.visible is not None else None,
        "queue_ms": round((tokens[0] - sent) * 1000 - prompt_ms, 3) if tokens and prompt_ms is not None else None,
        "decode_ms": _ms(decode_s) if decode_s is not None else None,
        "total_ms": _ms(ended - intended),
        "tpot_ms": round(decode_s * 1000 / (timed - 1), 4) if decode_s and timed and timed > 1 else None,
        "itl_ms": gaps,
        "stalls": stalls(gaps),
        "decode_tps": (timed - 1) / decode_s if decode_s and timed is not None else None,
        "prefill_tps": prompt_n / prompt_ms * 1000 if prompt_n and prompt_ms and not cached else None,
        "server": {key: timings.get(key) for key in SERVER_TIMINGS} if timings else None,
        "backend": reading.backend,
    }


def stalls(gaps: Sequence[float]) -> int:
    """How many gaps (ms) are far out of the ordinary: above 500 ms and 10 times the median of their request."""
    if not gaps or max(gaps) <= STALL_MS:
        return 0
    bound = max(STALL_MS, STALL_FACTOR * statistics.median(gaps))
    return sum(gap > bound for gap in gaps)


def _wrong_length(request: Request, reading: Reading, output: float | None) -> StreamError | None:
    timings = reading.timings or {}
    wanted = request.output_tokens if request.stream else None
    if wanted is not None:
        known = output if output is not None or reading.tokens else 0
        stopped = reading.finish_reason in STOP_REASONS and not request.exact_output
        if (request.exact_output and known is None) or (known is not None and known < wanted and not stopped):
            said = "an unknown number" if known is None else f"{known:g}"
            return StreamError("short", f"{said} of {wanted} output tokens ({reading.finish_reason})")
    if request.prompt_tokens is not None:
        seen = _whole(reading.prompt_tokens, timings)
        if "prompt_n" in timings:
            seen = int(timings["prompt_n"] + timings.get("cache_n", 0))
        if seen != request.prompt_tokens:
            return StreamError("protocol", f"the server saw {seen} of {request.prompt_tokens} prompt tokens")
    return None


def _whole(prompt_tokens: int | None, timings: Mapping[str, float]) -> int | None:
    if prompt_tokens is None and "prompt_n" in timings:
        return int(timings["prompt_n"] + timings.get("cache_n", 0))
    return prompt_tokens


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


# --- a process that sends


class _Process:
    """A process of nexus_tasks.load.sender and the line to it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.outstanding = 0
        self.stats: Row | None = None
        self.line, theirs = socket.socketpair()
        for end in (self.line, theirs):
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                end.setsockopt(socket.SOL_SOCKET, option, 4 << 20)
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process; a pipe would have to be emptied
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "nexus_tasks.load.sender", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                cwd=provenance.ROOT,
                process_group=0,  # Ctrl-C is for this process, which decides what becomes of the others
            )
        self.line.setblocking(False)
        self._inbox = bytearray()
        self._outbox = bytearray()

    @property
    def wants_to_write(self) -> bool:
        return bool(self._outbox)

    def tell(self, letter: bytes, content: bytes = b"") -> None:
        """Send a message; what the line can't take yet waits."""
        self._outbox += sender.LENGTH.pack(len(content) + 1)
        self._outbox += letter
        self._outbox += content
        self.flush()

    def flush(self) -> None:
        """Send what waits, as far as the line takes it."""
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            while self._outbox:
                del self._outbox[: self.line.send(self._outbox)]

    def receive(self) -> list[tuple[list[Any], Segment]]:
        """The messages that came.

        Raises:
            EOFError: the process has ended.
        """
        try:
            data = self.line.recv(4 << 20)
        except BlockingIOError:
            return []
        except ConnectionResetError:
            data = b""
        if not data:
            raise EOFError
        self._inbox += data
        messages = []
        at = 0
        with memoryview(self._inbox) as inbox:
            while len(inbox) >= at + sender.HEADER.size:
                packed, pieces, size = sender.HEADER.unpack_from(inbox, at)
                edges = list(
                    itertools.accumulate((sender.HEADER.size, packed, 8 * pieces, 4 * pieces, size), initial=at)
                )
                if len(inbox) < edges[-1]:
                    break
                _, meta, times, lengths, raw = itertools.starmap(
                    lambda begin, end: bytes(inbox[begin:end]), itertools.pairwise(edges)
                )
                ends = np.cumsum(np.frombuffer(lengths, dtype=np.uint32), dtype=np.int64)
                messages.append((msgspec.msgpack.decode(meta), Segment(np.frombuffer(times), ends, raw)))
                at = edges[-1]
        del self._inbox[:at]
        return messages

    def complaint(self) -> str:
        """The last line of what it said before it died."""
        self.process.kill()
        self.process.wait()
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit status {self.process.returncode}"

    def close(self) -> None:
        """End it, whatever it does."""
        self.line.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=1)
        self.process.kill()
        self.process.wait()
        self._said.close()


def _config(
    base_url: str, api_key: str | None, headers: Mapping[str, str], users: int | None, limits: Limits
) -> sender.Config:
    url = httpx.URL(endpoint.base_url(base_url))
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        found = socket.getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise EndpointDown(f"{base_url} does not answer: its host name is unknown", hint="check DNS") from error
    lines = {
        "Host": url.netloc.decode(),
        "User-Agent": "llama-nexus",
        "Accept": "*/*",
        "Accept-Encoding": "identity",  # a stream is read as it comes off the wire
        "Content-Type": "application/json",
        **({"Authorization": f"Bearer {api_key}"} if api_key else {}),
        **headers,
    }
    try:
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items()).encode("latin-1")
    except UnicodeEncodeError as error:
        raise UsageError("a header or the API key holds characters that HTTP can't carry", hint="ASCII only") from error
    return sender.Config(
        addresses=list(dict.fromkeys(str(entry[4][0]) for entry in found)),
        port=port,
        tls=url.scheme == "https",
        host=url.host,
        prefix=url.path.rstrip("/"),
        head=head,
        users=users,
        connect_s=limits.connect_s,
        token_s=limits.token_s,
        request_s=limits.request_s,
    )


# --- a stage


def run(
    base_url: str,
    api_key: str | None,
    items: Iterable[Item],
    stage: Stage,
    limits: Limits,
    *,
    index: int,
    origin: float,
    on_rows: Callable[[list[Row]], None],
    number: int = 0,
    processes: int = 1,
    headers: Mapping[str, str] | None = None,
    enough: Callable[[], bool] | None = None,
) -> Watch:
    """Put one level of load on a server.

    Args:
        items: what is asked; taken as it is needed, somewhat ahead.
        index: the number of the first request; the others count on.
        origin: the run's begin on ``time.perf_counter``.
        on_rows: gets the rows of requests as they end, in batches, in this process.
        number: of the stage.
        processes: how many share the load.
        headers: sent with each request.
        enough: asked now and then; True ends the stage.

    Raises:
        UsageError: the stage contradicts itself.
        EndpointDown: the host's name is unknown.
        KeyboardInterrupt: after the rows of all requests that had ended were delivered.
    """
    check(stage)
    if stage.concurrency is not None:
        processes = min(processes, stage.concurrency)
    workers: list[_Process] = []
    with _Interrupts() as interrupts, contextlib.ExitStack() as stack:
        for process in range(max(processes, 1)):
            worker = _Process(process)
            stack.callback(worker.close)
            workers.append(worker)
        for worker in workers:
            users = None
            if stage.mode == "closed" and stage.concurrency:
                users = len(range(worker.number, stage.concurrency, len(workers)))
            config = _config(base_url, api_key, headers or {}, users, limits)
            worker.tell(b"c", msgspec.msgpack.encode(config))
        run_ = _Run(
            workers, iter(items), stage, limits, api_key, index=index, number=number, origin=origin, on_rows=on_rows,
            enough=enough, interrupts=interrupts,
        )  # fmt: skip
        return run_.run()


class _Interrupts:
    """Ctrl-C is noted, and looked at between rows, so that none is half delivered; the second is not waited for."""

    def __init__(self) -> None:
        self.came = False
        self._before: Any = None

    def __enter__(self) -> _Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.getsignal(signal.SIGINT)
            if self._before is signal.default_int_handler:
                signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._before)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        if self.came:
            raise KeyboardInterrupt
        self.came = True


class _Run:
    """One stage while it runs."""

    def __init__(
        self,
        workers: list[_Process],
        items: Iterator[Item],
        stage: Stage,
        limits: Limits,
        api_key: str | None,
        *,
        index: int,
        number: int,
        origin: float,
        on_rows: Callable[[list[Row]], None],
        enough: Callable[[], bool] | None,
        interrupts: _Interrupts,
    ) -> None:
        self._workers = workers
        self._items = items
        self._stage = stage
        self._limits = limits
        self._api_key = api_key
        self._index = index
        self._number = number
        self._origin = origin
        self._on_rows = on_rows
        self._enough = enough
        self._interrupts = interrupts
        self._selector = selectors.DefaultSelector()
        self._encoder = msgspec.msgpack.Encoder()
        self._arrivals = arrivals(stage) if stage.mode != "closed" else iter(())
        self._due: float | None = None
        self._begin = 0.0
        self._counts_from: float | None = None  # at a rate: when the first request that counts is due
        self._sent: dict[int, _Sent] = {}
        self._handed = 0
        self._in_ramp = 0
        self._promised = 0  # later turns of conversations that were begun
        self._ending = False  # nothing may begin any more
        self._conversations = 0
        self._supplied = True  # whether there are more items to begin
        self._stopped: str | None = None
        self._counted = 0
        self._failed = 0
        self._rows: list[tuple[float, Row]] = []
        self._spans: tuple[array[float], array[float]] = (array("d"), array("d"))
        self._late: array[float] = array("d")
        self._begun_late: array[float] = array("d")  # before there was a connection: this machine's part, in ms
        self._window: tuple[float, float] | None = None
        self._paused = False
        self._asked_enough = time.perf_counter()
        self._enough_cost_s = 0.0

    def run(self) -> Watch:
        """Run it to its end."""
        with self._selector:
            for worker in self._workers:
                self._selector.register(worker.line, selectors.EVENT_READ, worker)
            self._await_ready()
            self._feed()
            self._begin = time.perf_counter() + 0.01
            # At a rate, what is handed out ends with the duration; users have to be stopped.
            duration_s = self._stage.duration_s if self._stage.mode == "closed" else None
            go = self._encoder.encode((self._begin, self._stage.ramp_s, duration_s))
            for worker in self._workers:
                worker.tell(b"g", go)
            self._feed()  # what is due at a rate can't wait for the first news
            while (self._sent or self._allowed()) and not self._interrupts.came:
                self._poll()
                self._feed()
                self._deliver()
                self._consider()
                if self._stopped == "errors":
                    break
            self._end()
            self._deliver()
        if self._interrupts.came:
            raise KeyboardInterrupt
        return self._watch()

    def _await_ready(self) -> None:
        ready: set[int] = set()
        deadline = time.perf_counter() + _START_S
        while len(ready) < len(self._workers):
            if self._interrupts.came:
                raise KeyboardInterrupt
            for worker, messages in self._received(0.1):
                if messages:
                    ready.add(worker.number)
            if time.perf_counter() > deadline:
                raise RuntimeError(f"the load generator did not start within {_START_S:g} s")

    # feeding

    def _feed(self) -> None:
        """Hand out what the processes need to go on without waiting for this one."""
        if self._interrupts.came:
            return
        if self._stage.mode == "closed":
            # A round for each, so that none is empty while another's reserve is filled.
            while hungry := [worker for worker in self._workers if worker.outstanding < self._depth(worker)]:
                for worker in hungry:
                    if not self._allowed():
                        return
                    self._hand_out(worker, None)
            return
        horizon = time.perf_counter() + _HORIZON_S
        while self._begin and self._allowed():
            self._due = next(self._arrivals) if self._due is None else self._due
            due = self._begin + self._due
            if self._handed >= self._stage.warmup and self._counts_from is None and self._due >= self._stage.ramp_s:
                self._counts_from = due
            duration_s, counts_from = self._stage.duration_s, self._counts_from
            if duration_s is not None and counts_from is not None and due >= counts_from + duration_s:
                self._supplied = False
            elif due > horizon:
                return
            else:
                self._hand_out(self._workers[self._handed % len(self._workers)], due)
                self._due = None

    def _depth(self, worker: _Process) -> int:
        users = len(range(worker.number, self._stage.concurrency or 0, len(self._workers)))
        return 2 * users + _RESERVE

    def _allowed(self) -> bool:
        """Whether one more request may be handed out. Those begun in the ramp are on top of those that count."""
        return self._supplied and not self._interrupts.came and self._handed + self._promised < self._budget()

    def _budget(self) -> float:
        """How many requests there may be in all."""
        if self._stage.requests is None:
            return float("inf")
        return self._stage.warmup + self._stage.requests + self._in_ramp

    def _hand_out(self, worker: _Process, due: float | None) -> None:
        item = next(self._items, None)
        if item is None:
            self._stopped = self._stopped or "exhausted"
            self._supplied = False
            return
        self._ask(worker, item, self._conversations, 0, (), due)
        self._promised += len(item.requests) - 1
        self._conversations += 1

    def _ask(
        self, worker: _Process, item: Item, conversation: int, turn: int, texts: tuple[str, ...], due: float | None
    ) -> None:
        request = item.requests[turn]
        body = request.body if isinstance(request.body, bytes) else request.body(texts)
        number = self._handed
        phase = "warmup" if number < self._stage.warmup else "run"
        if phase == "run" and due is not None and due - self._begin < self._stage.ramp_s:
            phase = "ramp"
            self._in_ramp += 1
        needs_text = self._limits.keep_answers or any(callable(later.body) for later in item.requests[turn + 1 :])
        self._sent[number] = _Sent(
            number, item, conversation, turn, worker.number, phase, due,
            Answer(request.path, stream=request.stream, keep_text=needs_text), texts,
        )  # fmt: skip
        self._handed += 1
        worker.outstanding += 1
        ask = sender.Ask(number, request.path, body, due, turn + 1 < len(item.requests), turn > 0, phase == "run")
        worker.tell(b"a", self._encoder.encode(ask))

    # reading

    def _received(self, timeout_s: float) -> list[tuple[_Process, list[tuple[list[Any], Segment]]]]:
        """What the processes say, as soon as one says something; what could not be told yet is told meanwhile."""
        for worker in self._workers:
            if worker.stats is not None:
                continue
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.wants_to_write else 0)
            if self._selector.get_key(worker.line).events != wanted:
                self._selector.modify(worker.line, wanted, worker)
        received = []
        for key, events in self._selector.select(timeout_s):
            worker = key.data
            if events & selectors.EVENT_WRITE:
                worker.flush()
            if events & selectors.EVENT_READ:
                try:
                    received.append((worker, worker.receive()))
                except EOFError:
                    raise RuntimeError(f"a process of the load generator died: {worker.complaint()}") from None
        return received

    def _poll(self) -> None:
        timeout_s = 0.25
        if self._due is not None:
            timeout_s = min(timeout_s, max(self._begin + self._due - time.perf_counter() - _HORIZON_S, 0))
        for worker, messages in self._received(timeout_s):
            for meta, segment in messages:
                self._told(worker, meta, segment)
                os.sched_yield()  # where a core is shared with a process that sends, that one has something to stamp

    def _told(self, worker: _Process, meta: list[Any], segment: Segment) -> None:
        match meta:
            case ["part", number]:
                self._sent[number].answer.feed(segment)
            case ["end", number, begun, sent, ended, failure]:
                worker.outstanding -= 1
                self._sent[number].answer.feed(segment)
                broken = StreamError(*failure) if failure else None
                self._finished(worker, self._sent.pop(number), begun, sent, ended, broken)
            case ["dropped", numbers]:
                worker.outstanding -= len(numbers)
                for number in numbers:
                    del self._sent[number]
            case ["stopped"]:
                self._supplied, self._ending = False, True
            case ["stats", stats]:
                worker.stats = stats
                self._selector.unregister(worker.line)

    def _finished(
        self, worker: _Process, done: _Sent, begun: float, sent: float, ended: float, broken: StreamError | None
    ) -> None:
        """Make the row of a request that ended, and go on with its conversation."""
        reading = done.answer.finish(broken)
        phase = done.phase
        closed = self._stage.mode == "closed"
        if phase == "run" and closed and self._stage.ramp_s and begun - self._begin < self._stage.ramp_s:
            phase = "ramp"
            self._in_ramp += 1
        intended = done.intended if done.intended is not None else sent if closed else begun
        row = {
            "type": "request",
            "index": self._index + done.number,
            "stage": self._number,
            "phase": phase,
            "key": done.item.key,
            "conversation": done.conversation if len(done.item.requests) > 1 else None,
            "turn": done.turn,
            "worker": worker.number,
            **request_row(
                done.request, reading, intended=intended, sent=sent, ended=ended, origin=self._origin
            ),
        }  # fmt: skip
        if self._limits.keep_answers:
            row["prompt"] = None if done.request.text is None else self._hidden(done.request.text)
            row["answer"] = self._hidden(reading.text or "")
        if row["error"]:
            row["error"]["message"] = self._hidden(row["error"]["message"])
        self._rows.append((ended, row))
        self._spans[0].append(begun)
        self._spans[1].append(ended)
        if phase == "run":
            self._counted += 1
            self._failed += not row["ok"]
            self._late.append(row["late_ms"])
            if done.intended is not None:
                self._begun_late.append((begun - done.intended) * 1000)
            begin, end = self._window or (intended, ended)
            self._window = min(begin, intended), max(end, ended)
        if row["error"] and "retry_after_s" in row["error"]:
            self._paused = self._paused or closed
        if done.turn + 1 < len(done.item.requests):
            if row["ok"] and not self._ending and self._handed < self._budget():
                self._promised -= 1
                texts = (*done.texts, reading.text or "")
                self._ask(worker, done.item, done.conversation, done.turn + 1, texts, None)
            else:
                self._promised -= len(done.item.requests) - done.turn - 1
                if closed:
                    kind, retry_after_s = broken.kind if broken else None, (row["error"] or {}).get("retry_after_s")
                    waits_s = sender.pause_s(kind, retry_after_s, answered=bool(reading.tokens))
                    worker.tell(b"r", self._encoder.encode(waits_s))

    def _hidden(self, text: str) -> str:
        """The key masked: some servers repeat it."""
        return text.replace(self._api_key, MASK) if self._api_key else text

    def _deliver(self) -> None:
        if self._rows:
            rows = [row for _, row in sorted(self._rows, key=lambda entry: entry[0])]
            self._rows = []
            self._on_rows(rows)

    def _consider(self) -> None:
        """Whether it is time to stop."""
        if self._stopped:
            return
        allowed = self._limits.max_error_rate
        if allowed is not None and self._counted >= _BEFORE_ERRORS_COUNT and self._failed > allowed * self._counted:
            self._stopped = "errors"
        now = time.perf_counter()
        if self._enough and now - self._asked_enough > max(_ENOUGH_EVERY_S, 10 * self._enough_cost_s):
            if self._enough():
                self._stopped = "enough"
                for worker in self._workers:
                    worker.tell(b"s")
                self._supplied, self._ending = False, True
            self._asked_enough = time.perf_counter()
            self._enough_cost_s = self._asked_enough - now

    def _end(self) -> None:
        """Have the processes end, and take what they still have."""
        early = self._interrupts.came or self._stopped == "errors"
        for worker in self._workers:
            worker.tell(b"x" if early else b"e")
        deadline = time.perf_counter() + _END_S
        while any(worker.stats is None for worker in self._workers) and time.perf_counter() < deadline:
            self._poll()

    def _watch(self) -> Watch:
        begin, end = self._window or (self._begin, self._begin)
        asked = self._stage.concurrency if self._stage.mode == "closed" else None
        in_flight = self._mean_in_flight(begin)
        stats = [worker.stats for worker in self._workers if worker.stats]
        late_loop = lag([entry["lag"] for entry in stats], max((entry["lag_max"] for entry in stats), default=0.0))
        cpu = max((entry["cpu"] for entry in stats), default=0.0)
        late = np.asarray(self._late)
        reasons = []
        if asked and in_flight is not None and in_flight < MIN_IN_FLIGHT * asked:
            why = " because the server asked for pauses (Retry-After)" if self._paused else ""
            reasons.append(f"{in_flight:.1f} requests were in flight of {asked} asked for{why}")
        if asked and len(self._spans[0]) < asked:
            reasons.append(f"there were {len(self._spans[0])} requests for {asked} users")
        elif asked and asked > 1 and len(self._spans[0]) == asked:
            reasons.append(f"each of {asked} users sent one request: nothing but the first wave was measured")
        if cpu >= MAX_CPU:
            reasons.append(f"the load generator used {cpu:.0%} of a core: give it more processes")
        if too_late([entry["lag"] for entry in stats]):
            reasons.append(
                f"the load generator's loop was late by {late_loop['p99']:.1f} ms (p99): this machine is too busy"
            )
        if self._begun_late and (begun_late_ms := float(np.percentile(self._begun_late, 99))) > MAX_BEGUN_LATE_P99_MS:
            reasons.append(f"requests were begun {begun_late_ms:.0f} ms late (p99): the load generator did not keep up")
        if any(entry["behind"] for entry in stats):
            reasons.append("answers came faster than they could be read: users waited for this machine")
        return Watch(
            begun_s=round(begin - self._origin, 6),
            ended_s=round(end - self._origin, 6),
            stopped=self._stopped,
            in_flight=None if in_flight is None else round(in_flight, 3),
            in_flight_asked=asked,
            cpu_per_process=round(cpu, 4),
            cpu_s=round(sum(entry["cpu_s"] for entry in stats), 4),
            processes=len(self._workers),
            lag_ms=late_loop,
            late_ms={
                "p50": round(float(np.percentile(late, 50)), 3) if len(late) else None,
                "p99": round(float(np.percentile(late, 99)), 3) if len(late) else None,
                "max": round(float(late.max()), 3) if len(late) else None,
            },
            valid=not reasons,
            reasons=reasons,
        )

    def _mean_in_flight(self, begin: float) -> float | None:
        """Requests under way, on average from when all users were there until the last request began."""
        begun, ended = np.sort(np.asarray(self._spans[0])), np.asarray(self._spans[1])
        users = self._stage.concurrency or 1
        if len(begun) <= users:
            return None
        begin, end = max(begin, begun[users - 1]), begun[-1]
        if end <= begin:
            return None
        within = np.clip(ended, begin, end).sum() - np.clip(begun, begin, end).sum()
        return float(within / (end - begin))


def too_late(histograms: Sequence[Sequence[int]]) -> bool:
    """Whether the delays that the processes counted harm what is measured.

    The p99 alone would be, of the few dozen looks of a short stage, the worst one.
    """
    if not histograms:
        return False
    late = np.sum(histograms, axis=0)[round(MAX_LAG_P99_MS / 1000 / sender.BUCKET_S) :].sum()
    return bool((lag(histograms, 0.0)["p99"] or 0) > MAX_LAG_P99_MS and late >= MIN_LOOKS_LATE)


def lag(histograms: Sequence[Sequence[int]], largest_s: float) -> dict[str, float | None]:
    """Percentiles (ms) of the delays that the processes counted."""
    counts = np.sum(histograms, axis=0) if histograms else np.zeros(1)
    total = counts.sum()
    if not total:
        return {"p50": None, "p99": None, "max": None}
    reached = np.cumsum(counts) / total
    bounds_ms = (np.arange(len(counts)) + 1) * sender.BUCKET_S * 1000
    return {
        "p50": round(float(bounds_ms[np.searchsorted(reached, 0.5)]), 3),
        "p99": round(float(bounds_ms[np.searchsorted(reached, 0.99)]), 3),
        "max": round(largest_s * 1000, 3),
    }
