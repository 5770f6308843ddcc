"""Ansible filters: chat templates chosen by name, rendered on the controller before a host is touched.

chosen | chat_template_problems(folder)  what is wrong with them, one line each; for each its name and kwargs
names | chat_template_texts(folder)      their texts by name, as llama-server gives them back
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..plugin_utils import chat_templates


class FilterModule:
    """See the module docstring."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "chat_template_problems": chat_templates.problems,
            "chat_template_texts": chat_templates.texts,
        }
