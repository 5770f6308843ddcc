"""Gate: what comparisons mean for whoever waits for them, as an exit status."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from nexus_tasks.comparison import selection, text, verdicts
from nexus_tasks.comparison.comparable import pairs
from nexus_tasks.comparison.verdicts import CANT_TELL, WORSE, Comparison
from nexus_tasks.records import store
from nexus_tasks.records.store import BenchmarkRecord

EXIT_WORSE, EXIT_CANT_TELL = 3, 4
FAIL_ON = {"worse": {WORSE: EXIT_WORSE}, "cant-tell": {WORSE: EXIT_WORSE, CANT_TELL: EXIT_CANT_TELL}}
"""Verdicts to fail on -> the verdicts that do, and the exit status of each."""


def exit_status(comparisons: Sequence[Comparison], fail_on: str) -> int:
    """The exit status of all comparisons together: that of the worst verdict, or 0.

    Args:
        comparisons: one a target.
        fail_on: one of FAIL_ON.
    """
    verdicts_ = {finding.verdict for comparison in comparisons for finding in comparison.findings}
    if any(comparison.missing for comparison in comparisons):
        verdicts_.add(CANT_TELL)
    return next((status for verdict, status in FAIL_ON[fail_on].items() if verdict in verdicts_), 0)


def against(
    name: str, records: Sequence[BenchmarkRecord], *, root: Path = store.ROOT, console: Console | None = None
) -> int:
    """Hold fresh runs against a baseline, a tag or a run, show it, and give the exit status: 3 when any is worse.

    Raises:
        UsageError, RecordError: as :func:`nexus_tasks.comparison.selection.find` and
            :func:`nexus_tasks.comparison.verdicts.judge` do.
    """
    comparisons = [verdicts.judge(a, b) for a, b in pairs(selection.beside(name, root, records), records)]
    for comparison in comparisons:
        if console:
            text.show(comparison, console)
    return exit_status(comparisons, "worse")
