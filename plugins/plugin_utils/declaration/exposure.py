"""Exposure of the instances: who can reach them, and what they are started with."""

from __future__ import annotations

from typing import Any

from ...module_utils.hostlib.addresses import is_loopback
from .flags import flags_by_option
from .instances import well_formed
from .options import parsed
from .rules import instance_spec


def exposure(instances: Any, host: str) -> list[dict[str, Any]]:
    """Exposure to strangers: of each instance ``name``, ``host``, whether it is ``exposed`` beyond loopback, and the
    ``flags`` that it is started with, a router's models included. What is malformed is told by the problems.
    """
    servers = []
    for name, options in well_formed(instances).items():
        values, _ = parsed(options, instance_spec())
        exposed = not is_loopback(values.get("host", "127.0.0.1"))
        flags = [flag for _, flag in flags_by_option(values)]
        servers.append({"name": name, "host": host, "exposed": exposed, "flags": flags})
    return servers
