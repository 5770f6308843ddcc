from __future__ import annotations

from datetime import UTC, datetime

import pytest

from nexus_tasks.accounting import periods
from nexus_tasks.core.errors import UsageError

NOW = datetime(2026, 11, 30, 9, 15, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("30m", "2026-11-30T08:45:30+00:00"), ("24h", "2026-11-29T09:15:30+00:00"), ("7d", "2026-11-23T00:00:00+00:00"),
        ("2w", "2026-11-16T00:00:00+00:00"), ("today", "2026-11-30T00:00:00+00:00"),
        ("2026-11-01", "2026-11-01T00:00:00+00:00"), ("2026-11-01T09:00", "2026-11-01T09:00:00+00:00"),
        ("2026-11-01T09:00+02:00", "2026-11-01T07:00:00+00:00"),
    ],
)  # fmt: skip
def test_times_are_given_as_people_say_them(text: str, meant: str) -> None:
    assert periods.moment(text, NOW).isoformat() == meant


@pytest.mark.parametrize("text", ["", "yesterday", "7", "d", "-3d", "999999w", "2026-13-01", "7 days"])
def test_what_is_no_time_is_refused_with_what_would_be(text: str) -> None:
    with pytest.raises(UsageError, match="is no time") as refused:
        periods.moment(text, NOW)
    assert "7d" in refused.value.hint
