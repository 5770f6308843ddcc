#!/usr/bin/python
"""Ansible module: the releases of llama.cpp that are kept on a host, and no others."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llama_cpp_retain
short_description: Remove releases of llama.cpp that are neither used nor among the newest
description:
  - Keeps the C(keep) newest releases, the one that the link C(current) names, and all that are in use.
  - Builds that were given up are removed, too, unless one is going on.
options:
  prefix:
    description: The folder that holds releases/ and build/.
    type: path
    required: true
  keep:
    description: How many of the newest are kept, at least 1.
    type: int
    required: true
  used:
    description: The folders of releases that something on the host may start.
    type: list
    elements: path
    required: true
author: Llama Nexus
"""
EXAMPLES = r"""
- name: Keep three releases, and what is served
  llama.nexus.llama_cpp_retain:
    prefix: /opt/llama-nexus
    keep: 3
    used: [/opt/llama-nexus/releases/b11434-cuda89-1f3a90c2]
"""
RETURN = r"""
removed:
  description: The names of the releases that were removed (in check mode, that would be).
  returned: always
  type: list
kept:
  description: The names of those that are left, the newest first.
  returned: always
  type: list
"""

import contextlib
import os
import shutil

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.hostlib import locks
from ..module_utils.hostlib.environment import begin
from ..module_utils.llama_cpp.build import LOCK
from ..module_utils.llama_cpp.release import releases, set_aside


def remove(prefix: str, names: list[str]) -> None:
    for name in names:
        # Without its name it is no release any more, however far the removal gets.
        shutil.rmtree(set_aside(os.path.join(prefix, "releases", name)))


def clear(prefix: str) -> None:
    """Remove what cut-off runs left, unless a build is going on: it holds the lock until its last process has ended."""
    with contextlib.suppress(locks.LockHeld), locks.held(os.path.join(prefix, LOCK), "removal of old builds", wait=0):
        for folder, halves in (("build", False), ("releases", True)):
            path = os.path.join(prefix, folder)
            for name in os.listdir(path) if os.path.isdir(path) else ():
                if halves and not name.startswith("."):
                    continue
                entry = os.path.join(path, name)
                if os.path.isdir(entry):
                    shutil.rmtree(entry)
                else:
                    os.unlink(entry)


def main() -> None:
    begin()
    module = AnsibleModule(
        argument_spec={
            "prefix": {"type": "path", "required": True},
            "keep": {"type": "int", "required": True},
            "used": {"type": "list", "elements": "path", "required": True},
        },
        supports_check_mode=True,
    )
    prefix, keep = module.params["prefix"], module.params["keep"]
    if keep < 1:
        module.fail_json(msg=f"llama_cpp_keep_releases is {keep}: at least 1 is kept")
    folder = os.path.join(prefix, "releases")
    used = {os.path.realpath(path) for path in [*module.params["used"], os.path.join(prefix, "current")]}
    names = list(releases(prefix))
    removed = [name for name in names[keep:] if os.path.realpath(os.path.join(folder, name)) not in used]
    try:
        if not module.check_mode:
            remove(prefix, removed)
            clear(prefix)
    except locks.LockError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"an old release can't be removed: {error.strerror}: {error.filename}")
    kept = [name for name in names if name not in removed]
    module.exit_json(changed=bool(removed), removed=removed, kept=kept)


if __name__ == "__main__":
    main()
