"""A plugin for runs by several workers: in which order tests run, and which of them run alone.

pytest-xdist gives each worker whole files, in the order in which they were collected.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests.locks import Turns
from tests.workers import SHARED, shared_folder

TESTS = Path(__file__).resolve().parent
CLEAN_UP_SECONDS = 50  # nox gives 60 to all of it after Ctrl-C
BUDGET_SECONDS = 10  # files that take less are not listed
# The longest first, so that none is left to one worker at the end.
ORDER = ("fleet", "roles", "integration", "bed", "unit")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Of ``--numprocesses auto``: one more than processors, since tests wait for hosts and servers half of their time.

    More than four wait for the one Docker engine and the disk.
    """
    return min(len(os.sched_getaffinity(0)) + 1, 4)


def pytest_configure(config: pytest.Config) -> None:
    """Set up what a worker needs for its turns, and what looks after the workers."""
    if (folder := shared_folder(config)) is not None:
        config.pluginmanager.register(_Turns(Turns(folder)))
    elif config.getoption("numprocesses", None):
        config.pluginmanager.register(_Controller(config))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files that run alone last, when hardly anything has to wait for them."""

    def place(item: pytest.Item) -> tuple[bool, int]:
        kind = item.path.relative_to(TESTS).parts[0] if item.path.is_relative_to(TESTS) else ""
        return _alone(item.getparent(pytest.Module)), ORDER.index(kind) if kind in ORDER else len(ORDER)

    items.sort(key=place)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the time budget: the seconds of each file that takes a while, so that growth is seen."""
    seconds: dict[str, float] = defaultdict(float)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[report.nodeid.partition("::")[0]] += report.duration
    slow = [(file, seconds[file]) for file in sorted(seconds, key=seconds.__getitem__, reverse=True)]
    slow = [(file, spent) for file, spent in slow if spent >= BUDGET_SECONDS]
    if slow:
        terminalreporter.write_sep("=", f"seconds by file, {sum(seconds.values()):.0f} in all")
        for file, spent in slow:
            terminalreporter.write_line(f"{spent:7.0f}  {file}")


def _alone(node: pytest.Item | pytest.Module | None) -> bool:
    return node is not None and node.get_closest_marker("alone") is not None


class _Turns:
    """In a worker: no test runs beside one that is marked as ``alone``."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    @pytest.hookimpl(tryfirst=True, wrapper=True)  # around the limits of time: who waits for a turn is not slow
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self._turns.begin(alone=_alone(item))
        try:
            return (yield)
        finally:
            self._turns.end()


class _Controller:
    """In the process that has workers."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._folder = Path(tempfile.mkdtemp(prefix="llama-nexus-workers-"))
        config.add_cleanup(lambda: shutil.rmtree(self._folder))
        self._nodes: list[Any] = []
        self._begun: set[str] = set()

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker, before it starts, which folder it shares with the others."""
        self._nodes.append(node)
        node.workerinput[SHARED] = str(self._folder)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Say which files are begun: of several workers, dots alone don't tell what it is that takes long."""
        file = nodeid.partition("::")[0]
        if file not in self._begun:
            self._begun.add(file)
            reporter = self._config.pluginmanager.getplugin("terminalreporter")
            assert reporter is not None
            reporter.write_line(file)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Wait for the workers, which Ctrl-C reaches too: pytest-xdist would end them while they still clean up."""
        deadline = time.monotonic() + CLEAN_UP_SECONDS
        for node in self._nodes:
            with contextlib.suppress(Exception):  # it takes too long, has crashed, or has not come so far
                node.channel.waitclose(max(0.0, deadline - time.monotonic()))
