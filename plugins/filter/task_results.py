"""Ansible filter: the reason for which a task failed, of a loop those of its items.

ansible_failed_result | task_failure
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..module_utils.hostlib.task_results import reasons


def task_failure(result: Mapping[str, Any]) -> str:
    """The reasons in one text."""
    return "; ".join(reasons(result))


class FilterModule:
    """See the module docstring."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"task_failure": task_failure}
