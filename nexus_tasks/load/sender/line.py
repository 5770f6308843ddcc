"""A sender process's line to the generator: commands come in, and what arrived goes out in slices."""

from __future__ import annotations

import array
import asyncio
import collections
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from nexus_tasks.load.sender.protocol import HEADER, LENGTH, PART

SLICE = 2048
"""Pieces that are packed at once: about 0.1 ms of work."""
_BACKLOG_BYTES = 64 << 20
"""So much may wait for the generator before users wait as well."""
_BOUNDARIES = (b"\n\n\r\n", b"\n\n", b"\r\n\r\n\r\n")


class Line(asyncio.Protocol):
    """The line.

    Args:
        on_command: gets each command, its letter and its content.
        on_read: called when the commands that came together were given.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_command: Callable[[bytes, bytes], None],
        on_read: Callable[[], None],
    ) -> None:
        self.closed = loop.create_future()
        self._loop = loop
        self._on_command = on_command
        self._on_read = on_read
        self._transport: Any = None
        self._inbox = b""
        self._packing: collections.deque[tuple[list[Any], list[float], list[bytes]]] = collections.deque()

    @property
    def is_full(self) -> bool:
        """True while the generator is behind with its reading."""
        return bool(self._transport.get_write_buffer_size() > _BACKLOG_BYTES)

    @property
    def is_packing(self) -> bool:
        """True while slices wait to be handed on."""
        return bool(self._packing)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport
        self._transport.set_write_buffer_limits(high=1 << 30)

    def connection_lost(self, error: Exception | None) -> None:
        """Without a generator there is nothing to do."""
        self.give_up()

    def give_up(self) -> None:
        """Have nobody listen any more."""
        if not self.closed.done():
            self.closed.set_result(None)

    def close(self) -> None:
        """Close, when all reports are out."""
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Read commands."""
        inbox = self._inbox + data
        at = 0
        while len(inbox) >= at + LENGTH.size:
            (length,) = LENGTH.unpack_from(inbox, at)
            end = at + LENGTH.size + length
            if len(inbox) < end:
                break
            self._on_command(inbox[at + LENGTH.size : at + LENGTH.size + 1], inbox[at + LENGTH.size + 1 : end])
            at = end
        self._inbox = inbox[at:]
        self._on_read()

    def tell(self, meta: list[Any], times: Sequence[float] = (), parts: Sequence[bytes] = ()) -> None:
        """Send a report at once."""
        if self.closed.done():
            return  # nobody listens any more
        packed = msgspec.msgpack.encode(meta)
        raw = b"".join(parts)
        self._transport.writelines([
            HEADER.pack(len(packed), len(times), len(raw)), packed,
            array.array("d", times).tobytes(), array.array("I", map(len, parts)).tobytes(), raw,
        ])  # fmt: skip

    def hand_on(self, meta: list[Any], times: list[float], parts: list[bytes]) -> None:
        """Hand on what came, a slice in each turn of the loop: packing much at once would delay stamps."""
        self._packing.append((meta, times, parts))
        if len(self._packing) == 1:
            self._loop.call_soon(self._pack)

    def _pack(self) -> None:
        meta, times, parts = self._packing[0]
        if len(parts) > SLICE:
            end = boundary(parts, SLICE)
            self.tell([PART, meta[1]], times[:end], parts[:end])
            del times[:end], parts[:end]
        else:
            self._packing.popleft()
            self.tell(meta, times, parts)
        if self._packing:
            self._loop.call_soon(self._pack)


def boundary(parts: Sequence[bytes], near: int) -> int:
    """The cut in a row of pieces: after ``near`` of them or a few more, at the end of an event if there is one."""
    for end in range(near, min(near + 64, len(parts))):
        if parts[end - 1].endswith(_BOUNDARIES):
            return end
    return near
