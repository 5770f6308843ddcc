"""Names of runs: the words that mean a run whatever is saved, and so can't be the name of anything else."""

from __future__ import annotations

from nexus_tasks.core.errors import UsageError

LAST, LAST_GOOD = "last", "last-good"


def check_name(name: str, what: str) -> None:
    """Have a tag or a baseline be nothing that a RUN of the command line means already.

    Raises:
        UsageError: it is ``last``, ``last-good``, the path of a record, or a list.
    """
    if name != name.strip() or not name or name in (LAST, LAST_GOOD) or "," in name or name.endswith(".jsonl"):
        raise UsageError(
            f"the name of {what} must be a word that means nothing else, not {name!r}",
            hint="use letters, digits, - and .",
        )
