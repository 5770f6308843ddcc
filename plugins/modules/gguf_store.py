#!/usr/bin/python
"""Ansible module: the models that lie on this host, shown, verified again, or removed."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gguf_store
short_description: Look after the models of a host
description:
  - With C(state=listed) says which models lie in C(dir), their sizes and states, and who uses them.
  - With C(state=verified) reads them all and compares each file's sha256 with the recorded one. The record of
      one that is damaged is dropped, so that the next run of the role fetches it.
  - With C(state=removed) removes those of C(names), or with C(unused) all that nothing uses and nobody declares. One
    that is used, or fetched just now, is never touched. Users' own files (profiles with C(path)) stay where they are.
options:
  state:
    description: What to do.
    type: str
    choices: [listed, verified, removed]
    default: listed
  dir:
    description: Folder of the models and of their records.
    type: path
    required: true
  names:
    description: The models that it is about; without it all.
    type: list
    elements: str
    default: []
  unused:
    description: Whether to remove what is neither used nor declared.
    type: bool
    default: false
  declared:
    description: The models that this host should have.
    type: list
    elements: str
    default: []
  used:
    description: Files of models that instances have or may go back to, each with C(path) and C(user).
    type: list
    elements: dict
    default: []
  progress:
    description: A file for a line about how far the verification is.
    type: path
author: Llama Nexus
"""
EXAMPLES = r"""
- name: Show the models
  llama.nexus.gguf_store:
    dir: /opt/llama-nexus/models
"""
RETURN = r"""
models:
  description: >-
    The models, of each name, state (verified, changed, incomplete, not verified, partial, fetching, damaged, removed),
    size_bytes, files, source, elsewhere (a user's own file), declared, and used_by.
  returned: always
  type: list
  elements: dict
disk:
  description: Bytes of the folder's file system, total_bytes and free_bytes.
  returned: always
  type: dict
"""

import os
import shutil
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.gguf_model.errors import ModelError, one_line
from ..module_utils.gguf_model.progress import Progress
from ..module_utils.gguf_model.stored import (
    DAMAGED,
    StoredModel,
    forget,
    open_files,
    remove,
    stored_models,
    users_of,
    verify,
)
from ..module_utils.hostlib.environment import begin
from ..module_utils.hostlib.files import reason_of
from ..module_utils.hostlib.locks import LockError


def chosen(models: list[StoredModel], params: dict[str, Any], used: dict[str, list[str]]) -> list[StoredModel]:
    """The models that it is about. Raises ModelError for a name that is not there."""
    if params["unused"]:
        return [model for model in models if model.name not in params["declared"] and not users_of(model, used)]
    if missing := sorted(set(params["names"]) - {model.name for model in models}):
        there = ", ".join(model.name for model in models) or "none"
        raise ModelError(f"no model {', '.join(missing)} in {params['dir']}; those there are: {there}")
    return [model for model in models if not params["names"] or model.name in params["names"]]


def disk(folder: str) -> dict[str, int]:
    """Bytes of the file system that a folder is on, or will be."""
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    usage = shutil.disk_usage(folder)
    return {"total_bytes": usage.total, "free_bytes": usage.free}


def main() -> None:
    begin()
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["listed", "verified", "removed"], "default": "listed"},
            "dir": {"type": "path", "required": True},
            "names": {"type": "list", "elements": "str", "default": []},
            "unused": {"type": "bool", "default": False},
            "declared": {"type": "list", "elements": "str", "default": []},
            "used": {"type": "list", "elements": "dict", "default": []},
            "progress": {"type": "path"},
        },
        required_if=[("state", "verified", ("progress",))],
        supports_check_mode=True,
    )
    params = module.params
    if params["state"] == "removed" and bool(params["names"]) == params["unused"]:
        module.fail_json(msg="name the models to remove, or set unused")
    rows = []
    try:
        used = open_files(params["dir"])
        for file in params["used"]:
            used.setdefault(file["path"], []).append(file["user"])
        models = chosen(stored_models(params["dir"]), params, used)
        for model in models:
            state = model.state
            row = {"name": model.name, "size_bytes": model.size_bytes, "files": list(model.files),
                   "source": model.source, "elsewhere": model.lies_elsewhere,
                   "declared": model.name in params["declared"], "used_by": users_of(model, used)}  # fmt: skip
            if params["state"] == "verified":
                state = verify(model, Progress(params["progress"]))
                if state == DAMAGED and not module.check_mode:
                    forget(model)
            elif params["state"] == "removed":
                if row["used_by"] or not module.check_mode:
                    remove(model, used)
                state = "removed"
            rows.append({**row, "state": state})
        space = disk(params["dir"])
    except (ModelError, LockError) as error:
        module.fail_json(msg=one_line(error), models=rows)
    except OSError as error:
        module.fail_json(msg=one_line(reason_of(error)), models=rows)
    module.exit_json(changed=any(row["state"] in ("removed", DAMAGED) for row in rows), models=rows, disk=space)


if __name__ == "__main__":
    main()
