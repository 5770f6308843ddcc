"""Plan (dry run): what is declared for a host against what runs there. Nothing is touched.

rows = plan(host)             # an instance that needs nothing is proven; the others say why they change
"""

from __future__ import annotations

import contextlib

from ..hostlib.instances import Instance
from .desired_state import Declaration, salt
from .errors import HostError
from .folder import Folder
from .host import Host, Row
from .preconditions import require_declared_arguments, require_no_system_configuration, require_ports, require_reach
from .proof.kept import keep_life
from .proof.prove import prove


def plan(host: Host, *, remember: bool = True) -> list[Row]:
    """The changes that converging would make, a row an instance; where there are none, the server is proven.

    ``remember``: whether what was found of a server that has started anew by itself is kept.
    """
    own = salt(host.root, create=False)
    rows = [_planned(host, declaration, own, remember) for declaration in host.declared.values()]
    for folder in host.undeclared():
        config = folder.linked("verified")
        row: Row = {"name": folder.name, "state": "undeclared", "changed": host.prune, "checks": [], "error": None}
        if config:
            row |= {
                "url": config.local_url,
                "runtime": config.runtime,
                "model": config.model_as_json(),
            }
        rows.append(row)
    require_ports(host, [row["name"] for row in rows if row["changed"] and row["state"] == "planned"])
    return rows


def _planned(host: Host, declaration: Declaration, own: bytes, remember: bool) -> Row:
    folder, identity = host.folder(declaration.name), declaration.identity(own)
    verified = folder.linked("verified")
    config = declaration.placed(folder.generation(identity), identity)
    row: Row = {
        "name": declaration.name, "state": "planned", "changed": True, "generation": identity, "checks": [],
        "runtime": config.runtime, "release": config.release.name, "model": config.model_as_json(),
        "url": config.local_url, "error": None, "reason": reason(host, folder, verified, declaration, identity),
    }  # fmt: skip
    if row["reason"] is None:
        proof = prove(config, declaration.proof, host.runtime(config), folder, load=False)
        del proof["answered"]
        if remember:
            keep_life(proof, folder)
            _forget_failure(host, folder, proof, identity)
        if proof["restart"]:
            return {**row, "reason": proof["error"], "checks": proof["checks"]}
        # A server that is slow or at work is not mended by a restart: it goes on, and the play fails.
        return {**row, **proof, "changed": False, "state": "failed" if proof["error"] else "verified"}
    require_no_system_configuration(config)
    require_reach(config)
    require_declared_arguments(declaration)
    return row


def _forget_failure(host: Host, folder: Folder, proof: Row, identity: str) -> None:
    """Write down that what is declared runs and was proven: an earlier deployment that failed is of no interest now."""
    state = folder.state()
    if not proof["error"] and (state.phase != "verified" or state.error):
        with contextlib.suppress(HostError, OSError), host.locked(folder, "note", wait=0):
            folder.note("verified", generation=identity)


def reason(
    host: Host,
    folder: Folder,
    verified: Instance | None,
    declaration: Declaration,
    identity: str,
    *,
    ours: bool = False,
) -> str | None:
    """The reason why a switch is due; None where the declared generation runs. ``ours``: the lock is held here."""
    if not ours and folder.is_locked():
        return "another run is switching it"
    phase = folder.state().phase
    if phase in ("stopped", "failed"):
        return f"it {'was stopped' if phase == 'stopped' else 'could not be proven by the last run'}"
    if verified is None:
        return "nothing is deployed yet" if phase == "unknown" else f"the last run ended while it was {phase}"
    # A trial that was cut off touched nothing, and may have left its server, which the next switch ends.
    if not folder.is_steady() or (phase == "trial" and not ours):
        return f"the last run ended while it was {phase}"
    if verified.id != identity:
        return "the declaration changed"
    if host.runtime(verified).status(folder.name).state == "unsupervised":
        return "its supervisord ended, and nobody looks after the server"
    altered = folder.differs(declaration, identity) + host.runtime(verified).altered(verified)
    if altered:
        return f"{', '.join(altered)} on the host was altered"
    return None
