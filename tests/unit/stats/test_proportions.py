"""Confidence intervals of shares."""

from __future__ import annotations

import pytest

from nexus_tasks.stats.proportions import wilson


@pytest.mark.parametrize(
    ("found", "of", "low", "high"),
    [  # Newcombe 1998, table I
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_interval_is_that_of_the_literature(found: int, of: int, low: float, high: float) -> None:
    assert wilson(found / of, of) == pytest.approx((low, high), abs=5e-5)


def test_none_and_all_are_no_certainty() -> None:
    assert wilson(1.0, 20)[0] == pytest.approx(1 - 0.1611, abs=5e-5)
    assert wilson(1.0, 20)[1] == 1.0
