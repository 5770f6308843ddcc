"""Environment of Ansible: what of the user's it is given, and what not."""

from __future__ import annotations

import os
import re
import sys
from importlib import resources
from pathlib import Path

import pytest
import yaml

from nexus_tasks.core.errors import UsageError
from nexus_tasks.fleet import ansible_environment, playbook
from tests.conftest import ROOT

# How to get to hosts and secrets: whoever has to set these sets them here, or in the inventory.
OF_THE_USER = (
    "ANSIBLE_VAULT_PASSWORD_FILE", "ANSIBLE_VAULT_IDENTITY_LIST", "ANSIBLE_REMOTE_USER", "ANSIBLE_REMOTE_PORT",
    "ANSIBLE_PRIVATE_KEY_FILE", "ANSIBLE_CONNECTION_PASSWORD_FILE", "ANSIBLE_SSH_ARGS", "ANSIBLE_SSH_COMMON_ARGS",
    "ANSIBLE_SSH_RETRIES", "ANSIBLE_BECOME", "ANSIBLE_BECOME_PASSWORD_FILE", "ANSIBLE_BECOME_METHOD",
    "ANSIBLE_HOST_KEY_CHECKING", "ANSIBLE_TIMEOUT", "ANSIBLE_PYTHON_INTERPRETER", "ANSIBLE_REMOTE_TEMP",
    "ANSIBLE_LOCAL_TEMP", "ANSIBLE_ASYNC_DIR", "ANSIBLE_FORKS", "ANSIBLE_LOG_PATH",
    "HF_TOKEN", "SSH_AUTH_SOCK", "HTTPS_PROXY", "OPS_KEY",
)  # fmt: skip
BREAKING = (
    "ANSIBLE_STDOUT_CALLBACK", "ANSIBLE_CALLBACKS_ENABLED", "ANSIBLE_STRATEGY", "ANSIBLE_GATHERING",
    "ANSIBLE_HASH_BEHAVIOUR", "ANSIBLE_LIBRARY", "ANSIBLE_NO_LOG", "ANSIBLE_DISPLAY_OK_HOSTS", "ANSIBLE_RUN_TAGS",
    "ANSIBLE_TRANSPORT", "ANSIBLE_ROLES_PATH", "ANSIBLE_COLLECTIONS_PATH", "ANSIBLE_FILTER_PLUGINS",
    "ANSIBLE_BECOME_ASK_PASS", "ANSIBLE_ASK_PASS", "ANSIBLE_CACHE_PLUGIN", "ANSIBLE_INVENTORY_ENABLED",
    "_ANSIBLE_TEMPLAR_SANDBOX_MODE",
)  # fmt: skip
OF_OTHER_PROGRAMS = ("JOB_ID", "AWX_LIB_DIRECTORY", "ORIGINAL_STDOUT_CALLBACK", "RUNNER_OMIT_EVENTS",
                     "PYTHONINSPECT", "PYTHONWARNINGS", "PYTHONHOME", "AD_HOC_COMMAND_ID")  # fmt: skip


@pytest.mark.parametrize("name", OF_THE_USER)
def test_what_leads_to_hosts_and_secrets_is_passed_on(name: str) -> None:
    made = ansible_environment.made({name: "1"})
    assert made.variables[name] == "1"
    assert made.warning() is None


@pytest.mark.parametrize("name", BREAKING)
def test_what_breaks_plays_is_left_out_and_told(name: str) -> None:
    made = ansible_environment.made({name: "1"})
    assert name not in made.variables
    assert re.fullmatch(rf"not passed on to Ansible, which works by \S+/ansible.cfg: {name}", made.warning() or "")


@pytest.mark.parametrize("name", OF_OTHER_PROGRAMS)
def test_what_makes_ansible_runner_or_python_another_is_left_out(name: str) -> None:
    made = ansible_environment.made({name: "1"})
    assert name not in made.variables
    assert made.warning() is None


