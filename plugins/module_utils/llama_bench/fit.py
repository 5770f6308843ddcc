"""Memory of models by this host's llama.cpp, and what its devices have free. Python 3.9's standard library only."""

from __future__ import annotations

import os
import pwd
from typing import Any

from ..hostlib import fit_params, gpus
from ..hostlib.host_memory import available_mib
from .tool import identity


def memory_of(params: dict[str, Any]) -> dict[str, Any]:
    """The answer of module llama_fit_params to its parameters. Raises FitError."""
    program = os.path.join(params["release"], "bin", fit_params.PROGRAM)
    if not os.path.exists(program):
        raise fit_params.FitError(
            f"there is no {program}: deploy there first, with {fit_params.PROGRAM} in llama_cpp_targets"
        )
    own = _identity(params["user"])
    os.chmod(params["folder"], 0o755 if own else 0o700)
    models = []
    for number, model in enumerate(params["models"]):
        sizes = [(file["name"], file["size_bytes"]) for file in model["files"]]
        first = fit_params.lay_out(os.path.join(params["folder"], str(number)), sizes)
        models.append([list(device) for device in fit_params.ask(program, first, model["words"], identity=own)])
    return {"models": models, "gpus_free_mib": _free_mib(), "host_free_mib": available_mib()}


def _identity(user: str | None) -> dict[str, Any]:
    """The servers' user where there is one: headers may come from anywhere, and root reads none."""
    try:
        pwd.getpwnam(user or "")
    except KeyError:
        return {}
    return identity({"runtime": "systemd"}, user or "")


def _free_mib() -> list[float]:
    try:
        cells = [gpus.number(row["memory.free"]) for row in gpus.query(["memory.free"])]
    except gpus.SmiError:
        return []
    return [cell for cell in cells if cell is not None]
