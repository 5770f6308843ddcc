"""Ansible filter: whether a connection is that to the machine that Ansible runs on.

ansible_connection | connection_is_local
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..module_utils.hostlib.connections import is_local


class FilterModule:
    """See the module docstring."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"connection_is_local": is_local}
