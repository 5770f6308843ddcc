"""The container engine of this host: asked, and told to read its configuration again.

Python 3.9's standard library only.
"""

from __future__ import annotations

import glob
import json
import os
import signal
import time
from typing import Any

from ..hostlib import programs
from ..hostlib.argv import values_of
from ..hostlib.files import read_text
from ..hostlib.pids import argv_of
from .decisions import RUNTIME

CONFIGURATION = "/etc/docker/daemon.json"
RELOAD_SECONDS = 20  # a reload is a signal: nobody says when it is done


class EngineError(Exception):
    """One line: what went wrong, and what to do."""


def call(*argv: str, timeout: float = 120) -> tuple[int, str]:
    """Run a program that may fail or be missing: its exit status, and all that it said."""
    # Where ldconfig lies is not on everybody's path.
    environment = {**os.environ, "LC_ALL": "C", "PATH": os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"}
    try:
        done = programs.run(argv, timeout=timeout, env=environment)
    except programs.NotStarted as error:
        return (127, f"{argv[0]}: not found") if error.is_missing else (126, str(error))
    except programs.ProgramError as error:
        return 126, str(error)
    return done.status, done.output


def engine_info() -> dict[str, Any]:
    """The engine's own description (``docker info``); empty where none answers."""
    code, output = call("docker", "info", "--format", "{{json .}}", timeout=60)
    try:
        info: dict[str, Any] = json.loads(output.strip().splitlines()[-1]) if output.strip() else {}
    except ValueError:
        return {}
    return info if code == 0 and info.get("ServerVersion") else {}


def configuration_path() -> str:
    """The configuration file of the dockerd that runs, else the usual one."""
    process = _daemon_process()
    words = argv_of(process) if process else []
    return next(iter(values_of(words, {"--config-file"})), CONFIGURATION)


def reload() -> None:
    """Have dockerd read its configuration again, and return when it knows the toolkit's runtime.

    Raises EngineError where it does not.
    """
    process = _daemon_process()
    if not process:
        raise EngineError(
            "the engine that answers is no process of root's on this host: have whoever runs it add the runtime "
            f"{RUNTIME} to its daemon.json"
        )
    os.kill(process, signal.SIGHUP)
    deadline = time.monotonic() + RELOAD_SECONDS
    while RUNTIME not in (engine_info().get("Runtimes") or {}):
        if time.monotonic() > deadline:
            raise EngineError(
                f"docker was told to read {configuration_path()} again and does not know the runtime {RUNTIME} yet: "
                "journalctl -u docker says why; a restart of docker, which may end its containers, is left to you"
            )
        time.sleep(0.2)


def _daemon_process() -> int | None:
    """The process of root's dockerd."""
    for path in glob.glob("/proc/[0-9]*/comm"):
        number = int(path.split("/")[2])
        try:
            if read_text(path) == "dockerd\n" and os.stat(f"/proc/{number}").st_uid == 0:
                return number
        except OSError:
            continue
    return None
