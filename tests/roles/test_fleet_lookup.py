"""What plain ansible-playbook does without the project's configuration: it says so, and does not end well."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from playbooks.lookup_plugins import fleet
from tests.conftest import BIN, ROOT, ansible


def told(output: str) -> str:
    return " ".join(output.split())


@pytest.mark.parametrize(
    ("playbook", "environment", "expected"),
    [
        ("deploy.yml", {"ANSIBLE_CONFIG": "{other}"}, "Ansible works without {root}/ansible.cfg, by {other}: "),
        ("playbooks/status.yml", {"ANSIBLE_INVENTORY": "/nowhere"}, "the inventory /nowhere has no host in "),
        ("playbooks/status.yml", {"ANSIBLE_RUN_TAGS": "theirs"}, "ANSIBLE_RUN_TAGS is theirs, and must be none: with"),
        ("deploy.yml", {"ANSIBLE_CALLBACKS_ENABLED": "ansible.posix.timer"}, "ANSIBLE_CALLBACKS_ENABLED is ansible."),
        ("deploy.yml", {"ANSIBLE_STRATEGY": "free"}, "ANSIBLE_STRATEGY is free, and must be linear: "),
    ],
)  # fmt: skip
def test_a_setting_of_another_project_is_named_by_the_first_play(
    tmp_path: Path, playbook: str, environment: dict[str, str], expected: str
) -> None:
    other = tmp_path / "other.cfg"
    other.write_text("[defaults]\n")
    done = ansible(playbook, check=False, **{name: value.format(other=other) for name, value in environment.items()})
    assert done.returncode != 0
    assert expected.format(root=ROOT, other=other) in told(done.stdout)
    assert "ok=" not in done.stdout


def test_a_checkout_that_everybody_may_write_is_named(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for name in ("plugins", "roles", "playbooks", "inventory", "group_vars", ".collections"):
        shutil.copytree(ROOT / name, checkout / name, symlinks=True)
    for name in ("ansible.cfg", "deploy.yml"):
        shutil.copy(ROOT / name, checkout / name)
    checkout.chmod(0o777)
    done = subprocess.run(
        [BIN / "ansible-playbook", "deploy.yml"], cwd=checkout, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert f"because everybody may write to that folder: chmod o-w {checkout}" in told(done.stderr)


@pytest.mark.parametrize(
    ("setting", "right", "wrong"),
    [
        ("DEFAULT_STRATEGY", ["linear", "ansible.builtin.linear"], ["free", "host_pinned", "debug"]),
        ("DEFAULT_TRANSPORT", ["ssh", "ansible.builtin.ssh"], ["local", "paramiko"]),
        ("DEFAULT_GATHERING", ["smart", "implicit"], ["explicit"]),
        ("CACHE_PLUGIN", ["memory"], ["jsonfile", "community.general.redis"]),
        ("DEFAULT_HASH_BEHAVIOUR", ["replace"], ["merge"]),
        ("DEFAULT_NO_LOG", [False], [True]),
        ("DEFAULT_NULL_REPRESENTATION", [None], ["", "null"]),
        ("DEFAULT_JINJA2_EXTENSIONS", [[]], [["jinja2.ext.do"]]),
        ("DEFAULT_PRIVATE_ROLE_VARS", [False], [True]),
        ("TRANSFORM_INVALID_GROUP_CHARS", ["ignore", "never"], ["always", "silently"]),
        ("VARIABLE_PLUGINS_ENABLED", [["host_group_vars"], ["ansible.builtin.host_group_vars", "x"]], [[], ["x"]]),
        ("DEFAULT_ROLES_PATH", [["/x", str(ROOT / "roles")]], [["/x"]]),
        ("COLLECTIONS_PATHS", [[str(ROOT / ".collections")]], [["/x"]]),
        ("TAGS_RUN", [[], ["all"]], [["serve"]]),
        ("TAGS_SKIP", [[]], [["serve"]]),
        ("TASK_TIMEOUT", [0], [60]),
        ("CALLBACKS_ENABLED",
         [["llama.nexus.home_folder", "timer", "llama.nexus.deployment_record"]], [[], ["llama.nexus.home_folder"]]),
    ],
)  # fmt: skip
def test_of_each_setting_the_lookup_knows_what_plays_need(setting: str, right: list[Any], wrong: list[Any]) -> None:
    (need,) = [need for need in fleet.NEEDS if need.setting == setting]
    assert [value for value in right if not need.holds(value)] == []
    assert [value for value in wrong if need.holds(value)] == []


def test_all_that_the_lookup_asks_of_is_a_setting_that_is_as_it_must_be_by_ansible_cfg() -> None:
    assert list(fleet.problems({"local": ["localhost"]}, "gpu-hosts:local")) == []
