"""Waiting for what was started."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import httpx


def wait(condition: Callable[[], Any], what: str, seconds: float = 30) -> None:
    """Wait until a condition holds. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(0.1)


def answers(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(url, timeout=30).status_code == httpx.codes.OK
    return False
