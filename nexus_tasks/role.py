"""What role llama_server itself goes by and says, read from its own filters so that nothing of it is written twice.

role.filters("llama_server_table")["status_table"](rows)
"""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

ROLE = Path(__file__).resolve().parent.parent / "roles" / "llama_server"


def filters(name: str) -> dict[str, Any]:
    """What the file ``filter_plugins/<name>.py`` of the role defines, by name."""
    return runpy.run_path(str(ROLE / "filter_plugins" / f"{name}.py"))
