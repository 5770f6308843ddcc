"""Programs that modules run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from plugins.module_utils.hostlib import programs

BOTH = "import sys; print('out'); sys.stdout.flush(); print('err', file=sys.stderr); sys.exit(3)"


@pytest.mark.parametrize(
    ("stderr", "expected"),
    [
        (subprocess.STDOUT, (3, "out\nerr\n", "")),
        (subprocess.PIPE, (3, "out\n", "err\n")),
        (subprocess.DEVNULL, (3, "out\n", "")),
    ],
)
def test_status_and_output_of_a_program_that_fails(stderr: int, expected: tuple[int, str, str]) -> None:
    assert programs.run([sys.executable, "-c", BOTH], stderr=stderr) == expected


def test_what_can_not_be_decoded_is_replaced() -> None:
    assert programs.run(["printf", r"a\377b"]).output == "a\ufffdb"


def test_it_reads_what_it_is_given_and_nothing_else() -> None:
    assert programs.run(["cat"], given="text").output == "text"
    assert programs.run(["cat"]).output == ""


def test_it_reads_an_open_file_from_where_that_stands(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"head body")
    with (tmp_path / "file").open("rb") as stream:
        os.lseek(stream.fileno(), 5, os.SEEK_SET)
        assert programs.run(["cat"], given=stream).output == "body"


def test_its_environment_is_the_one_given() -> None:
    assert programs.run(["/usr/bin/env"], env={"A": "1"}).output == "A=1\n"
    assert programs.with_environment(A="1") == {**os.environ, "A": "1"}


def test_a_program_that_is_missing_is_told_apart_from_one_that_may_not_be_run(tmp_path: Path) -> None:
    with pytest.raises(programs.NotStarted, match=r"^/nonexistent/x can't be run: No such file or directory$") as gone:
        programs.run(["/nonexistent/x", "--version"])
    (tmp_path / "plain").touch()
    with pytest.raises(programs.NotStarted, match="can't be run: Permission denied") as closed:
        programs.run([str(tmp_path / "plain")])
    assert (gone.value.is_missing, closed.value.is_missing) == (True, False)
    assert closed.value.reason == "Permission denied"


def test_a_program_that_does_not_end_is_killed() -> None:
    with pytest.raises(programs.TookTooLong, match=r"^sleep 60 did not end within 0 s$"):
        programs.run(["sleep", "60"], timeout=0.2)


@pytest.mark.parametrize(
    ("argv", "output"),
    [(["echo", "a"], "a\n"), (["false"], None), (["/nonexistent/x"], None), (["sleep", "60"], None)],
)
def test_the_output_is_none_where_it_can_not_be_had(argv: list[str], output: str | None) -> None:
    assert programs.output_of(argv, timeout=0.5) == output


def test_lines_are_handed_over_as_they_come() -> None:
    lines: list[bytes] = []
    assert programs.stream([sys.executable, "-c", BOTH], lines.append) == 3
    assert lines == [b"out\n", b"err\n"]
    with pytest.raises(programs.NotStarted):
        programs.stream(["/nonexistent/x"], lines.append)


def test_a_streamed_program_has_the_descriptors_that_it_is_given(tmp_path: Path) -> None:
    lines: list[bytes] = []
    with (tmp_path / "lock").open("w") as lock:
        argv = [sys.executable, "-c", f"import os; os.fstat({lock.fileno()})"]
        assert programs.stream(argv, lines.append, pass_fds=[lock.fileno()]) == 0
        assert programs.stream(argv, lines.append) == 1


def test_the_end_of_what_was_printed_is_one_line() -> None:
    assert programs.last_lines("a\nb\n  c \nd\n\n") == "b / c / d"
    assert programs.last_lines("\n") == ""


def test_of_a_program_that_prints_without_end_the_beginning_is_read() -> None:
    assert programs.beginning_of(["yes"], 6) == "y\ny\ny\n"
    assert programs.beginning_of(["sh", "-c", "echo out; echo err >&2"], 1000) == "out\nerr\n"


def test_a_program_that_says_nothing_more_is_ended() -> None:
    assert programs.beginning_of(["sh", "-c", "echo out; exec sleep 600"], 1000, timeout=0.5) == "out\n"


def test_a_program_that_is_missing_is_told_before_it_is_read() -> None:
    with pytest.raises(programs.NotStarted):
        programs.beginning_of(["no-such-program"], 1000)
