"""Stages that contradict themselves are refused."""

from __future__ import annotations

import pytest

from nexus_tasks.core.errors import UsageError
from nexus_tasks.load.requests import Stage, check


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (Stage("round", requests=1), "mode"),
        (Stage("closed", requests=1), "concurrency"),
        (Stage("closed", concurrency=0, requests=1), "concurrency"),
        (Stage("poisson", requests=1), "rate"),
        (Stage("burst", rate_per_s=1, requests=1), "together"),
        (Stage("closed", concurrency=1), "must have a number of requests or a duration"),
        (Stage("closed", concurrency=1, requests=1, warmup=-1), "must be 0 or more"),
    ],
)
def test_a_stage_that_contradicts_itself_is_refused(stage: Stage, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check(stage)
