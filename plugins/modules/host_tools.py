#!/usr/bin/python
"""Ansible module: a virtual environment with pinned tools from the package index."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_tools
short_description: Keep pinned tools from the package index in a virtual environment
description:
  - Makes the virtual environment C(path) when it is not there, and installs each set of requirements that changed.
  - Whether a set is installed is decided by the hash of its requirements, kept beside the environment.
options:
  path:
    description: The environment's folder.
    type: path
    required: true
  sets:
    description: Requirements files by name, each the text of one with hashes.
    type: dict
    required: true
author: Llama Nexus
"""
EXAMPLES = r"""
- name: Have supervisor
  llama.nexus.host_tools:
    path: /opt/llama-nexus/tools
    sets:
      supervisor: "{{ lookup('file', 'supervisor.txt') }}"
"""
RETURN = r"""
python:
  description: The environment's interpreter.
  returned: always
  type: str
installed:
  description: The sets that were installed by this call (in check mode, that would be).
  returned: always
  type: list
"""

import hashlib
import os
import shutil
import sys
import tempfile

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.hostlib.environment import begin
from ..module_utils.hostlib.files import read_text, reason_of, write_file
from ..module_utils.hostlib.programs import last_lines


def make_environment(module: AnsibleModule, path: str) -> None:
    """Make the environment with the interpreter's venv, or with virtualenv where ensurepip is missing."""
    # -m venv of a Debian python3 without python3-venv leaves half an environment behind.
    attempts = []
    for maker in ("venv", "virtualenv"):
        shutil.rmtree(path, ignore_errors=True)
        code, out, err = module.run_command([sys.executable, "-m", maker, path])
        if code == 0:
            return
        attempts.append(f"{maker}: {last_lines(out + err)}")
    shutil.rmtree(path, ignore_errors=True)
    module.fail_json(
        msg=f"{sys.executable} can make no virtual environment at {path}: install python3-venv "
        f"(apt-get install python3-venv). It said: {'; '.join(attempts)}",
        lacks_venv=True,
    )


def install(module: AnsibleModule, path: str, name: str, requirements: str) -> None:
    """Install one set of requirements into the environment."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as listing:
        listing.write(requirements)
        listing.flush()
        code, out, err = module.run_command(
            [os.path.join(path, "bin", "python"), "-m", "pip", "install", "--disable-pip-version-check", "--no-input",
             "--quiet", "--no-cache-dir", "--require-hashes", "-r", listing.name],
        )  # fmt: skip
    if code != 0:
        module.fail_json(
            msg=f"pip could not install the {name} tools into {path}: check that this host reaches a package "
            f"index (pip config list). It said: {last_lines(out + err)}"
        )


def main() -> None:
    begin()
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "sets": {"type": "dict", "required": True},
        },
        supports_check_mode=True,
    )
    path, sets = module.params["path"], module.params["sets"]
    python = os.path.join(path, "bin", "python")
    # A broken interpreter link (the distribution's Python was replaced) is as good as no environment.
    usable = os.path.exists(python) and module.run_command([python, "-c", "import pip"])[0] == 0
    due = []
    for name, requirements in sorted(sets.items()):
        stamp = os.path.join(path, f".{name}.sha256")
        wanted = hashlib.sha256(requirements.encode()).hexdigest()
        if not usable or read_text(stamp) != wanted:
            due.append((name, requirements, stamp, wanted))
    result = {"changed": bool(due), "python": python, "installed": [name for name, *_ in due]}
    if not due or module.check_mode:
        module.exit_json(**result)

    try:
        if not usable:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            make_environment(module, path)
        for name, requirements, stamp, wanted in due:
            install(module, path, name, requirements)
            write_file(stamp, wanted)
    except OSError as error:
        module.fail_json(msg=reason_of(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
