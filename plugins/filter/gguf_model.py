"""Ansible filter: what is wrong with the profiles of the wanted models, found before a host is touched.

names | gguf_model_problems(catalogue, token)   one line each; token is the one for the hub, and is not repeated
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..plugin_utils import model_profiles


class FilterModule:
    """See the module docstring."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"gguf_model_problems": model_profiles.problems}
