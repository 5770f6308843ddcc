"""Errors that a user can mend are lines, and not tracebacks."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from nexus_tasks.core.errors import DeployError, command_line
from tests.conftest import ROOT


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


PRINTS = """
from rich.console import Console
from rich.table import Table
from nexus_tasks.core.errors import UsageError, command_line

@command_line
def main(argv=None):
    table = Table("a \\u2026 b")
    table.add_row("\\u2264 5 \\u00b1 1\\u00a0ms \\u2192 \\u4e2d \\ud800")
    print("1 \\u2013 2")
    Console().print(table)
    raise UsageError("no \\u2265 here", hint="\\u05e9\\u00e9")

raise SystemExit(main([]))
"""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_a_command_prints_in_whatever_encoding_a_terminal_has(encoding: str) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", PRINTS], capture_output=True, env=environment, check=False)
    out, err = done.stdout.decode(encoding), done.stderr.decode(encoding)
    assert done.returncode == 1
    assert "Traceback" not in err
    if encoding == "ascii":
        assert "1 - 2" in out
        assert "a ... b" in out
        assert "<= 5 +- 1 ms -> ? ?" in out
        assert err == "error: no >= here\n hint: ??\n"


LINES = """
import sys
from nexus_tasks.core.errors import command_line

@command_line
def main(argv=None):
    for _ in range(200):
        print("a line of progress", file=sys.stderr, flush=True)
    print("a result")
    return 7

sys.exit(main([]))
"""


def test_progress_that_nobody_reads_any_more_does_not_end_the_work() -> None:
    process = subprocess.Popen([sys.executable, "-c", LINES], stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stderr is not None
    process.stderr.close()
    assert process.stdout is not None
    with process.stdout as stdout:
        assert stdout.read() == b"a result\n"
    assert process.wait() == 7


@pytest.mark.parametrize("closed", ["1>&-", "2>&-", "1>&- 2>&-"])
def test_a_command_works_with_streams_that_are_closed(closed: str) -> None:
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", LINES]
    assert subprocess.run(shell, check=False, capture_output=True).returncode == 7


def test_a_working_folder_that_was_removed_is_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert fails_with(DeployError("never reached", hint="")) == 1
    assert capsys.readouterr().err.startswith("error: the working folder was removed\n hint: ")


def test_ctrl_c_while_a_command_is_imported_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "argparse.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(600)\n")
    with subprocess.Popen(
        [sys.executable, "-m", "nexus_tasks.batch", "list"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(tmp_path)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (-signal.SIGINT, "")
