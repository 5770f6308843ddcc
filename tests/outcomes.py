"""What playbooks came to, for tests."""

from __future__ import annotations

from typing import Any

from nexus_tasks.fleet.playbook import Outcome


def outcome(**changes: Any) -> Outcome:
    """Two hosts with an instance each, of which rig-2 has just had its server switched."""
    rows = {
        "rig-1": [{"name": "main", "state": "verified", "changed": False, "checks": [], "error": None}],
        "rig-2": [
            {
                "name": "main",
                "state": "verified",
                "changed": True,
                "checks": [],
                "error": None,
                "downtime_seconds": 1.26,
            }
        ],
    }
    stats = {"processed": {"rig-1": 1, "rig-2": 1}, "changed": {"rig-2": 3}}
    return Outcome(**{"status": 0, "stats": stats, "rows": rows, "failures": {}, **changes})
