"""Programs that modules run: with a time limit, and an error of one line. Python 3.9's standard library only.

    run(["systemctl", "is-active", "--quiet", unit]).status == 0
    output_of(["nvcc", "--version"])          # None where that can't be had
    stream(["ninja"], log.write)

None of them goes through a shell, and none waits for input.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any, NamedTuple

TIMEOUT_SECONDS = 60


class ProgramError(Exception):
    """A program that did not come to its end: why, in one line; its exit status is not looked at."""


class NotStarted(ProgramError):
    """A program is not there, or can't be executed."""

    def __init__(self, program: str, error: OSError) -> None:
        super().__init__(f"{program} can't be run: {error.strerror or error}")
        self.reason = error.strerror or str(error)
        self.is_missing = isinstance(error, FileNotFoundError)


class TookTooLong(ProgramError):
    """A program was ended when its time was up."""

    def __init__(self, argv: Sequence[str], seconds: float) -> None:
        super().__init__(f"{' '.join(argv[:3])} did not end within {seconds:.0f} s")


class Finished(NamedTuple):
    """A program that came to its end."""

    status: int
    """Its exit status, negative where a signal ended it."""
    output: str
    """Its stdout, and its stderr unless that was kept apart."""
    errors: str
    """Its stderr, where that was kept apart."""


def run(
    argv: Sequence[str],
    *,
    timeout: float = TIMEOUT_SECONDS,
    env: Mapping[str, str] | None = None,
    given: str | IO[bytes] = "",
    stderr: int = subprocess.STDOUT,
) -> Finished:
    """Run a program that may fail.

    Args:
        timeout: seconds after which it is killed.
        env: its whole environment; None: this process's.
        given: what it reads from stdin: a text, or an open file from where it stands.
        stderr: as in the module subprocess: ``STDOUT`` puts it among the output, ``PIPE`` keeps it apart, ``DEVNULL``
            drops it.

    Raises NotStarted and TookTooLong.
    """
    if isinstance(given, str):
        feed: dict[str, Any] = {"input": given.encode()} if given else {"stdin": subprocess.DEVNULL}
    else:
        feed = {"stdin": given}
    try:
        done = subprocess.run(
            list(argv), stdout=subprocess.PIPE, stderr=stderr, timeout=timeout, env=env, check=False, **feed
        )  # fmt: skip
    except OSError as error:
        raise NotStarted(argv[0], error) from error
    except subprocess.TimeoutExpired as error:
        raise TookTooLong(argv, timeout) from error
    return Finished(
        done.returncode, done.stdout.decode(errors="replace"), (done.stderr or b"").decode(errors="replace")
    )


def output_of(
    argv: Sequence[str], *, timeout: float = TIMEOUT_SECONDS, env: Mapping[str, str] | None = None
) -> str | None:
    """The stdout of a program; None where it is missing, fails or takes too long."""
    try:
        done = run(argv, timeout=timeout, env=env, stderr=subprocess.DEVNULL)
    except ProgramError:
        return None
    return done.output if done.status == 0 else None


def beginning_of(argv: Sequence[str], max_bytes: int, *, timeout: float = TIMEOUT_SECONDS) -> str:
    """The first bytes of what a program prints to stdout and stderr, undecodable ones replaced.

    It is ended when it has printed as much, or after ``timeout`` seconds, and its exit status is not looked at. Raises
    NotStarted.
    """
    try:
        process = subprocess.Popen(
            list(argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )  # fmt: skip
    except OSError as error:
        raise NotStarted(argv[0], error) from error
    clock = threading.Timer(timeout, process.kill)
    clock.start()
    try:
        with process:
            output = process.stdout.read(max_bytes) if process.stdout else b""
            process.kill()
    finally:
        clock.cancel()
    return output.decode(errors="replace")


def stream(
    argv: Sequence[str],
    each: Callable[[bytes], None],
    *,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> int:
    """Run a program however long it takes, and hand over each line of stdout and stderr as it comes.

    Args:
        each: gets the bytes of a line with its end.
        pass_fds: descriptors that the program inherits, a lock's for example.

    Returns its exit status. Raises NotStarted.
    """
    try:
        process = subprocess.Popen(
            list(argv), env=env, pass_fds=pass_fds, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
    except OSError as error:
        raise NotStarted(argv[0], error) from error
    with process:
        for line in process.stdout or ():
            each(line)
    return process.returncode


def last_lines(text: str, count: int = 3) -> str:
    """The end of what a program printed, in one line; empty where it printed nothing."""
    return " / ".join(line.strip() for line in text.strip().splitlines()[-count:])


def with_environment(**variables: str) -> dict[str, str]:
    """This process's environment with some variables set otherwise."""
    return {**os.environ, **variables}
