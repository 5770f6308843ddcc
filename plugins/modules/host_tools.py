#!/usr/bin/python
"""Ansible module: a virtual environment with pinned tools from the package index."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_tools
short_description: Keep pinned tools from the package index in a virtual environment
description:
  - Makes the virtual environment C(path) when it is not there, and installs each set of requirements that changed.
  - Whether a set is installed is decided by the hash of its requirements, kept beside the environment, and by a look at
    what is there. Of pip's settings only those of the package index count.
options:
  path:
    description: The environment's folder.
    type: path
    required: true
  sets:
    description: Requirements files by name, each the text of one with hashes.
    type: dict
    required: true
  wheels:
    description: A folder with the sets' wheels; no package index is asked then.
    type: path
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
from ..module_utils.hostlib.programs import ProgramError, last_lines, run
from ..module_utils.hostlib.python_packages import installer_environment, missing

INSTALL_SECONDS = 3600


class ToolsError(Exception):
    """The tools could not be installed; ``lacks_venv``: because this Python can make no environment."""

    def __init__(self, message: str, lacks_venv: bool = False) -> None:
        super().__init__(message)
        self.lacks_venv = lacks_venv


def make_environment(path: str) -> None:
    """Make the environment with the interpreter's venv, or with virtualenv where ensurepip is missing."""
    # -m venv of a Debian python3 without python3-venv leaves half an environment behind.
    attempts = []
    for maker in ("venv", "virtualenv"):
        shutil.rmtree(path, ignore_errors=True)
        made = run([sys.executable, "-m", maker, path], timeout=INSTALL_SECONDS, env=installer_environment())
        if made.status == 0:
            return
        attempts.append(f"{maker}: {last_lines(made.output)}")
    shutil.rmtree(path, ignore_errors=True)
    raise ToolsError(
        f"{sys.executable} can make no virtual environment at {path}: install python3-venv "
        f"(apt-get install python3-venv). It said: {'; '.join(attempts)}",
        lacks_venv=True,
    )


def install(path: str, name: str, requirements: str, wheels: str | None) -> None:
    """Install one set of requirements into the environment, and look whether they are there."""
    origin = ["--no-index", "--find-links", wheels] if wheels else []
    python = os.path.join(path, "bin", "python")
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as listing:
        listing.write(requirements)
        listing.flush()
        done = run(
            [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--quiet", "--no-cache-dir",
             "--require-hashes", "--only-binary=:all:", *origin,  # what builds from source has no hashes
             "-r", listing.name],
            timeout=INSTALL_SECONDS, env=installer_environment(python),
        )  # fmt: skip
    if done.status != 0:
        remedy = (
            "see that the bundle was made for a host with this Python and processor"
            if wheels else "check that this host reaches a package index (pip config list)"
        )  # fmt: skip
        raise ToolsError(
            f"pip could not install the {name} tools into {path}: {remedy}. It said: {last_lines(done.output)}"
        )
    lacking = (missing(python, {name: requirements}) or {name: ["pip"]})[name]
    if lacking:
        raise ToolsError(
            f"pip says that the {name} tools are installed, and {', '.join(lacking)} can't be found in {path}: see "
            f"{python} -m pip config list"
        )


def main() -> None:
    begin()
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "sets": {"type": "dict", "required": True},
            "wheels": {"type": "path"},
        },
        supports_check_mode=True,
    )
    path, sets = module.params["path"], module.params["sets"]
    python = os.path.join(path, "bin", "python")
    # None: a broken interpreter link (the distribution's Python was replaced) is as good as no environment.
    lacking = missing(python, sets)
    due = []
    for name, requirements in sorted(sets.items()):
        stamp = os.path.join(path, f".{name}.sha256")
        wanted = hashlib.sha256(requirements.encode()).hexdigest()
        if lacking is None or lacking[name] or read_text(stamp) != wanted:
            due.append((name, requirements, stamp, wanted))
    result = {"changed": bool(due), "python": python, "installed": [name for name, *_ in due]}
    if not due or module.check_mode:
        module.exit_json(**result)

    try:
        if lacking is None:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            make_environment(path)
        for name, requirements, stamp, wanted in due:
            install(path, name, requirements, module.params["wheels"])
            write_file(stamp, wanted)
    except OSError as error:
        module.fail_json(msg=reason_of(error))
    except ProgramError as error:
        module.fail_json(msg=str(error))
    except ToolsError as error:
        module.fail_json(msg=str(error), lacks_venv=error.lacks_venv)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
