"""What the roles themselves go by and say, read from their own files so that nothing of it is written twice.

role.filters("llama_server_table")["status_table"](rows)
role.defined_in("plugins/module_utils/hostlib/llama_server_help.py")["parse_help"](text)
"""

from __future__ import annotations

import runpy
from typing import Any

from nexus_tasks.core.provenance import ROOT


def filters(name: str) -> dict[str, Any]:
    """What the file ``plugins/filter/<name>.py`` defines, by name."""
    return defined_in(f"plugins/filter/{name}.py")


def defined_in(path: str) -> dict[str, Any]:
    """What a file of this repository defines, by name; it may import nothing that only Ansible could find for it."""
    return runpy.run_path(str(ROOT / path))
