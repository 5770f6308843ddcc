"""The process that talks to the server: connections, stamps, and nothing that could delay a stamp.

    python -m nexus_tasks.load.sender FD       # started by the generator, which speaks with it over the socket FD

What arrives is stamped and kept as it is. Of HTTP only as much is read here as tells where an answer ends;
everything else (framing, events, JSON) is done by the process that started this one, from the bytes and the
stamps that it gets when a request has ended. Little is imported here, so that the start is short.

Moments are seconds of ``time.perf_counter``, which all processes of a machine share; the wall clock plays no part.
"""

from __future__ import annotations

import array
import asyncio
import collections
import contextlib
import ctypes
import gc
import os
import resource
import signal
import socket
import ssl
import struct
import sys
from collections.abc import Callable, Sequence
from time import perf_counter, process_time
from typing import Any

import httptools
import msgspec
import uvloop

HEADER = struct.Struct("<IIQ")
"""Before each message to the parent: bytes of MessagePack, number of stamps, raw bytes."""
LENGTH = struct.Struct("<I")
"""Before each message from the parent."""

_END = b"0\r\n\r\n"
_BOUNDARIES = (b"\n\n\r\n", b"\n\n", b"\r\n\r\n\r\n")
_SEGMENT = 2048
"""Pieces that are packed at once: about 0.1 ms of work."""
_BACKLOG_BYTES = 64 << 20
"""So much may wait for the parent before users wait as well."""
_SWEEP_S = 0.25
_PROBE_S = 0.02
_HANGS_UP_S = 1.0
"""A connection that is closed so soon after an answer shows that the server always does it."""
RETRY_AFTER_MAX_S = 30.0
CONNECT_PAUSE_S = 0.25
"""A user whom nobody answered waits so long: a server that is not there can't be asked without a pause."""
PRIORITY = -5
"""Of a process that sends, as nice counts, where it may have one."""
_UNTIL_CLOSED, _CHUNKED = -1, -2
_BUCKETS = 2000
BUCKET_S = 1e-4


class Config(msgspec.Struct):
    """What a process is told at its start. ``addresses`` are IP addresses; ``head`` ends every request's head."""

    addresses: list[str]
    port: int
    tls: bool
    host: str
    prefix: str
    head: bytes
    users: int | None
    connect_s: float
    token_s: float
    request_s: float | None


class Ask(msgspec.Struct, array_like=True):
    """A request to send.

    ``intended`` is when (None: as soon as a user is free). With ``hold`` the user waits afterwards for what the
    parent says: another request that ``continues``, or their release. The first that ``counts`` starts the clock
    of a stage that has a duration.
    """

    id: int
    path: str
    body: bytes
    intended: float | None = None
    hold: bool = False
    continues: bool = False
    counts: bool = True


def pause_s(failure_kind: str | None, retry_after_s: float | None, *, answered: bool) -> float:
    """How long a user waits before it asks again: seconds that the server named, or because nobody was there."""
    if failure_kind in ("connect", "disconnected") and not answered:
        return CONNECT_PAUSE_S
    return min(retry_after_s or 0.0, RETRY_AFTER_MAX_S)


class Failure(Exception):
    """What ended a request before its answer did."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


class Histogram:
    """Counts of delays in buckets of 0.1 ms, up to 0.2 s."""

    def __init__(self) -> None:
        self.counts = [0] * (_BUCKETS + 1)
        self.largest = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self.counts[min(max(int(seconds / BUCKET_S), 0), _BUCKETS)] += 1
        self.largest = max(self.largest, seconds)


class Alarm:
    """Calls back at a moment, to some ten microseconds; the event loop's own timers know milliseconds only.

    Linux has a clock that is a file. Elsewhere the loop's timers have to do.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._fd = -1
        self._handle: asyncio.TimerHandle | None = None
        if sys.platform == "linux":
            self._libc = ctypes.CDLL(None, use_errno=True)
            self._fd = self._libc.timerfd_create(1, os.O_NONBLOCK | os.O_CLOEXEC)  # CLOCK_MONOTONIC
        if self._fd >= 0:
            loop.add_reader(self._fd, self._fired)

    def at(self, moment: float) -> None:
        """Call back at ``moment``, now where that is over; replaces what was asked before."""
        if self._fd < 0:
            if self._handle:
                self._handle.cancel()
            self._handle = self._loop.call_later(max(moment - perf_counter(), 0), self._callback)
            return
        seconds, fraction = divmod(max(moment, 1e-6), 1)  # all zeros would stop it
        value = (ctypes.c_long * 4)(0, 0, int(seconds), int(fraction * 1e9))
        self._libc.timerfd_settime(self._fd, 1, value, None)  # TFD_TIMER_ABSTIME

    def _fired(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 8)
        self._callback()


