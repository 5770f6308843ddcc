"""Start, stop, restart and rollback of what is deployed; each but a stop ends with a verification (*proof*).

row = rollback(host, folder, proof)
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any

from ..hostlib.instances import Instance
from .drain import drain
from .errors import HostError
from .folder import Folder
from .host import Host, Row
from .proof.kept import keep_life
from .proof.prove import prove
from .runtimes.base import Runtime
from .switch import Switch


def rollback(host: Host, folder: Folder, proof: dict[str, Any]) -> Row:
    """Switch to the generation that was proven before the present one. Raises HostError where there is none."""
    with host.locked(folder, "rollback"):
        previous = folder.linked("previous")
        verified = folder.linked("verified")
        if previous and verified and previous.id == verified.id:  # a rollback was killed between two links
            previous = folder.linked("pending")
            folder.link("previous", previous)
        if previous is None or (verified and verified.id == previous.id):
            raise HostError(f"instance {folder.name} has no earlier generation to go back to")
        folder.have_launcher(previous, host.launcher)
        host.runtime(previous).prepare(previous)
        return Switch(host, folder, verified, proof).to(previous)


def restart(host: Host, folder: Folder, proof: dict[str, Any]) -> Row:
    """Start the verified generation anew and prove it; a server that runs is drained first."""
    with host.locked(folder, "restart"):
        verified = _verified(folder)
        host.runtime(verified).prepare(verified)
        return Switch(host, folder, verified, proof).to(verified)


def start(host: Host, folder: Folder, proof: dict[str, Any]) -> Row:
    """Have the verified generation running and proven; one that runs and is proven is left alone."""
    with host.locked(folder, "start"):
        verified = _verified(folder)
        if folder.is_steady() and host.runtime(verified).status(folder.name).state == "running":
            row = prove(verified, proof, host.runtime(verified), folder)
            del row["answered"]
            keep_life(row, folder)
            return {**row, "changed": False, "state": "failed" if row["error"] else "verified"}
        host.runtime(verified).prepare(verified)
        return Switch(host, folder, verified, proof).to(verified)


def stop(host: Host, folder: Folder, proof: dict[str, Any], *, check_mode: bool = False) -> Row:
    """Have the instance stopped, after a reboot too, until it is started or deployed again."""
    with contextlib.nullcontext() if check_mode else host.locked(folder, "stop"):
        config = folder.linked("verified") or folder.linked("pending")
        row: Row = {"name": folder.name, "state": "stopped", "changed": False, "checks": [], "error": None}
        if config is None:
            return row
        row |= {"url": config.local_url, "runtime": config.runtime, "model": config.model_as_json()}
        row["changed"] = bool(host.pids(folder)) or folder.state().phase != "stopped"
        if row["changed"] and not check_mode:
            row |= drain(host, folder, config, float(proof.get("drain_timeout", 0))).as_row()
            # A container that can't be reached now would come back with its engine.
            stop_it = functools.partial(_stop_for_good, name=folder.name)
            host.everywhere(folder, stop_it, must=config.runtime)
            folder.note("stopped", generation=config.id)
    return row


def _stop_for_good(runtime: Runtime, name: str) -> None:
    runtime.stop(name)
    runtime.unsettle(name)


def _verified(folder: Folder) -> Instance:
    config = folder.linked("verified")
    if config is None:
        raise HostError(f"instance {folder.name} has nothing that was proven: deploy it")
    return config
