"""Ansible callback: what Ansible starts on this machine gets a home folder that can be written to, and its user's name.

Enabled in ansible.cfg; callbacks are what Ansible loads before it starts anything. ``nox`` sees to the same before it
starts Ansible.
"""

from __future__ import annotations

from ansible.plugins.callback import CallbackBase

from ..module_utils.hostlib.environment import have_a_home

DOCUMENTATION = """
name: home_folder
type: aggregate
short_description: have a home folder
description:
  - Sets HOME, USER and LOGNAME in Ansible's own environment where they can't be right; lookups see them, and modules on
    this machine.
author: Llama Nexus
"""


class CallbackModule(CallbackBase):
    """See DOCUMENTATION."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "llama.nexus.home_folder"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        have_a_home()
