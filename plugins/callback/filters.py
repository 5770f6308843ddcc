"""Ansible callback: this collection's filters are loaded once, before the first task.

Enabled in ansible.cfg. Ansible runs each task in a process of its own, a copy of the first: what is not loaded there
already is loaded by every task that needs it, all files of filters of the collection for any one of them.
"""

from __future__ import annotations

from ansible.playbook import Playbook
from ansible.plugins.callback import CallbackBase
from ansible.plugins.loader import filter_loader

DOCUMENTATION = """
name: filters
type: aggregate
short_description: load filters once
description:
  - Loads the filters of this collection before the first task. It is only a matter of time that they take.
author: Llama Nexus
"""

ANY = "llama.nexus.llama_server_model_names"  # for one of them, the files of all are loaded


class CallbackModule(CallbackBase):
    """See DOCUMENTATION."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "llama.nexus.filters"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_start(self, playbook: Playbook) -> None:
        filter_loader.get(ANY)
