"""Ansible filters: what instances are declared to be, and what is wrong with that, found before a host is touched.

    instances | llama_server_with_recommendations(settings)               the same, with what their profiles recommend
    instances | llama_server_problems(settings, hostvars, hosts)          what is wrong, one line each
    instances | llama_server_declaration(settings, release, files, …)     what the modules on the host are given
    rows | llama_server_limits(action, instances, settings)               what the proof of a start asks for
    instances | llama_server_exposure(host)                               who can reach them, and what they start with
    instances | llama_server_names                                        their names
    instances | llama_server_keys                                         the keys, by instance and name
    instances | llama_server_planned(settings)                            what plans of memory need of them
    instances | llama_server_model_names                                  the profiles of llama_models that they need
    instances | llama_server_chat_template_names                          the templates that they choose
    instances | llama_server_chat_templates                               those with what they are rendered with
    text | llama_server_host_memory                                       MiB, by /proc/meminfo and limits of cgroups

``settings`` are the role's variables and its host's name. The rules are in plugins/plugin_utils/declaration/.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..module_utils.hostlib import host_memory
from ..plugin_utils.declaration import (
    config,
    exposure,
    instances,
    keys,
    planned,
    problems,
    profiles,
    proof,
    recommendations,
)


class FilterModule:
    """See the module docstring."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "llama_server_with_recommendations": recommendations.with_recommendations,
            "llama_server_problems": problems.host_problems,
            "llama_server_declaration": config.declaration,
            "llama_server_limits": proof.start_limits,
            "llama_server_exposure": exposure.exposure,
            "llama_server_names": instances.names,
            "llama_server_keys": keys.keys_by_instance,
            "llama_server_planned": planned.planned,
            "llama_server_model_names": profiles.model_names,
            "llama_server_chat_template_names": profiles.chat_template_names,
            "llama_server_chat_templates": profiles.chosen_chat_templates,
            "llama_server_host_memory": host_memory.total_mib,
        }
