"""The process around the dispatcher: its event loop, its priority, its limits."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

import uvloop

from nexus_tasks.load.sender.dispatcher import Dispatcher

PRIORITY = -5
"""Of a process that sends, as nice counts, where it may have one."""


async def serve(line: socket.socket) -> None:
    """Serve the generator until it has enough."""
    loop = asyncio.get_running_loop()
    dispatcher = Dispatcher(loop)

    def broken(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # A mistake in here must not become a request that never ends: the generator sees the process go.
        sys.stderr.write(f"{context.get('message')}: {context.get('exception')!r}\n")
        dispatcher.line.give_up()

    loop.set_exception_handler(broken)
    await loop.create_unix_connection(lambda: dispatcher.line, sock=line)
    await dispatcher.line.closed


def main(argv: Sequence[str]) -> int:
    """Serve the generator over the socket whose number is the argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the generator decides what Ctrl-C means
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # A server on the same machine keeps every core busy: without this, a piece that arrives waits for its turn.
    with contextlib.suppress(OSError):  # only root may
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
    with socket.socket(fileno=int(argv[0])) as line:
        line.setblocking(False)
        uvloop.run(serve(line))
    return 0
