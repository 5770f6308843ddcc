"""What ends a stage early."""

from __future__ import annotations

from nexus_tasks.load import generator


def test_a_stage_that_failed_too_often_is_not_called_enough() -> None:
    stopping = generator._Stopping(max_error_rate=0.1, enough=lambda: True)
    stopping._asked = float("-inf")  # it is time to ask whether there is enough
    for _ in range(generator._BEFORE_ERRORS_COUNT):
        stopping.count(ok=False)
    assert stopping.consider() == "errors"
    assert stopping.consider() is None
    assert stopping.reason == "errors"
