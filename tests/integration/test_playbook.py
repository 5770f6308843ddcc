"""Running playbooks for people: what they read, and what is left afterwards. Real ansible-runner, real Ansible."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from nexus_tasks import playbook
from nexus_tasks.errors import DeployError


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


def test_the_error_names_each_host_that_failed_and_none_that_recovered(play: tuple[str, ...]) -> None:
    with pytest.raises(DeployError) as failed:
        playbook.run(*play)
    assert sorted(failed.value.message.splitlines()) == ["bad: bad is broken", "worse: worse is broken"]


def test_people_see_the_play_and_what_changed_and_the_log_has_it_all(play: tuple[str, ...], tmp_path: Path) -> None:
    seen, log = io.StringIO(), tmp_path / "logs" / "run.log"
    stats = playbook.run(*play, "--limit", "good", console=Console(file=seen, width=80), log=log)
    assert [line.split(maxsplit=1)[1] for line in seen.getvalue().splitlines()] == ["Try", "changed Sleep"]
    assert stats["changed"] == {"good": 1}
    assert "PLAY RECAP" in log.read_text()


def test_ctrl_c_ends_the_play_and_means_ctrl_c_again_afterwards(play: tuple[str, ...]) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    timer = threading.Timer(4, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        playbook.run(*play, "-e", "sleep=60")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
