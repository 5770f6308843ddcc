"""The action that follows a job: what it shows, and that it ends when the job does, in whatever way."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import pytest

from plugins.module_utils.hostlib import locks
from tests.conftest import BIN, ROOT, wait_for

WAITING = f"main: waiting for {locks.Holder(4242, 'restart of main', '2026-11-29T08:30:00+00:00')}"


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a play shows that follows jobs: one ends, one waits for another run and ends, one is late,
    the module of one is killed, all of another.
    """
    folder = tmp_path_factory.mktemp("follow")
    hosts: dict[str, dict[str, int | str]] = {
        "ends": {"seconds": 7},
        "module": {"seconds": 30},
        "whole": {"seconds": 30},
    }
    hosts["waits"] = {"seconds": 3, "line": WAITING}
    hosts["late"] = {"seconds": 30, "limit_seconds": 2}
    shared = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "folder": str(folder),
    }
    (folder / "hosts.json").write_text(json.dumps({"all": {"hosts": hosts, "vars": shared}}))
    command = [str(BIN / "ansible-playbook"), "-i", str(folder / "hosts.json"), "tests/roles/follow.yml"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL,
        # Verbose: each module that runs on a host is named.
        # A home elsewhere than the user database says, and another's name: the job is found all the same.
        env={
            **os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_VERBOSITY": "3",
            "HOME": str(folder), "USER": "daemon", "LOGNAME": "daemon",
        },
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as play:  # fmt: skip
        for host in ("module", "whole"):
            wait_for((folder / f"{host}.pid").exists, "the job")
        module, whole = (int((folder / f"{host}.pid").read_text()) for host in ("module", "whole"))
        os.kill(module, signal.SIGKILL)
        group = os.getpgid(whole)
        os.killpg(group, signal.SIGSTOP)  # else one of them may live to see the other die, and say so
        os.killpg(group, signal.SIGKILL)
        try:
            stdout, _ = play.communicate(timeout=180)
        except subprocess.TimeoutExpired:
            play.kill()
            raise
    return stdout


def test_the_last_line_of_progress_is_shown_with_the_time_that_passed(output: str) -> None:
    assert re.search(r"^  ends +0m\d\ds  half way$", output, re.MULTILINE)


def test_for_whom_a_job_waits_is_shown_at_once(output: str) -> None:
    assert re.search(rf"^  waits +0m\d\ds  {re.escape(WAITING)}$", output, re.MULTILINE)


def test_modules_run_on_the_host_when_a_job_has_ended_and_not_to_look_whether_it_has(output: str) -> None:
    hosts = ("ends", "module", "whole", "waits", "late")
    assert 0 < output.count("ansible/modules/async_status.py") <= 2 * len(hosts)  # what it said, and to remove that


def test_the_jobs_result_is_that_of_the_task(output: str) -> None:
    assert "ends ended with rc 0" in output


@pytest.mark.parametrize("host", ["module", "whole"])
def test_a_killed_job_is_an_error_and_never_a_hang(output: str, host: str) -> None:
    _, _, told = output.partition(f"fatal: [{host}]")
    assert "the job was killed (half way): run the play again, it goes on from there" in told.split("[ERROR]")[0]


def test_a_job_that_takes_too_long_is_an_error_that_names_the_variable(output: str) -> None:
    _, _, told = output.partition("fatal: [late]")
    assert "the job took too long (half way): raise limit_seconds" in " ".join(told.split())
