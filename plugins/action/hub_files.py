"""Ansible action: ask the Hugging Face hub, from the controller, for the files of a model.

    - name: Ask the hub
      llama.nexus.hub_files:
        name: gpt-oss-120b
        profile: {repo: ggml-org/gpt-oss-120b-GGUF, revision: main, files: [{file: …}, …]}
      register: hub

The result has ``files``, of each ``path`` (of its address, below the hub's), ``size_bytes`` and ``sha256``. One that
the hub lacks ends it, before anything is fetched. Token and mirror are HF_TOKEN and HF_ENDPOINT of the environment of
ansible-playbook; nothing of them is told.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ..module_utils.gguf_model.errors import ModelError, one_line
from ..plugin_utils.hub import Hub


class ActionModule(ActionBase):
    """See the module docstring."""

    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        _, args = self.validate_argument_spec(
            argument_spec={
                "name": {"type": "str", "required": True},
                "profile": {"type": "dict", "required": True},
            }
        )
        profile, token = args["profile"], os.environ.get("HF_TOKEN")
        wanted = profile.get("files") or [{key: profile[key] for key in ("file", "sha256") if key in profile}]
        try:
            hub = Hub(profile["repo"], profile.get("revision", "main"), os.environ.get("HF_ENDPOINT"), token)
            files = hub.look_up(wanted)
        except ModelError as error:
            raise AnsibleActionFail(f"model {args['name']}: {one_line(error, token)}") from None
        return {"changed": False, "files": [asdict(file) for file in files]}
