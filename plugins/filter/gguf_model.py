"""Ansible filters: the catalogue of models, what is wrong with those that are wanted, and who has them from whom.

llama_models | gguf_model_catalogue(llama_own_models)   the project's profiles and the user's own
names | gguf_model_problems(catalogue, token)           one line each; token is the hub's, and is not repeated
profile | gguf_model_source                             the part of it that role gguf_model goes by
probes | gguf_model_states(catalogue)                   what a host has and lacks, by model
states | gguf_model_leads(host)                         by model that it lacks the host that it has it from
states | gguf_model_served(host)                        the models that other hosts have from this one
names | gguf_model_fetched(catalogue)                   those that cross the uplink
model | gguf_model_file_list                            the files of one of gguf_model_files, for another host to fetch
model | gguf_model_paths                                their paths
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..plugin_utils import model_profiles, model_sharing


class FilterModule:
    """See the module docstring."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "gguf_model_catalogue": model_profiles.catalogue,
            "gguf_model_problems": model_profiles.problems,
            "gguf_model_source": model_profiles.source,
            "gguf_model_states": model_sharing.states_of,
            "gguf_model_leads": model_sharing.leads,
            "gguf_model_served": model_sharing.served,
            "gguf_model_fetched": model_sharing.fetched,
            "gguf_model_file_list": model_sharing.files_of,
            "gguf_model_paths": model_sharing.paths_of,
        }
