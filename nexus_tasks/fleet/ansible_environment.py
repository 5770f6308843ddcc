"""Environment of every ansible-playbook that nexus_tasks runs: what its plays need, and of the user's what is for them.

    made = ansible_environment.made(os.environ)
    made.variables["ANSIBLE_CONFIG"], made.dropped

Whoever works with Ansible has settings of other projects in the shell. Some of them break plays, some have them say
nothing at all, and of some the answer can't be read. So what Ansible may take from the shell is listed: how to get to
hosts and to secrets, and where to put files. All else is in ansible.cfg.
"""

from __future__ import annotations

import locale
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nexus_tasks.core.errors import UsageError
from nexus_tasks.core.provenance import ROOT
from nexus_tasks.records import store

INVENTORY_VARIABLE = "NEXUS_INVENTORY"
EVENT_CHARACTERS = 100_000_000
"""The most of a task's result that ansible-runner hands on: of a larger one it drops everything."""

# How to get to hosts and to what is secret, and where files and jobs of Ansible's own lie.
PASSED = re.compile(
    "ANSIBLE_(?:"
    "VAULT_.+|HASHI_VAULT_.+|CONNECTION_PASSWORD_FILE|REMOTE_(?:USER|PORT|TEMP|TMP)|(?:REMOTE_)?PARAMIKO_.+|"
    "PRIVATE_KEY.*|SSH_.+|SSHPASS_.+|SCP_.+|SFTP_.+|PKCS11_PROVIDER|HOST_KEY_CHECKING|TIMEOUT|PIPELINING|FORKS|"
    "BECOME|BECOME_.+|SUDO_.+|SU_.+|AGNOSTIC_BECOME_PROMPT|COMMON_REMOTE_GROUP|SHELL_ALLOW_WORLD_READABLE_TEMP|"
    "ADMIN_USERS|EXECUTABLE|PYTHON_INTERPRETER|HOME|LOCAL_TEMP|SYSTEM_TMPDIRS|ASYNC_DIR|LOG_PATH|NO_TARGET_SYSLOG"
    ")"
)
# Asking is for a terminal, which Ansible does not have under ansible-runner; plugins are the project's.
NOT_PASSED = re.compile("ANSIBLE_(?:BECOME_ASK_PASS|BECOME_PLUGINS)")
# Looks and what has no part in a play: dropped without a word.
SILENT = re.compile("ANSIBLE_(?:NOCOLOR|FORCE_COLOR|COLOR_.+|NOCOWS|COW_.+|GALAXY_.+|PAGER|EDITOR)")
# Ansible's and those by which ansible-runner, AWX and schedulers of jobs would have it write other events, and Python's
# that make it another Python: PYTHONWARNINGS=error ends Ansible, PYTHONINSPECT keeps it from ending.
FOREIGN = re.compile(
    "_?ANSIBLE_.*|AWX_.*|RUNNER_.*|AD_HOC_COMMAND_ID|JOB_ID|PROJECT_UPDATE_ID|ORIGINAL_STDOUT_CALLBACK|MAX_EVENT_RES|"
    "PYTHON.*"
)


@dataclass(frozen=True)
class Environment:
    """``variables`` are all that Ansible gets; ``dropped`` the names of the user's that are not among them."""

    variables: dict[str, str]
    dropped: list[str]

    def warning(self) -> str | None:
        """A line about what was dropped and would have changed something; None where nothing was."""
        if not self.dropped:
            return None
        inventory = f"; another inventory is named by {INVENTORY_VARIABLE}" * ("ANSIBLE_INVENTORY" in self.dropped)
        return f"not passed on to Ansible, which works by {ROOT / 'ansible.cfg'}: {', '.join(self.dropped)}{inventory}"


def made(given: Mapping[str, str]) -> Environment:
    """The environment for Ansible.

    Args:
        given: the user's, as ``os.environ``.

    Raises:
        UsageError: the inventory that it names is not there, or it would have Ansible ask for a password.
    """
    kept = {name: value for name, value in given.items() if not FOREIGN.fullmatch(name) or _is_passed(name)}
    asking = [name for name, value in kept.items() if PASSED.fullmatch(name) and "@prompt" in value]
    if asking:
        raise UsageError(f"{asking[0]} would have Ansible ask where nobody sees it", hint="name a file with the answer")
    inventory = given.get(INVENTORY_VARIABLE) or str(ROOT / "inventory")
    own = {
        # Without an activated environment, too, its own Ansible is the one that runs, and the nexus_tasks that runs is
        # what its callbacks import.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{given.get('PATH') or os.defpath}",
        "PYTHONPATH": str(ROOT),
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),  # which Ansible ignores where everybody may write
        "ANSIBLE_INVENTORY": ",".join(_absolute(source) for source in inventory.split(",")),
        # ansible-runner sets it to False, past ansible.cfg.
        "ANSIBLE_HOST_KEY_CHECKING": given.get("ANSIBLE_HOST_KEY_CHECKING", "True"),
        "ANSIBLE_NOCOLOR": "1",  # it would colour for ansible-runner's pseudo-terminal
        "MAX_EVENT_RES": str(EVENT_CHARACTERS),
        "NEXUS_RESULTS": str(store.ROOT.resolve()),  # one folder of records, whoever writes them
        **({} if _is_utf8() else {"LC_ALL": "C.UTF-8"}),
    }
    dropped = [
        name for name in given
        if re.fullmatch("_?ANSIBLE_.*", name) and not _is_passed(name) and not SILENT.fullmatch(name)
        and given[name] != own.get(name)
    ]  # fmt: skip
    return Environment({**kept, **own}, sorted(dropped))


def _is_passed(name: str) -> bool:
    return bool(PASSED.fullmatch(name)) and not NOT_PASSED.fullmatch(name)


def _is_utf8() -> bool:
    """True where Ansible starts by this process's locale: it has to be installed, and one of UTF-8."""
    kept = locale.setlocale(locale.LC_ALL)
    try:
        locale.setlocale(locale.LC_ALL, "")
        return locale.nl_langinfo(locale.CODESET).upper() == "UTF-8"
    except locale.Error:
        return False
    finally:
        locale.setlocale(locale.LC_ALL, kept)


def _absolute(source: str) -> str:
    """A source of the inventory from anywhere, as a path is read here: Ansible's working folder is the project's."""
    path = Path(source.strip()).expanduser().absolute()
    if not path.exists():
        raise UsageError(
            f"{INVENTORY_VARIABLE} must name files or folders that are there, and {path} is not",
            hint=f"unset it for the inventory of this project, {ROOT / 'inventory'}",
        )
    return str(path)
