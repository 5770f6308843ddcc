"""Results of Ansible's tasks: why one failed."""

from __future__ import annotations

from typing import Any

import pytest

from nexus_tasks.hostlib.task_results import reasons

LOOP = "One or more items failed"


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"msg": "no room", "stderr": "df: full"}, ["no room\ndf: full"]),
        ({"msg": "df: full", "stderr": "df: full"}, ["df: full"]),
        ({"msg": "failed", "module_stderr": "1\n2\n3"}, ["failed\n2\n3"]),
        ({"censored": "x", "msg": "key"}, ["hidden: the task has no_log"]),
        ({"results": [{"failed": True, "msg": "one"}, {"msg": "fine"}], "msg": LOOP}, ["one"]),
        ({"results": [{"failed": True, "msg": "one"}, {"failed": True, "censored": "x"}], "msg": LOOP},
         ["one", "hidden: the task has no_log"]),
        ({"results": [{"failed": True, "msg": "one"}] * 9, "msg": LOOP}, ["one"]),
        ({"failed_modules": {"setup": {"failed": True, "msg": "no Python"}}, "msg": "The following modules failed"},
         ["no Python"]),
        ({"results": "none", "msg": "odd"}, ["odd"]),
        ({}, ["it gave no reason"]),
    ],
)  # fmt: skip
def test_a_task_says_why_it_failed(result: dict[str, Any], expected: list[str]) -> None:
    assert reasons(result, stderr_lines=2) == expected
