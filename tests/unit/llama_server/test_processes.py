"""Processes of this host."""

from __future__ import annotations

import functools
import threading
import time

from plugins.module_utils.llama_server.processes import Activity
from tests.conftest import wait_for
from tests.port_takers import running


def test_a_process_that_computes_is_not_idle() -> None:
    def spin() -> None:
        while True:
            pass

    def rest() -> None:
        threading.Event().wait()

    def passed(moment: float) -> bool:
        return time.monotonic() > moment

    for target, idle in ((spin, False), (rest, True)):
        with running(target) as pid:
            activity = Activity(pid)
            later = time.monotonic() + 1
            wait_for(functools.partial(passed, later), "a second")
            assert activity.idle() is idle
