"""Errors that a user can mend are lines, and not tracebacks."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

import pytest

from nexus_tasks.core.errors import DeployError, command_line


def fails_with(error: BaseException) -> int:
    @command_line
    def main(argv: Sequence[str] | None = None) -> int:
        raise error

    return main([])


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOSPC, errno.EROFS, errno.EISDIR])
def test_a_file_that_can_not_be_written_is_a_line(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert fails_with(OSError(number, os.strerror(number), "/results/x.jsonl")) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"error: /results/x.jsonl: {os.strerror(number)}"
    assert second.startswith(" hint: see that it can be read and written")


def test_another_error_of_the_system_is_the_codes_own() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        fails_with(OSError(errno.EBADF, os.strerror(errno.EBADF)))


def test_what_others_say_in_an_error_does_not_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert fails_with(DeployError("rig: \x1b[2Jno\u202e GPU\x9b1A", hint="see\x07 it")) == 1
    assert capsys.readouterr().err == "error: rig: no GPU\n hint: see it\n"


DONE: list[str] = []


@command_line
def main(argv: Sequence[str] | None = None) -> int:
    """A command."""
    DONE.extend(argv or ())
    return 0


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        ([""], "argument 1 is empty"),
        (["rig-1", " "], "argument 2, after rig-1 is empty"),
        (["-l", ""], "argument 2, after -l is empty"),
        (["--rate="], "--rate= is empty"),
        (["--tag", ""], "argument 2, after --tag is empty"),
    ],
)
def test_an_empty_argument_is_refused(argv: list[str], shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    DONE.clear()
    assert main(argv) == 1
    assert DONE == []
    assert capsys.readouterr().err.startswith(f"error: {shown}\n hint: ")


def test_other_arguments_are_the_commands_own() -> None:
    DONE.clear()
    assert main(["a", "--b=c", "-l", "gpu-hosts"]) == 0
    assert DONE == ["a", "--b=c", "-l", "gpu-hosts"]
