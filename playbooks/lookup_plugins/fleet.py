"""Ansible lookup: a play's pattern of hosts, where Ansible is set up as this project needs it; else the play fails.

    hosts: "{{ lookup('fleet', 'gpu-hosts:local') }}"

Ansible finds it beside the playbooks, whatever configuration it works by, and a play's hosts are read before it is
known whether there are any: with another project's configuration no host matches, and nothing done is no failure.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase

DOCUMENTATION = """
name: fleet
short_description: the hosts of a play, where Ansible is set up as this project needs it
description:
  - Returns the pattern that it is given, and fails where Ansible works without the project's ansible.cfg, or where a
    setting breaks the plays or keeps the record of a deployment from being written.
options:
  _terms:
    description: The pattern of hosts.
    required: true
author: Llama Nexus
"""

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATION = ROOT / "ansible.cfg"
GROUPS = ("gpu-hosts", "local")
GATEWAYS = "gateways"
CALLBACKS = {"llama.nexus.deployment_record", "llama.nexus.home_folder"}


@dataclass(frozen=True)
class Need:
    """The value that a setting has to have, as Ansible names it in its configuration; ``wants`` says it in words."""

    setting: str
    holds: Callable[[Any], bool]
    wants: str


def _has_path(path: Path) -> Callable[[Any], bool]:
    return lambda paths: any(Path(str(one)).resolve() == path.resolve() for one in paths)


def _is_name(name: str) -> Callable[[Any], bool]:
    return lambda value: str(value).removeprefix("ansible.builtin.") == name


NEEDS = (
    Need("CALLBACKS_ENABLED", lambda names: set(names) >= CALLBACKS, f"{', '.join(sorted(CALLBACKS))} among them"),
    Need("COLLECTIONS_PATHS", _has_path(ROOT / ".collections"), f"{ROOT / '.collections'} among them"),
    Need("DEFAULT_ROLES_PATH", _has_path(ROOT / "roles"), f"{ROOT / 'roles'} among them"),
    Need("DEFAULT_STRATEGY", _is_name("linear"), "linear: hosts wait for one another"),
    Need("DEFAULT_TRANSPORT", _is_name("ssh"), "ssh: ansible_connection says which host is this machine"),
    Need("DEFAULT_GATHERING", lambda value: value in ("smart", "implicit"), "smart: roles need facts"),
    Need("CACHE_PLUGIN", _is_name("memory"), "memory: facts of an earlier run may be another user's"),
    Need("DEFAULT_HASH_BEHAVIOUR", lambda value: value == "replace", "replace"),
    Need("DEFAULT_NO_LOG", lambda value: not value, "false: the record is made of results"),
    Need("DEFAULT_JINJA2_EXTENSIONS", lambda value: not value, "none"),
    Need("DEFAULT_NULL_REPRESENTATION", lambda value: value is None, "none: null is an option that is not set"),
    Need("DEFAULT_PRIVATE_ROLE_VARS", lambda value: not value, "false: roles read what others publish"),
    Need("TRANSFORM_INVALID_GROUP_CHARS", lambda value: value in ("never", "ignore"), "ignore: of gpu-hosts"),
    Need("VARIABLE_PLUGINS_ENABLED", lambda names: any(map(_is_name("host_group_vars"), names)), "host_group_vars"),
    Need("TAGS_RUN", lambda tags: set(tags) <= {"all"}, "none: with them, tasks are left out without a word"),
    Need("TAGS_SKIP", lambda tags: not tags, "none: with them, tasks are left out without a word"),
    Need("TASK_TIMEOUT", lambda seconds: int(seconds) == 0, "0: builds and downloads take their time"),
)


def problems(groups: Mapping[str, Any], pattern: str) -> Iterator[str]:
    """The problems of Ansible's set-up, one line each; the first is what explains the others.

    Args:
        groups: hosts by group, as the inventory has them.
        pattern: that of the play.
    """
    if not constants.CONFIG_FILE or Path(os.fsdecode(constants.CONFIG_FILE)).resolve() != CONFIGURATION:
        yield f"Ansible works without {CONFIGURATION}, by {_other_configuration()}"
    for need in NEEDS:
        value, origin = constants.config.get_config_value_and_origin(need.setting)
        if not need.holds(value):
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            variable = str(origin).removeprefix("env: ")
            name, do = (variable, f"unset {variable}") if variable != origin else (need.setting, f"see {origin}")
            yield f"{name} is {shown}, and must be {need.wants}; {do}"
    named = pattern.split(":")
    if set(GROUPS) <= set(named) and not any(groups.get(name) for name in named):
        sources = ", ".join(map(str, constants.config.get_config_value("DEFAULT_HOST_LIST")))
        # nexus_tasks hands over the inventory in the second, whoever named it.
        by = [name for name in ("NEXUS_INVENTORY", "ANSIBLE_INVENTORY") if os.environ.get(name)]
        do = f"unset {by[0]}" if by else f"see {ROOT / 'inventory'}"
        yield f"the inventory {sources} has no host in {' or '.join(GROUPS)}: name another one, or {do}"


def _other_configuration() -> str:
    """The configuration that Ansible works by, and what to do about it."""
    found = os.fsdecode(constants.CONFIG_FILE) if constants.CONFIG_FILE else "its own defaults"
    if "ANSIBLE_CONFIG" in os.environ:
        return f"{found}: unset ANSIBLE_CONFIG"
    if Path.cwd() != ROOT:
        return f"{found}: change to {ROOT} first"
    return f"{found}, because everybody may write to that folder: chmod o-w {ROOT}"


class LookupModule(LookupBase):
    """See DOCUMENTATION."""

    def run(self, terms: list[str], variables: Mapping[str, Any] | None = None, **kwargs: Any) -> list[str]:
        """The pattern; AnsibleError with the first problem where there is one."""
        (pattern,) = terms
        groups = (variables or {}).get("groups", {})
        problem = next(problems(groups, pattern), None)
        if problem:
            raise AnsibleError(problem)
        # Ansible warns of a group that is not there, and not every inventory has gateways.
        return [":".join(name for name in pattern.split(":") if name != GATEWAYS or name in groups)]