def test_every_setting_that_ansible_knows_is_one_of_the_users_or_left_out() -> None:
    settings = yaml.safe_load((resources.files("ansible") / "config/base.yml").read_text())
    known = {entry["name"] for setting in settings.values() for entry in setting.get("env", ())}
    made = ansible_environment.made(dict.fromkeys(known, "1"))
    own = {"ANSIBLE_CONFIG", "ANSIBLE_INVENTORY", "ANSIBLE_NOCOLOR", "ANSIBLE_HOST_KEY_CHECKING"}
    passed = {name for name in made.variables if "ANSIBLE_" in name} - own
    ways = ("VAULT", "BECOME", "SSH", "PARAMIKO", "REMOTE", "PRIVATE_KEY", "CONNECTION_PASSWORD", "AGNOSTIC_BECOME")
    places = ("HOME", "LOCAL_TEMP", "LOG_PATH", "EXECUTABLE", "PYTHON_INTERPRETER", "NO_TARGET_SYSLOG")
    others = ("FORKS", "TIMEOUT", "PIPELINING")
    assert {name for name in passed if not name.startswith(tuple(f"ANSIBLE_{way}" for way in ways))} == {
        f"ANSIBLE_{name}" for name in (*places, *others)
    }


def test_what_plays_need_is_there_whatever_the_user_has() -> None:
    variables = ansible_environment.made({"PATH": "/usr/bin", "ANSIBLE_CONFIG": "/other.cfg"}).variables
    assert variables["ANSIBLE_CONFIG"] == str(ROOT / "ansible.cfg")
    assert variables["ANSIBLE_INVENTORY"] == str(ROOT / "inventory")
    assert variables["PATH"].split(os.pathsep) == [str(Path(sys.executable).parent), "/usr/bin"]
    assert int(variables["MAX_EVENT_RES"]) > 50_000_000


def test_another_inventory_has_a_variable_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    made = ansible_environment.made({"NEXUS_INVENTORY": f"mine,{ROOT / 'inventory'}", "ANSIBLE_INVENTORY": "/theirs"})
    assert made.variables["ANSIBLE_INVENTORY"] == f"{tmp_path / 'mine'},{ROOT / 'inventory'}"
    assert (made.warning() or "").endswith("ANSIBLE_INVENTORY; another inventory is named by NEXUS_INVENTORY")
    with pytest.raises(UsageError, match=f"NEXUS_INVENTORY must name .* that are there, and {tmp_path}/none is not"):
        ansible_environment.made({"NEXUS_INVENTORY": "none"})


def test_a_question_that_nobody_would_see_is_refused() -> None:
    with pytest.raises(UsageError, match="ANSIBLE_VAULT_IDENTITY_LIST would have Ansible ask where nobody sees it"):
        ansible_environment.made({"ANSIBLE_VAULT_IDENTITY_LIST": "ops@prompt"})


def test_looks_are_no_word_worth() -> None:
    made = ansible_environment.made({"ANSIBLE_NOCOWS": "1", "ANSIBLE_FORCE_COLOR": "1", "ANSIBLE_NOCOLOR": "0"})
    assert (made.variables["ANSIBLE_NOCOLOR"], made.warning()) == ("1", None)
    assert "ANSIBLE_FORCE_COLOR" not in made.variables


def test_a_locale_that_is_not_there_is_replaced_by_one_of_utf_8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "xx_XX.UTF-8")
    assert ansible_environment.made({"LC_ALL": "xx_XX.UTF-8"}).variables["LC_ALL"] == "C.UTF-8"


def test_nobody_else_starts_ansible() -> None:
    starts = re.compile(r"import ansible_runner|[\"'](?:\S*/)?ansible(?:-playbook|-inventory)?[\"']")
    found = {path for path in (ROOT / "nexus_tasks").rglob("*.py") if starts.search(path.read_text())}
    assert found == {Path(playbook.__file__)}
