"""Processes of this host by their numbers."""

from __future__ import annotations

import subprocess

from plugins.module_utils.hostlib.pids import argv_of


def test_the_arguments_of_a_process_are_those_that_it_was_started_with() -> None:
    argv = ["sh", "-c", "echo begun; read line", "sleep", "60", ""]
    with subprocess.Popen([*argv, b"\xff"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        assert argv_of(process.pid) == [*argv, "\ufffd"]
        process.communicate(b"\n")
    assert argv_of(process.pid) == []
