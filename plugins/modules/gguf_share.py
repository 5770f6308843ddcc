#!/usr/bin/python
"""Ansible module: hand this host's models to other hosts for a while, so that one of them crosses the uplink once."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gguf_share
short_description: Serve model files to other hosts for a while
description:
  - With C(state=started) a process of its own serves the files over HTTP, with ranges, to whoever shows the token. It
    ends by C(state=stopped), and by itself once nobody has asked for ten minutes.
options:
  state:
    description: Which way it goes.
    choices: [started, stopped]
    required: true
    type: str
  files:
    description: Paths of the files, each of which is served under its own name.
    type: list
    elements: path
  token:
    description: What a client has to show.
    type: str
  port:
    description: The port to listen on; 0 is a free one.
    type: int
    default: 0
  pid:
    description: The process to stop.
    type: int
author: Llama Nexus
"""
EXAMPLES = r"""
- name: Hand a model to the others
  llama.nexus.gguf_share:
    state: started
    files: [/opt/llama-nexus/models/qwen3-8b.gguf]
    token: "{{ token }}"
"""
RETURN = r"""
port:
  description: The port that it listens on.
  returned: started
  type: int
pid:
  description: Its process.
  returned: started
  type: int
"""

import os

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.gguf_model.share import start, stop
from ..module_utils.hostlib.environment import begin

IDLE_SECONDS = 600.0  # of a controller that is gone


def main() -> None:
    begin()
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["started", "stopped"], "required": True},
            "files": {"type": "list", "elements": "path"},
            "token": {"type": "str", "no_log": True},
            "port": {"type": "int", "default": 0},
            "pid": {"type": "int"},
        },
        required_if=[("state", "started", ("files", "token")), ("state", "stopped", ("pid",))],
    )
    if module.params["state"] == "stopped":
        stop(module.params["pid"])
        module.exit_json(changed=False)
    files = {os.path.basename(path): path for path in module.params["files"]}
    try:
        port, pid = start(files, module.params["token"], module.params["port"], IDLE_SECONDS)
    except OSError as error:
        module.fail_json(
            msg=f"models can't be shared at port {module.params['port']}: {error.strerror}; "
            "set gguf_model_share_port to another"
        )
    module.exit_json(changed=False, port=port, pid=pid)


if __name__ == "__main__":
    main()
