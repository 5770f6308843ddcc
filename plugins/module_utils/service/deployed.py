"""A service as declared, or gone; idempotent. Python 3.9's standard library only.

What is declared has a hash, which the process that runs tells: so one that has another is seen, and started anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..hostlib.files import read_text, remove_tree, write_file
from ..hostlib.programs import last_lines
from .errors import ServiceError
from .runtimes import Runtime, Service, Supervisor, Systemd, choose

START_SECONDS = 20


def hash_of(*decides: object) -> str:
    """The name of a configuration, by all that decides on it."""
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Declared:
    """Declaration of a service."""

    service: Service
    runtime: str
    """systemd, supervisor, or auto: systemd where that is PID 1 and the user is root."""
    variable: str
    """The role's variable that names the runtime, for errors."""
    unit: str
    """Text of the systemd unit; ``@COMMAND@`` in it stands for the command line."""
    command: Sequence[str]
    files: Mapping[str, str]
    """Texts by their place below the service's folder."""
    configuration: str
    """The hash of all this."""
    running: Callable[[], str | None]
    """Tells the configuration of the process that answers; None where none does."""

    def refuse(self) -> None:
        """Raise ServiceError where it can't run as declared; asked before anything changes, in check mode too."""

    def prepare(self) -> None:
        """Do what has to be done between the writing of its files and its start; may raise ServiceError."""


def present(declared: Declared, *, check_mode: bool) -> dict[str, Any]:
    """Have it run as declared; in check mode, say what that takes.

    Returns:
        changed; reasons, what was not as declared, a line each; runtime; diff, of what the runtime reads.

    Raises:
        ServiceError: it can't run as declared, or does not come up.
    """
    service = declared.service
    chosen, other = choose(service, declared.unit, declared.runtime, variable=declared.variable)
    chosen.refuse()
    declared.refuse()
    place = chosen.place()
    texts = {os.path.join(service.root, name): text for name, text in declared.files.items()}
    texts[place] = chosen.text(list(declared.command))
    before = {path: read_text(path) for path in texts}
    differs = sorted(path for path in texts if before[path] != texts[path])
    running = declared.running() if chosen.there() and chosen.runs() else None

    reasons = [f"{path} is not as declared" for path in differs]
    if running is None:
        reasons.append(f"the {service.title} does not run")
    elif running != declared.configuration:
        reasons.append(f"the {service.title} was started with another configuration")
    if not chosen.boots():
        reasons.append(f"the {service.title} does not start with the host")
    if other.there():
        reasons.append(f"{other.name} runs one, too")
    result: dict[str, Any] = {"changed": bool(reasons), "reasons": reasons, "runtime": chosen.name}
    if place in differs:  # the command line is in it, and the hash of everything else
        names = {"before_header": place, "after_header": place}
        result["diff"] = {**names, "before": before[place] or "", "after": texts[place]}
    if reasons and not check_mode:
        if other.there():
            other.remove()
        for path in differs:
            os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
            write_file(path, texts[path])
        declared.prepare()
        _start(chosen, declared)
    return result


def _start(chosen: Runtime, declared: Declared) -> None:
    chosen.start()
    deadline = time.monotonic() + START_SECONDS
    while declared.running() != declared.configuration or not chosen.runs():
        if time.monotonic() > deadline:
            said = last_lines(chosen.log()) or "nothing"
            raise ServiceError(f"the {declared.service.title} does not come up. It said: {said}")
        time.sleep(0.1)


def absent(service: Service, *, check_mode: bool) -> dict[str, Any]:
    """Have nothing of it left, whatever ran it; ``changed`` and ``reasons``."""
    runtimes = [runtime for runtime in (Systemd(service, ""), Supervisor(service)) if runtime.there()]
    reasons = [f"{runtime.name} runs the {service.title}" for runtime in runtimes]
    if os.path.isdir(service.root):
        reasons.append(f"{service.root} is there")
    if reasons and not check_mode:
        for runtime in runtimes:
            runtime.remove()
        remove_tree(service.root)
    return {"changed": bool(reasons), "reasons": reasons}
