"""Locality of servers: whether one runs on this machine, so that this machine's load and GPUs are its own.

locality.is_local(target, server)           # ``server`` is what endpoint.probe says
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import httpx
import psutil

from nexus_tasks.fleet.targets import Target
from nexus_tasks.servers import route
from nexus_tasks.servers.endpoint import Endpoint


def is_local(target: Target, server: Endpoint) -> bool:
    """True where the server runs on this machine, so that its load is in the telemetry."""
    if target.tunnel:
        return False
    host = httpx.URL(server.base_url).host
    own = {entry.address for entries in psutil.net_if_addrs().values() for entry in entries}
    try:
        addresses = route.addresses_of(host, 0)
    except OSError:
        return False
    if not all(route.leads_to_loopback(a) or a in own for a in addresses):
        return False
    # A tunnel of somebody else's ends on this machine as well, but then the model's file is elsewhere.
    path = model_path(target, server)
    return path is None or os.path.exists(path)  # noqa: PTH110 - Path.exists raises for what it may not see


def model_path(target: Target, server: Endpoint) -> str | None:
    """The path of the model on its host; None where nobody says."""
    model: Mapping[str, Any] = (target.instance.model if target.instance else None) or {}
    return model.get("path") or server.model_path