class Transfer:
    """One request on its way, and what is known of it."""

    __slots__ = ("ask", "begun", "retried", "sent")

    def __init__(self, ask: Ask, begun: float) -> None:
        self.ask = ask
        self.begun = begun
        self.sent = begun
        self.retried = False


class Connection(asyncio.Protocol):
    """A connection to the server; one request at a time."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.transport: asyncio.WriteTransport | None = None
        self.transfer: Transfer | None = None
        self.times: list[float] = []
        self.parts: list[bytes] = []
        self.used = 0  # answers that it brought
        self.freed = 0.0  # when the last of them ended
        self.packed = 0  # pieces of the present answer that were handed on already
        self.last = 0.0  # arrival of the last of those
        self.status = 0
        self.keeps_alive = False
        self.closing = False
        self.retry_after = 0.0
        self._missing = _UNTIL_CLOSED  # or the length of the body, in bytes
        self._seen = 0
        vars(self)["data_received"] = self._receiver()  # a closure is the cheapest there is
        self.look_closely = True

    def _receiver(self) -> Callable[[bytes], None]:
        stamp, keep = self.times.append, self.parts.append

        def data_received(data: bytes) -> None:
            stamp(perf_counter())
            keep(data)
            if data.endswith(_END) or len(data) < 5 or self.look_closely:
                self._look()

        return data_received

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = transport  # type: ignore[assignment]  # uvloop's classes are not asyncio's

    def send(self, transfer: Transfer) -> None:
        """Send a request; the connection must be idle."""
        self.transfer = transfer
        self.times.clear()
        self.parts.clear()
        self.packed, self._seen, self._missing = 0, 0, _UNTIL_CLOSED
        self.status = 0
        self.look_closely = True
        ask = transfer.ask
        config = self.wire.config
        head = b"POST %s%s HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n" % (
            config.prefix.encode(), ask.path.encode(), config.head, len(ask.body)
        )  # fmt: skip
        message = head + ask.body
        transfer.sent = perf_counter()
        if self.transport:
            self.transport.write(message)

    def silent_since(self) -> float:
        """When news came last; comments, which keep connections alive, are none."""
        for moment, part in zip(reversed(self.times), reversed(self.parts), strict=True):
            if not is_comment(part):
                return moment
        if self.packed:
            return self.last
        return self.transfer.sent if self.transfer else 0.0

    def check_end(self) -> None:
        """Look for the end where nothing called for it: an end may come in two pieces."""
        if self.parts and not self.look_closely:
            self._look()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser of heads."""
        name = name.lower()
        if name == b"content-length":
            with contextlib.suppress(ValueError):
                self._missing = int(value)
        elif name == b"transfer-encoding" and b"chunked" in value.lower():
            self._missing = _CHUNKED
        elif name == b"retry-after":
            with contextlib.suppress(ValueError):
                self.retry_after = max(float(value), 0.0)

    def _look(self) -> None:
        """Whether the answer has ended."""
        if self.transfer is None:
            if self.transport:
                self.transport.abort()  # bytes that nobody asked for
            return
        if self.look_closely and self.status == 0 and not self._read_head():
            return
        if self._missing >= 0:
            if sum(map(len, self.parts)) - self._seen >= self._missing:
                self._ended()
        elif self._missing == _CHUNKED and b"".join(self.parts[-4:]).endswith(b"\r\n" + _END):
            self._ended()

    def _read_head(self) -> bool:
        """Read status and headers once they are whole; True then."""
        raw = b"".join(self.parts)
        end = raw.find(b"\r\n\r\n") + 4
        if end < 4:
            if len(raw) > 1 << 20:
                self.fail(Failure("protocol", "no HTTP head within a megabyte"))
            return False
        self.retry_after = 0.0
        parser = httptools.HttpResponseParser(self)
        try:
            parser.feed_data(raw[:end])
            self.status = parser.get_status_code()
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.fail(Failure("protocol", f"not HTTP: {error}"))
            return False
        self.keeps_alive = parser.should_keep_alive() and self._missing != _UNTIL_CLOSED
        self._seen = end
        self.look_closely = self._missing >= 0
        return True

    def _ended(self) -> None:
        transfer, self.transfer = self.transfer, None
        self.used += 1
        self.freed = perf_counter()
        if transfer:
            self.wire.ended(self, transfer, None)

    def fail(self, failure: Failure) -> None:
        """Give the present request up, and the connection with it."""
        transfer, self.transfer = self.transfer, None
        if self.transport:
            self.transport.abort()
        if transfer:
            self.keeps_alive = False
            self.wire.ended(self, transfer, failure)

    def connection_lost(self, error: Exception | None) -> None:
        """Decide what the loss means for the present request."""
        wire, transfer = self.wire, self.transfer
        self.transport = None
        wire.forget(self)
        with contextlib.suppress(KeyError):
            del vars(self)["data_received"]  # the closure knows this connection: they would never be freed
        if self.used and not self.closing and not self.times and perf_counter() - self.freed < _HANGS_UP_S:
            wire.hangs_up = True
        if transfer is None:
            return
        self.transfer = None
        if self.used and not self.times and not transfer.retried:
            # The server had closed before it saw the request: that is between answers, not its failure.
            transfer.retried = True
            wire.connect(transfer)
        elif error is None:
            # Whether that was an end is up to what was said; an answer without a length ends so.
            wire.ended(self, transfer, None if self.times else Failure("disconnected", _NO_ANSWER))
        else:
            wire.ended(self, transfer, Failure("disconnected", _reason(error)))


