"""Options of an instance and the flags of llama-server that they become, as role llama_server's files have them.

server_options.rules().spellings()["-c"]     "ctx_size"
"""

from __future__ import annotations

from functools import cache

import yaml

from nexus_tasks.core.provenance import ROOT
from nexus_tasks.hostlib.llama_server_flags import Rules

ROLE = ROOT / "roles" / "llama_server"


@cache
def rules() -> Rules:
    """The role's tables."""
    variables, argument_specs = (
        yaml.safe_load((ROLE / path).read_text(encoding="utf-8"))
        for path in ("vars/main.yml", "meta/argument_specs.yml")
    )
    return Rules.of_files(variables, argument_specs)
