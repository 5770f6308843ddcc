"""The follower of a gateway's log on its host: as declared, or gone; idempotent. Python 3.9's standard library only."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from ..hostlib.pids import argv_of
from ..service import deployed
from ..service.runtimes import Service

FOLDER, PROGRAM = "follower", "follow.py"


def service_of(root: str) -> Service:
    """The follower as a service; supervisor is in the gateway's environment."""
    folder = os.path.join(root, FOLDER)
    python = os.path.join(root, "env", "bin", "python")
    mark = os.path.join(folder, PROGRAM)
    return Service("gateway-follower", "follower of the log", folder, python, log="follower.log", mark=mark)


def present(params: Mapping[str, Any], *, check_mode: bool) -> dict[str, Any]:
    """Have it run as declared; in check mode, say what that takes."""
    root, service = params["root"], service_of(params["root"])
    configuration = deployed.hash_of(params["files"], params["unit"], params["keep_days"])
    declared = deployed.Declared(
        service=service,
        runtime=params["runtime"],
        variable="gateway_runtime",
        unit=params["unit"],
        command=[sys.executable, "-I", service.mark, root, str(params["keep_days"]), configuration],
        files=params["files"],
        configuration=configuration,
        running=lambda: _running(service, configuration),
    )
    return deployed.present(declared, check_mode=check_mode)


def _running(service: Service, wanted: str) -> str | None:
    """The last word of its command line; the wanted one where one of several has it, as one that is about to end."""
    found = [argv[-1] for argv in map(argv_of, service.processes()) if argv]
    return wanted if wanted in found else next(iter(found), None)


def absent(params: Mapping[str, Any], *, check_mode: bool) -> dict[str, Any]:
    """Have nothing of it left."""
    return deployed.absent(service_of(params["root"]), check_mode=check_mode)
