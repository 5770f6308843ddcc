"""Programs that a module runs on its host, and what they say when they fail.

run("systemctl", "daemon-reload")              # stdout, or HostError with the cause
code, lines = attempt(*argv, "--version")      # a program that may fail
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from typing import Any

from ..hostlib import programs
from .errors import HostError

TIMEOUT_SECONDS = 300


def run(*argv: str, check: bool = True, timeout: float = TIMEOUT_SECONDS) -> str:
    """Run a program and return what it printed to stdout.

    Raises HostError with what it says when it fails, and when it can't be run or does not end.
    """
    done = _finished(argv, timeout, stderr=subprocess.PIPE)
    if check and done.status != 0:
        output_lines = done.errors.splitlines() + done.output.splitlines()
        raise HostError(f"{' '.join(argv[:3])} failed: {cause(output_lines) or f'exit status {done.status}'}")
    return done.output


def attempt(
    *argv: str, timeout: float = TIMEOUT_SECONDS, env: dict[str, str] | None = None, given: str = ""
) -> tuple[int, list[str]]:
    """Run a program that may fail, with ``given`` to read: its exit status, and the lines of stdout and stderr."""
    done = _finished(argv, timeout, env=env, given=given)
    return done.status, done.output.splitlines()


def beginning(argv: Sequence[str], max_bytes: int) -> list[str]:
    """The first lines that a program prints, whose exit status is not looked at."""
    try:
        return programs.beginning_of(argv, max_bytes).splitlines()
    except programs.NotStarted as error:
        raise HostError(f"{argv[0]} can't be run ({error.reason}): install it, or choose another runtime") from error


def _finished(argv: tuple[str, ...], timeout: float, **options: Any) -> programs.Finished:
    try:
        return programs.run(argv, timeout=timeout, **options)
    except programs.NotStarted as error:
        raise HostError(f"{argv[0]} can't be run ({error.reason}): install it, or choose another runtime") from error
    except programs.TookTooLong as error:
        raise HostError(f"{error}: look at the host") from error


def cause(output_lines: list[str]) -> str:
    """The line of a program's output that says why it failed: the first that is an error, or else speaks of one, since
    what follows often says that it failed, or where to look; else the last.
    """
    lines = [line.strip() for line in output_lines if line.strip() and not line.startswith("Step ")]  # of a Dockerfile
    for sign in (r"error", r".*(error|failed|denied)"):
        for line in lines:
            if re.match(sign, line, re.IGNORECASE) and not line.startswith("WARNING"):
                return line
    return "".join(lines[-1:])
