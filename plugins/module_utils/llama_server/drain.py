"""Drain: wait until a server works on no request any more."""

from __future__ import annotations

import contextlib
import http.client
import time
from collections.abc import Callable

from ..hostlib.instances import Instance
from .client import LOOK_SECONDS, Hidden, Server, Unanswered
from .errors import HostError
from .folder import Folder
from .host import Host
from .keys import old_keys


def drain(
    host: Host, folder: Folder, config: Instance, timeout: float, trouble: Callable[[str], None] = lambda line: None
) -> bool | None:
    """Wait until no slot works on a request: whether that came about; None where the server can't say.

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
        return None
    busy = "its"
    while True:
        try:
            code, slots = server.ask("/slots", key=key, timeout=LOOK_SECONDS)
            if code != 200 or not isinstance(slots, list):
                return None
            working = sum(bool(slot.get("is_processing")) for slot in slots)
            if not working:
                return True
            busy = str(working)
        except Unanswered:  # what it works on leaves it no time to say so
            pass
        except Hidden as error:
            trouble(f"requests were not waited for: {error}")
            return None
        except (HostError, OSError, http.client.HTTPException):
            return None
        waited = time.monotonic() - started
        if waited > timeout:
            return False
        host.progress(f"{folder.name}: waiting for {busy} requests, {waited:.0f} of {timeout:.0f} s")
        time.sleep(0.2)
