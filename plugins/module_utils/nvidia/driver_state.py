"""State that role nvidia_driver keeps on a host, and the lock of its runs. Python 3.9's standard library only."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

from ..hostlib import locks
from ..hostlib.files import read_json, write_file
from .drivers import Driver
from .errors import DriverError
from .packages import Say

FOLDER = "/var/lib/llama-nexus"
STATE = f"{FOLDER}/nvidia-driver.json"
LOCK = f"{FOLDER}/nvidia-driver.lock"


def read() -> dict[str, Any]:
    """The notes of this role; empty where it never installed a driver."""
    return read_json(STATE) or {}


def write(phase: str, driver: Driver) -> None:
    """Remember that a driver is being installed (``installing``) or is there (``installed``)."""
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    write_file(STATE, json.dumps({"phase": phase, "driver": driver._asdict(), "at": at}, indent=1) + "\n", parents=True)


@contextlib.contextmanager
def alone(say: Say) -> Iterator[None]:
    """One run at a time: a job goes on when its controller is lost, and the next run waits for it."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locks.held(LOCK, "driver", waiting=say))
        except locks.LockError as error:
            raise DriverError(str(error)) from error
        yield
