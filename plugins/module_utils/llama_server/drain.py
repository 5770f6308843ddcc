"""Drain: wait until a server works on no request any more."""

from __future__ import annotations

import contextlib
import http.client
import time
from collections.abc import Callable
from dataclasses import dataclass

from ..hostlib.instances import Instance
from .client import LOOK_SECONDS, Hidden, Server, Unanswered
from .errors import HostError
from .folder import Folder
from .host import Host
from .keys import old_keys
from .work import work_of


@dataclass(frozen=True)
class Drained:
    """The end of a drain. ``done`` is None where nothing could be told; then nothing was waited for."""

    done: bool | None
    cut: int | None = None
    """The answers that a stop cuts now, as far as they can be counted."""

    def as_row(self) -> dict[str, object]:
        """For a row of a module."""
        return {"drained": self.done, "cut": self.cut}


def drain(
    host: Host, folder: Folder, config: Instance, timeout: float, trouble: Callable[[str], None] = lambda line: None
) -> Drained:
    """Wait until a server has no request.

    llama-server neither refuses new requests nor ends its streams when it is told to stop, so waiting is all
    that can be done from here; a gateway in front would send new ones elsewhere meanwhile.

    Args:
        host, folder, config: the instance and what of it runs.
        timeout: seconds.
        trouble: is told why requests were not waited for, where that needs somebody's attention.
    """
    key = next(iter(old_keys(config).values()), None)
    started = time.monotonic()
    with contextlib.suppress(OSError):
        folder.note("draining")
    try:
        server = Server(config, host.runtime(config).status(folder.name).pid)
    except HostError:  # it says so itself where it is to be stopped
        return Drained(None)
    while True:
        try:
            requests = _requests(server, config, key)
        except Hidden as error:
            trouble(f"requests were not waited for: {error}")
            return Drained(None)
        except (HostError, OSError, http.client.HTTPException):
            return Drained(None)
        if not requests:
            return Drained(None if requests is None else True)
        waited = time.monotonic() - started
        if waited > timeout:
            return Drained(False, requests)
        host.progress(f"{folder.name}: waiting for {requests} requests, {waited:.0f} of {timeout:.0f} s")
        time.sleep(0.2)


def _requests(server: Server, config: Instance, key: str | None) -> int | None:
    """Requests that a server has; None where that can't be told. Those that wait for a slot are told by nobody, so
    where all slots work each connection is taken for one, and likewise where the server has no time or no slots to say.
    """
    try:
        work = work_of(server, config, key, LOOK_SECONDS)
    except Unanswered:
        return max(server.clients() or 0, 1)
    if work is None:
        return server.clients()
    if work.working and work.is_full:
        return max(server.clients() or 0, work.working)
    return work.working
