"""The host of a run: its tool is started and ended, and its server stopped and started, by playbooks."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from nexus_tasks.core.errors import DeployError
from nexus_tasks.fleet import playbook


@dataclass(frozen=True)
class Place:
    """The place of a run, and what has to be put back after it: all that the second process must know."""

    host: str
    instance: str
    run: str
    starts: bool
    """The server was stopped for the run, and has to be started."""


def play(place: Place, console: Console | None, **variables: Any) -> Any:
    """Run playbooks/raw.yml, and return what it wrote."""
    with tempfile.TemporaryDirectory(prefix="llama-nexus-") as folder:
        answer = Path(folder) / "answer.json"
        given = {"raw_run": place.run, "raw_instance": place.instance, "raw_file": str(answer), **variables}
        outcome = playbook.run_on(
            place.host, "playbooks/raw.yml", "--extra-vars", json.dumps({"raw_commands": [], **given}), console=console
        )
        if outcome.status != 0:
            raise DeployError(outcome.problem(), hint="mend it and measure again; nox -s status shows what runs")
        return json.loads(answer.read_text(encoding="utf-8"))


def end(place: Place, console: Console | None) -> Any:
    """Have the run's tool ended; the lines that there were.

    Raises:
        DeployError: the host can't be reached, or the tool does not end.
    """
    return play(place, console, raw_ends=True)


def move(verb: str, place: Place, console: Console | None) -> None:
    """Stop or start the server of a place, and prove one that was started."""
    variables = json.dumps({"instance": place.instance, "raw_run": place.run})
    outcome = playbook.run_on(place.host, f"playbooks/{verb}.yml", "--extra-vars", variables, console=console)
    if outcome.status != 0:
        target = f"{place.host}/{place.instance}"
        raise DeployError(
            f"{target} did not {verb}: {outcome.problem()}", hint=f"nox -s status, then nox -s {verb} -- {target}"
        )
