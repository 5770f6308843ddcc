"""Processes of a router's models: each takes requests on a port of its own, for which it needs the keys, too."""

from __future__ import annotations

import dataclasses
import http.client
from collections.abc import Sequence

from ..client import Server, Stranger
from ..sockets import holder, listeners
from .subject import Subject


def prove_child_keys(subject: Subject, name: str, argv: Sequence[str]) -> None:
    """Check that a model's process takes nothing without a key. ``argv``: its command line, as the router tells it."""
    if subject.key is None:
        return
    host, port = (argv[argv.index(flag) + 1] for flag in ("--host", "--port"))
    child = dataclasses.replace(subject.config, local_url=f"http://{host}:{port}")
    try:
        code = Server(child, holder(listeners(host, int(port)))).ask("/props")[0]
    except (OSError, Stranger, http.client.HTTPException):
        return  # it made room for another model meanwhile, and has let go of its port
    cause = "every user of this host can ask it past the router: this release hands on no keys; leave models out"
    subject.checks.compare(f"{name} without a key", 401, code, cause)
