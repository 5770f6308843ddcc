"""A proxy in front of a server that counts what is sent: a request counts once its body was there, answered or not.

    with counting(server.base_url) as proxy:
        ...
    proxy.sent                  # [Sent(moment, body)], in order

Connections are passed through byte by byte. One whose server is gone is closed, as the server's own would be.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class Sent:
    """A request with a body; ``moment`` is one of ``time.monotonic``."""

    moment: float
    body: bytes


@dataclass
class Proxy:
    """The proxy: its address, and the requests that went to the server through it.

    ``on_sent`` is called, in the proxy's thread, before each of them goes on.
    """

    base_url: str = ""
    sent: list[Sent] = field(default_factory=list)
    on_sent: Callable[[], None] = lambda: None


@contextlib.contextmanager
def counting(base_url: str) -> Iterator[Proxy]:
    """A proxy on loopback for as long as the block lasts."""
    host, _, port = base_url.removeprefix("http://").partition(":")
    proxy, loop, over, ready = Proxy(), asyncio.new_event_loop(), asyncio.Event(), threading.Event()

    async def serve() -> None:
        listening = await asyncio.start_server(lambda *ends: _pass(proxy, (host, int(port)), *ends), "127.0.0.1", 0)
        proxy.base_url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        ready.set()
        await over.wait()
        listening.close()
        connections = asyncio.all_tasks() - {asyncio.current_task()}
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), name="proxy")
    thread.start()
    ready.wait()
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()


async def _pass(
    proxy: Proxy, address: tuple[str, int], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Pass a connection on, both ways, until one end closes it."""
    try:
        server_reader, server_writer = await asyncio.open_connection(*address)
    except OSError:
        writer.close()
        return
    ways = [
        asyncio.ensure_future(_requests(proxy, reader, server_writer)),
        asyncio.ensure_future(_copy(server_reader, writer)),
    ]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        for end in (writer, server_writer):
            end.close()
            with contextlib.suppress(OSError):
                await end.wait_closed()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()


async def _requests(proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass requests on, each when it is whole: what a client that was killed had not sent to its end is no request."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = LENGTH.search(head)
            body = await reader.readexactly(int(length[1])) if length else b""
            if body:
                proxy.sent.append(Sent(time.monotonic(), body))
                proxy.on_sent()
            writer.write(head + body)
            await writer.drain()
