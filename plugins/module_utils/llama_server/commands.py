"""Programs that a module runs on its host, and what they say when they fail.

run("systemctl", "daemon-reload")              # stdout, or HostError with the cause
code, lines = attempt(*argv, "--version")      # a program that may fail
"""

from __future__ import annotations

import re
import subprocess
from typing import Any

from .errors import HostError


def run(*argv: str, check: bool = True, timeout: float = 300, env: dict[str, str] | None = None) -> str:
    """Run a program and return what it printed to stdout.

    Raises HostError with what it says when it fails, and when it can't be run or does not end.
    """
    done = _run(argv, timeout, env=env, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if check and done.returncode != 0:
        said = done.stderr.splitlines() + done.stdout.splitlines()
        raise HostError(f"{' '.join(argv[:3])} failed: {cause(said) or f'exit status {done.returncode}'}")
    return done.stdout


def cause(said: list[str]) -> str:
    """The line of a program's output that says why it failed: the first that is an error, or else speaks of one, since
    what follows often says that it failed, or where to look; else the last.
    """
    lines = [line.strip() for line in said if line.strip() and not line.startswith("Step ")]  # of a Dockerfile
    for sign in (r"error", r".*(error|failed|denied)"):
        for line in lines:
            if re.match(sign, line, re.IGNORECASE) and not line.startswith("WARNING"):
                return line
    return "".join(lines[-1:])


def attempt(
    *argv: str, timeout: float = 300, env: dict[str, str] | None = None, given: str = ""
) -> tuple[int, list[str]]:
    """Run a program that may fail, with ``given`` to read: its exit status, and the lines of stdout and stderr."""
    done = _run(argv, timeout, env=env, input=given, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout.splitlines()


def _run(argv: tuple[str, ...], timeout: float, **options: Any) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            argv, stdout=subprocess.PIPE, text=True, errors="replace", timeout=timeout, check=False, **options
        )
    except OSError as error:
        raise HostError(f"{argv[0]} can't be run ({error.strerror}): install it, or choose another runtime") from error
    except subprocess.TimeoutExpired as error:
        raise HostError(f"{' '.join(argv[:3])} did not end within {timeout:.0f} s: look at the host") from error
