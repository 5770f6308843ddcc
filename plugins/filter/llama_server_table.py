"""Ansible filters: what the rows of the llama_server modules say, and the same as text for people.

    rows | llama_server_chosen(action, names)               the names of the instances that an action is about
    hosts | llama_server_nowhere(hostvars, action, names)   why no host has any of them; empty where one has
    rows | llama_server_judged(action, declared, names)     the rows with what is wrong and what is worth knowing
    rows | llama_server_text(action)                        one of the three below
    rows | llama_server_status_table                        one table: what runs
    rows | llama_server_proof_table                         a table an instance: what was compared and measured
    rows | llama_server_log_text                            the logs, each line with the name of its instance

A row is a dict as plugins/modules returns it. Where rows have a ``host``, names are shown as HOST/INSTANCE.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..module_utils.hostlib import server_rows, server_tables
from ..plugin_utils import server_control


class FilterModule:
    """See the module docstring."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "llama_server_chosen": server_control.chosen,
            "llama_server_nowhere": server_control.nowhere,
            "llama_server_judged": server_rows.judged,
            "llama_server_text": server_tables.text,
            "llama_server_status_table": server_tables.status_table,
            "llama_server_proof_table": server_tables.proof_table,
            "llama_server_log_text": server_tables.log_text,
        }
