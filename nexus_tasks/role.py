"""What the roles themselves go by and say, read from their own files so that nothing of it is written twice.

role.filters("llama_server_table")["status_table"](rows)
role.defined_in("plugins/module_utils/llama_server_help.py")["parse_help"](text)
"""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def filters(name: str) -> dict[str, Any]:
    """What the file ``filter_plugins/<name>.py`` of role llama_server defines, by name."""
    return defined_in(f"roles/llama_server/filter_plugins/{name}.py")


def defined_in(path: str) -> dict[str, Any]:
    """What a file of this repository defines, by name; it may import nothing that only Ansible could find for it."""
    return runpy.run_path(str(ROOT / path))
