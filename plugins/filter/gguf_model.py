"""Ansible filters: the catalogue of models, and what is wrong with those that are wanted, before a host is touched.

llama_models | gguf_model_catalogue(llama_own_models)   the project's profiles and the user's own
names | gguf_model_problems(catalogue, token)           one line each; token is the hub's, and is not repeated
profile | gguf_model_source                             the part of it that role gguf_model goes by
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..plugin_utils import model_profiles


class FilterModule:
    """See the module docstring."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "gguf_model_catalogue": model_profiles.catalogue,
            "gguf_model_problems": model_profiles.problems,
            "gguf_model_source": model_profiles.source,
        }
