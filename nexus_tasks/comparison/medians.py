"""Verdicts on all medians of a run against another, for those who show a change beside a figure.

    medians.verdicts_of(before, after)["itl_ms"]             "better", "worse", "same" or "can't tell"

They are judged as comparisons are (:mod:`nexus_tasks.comparison.verdicts`): the same errors, margins and drift,
and confidence intervals that allow for how much is judged.
"""

from __future__ import annotations

from nexus_tasks.comparison import verdicts
from nexus_tasks.comparison.quantities import Quantity
from nexus_tasks.comparison.verdicts import CANT_TELL
from nexus_tasks.core.errors import UsageError
from nexus_tasks.records.store import BenchmarkRecord
from nexus_tasks.stats.metrics import OF_REQUESTS

MEDIANS = tuple(Quantity(metric, "median") for metric in OF_REQUESTS.values())


def verdicts_of(before: BenchmarkRecord, after: BenchmarkRecord) -> dict[str, str]:
    """Metric -> the verdict of its median. Of several levels of load it is the one that all of them have.

    What was not measured in both is not there, and nothing is where the runs can't be compared.
    """
    try:
        findings = verdicts.judge([before], [after], quantities=MEDIANS).findings
    except UsageError:
        return {}
    by_metric: dict[str, set[str]] = {}
    for finding in findings:
        by_metric.setdefault(finding.name, set()).add(finding.verdict)
    return {name: one.pop() if len(one) == 1 else CANT_TELL for name, one in by_metric.items()}
