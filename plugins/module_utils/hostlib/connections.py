"""Connections of the inventory, by the name of Ansible's plugin."""

from __future__ import annotations

LOCAL = ("local", "ansible.builtin.local", "ansible.legacy.local")


def is_local(connection: object) -> bool:
    """True for the connection to the machine that Ansible runs on, by its short name or its full one."""
    return str(connection) in LOCAL
