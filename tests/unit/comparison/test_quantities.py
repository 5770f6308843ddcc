"""What is judged, by name and with its margin."""

from __future__ import annotations

import pytest

from nexus_tasks.comparison import quantities
from nexus_tasks.comparison.quantities import QUANTITIES
from nexus_tasks.core.errors import UsageError


def test_names_labels_margins_and_drifts_are_those_of_the_documentation() -> None:
    assert [(one.name, one.label, one.margin_percent, one.drift_percent) for one in QUANTITIES] == [
        ("decode_tps", "decode, tokens/s", 3, 0.7),
        ("output_tps", "throughput, tokens/s", 3, 0.7),
        ("ttft_ms", "TTFT, ms", 5, 1.5),
        ("ttft_p95_ms", "TTFT p95, ms", 10, 3),
        ("itl_p99_ms", "ITL p99, ms", 10, 3),
        ("prefill_tps", "prefill, tokens/s", 3, 0.7),
        ("total_ms", "request, ms", 5, 1.5),
        ("failed", "failed", 1, 0),
        ("goodput", "goodput", 2, 0),
    ]


def test_margins_are_read_from_options() -> None:
    assert quantities.margins(["decode_tps=1", "itl_p99_ms=20.5"]) == {"decode_tps": 1.0, "itl_p99_ms": 20.5}


@pytest.mark.parametrize("text", ["speed=1", "itl_ms=1", "decode_tps", "decode_tps=0", "decode_tps=wide"])
def test_margins_of_nothing_that_is_judged_are_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        quantities.margins([text])
    assert text in caught.value.message
