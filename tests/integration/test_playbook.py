"""Running playbooks for people: what they read, and what is left afterwards. Real ansible-runner, real Ansible."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import yaml
from rich.console import Console

from nexus_tasks.core.errors import DeployError
from nexus_tasks.fleet import playbook
from tests.conftest import ROOT, wait_for
from tests.unit.fleet.test_ansible_environment import BREAKING

SLEEP = f"61.{os.getpid()}"  # seconds, of no other process on this machine


@pytest.fixture
def play(tmp_path: Path) -> tuple[str, ...]:
    """A playbook for three hosts: ``good`` changes something, ``bad`` and ``worse`` fail. ``sleep`` makes it last."""
    tasks = [
        {"name": "Recover", "block": [{"name": "Trip", "ansible.builtin.fail": {"msg": "a stumble"}}],
         "rescue": [{"name": "Get up", "ansible.builtin.debug": {"msg": "up"}}]},
        {"name": "Sleep", "ansible.builtin.command": "sleep {{ sleep | default(0) }}"},
        {"name": "Fail", "ansible.builtin.fail": {"msg": "{{ inventory_hostname }} is broken"},
         "when": "inventory_hostname != 'good'"},
    ]  # fmt: skip
    (tmp_path / "play.yml").write_text(
        yaml.safe_dump([{"name": "Try", "hosts": "all", "gather_facts": False, "tasks": tasks}])
    )
    here = f"ansible_connection=local\nansible_python_interpreter={sys.executable}\n"
    (tmp_path / "hosts").write_text(f"good\nbad\nworse\n[all:vars]\n{here}")
    return str(tmp_path / "play.yml"), "-i", str(tmp_path / "hosts")


def told(seen: io.StringIO) -> list[str]:
    """The lines that people saw, without the time."""
    return [line.split(maxsplit=1)[1] for line in seen.getvalue().splitlines()]


def test_the_error_names_each_host_that_failed_and_none_that_recovered(play: tuple[str, ...]) -> None:
    with pytest.raises(DeployError) as failed:
        playbook.run(*play)
    assert sorted(failed.value.message.splitlines()) == ["bad: bad is broken", "worse: worse is broken"]


def test_who_wants_to_see_a_failure_gets_what_came_of_each_host(play: tuple[str, ...]) -> None:
    outcome = playbook.run(*play, check=False)
    assert outcome.hosts == ["bad", "good", "worse"]
    assert outcome.status != 0
    assert outcome.failures == {"bad": "bad is broken", "worse": "worse is broken"}
    assert outcome.unreachable == set()


def test_of_a_loop_the_items_say_why_it_failed(play: tuple[str, ...], tmp_path: Path) -> None:
    tasks = [
        {"name": "Recover", "block": [{"ansible.builtin.fail": {"msg": "no {{ item }}"}, "loop": ["pip"]}],
         "rescue": [{"ansible.builtin.debug": {}}]},
        {"name": "Run", "ansible.builtin.command": "sh -c 'echo no {{ item }} >&2; exit {{ item | length - 4 }}'",
         "loop": ["disk", "clock", "power"]},
    ]  # fmt: skip
    (tmp_path / "play.yml").write_text(yaml.safe_dump([{"hosts": "good", "gather_facts": False, "tasks": tasks}]))
    outcome = playbook.run(*play, check=False)
    why = "non-zero return code"
    assert outcome.failures == {"good": f"{why}\nno clock\n{why}\nno power"}


def test_a_log_that_can_not_be_written_is_one_line_before_anything_is_done(play: tuple[str, ...]) -> None:
    with pytest.raises(DeployError, match=r"/proc/logs/run\.log must be writable: ") as failed:
        playbook.run(*play, log=Path("/proc/logs/run.log"))
    assert "\n" not in failed.value.message


def test_a_disk_that_gets_full_ends_the_log_and_not_the_play(play: tuple[str, ...]) -> None:
    seen = io.StringIO()
    outcome = playbook.run(*play, "--limit", "good", console=Console(file=seen, width=200), log=Path("/dev/full"))
    assert outcome.stats["changed"] == {"good": 1}
    assert [line for line in told(seen) if "warning" in line] == [
        "warning no more of Ansible's output is kept: No space left on device"
    ]


def test_what_the_shell_has_of_other_projects_changes_nothing(tmp_path: Path) -> None:
    other = tmp_path / "ansible.cfg"
    other.write_text("[defaults]\ninventory = /nowhere\nstdout_callback = minimal\n")
    hostile = {
        **dict.fromkeys(BREAKING, "nonsense"), "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
        "ANSIBLE_CONFIG": str(other), "ANSIBLE_INVENTORY": "/nowhere", "ANSIBLE_NO_LOG": "1", "JOB_ID": "abc",
        "MAX_EVENT_RES": "10", "PYTHONWARNINGS": "error::DeprecationWarning:ansible", "LC_ALL": "xx_XX.UTF-8",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "nexus_tasks.control", "status", "local", "--json"], cwd=tmp_path,
        env={**os.environ, **hostile, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert [(row["host"], row["name"]) for row in json.loads(done.stdout)] == [("localhost", "main")], done.stderr
    assert done.stderr.startswith("note: not passed on to Ansible"), done.stderr
    assert done.stderr.count("\n") == 1


def test_people_see_the_play_and_what_changed_and_the_log_has_it_all(play: tuple[str, ...], tmp_path: Path) -> None:
    seen, log = io.StringIO(), tmp_path / "logs" / "run.log"
    outcome = playbook.run(*play, "--limit", "good", console=Console(file=seen, width=80), log=log)
    assert told(seen) == ["Try", "changed Sleep"]
    assert outcome.stats["changed"] == {"good": 1}
    assert "PLAY RECAP" in log.read_text()
    assert "\x1b" not in log.read_text()


def test_where_there_are_several_hosts_a_line_says_whose_it_is(play: tuple[str, ...]) -> None:
    seen = io.StringIO()
    playbook.run(*play, console=Console(file=seen, width=80), check=False)
    assert sorted(told(seen)[1:]) == [f"changed {host}: Sleep" for host in ("bad", "good", "worse")]


def test_without_narration_a_file_gets_no_line(play: tuple[str, ...]) -> None:
    seen = io.StringIO()
    playbook.run(*play, "--limit", "good", console=Console(file=seen), narrate=False)
    assert seen.getvalue() == ""


def test_a_difference_is_shown_as_ansible_prints_it(play: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old\n")
    copy = {"content": "new\n", "dest": str(tmp_path / "file"), "mode": "0644"}
    task = {"name": "Write", "ansible.builtin.copy": copy}
    (tmp_path / "play.yml").write_text(
        yaml.safe_dump([{"name": "Try", "hosts": "good", "gather_facts": False, "tasks": [task]}])
    )
    seen = io.StringIO()
    playbook.run(*play, "--check", "--diff", console=Console(file=seen, width=200))
    shown = [line.strip() for line in seen.getvalue().splitlines()]
    assert shown[1].endswith("difference on good")
    assert "-old" in shown
    assert "+new" in shown
    assert (tmp_path / "file").read_text() == "old\n"


def test_the_progress_of_a_job_is_shown_when_it_changes(tmp_path: Path) -> None:
    variables = {
        "ansible_connection": "local", "ansible_python_interpreter": sys.executable, "folder": str(tmp_path),
        "seconds": 12, "pid_file": str(tmp_path / "pid"),
    }  # fmt: skip
    (tmp_path / "hosts.json").write_text(json.dumps({"all": {"hosts": {"here": {}}, "vars": variables}}))
    seen = io.StringIO()
    playbook.run("tests/roles/follow.yml", "-i", str(tmp_path / "hosts.json"), console=Console(file=seen, width=80))
    assert told(seen).count("half way") == 1  # though Ansible said it twice


def test_on_a_terminal_each_host_has_a_line_that_says_what_it_does_now() -> None:
    now = [100.0]
    terminal = Console(file=io.StringIO(), force_terminal=True, width=80, _environ={"TERM": "xterm"})
    narrator = playbook.Narrator(terminal, io.StringIO(), clock=lambda: now[0])
    task = {"task": "Follow the switch", "role": "llama_server"}
    for host in ("rig-1", "rig-2", "rig-3"):
        narrator({"event": "runner_on_start", "event_data": {"host": host, **task}})
    narrator({"event": "runner_on_ok", "event_data": {"host": "rig-2", "res": {}, **task}})
    narrator({"event": "runner_on_failed", "event_data": {"host": "rig-3", "res": {"msg": "no GPU\nat all"}, **task}})
    tells = {"host": "rig-3", "task": "Show it", "task_action": "ansible.builtin.debug"}
    narrator({"event": "runner_on_start", "event_data": tells})
    narrator({"event": "runner_on_ok", "event_data": {**tells, "res": {}}})
    now[0] += 73
    narrator({"event": "verbose", "stdout": "  rig-1    1m06s  main: loading, 12 s"})
    shown = Console(file=io.StringIO(), width=80)
    shown.print(narrator.now())
    assert isinstance(shown.file, io.StringIO)
    assert [" ".join(line[2:].split()) for line in shown.file.getvalue().splitlines()] == [
        "rig-1 1:13 llama_server: Follow the switch: main: loading, 12 s",
        "rig-3 failed: no GPU at all",
        "rig-2 waits",
    ]


def test_a_host_that_was_rescued_is_not_shown_as_failed() -> None:
    narrator = playbook.Narrator(None, io.StringIO())
    event = {"host": "rig", "task": "Have pip", "task_action": "ansible.builtin.apt"}
    narrator({"event": "runner_on_failed", "event_data": {**event, "res": {"msg": "no venv"}}})
    assert narrator.hosts["rig"].words(0) == "failed: no venv"
    for kind in ("start", "ok"):
        narrator({"event": f"runner_on_{kind}", "event_data": {**event, "res": {}}})
    assert "failed" not in narrator.hosts["rig"].words(0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--limit", "nobody"], "Specified inventory, host pattern and/or --limit leaves us with no hosts to target."),
        (["-e", "@/nowhere.json"], "Could not find or access '/nowhere.json'"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_what_ansible_itself_refuses_is_said_in_its_words(
    play: tuple[str, ...], arguments: list[str], said: str
) -> None:
    with pytest.raises(DeployError) as failed:
        playbook.run(*play, *arguments)
    assert said in failed.value.message
    assert "\n" not in failed.value.message


def test_who_lacks_a_password_reads_where_to_put_it(play: tuple[str, ...], tmp_path: Path) -> None:
    sudo = tmp_path / "sudo"
    sudo.write_text("#!/bin/sh\necho 'sudo: a password is required' >&2\nexit 1\n")  # as sudo -n does
    sudo.chmod(0o755)
    becoming = {"ansible_become": True, "ansible_become_user": "nobody", "ansible_become_exe": str(sudo)}
    outcome = playbook.run(*play, "-e", json.dumps(becoming), check=False)
    assert outcome.failures["good"].endswith(
        "sudo: a password is required: put it into a file, and export ANSIBLE_BECOME_PASSWORD_FILE=FILE"
    )

    password, variables = tmp_path / "password", tmp_path / "variables.yml"
    password.write_text("open")
    variables.write_text("sleep: 0\n")
    with_password = ["--vault-password-file", str(password)]
    subprocess.run(["ansible-vault", "encrypt", *with_password, variables], check=True, capture_output=True)
    outcome = playbook.run(*play, "-e", f"@{variables}", check=False)
    assert outcome.error.endswith("put it into a file, and export ANSIBLE_VAULT_PASSWORD_FILE=FILE")
    assert playbook.run(*play, "-e", f"@{variables}", *with_password, "--limit", "good").error == ""


def test_a_host_that_can_not_be_looked_at_says_why(play: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "play.yml").write_text(yaml.safe_dump([{"name": "Try", "hosts": "good", "tasks": []}]))
    python = tmp_path / "python3"
    python.write_text("#!/bin/sh\necho 'python3: cannot execute' >&2\nexit 127\n")
    python.chmod(0o755)
    outcome = playbook.run(*play, "-e", f"ansible_python_interpreter={python}", check=False)
    assert outcome.failures["good"].endswith("python3: cannot execute")


def test_ansible_is_set_up_as_without_ansible_runner(play: tuple[str, ...], tmp_path: Path) -> None:
    names = ["HOST_KEY_CHECKING", "CALLBACKS_ENABLED"]
    message = "{{ lookup('ansible.builtin.config', '" + "', '".join(names) + "') | to_json }}"
    task = {"name": "Say", "ansible.builtin.fail": {"msg": message}}
    (tmp_path / "play.yml").write_text(
        yaml.safe_dump([{"name": "Try", "hosts": "good", "gather_facts": False, "tasks": [task]}])
    )
    checks_keys, callbacks = json.loads(playbook.run(*play, check=False).failures["good"])
    assert checks_keys is True
    assert "llama.nexus.deployment_record" in callbacks


@pytest.mark.parametrize("seconds", [0.3, 5])
def test_ctrl_c_ends_the_play_with_all_that_it_started_and_means_ctrl_c_again_afterwards(
    play: tuple[str, ...], seconds: float
) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    children = set(psutil.Process().children(recursive=True))
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        playbook.run(*play, "-e", f"sleep={SLEEP}")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert set(psutil.Process().children(recursive=True)) <= children
    wait_for(lambda: not [found for found in psutil.process_iter() if is_sleep(found)], "the end of what it ran", 30)


def is_sleep(process: psutil.Process) -> bool:
    try:
        return process.cmdline() == ["sleep", SLEEP]
    except psutil.Error:
        return False


@pytest.mark.alone
def test_ansible_that_does_not_end_is_killed_by_a_second_ctrl_c(play: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "lookup_plugins").mkdir()
    (tmp_path / "lookup_plugins" / "stubborn.py").write_text(
        "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        f"open({str(tmp_path / 'begun')!r}, 'w').close()\ntime.sleep(60)\n"
    )
    (tmp_path / "play.yml").write_text(yaml.safe_dump([{"name": "Try", "hosts": "{{ lookup('stubborn') }}"}]))
    begun: list[float] = []

    def interrupt_twice() -> None:
        wait_for((tmp_path / "begun").exists, "the play")
        begun.append(time.monotonic())
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)

    threading.Thread(target=interrupt_twice).start()
    with pytest.raises(KeyboardInterrupt):
        playbook.run(*play)
    assert time.monotonic() - begun[0] < playbook.GRACE_SECONDS


def test_jobs_run_where_the_environment_lies_below_a_folder_with_a_space(tmp_path: Path) -> None:
    python = tmp_path / "a checkout" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    task = {"name": "Try", "ansible.builtin.command": "true", "async": 60, "poll": 1}
    play = {"name": "Try", "hosts": "local", "gather_facts": False, "tasks": [task]}
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    done = subprocess.run(
        [python, "-m", "ansible", "playbook", "-i", ROOT / "inventory", tmp_path / "play.yml"], cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "ANSIBLE_ASYNC_DIR": str(tmp_path / "async")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