_NO_ANSWER = "the server closed the connection without an answer"


def is_comment(part: bytes) -> bool:
    """Whether a piece is a comment of an event stream, in a chunk or without."""
    _size, _, rest = part.partition(b"\r\n")
    return part.startswith(b":") or rest.startswith(b":") or part == b"\r\n"


def _reason(error: BaseException) -> str:
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error}"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return " ".join(str(error).split()) or type(error).__name__


class Wire(asyncio.Protocol):
    """Sends what the parent asks for, when it is due, and hands back what came."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.config: Config
        self.hangs_up = False
        self.done = loop.create_future()
        self._loop = loop
        self._parent: Any = None
        self._inbox = b""
        self._ready: collections.deque[Ask] = collections.deque()
        self._idle: list[Connection] = []
        self._active: dict[Connection, None] = {}
        self._connecting: set[asyncio.Task[None]] = set()
        self._packing: collections.deque[tuple[list[Any], list[float], list[bytes]]] = collections.deque()
        self._free = 0
        self._stopped = False
        self._counts_from = 0.0
        self._duration_s: float | None = None
        self._behind = False
        self._address = 0
        self._tls: ssl.SSLContext | None = None
        self._lag = Histogram()
        self._begun = 0.0
        self._cpu_begun = 0.0
        self._last_end = 0.0
        self._cpu_end = 0.0
        self._alarm = Alarm(loop, self._due)
        self._probe = Alarm(loop, self._probed)
        self._probe_at = 0.0
        self._sweep_s = _SWEEP_S
        self._decoder = msgspec.msgpack.Decoder(Ask)

    # from the parent

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the line to the parent."""
        self._parent = transport
        self._parent.set_write_buffer_limits(high=1 << 30)

    def connection_lost(self, error: Exception | None) -> None:
        """Without a parent there is nothing to do."""
        if not self.done.done():
            self.done.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Read the parent's messages: a letter, and what belongs to it."""
        inbox = self._inbox + data
        at = 0
        while len(inbox) >= at + LENGTH.size:
            (length,) = LENGTH.unpack_from(inbox, at)
            end = at + LENGTH.size + length
            if len(inbox) < end:
                break
            self._told(inbox[at + LENGTH.size : at + LENGTH.size + 1], inbox[at + LENGTH.size + 1 : end])
            at = end
        self._inbox = inbox[at:]
        self._pump()

    def _told(self, letter: bytes, content: bytes) -> None:
        if letter == b"a":
            ask = self._decoder.decode(content)
            if ask.continues and not self._stopped:
                self._start(ask)
            else:
                self._ready.append(ask)
                if self._stopped:
                    self._drop()
                elif ask.intended is not None and len(self._ready) == 1:
                    self._alarm.at(ask.intended)
        elif letter == b"c":
            self._configure(msgspec.msgpack.decode(content, type=Config))
            self._tell(["ready"])
        elif letter == b"g":
            self._go(*msgspec.msgpack.decode(content, type=tuple[float, float, float | None]))
        elif letter == b"r":
            self._user_waits(msgspec.msgpack.decode(content, type=float))
        elif letter == b"s":
            self._stop()
        elif letter == b"x":
            self._abort()
        elif letter == b"e":
            self._finish()

    def _configure(self, config: Config) -> None:
        self.config = config
        shortest = min(config.token_s, config.request_s or config.token_s)
        self._sweep_s = min(max(shortest / 10, 0.005), _SWEEP_S)
        if config.tls:
            self._tls = ssl.create_default_context()
        gc.collect()
        gc.freeze()

    def _go(self, begin: float, ramp_s: float, duration_s: float | None) -> None:
        """Begin at ``begin``; users come one after another within ``ramp_s``; then requests begin for so long."""
        self._begun = begin
        self._cpu_begun = process_time()
        self._counts_from = begin + ramp_s
        self._duration_s = duration_s
        self._probe_at = perf_counter() + _PROBE_S
        self._probe.at(self._probe_at)
        self._loop.call_later(self._sweep_s, self._sweep)
        users = self.config.users or 0
        if ramp_s and users:
            for user in range(users):
                self._loop.call_later(max(begin - perf_counter() + ramp_s * user / users, 0), self._user_free)
        else:
            self._loop.call_later(max(begin - perf_counter(), 0), self._users_come, users)

    def _users_come(self, users: int) -> None:
        self._free += users
        self._pump()

    def _user_free(self) -> None:
        self._free += 1
        self._pump()

    # requests

    def _pump(self) -> None:
        """Begin what may begin, in closed mode."""
        ready = self._ready
        while self._free and ready and not self._stopped and ready[0].intended is None:
            if self._parent.get_write_buffer_size() > _BACKLOG_BYTES:
                self._behind = True
                self._loop.call_later(0.005, self._pump)
                return
            self._free -= 1
            self._start(ready.popleft())

    def _due(self) -> None:
        """Begin what is due, in rate modes."""
        ready = self._ready
        while ready and not self._stopped:
            intended = ready[0].intended
            if intended is None:
                break
            if intended > perf_counter():
                self._alarm.at(intended)
                break
            self._start(ready.popleft())

    def _start(self, ask: Ask) -> None:
        transfer = Transfer(ask, perf_counter())
        if self._duration_s is not None and ask.counts and transfer.begun >= self._counts_from:
            self._loop.call_later(self._duration_s, self._stop)
            self._duration_s = None
        if self._idle:
            connection = self._idle.pop()
            self._active[connection] = None
            connection.send(transfer)
        else:
            self.connect(transfer)

    def connect(self, transfer: Transfer) -> None:
        """Send a request over a connection of its own."""
        task = self._loop.create_task(self._connect(transfer))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, transfer: Transfer) -> None:
        config = self.config
        failure = Failure("connect", "the host has no address")
        for turn in range(len(config.addresses)):
            address = (self._address + turn) % len(config.addresses)
            try:
                async with asyncio.timeout(config.connect_s):
                    _, connection = await self._loop.create_connection(
                        lambda: Connection(self),
                        config.addresses[address],
                        config.port,
                        ssl=self._tls,
                        server_hostname=config.host if self._tls else None,
                    )
            except TimeoutError:
                failure = Failure("connect", f"no connection within {config.connect_s:g} s")
            except (OSError, ssl.SSLError) as error:
                failure = Failure("connect", _reason(error))
            else:
                self._address = address
                self._active[connection] = None
                if connection.transport is None:
                    self.ended(connection, transfer, Failure("disconnected", _NO_ANSWER))
                    return
                connection.send(transfer)
                return
        transfer.sent = perf_counter()
        self._report(transfer, [], [], failure, CONNECT_PAUSE_S)

    def ended(self, connection: Connection, transfer: Transfer, failure: Failure | None) -> None:
        """A request ended: its connection may serve another, its user as well."""
        self._active.pop(connection, None)
        retry_after_s = connection.retry_after if connection.status in (429, 503) else 0.0
        kind = failure.kind if failure else None
        waits_s = pause_s(kind, retry_after_s, answered=bool(connection.times))
        times, parts = connection.times[:], connection.parts[:]
        connection.times.clear()
        connection.parts.clear()
        if connection.transport is not None and not connection.transport.is_closing():
            if connection.keeps_alive and not self.hangs_up and not self._stopped and failure is None:
                self._idle.append(connection)
            else:
                connection.closing = True
                connection.transport.close()
        self._report(transfer, times, parts, failure, waits_s)

    def _report(
        self, transfer: Transfer, times: list[float], parts: list[bytes], failure: Failure | None, waits_s: float
    ) -> None:
        ended = perf_counter()
        self._last_end, self._cpu_end = ended, process_time()
        meta = [
            "end", transfer.ask.id, transfer.begun, transfer.sent, ended,
            [failure.kind, failure.message] if failure else None,
        ]  # fmt: skip
        self._pack(meta, times, parts)
        if self.config.users is None or transfer.ask.hold:
            return
        self._user_waits(waits_s)

    def _user_waits(self, seconds: float) -> None:
        if seconds:
            # uvloop's timers count in whole milliseconds, and one may be early by as much: no shorter than was asked.
            self._loop.call_later(seconds + 0.001, self._user_free)
        else:
            self._user_free()

    def forget(self, connection: Connection) -> None:
        """The connection is closed."""
        self._active.pop(connection, None)
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)

    # what came, to the parent

    def _pack(self, meta: list[Any], times: list[float], parts: list[bytes]) -> None:
        """Hand on what came, a slice in each turn of the loop: packing much at once would delay stamps."""
        self._packing.append((meta, times, parts))
        if len(self._packing) == 1:
            self._loop.call_soon(self._pack_on)

    def _pack_on(self) -> None:
        meta, times, parts = self._packing[0]
        if len(parts) > _SEGMENT:
            end = boundary(parts, _SEGMENT)
            self._tell(["part", meta[1]], times[:end], parts[:end])
            del times[:end], parts[:end]
        else:
            self._packing.popleft()
            self._tell(meta, times, parts)
        if self._packing:
            self._loop.call_soon(self._pack_on)

    def _tell(self, meta: list[Any], times: Sequence[float] = (), parts: Sequence[bytes] = ()) -> None:
        if self.done.done():
            return  # nobody listens any more
        packed = msgspec.msgpack.encode(meta)
        raw = b"".join(parts)
        self._parent.writelines([
            HEADER.pack(len(packed), len(times), len(raw)), packed,
            array.array("d", times).tobytes(), array.array("I", map(len, parts)).tobytes(), raw,
        ])  # fmt: skip

    # watching

    def _probed(self) -> None:
        now = perf_counter()
        self._lag.add(now - self._probe_at)
        self._probe_at = now + _PROBE_S
        self._probe.at(self._probe_at)

    def _sweep(self) -> None:
        """Look after requests: time limits, ends that were missed, answers too long to keep."""
        now = perf_counter()
        limits = self.config
        for connection in list(self._active):
            transfer = connection.transfer
            if transfer is None:
                continue
            parts = connection.parts
            if now - connection.silent_since() > limits.token_s:
                comments = bool(parts) and now - connection.times[-1] <= limits.token_s
                what = "nothing but keep-alive comments" if comments else "nothing arrived"
                connection.fail(Failure("timeout", f"{what} for {limits.token_s:g} s"))
            elif limits.request_s is not None and now - transfer.begun > limits.request_s:
                connection.fail(Failure("timeout", f"not at its end after {limits.request_s:g} s"))
            elif len(parts) > 2 * _SEGMENT and not connection.look_closely and not self._packing:
                end = boundary(parts, len(parts) - _SEGMENT)
                connection.last = connection.times[end - 1]
                connection.packed += end
                self._pack(["part", transfer.ask.id], connection.times[:end], parts[:end])
                del connection.times[:end], parts[:end]
            else:
                connection.check_end()
        if self._begun and self._last_end:
            gc.collect(0)
        self._loop.call_later(self._sweep_s, self._sweep)

    # the end

    def _drop(self) -> None:
        if self._ready:
            self._tell(["dropped", [ask.id for ask in self._ready]])
            self._ready.clear()

    def _stop(self) -> None:
        """Begin nothing any more; what is under way goes on."""
        if not self._stopped:
            self._stopped = True
            self._tell(["stopped"])
        self._drop()
        for connection in self._idle:
            if connection.transport:
                connection.transport.close()
        self._idle.clear()

    def _abort(self) -> None:
        """Give up what is under way."""
        self._stop()
        for task in self._connecting:
            task.cancel()
        for connection in list(self._active):
            connection.transfer = None
            if connection.transport:
                connection.transport.abort()
        self._active.clear()
        self._finish()

    def _finish(self) -> None:
        if self._packing:
            self._loop.call_soon(self._finish)
            return
        wall_s = max(self._last_end - self._begun, 1e-9)
        self._tell([
            "stats",
            {
                "cpu": max(self._cpu_end - self._cpu_begun, 0.0) / wall_s if self._last_end else 0.0,
                "cpu_s": self._cpu_end - self._cpu_begun if self._last_end else 0.0,
                "lag": self._lag.counts,
                "lag_max": self._lag.largest,
                "behind": self._behind,
            },
        ])  # fmt: skip
        self._parent.close()


def boundary(parts: Sequence[bytes], near: int) -> int:
    """Where to cut a row of pieces: after ``near`` of them or a few more, at the end of an event if there is one."""
    for end in range(near, min(near + 64, len(parts))):
        if parts[end - 1].endswith(_BOUNDARIES):
            return end
    return near


async def serve(line: socket.socket) -> None:
    """Serve the parent until it has enough."""
    loop = asyncio.get_running_loop()
    wire = Wire(loop)

    def broken(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # A mistake in here must not become a request that never ends: the parent sees the process go.
        sys.stderr.write(f"{context.get('message')}: {context.get('exception')!r}\n")
        if not wire.done.done():
            wire.done.set_result(None)

    loop.set_exception_handler(broken)
    await loop.create_unix_connection(lambda: wire, sock=line)
    await wire.done


def main(argv: Sequence[str]) -> int:
    """Serve the parent over the socket whose number is the argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # A server on the same machine keeps every core busy: without this, a piece that arrives waits for its turn.
    with contextlib.suppress(OSError):  # only root may
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
    gc.disable()  # a collection in the wrong moment would delay stamps; the sweep collects what is young
    with socket.socket(fileno=int(argv[0])) as line:
        line.setblocking(False)
        uvloop.run(serve(line))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
