"""Ansible filters: which published vulnerabilities of llama.cpp apply to a release and what it is started with.

    ref | llama_cpp_advisories                             those of a release, as the table of role llama_cpp has them
    servers | llama_cpp_advisory_problems(ref, accepted)   servers that may not listen as declared, one line each; what
                                                           else applies to them becomes warnings
    rows | llama_cpp_advised                               rows of a status, each with ``advisories``, one line each

``servers`` are what filter llama_server_exposure makes of the instances.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..plugin_utils import advisories


class FilterModule:
    """See the module docstring."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "llama_cpp_advisories": advisories.of_release,
            "llama_cpp_advisory_problems": advisories.problems,
            "llama_cpp_advised": advisories.advised,
        }
