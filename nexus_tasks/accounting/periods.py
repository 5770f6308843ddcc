"""Periods of time as people give them: ``7d``, ``24h``, ``2026-11-01``.

periods.moment("7d", now)          # datetime(…, tzinfo=UTC), at the beginning of a day
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from nexus_tasks.core.errors import UsageError

UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
AGO = re.compile(r"(\d{1,6})([mhdw])")
MEANT = "use a time ago (30m, 24h, 7d, 4w), a day (2026-11-01) or a moment (2026-11-01T09:00), in UTC"


def moment(text: str, now: datetime) -> datetime:
    """The moment that a word means, in UTC. Days and weeks ago begin with their day.

    Raises:
        UsageError: it is none.
    """
    ago = AGO.fullmatch(text.strip())
    try:
        if ago:
            then = now - timedelta(**{UNITS[ago[2]]: int(ago[1])})
            return _day(then) if ago[2] in "dw" else then
        if text == "today":
            return _day(now)
        found = datetime.fromisoformat(text.strip())
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{text!r} is no time", hint=MEANT) from error


def _day(when: datetime) -> datetime:
    return when.replace(hour=0, minute=0, second=0, microsecond=0)
