"""Pauses of users whom the server did not answer, or asked to wait."""

from __future__ import annotations

import pytest

from nexus_tasks.load.sender.protocol import CONNECT_PAUSE_S, RETRY_AFTER_MAX_S, pause_s


@pytest.mark.parametrize(
    ("kind", "retry_after_s", "answered", "seconds"),
    [
        (None, None, True, 0.0),
        ("http_status", 0.4, True, 0.4),
        ("http_status", 3600.0, True, RETRY_AFTER_MAX_S),
        ("connect", None, False, CONNECT_PAUSE_S),
        ("disconnected", None, False, CONNECT_PAUSE_S),
        ("disconnected", None, True, 0.0),
    ],
)
def test_a_user_pauses_where_nobody_answered_and_as_long_as_the_server_wants_within_reason(
    kind: str | None, retry_after_s: float | None, answered: bool, seconds: float
) -> None:
    assert pause_s(kind, retry_after_s, answered=answered) == seconds
