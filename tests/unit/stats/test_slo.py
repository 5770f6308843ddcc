"""Objectives, and which requests keep them."""

from __future__ import annotations

from typing import Any

import pytest

from nexus_tasks.core.errors import UsageError
from nexus_tasks.records.benchmark_rows import RequestRow
from nexus_tasks.stats import slo
from tests import report_records


def row(**changes: Any) -> RequestRow:
    """A request that succeeded."""
    request = report_records.request(1, ttft_ms=100.0, itl_ms=[3.0, 4.0, 3.0, 2.0])
    typed: RequestRow = report_records.typed({**request, **changes})
    return typed


@pytest.mark.parametrize(
    ("changes", "limits", "kept"),
    [
        ({"ttft_ms": 500.0}, {"ttft_ms": 500.0}, True),
        ({"ttft_ms": None}, {"ttft_ms": 500.0}, False),
        ({"itl_ms": []}, {"itl_p95_ms": 1.0}, True),  # one token has no gaps to be slow in
        ({"itl_ms": [1.0, 9.0]}, {"itl_median_ms": 5.0}, True),
        ({"itl_ms": [1.0, 9.0]}, {"itl_max_ms": 8.0}, False),
        ({"ok": False}, {"ttft_ms": 500.0}, False),
    ],
)
def test_a_request_meets_what_it_has_a_value_for(changes: dict[str, Any], limits: dict[str, float], kept: bool) -> None:
    assert slo.meets(row(**changes), limits) is kept


def test_objectives_are_read_from_options() -> None:
    assert slo.limits(["ttft_ms=500", "itl_p95_ms=50.5"]) == {"ttft_ms": 500.0, "itl_p95_ms": 50.5}


@pytest.mark.parametrize(
    "text", ["ttft=500", "itl_ms=50", "ttft_ms", "ttft_ms=fast", "ttft_ms=-1", "ttft_ms=inf", "=5"]
)
def test_objectives_that_no_request_can_be_held_to_are_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        slo.limits([text])
    assert text in caught.value.message
