"""A server that is being proven."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...hostlib.instances import Instance
from ..client import Server
from ..folder import Folder
from ..runtimes.base import RuntimeView, Status
from .checks import Checks


@dataclass
class Subject:
    """The server that a proof is about: what was declared, who is asked, and what was found so far."""

    config: Instance
    """The generation that should run."""
    wanted: Mapping[str, Any]
    """Requests and limits of the proof, as in prove()."""
    runtime: RuntimeView
    folder: Folder
    server: Server
    status: Status
    """The runtime's word about the process that ``server`` asks."""
    checks: Checks
    row: dict[str, Any]
    """The proof's result, which each kind of checks completes."""
    key: str | None = None
    """One that the server takes; None where it needs none."""
