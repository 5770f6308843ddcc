"""Results of Ansible's tasks, read alike by the record of a deployment and by whoever watches it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NO_REASON = "it gave no reason"


def reasons(result: Mapping[str, Any], *, stderr_lines: int | None = None) -> list[str]:
    """The reasons for which a task failed, by its result: those of the failed items of a loop, else its own.

    A loop's own message only says that items failed, and a look at a host's facts only which of its modules did.

    Args:
        result: as Ansible hands it to callbacks.
        stderr_lines: so many last lines at most of what a program said; None for all of them.
    """
    if "censored" in result:
        return ["hidden: the task has no_log"]
    items = [item for item in result.get("results") or () if isinstance(item, Mapping) and item.get("failed")]
    modules = result.get("failed_modules")
    items += [module for module in modules.values() if isinstance(module, Mapping)] if modules else []
    if items:
        return list(dict.fromkeys(reason for item in items for reason in reasons(item, stderr_lines=stderr_lines)))
    message = str(result.get("msg") or "").strip()
    stderr = str(result.get("stderr") or result.get("module_stderr") or "").strip()
    if stderr_lines is not None:
        stderr = "\n".join(stderr.splitlines()[-stderr_lines:])
    return ["\n".join(part for part in (message, stderr if stderr not in message else "") if part) or NO_REASON]
