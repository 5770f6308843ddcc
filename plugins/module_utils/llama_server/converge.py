"""Converge instances to their declarations, one after the other; idempotent: what is as declared goes on running.

rows = converge(host, ["main"])   # trial → drain → stop → start → prove → keep, or restore and prove the old one

With a gateway before the host, what can be done while the old ones serve is done first, by ``prepare_ahead``: a server
is then out of reach for no longer than it takes to replace it.
"""

from __future__ import annotations

import contextlib
import functools

from ..hostlib.instances import Instance
from .desired_state import TRIAL, Declaration, salt
from .drain import Drained, drain
from .errors import HostError
from .folder import Folder, folders, used_releases
from .host import Host, Row
from .plan import reason
from .proof.kept import keep_life
from .proof.prove import prove
from .runtimes.choice import remove_trial
from .runtimes.images import prune_images
from .switch import Switch
from .trial import has_room_for_both, try_beside


def converge(host: Host, names: list[str]) -> list[Row]:
    """Bring these instances to their declarations; stop what is no longer declared where that is wanted.

    Stops at the first that fails: what comes after it is left as it was.
    """
    own = salt(host.root, create=True)
    rows: list[Row] = []
    for folder in folders(host.root):
        if folder.name.endswith(TRIAL):
            with contextlib.suppress(HostError), host.locked(folder, "removal", wait=0):
                remove_trial(folder, host.settings)
    steps = [(folder.name, functools.partial(remove, host, folder)) for folder in host.undeclared() if host.prune]
    steps += [(name, functools.partial(_converged, host, host.folder(name), own)) for name in names]
    for name, step in steps:
        try:
            rows.append(step())
        except (HostError, OSError) as error:  # before anything was stopped: Switch handles what comes later
            rows.append(_untouched(name, error))
        if rows[-1]["error"]:
            return rows
    if any(declaration.config.runtime == "docker" for declaration in host.declared.values()):
        with contextlib.suppress(HostError):  # what is left is tried again by the next run that changes something
            prune_images(used_releases(host.root))
    return rows


def prepare_ahead(host: Host, names: list[str]) -> list[Row]:
    """Prepare the switch of these instances, and try their new servers beside the old ones where memory has room.

    A row for each that was tried: its state is ``tried``, or that of an instance whose trial failed.
    Nothing that serves is touched. Ends with the first that fails.
    """
    own = salt(host.root, create=True)
    rows: list[Row] = []
    for name in names:
        folder, declaration = host.folder(name), host.declared[name]
        try:
            with host.locked(folder, "deployment"):
                rows += _prepared(host, folder, declaration, own)
        except (HostError, OSError) as error:
            rows.append(_untouched(name, error))
        if rows and rows[-1]["error"]:
            return rows
    return rows


def _prepared(host: Host, folder: Folder, declaration: Declaration, own: bytes) -> list[Row]:
    identity, verified = declaration.identity(own), folder.linked("verified")
    config, owner = _written(host, folder, declaration, identity)
    row: Row = {"name": folder.name, "state": "tried", "changed": False, "checks": [], "error": None}
    is_tried = verified is not None and verified.id != identity and _can_be_tried(host, folder, config)
    if verified and is_tried:
        refused = try_beside(host, folder, declaration, own, owner)
        if refused:
            return [_refused(host, folder, verified, declaration, identity, refused)]
        folder.note("verified", generation=verified.id)
    host.runtime(config).prepare(config)  # an image may have to be built
    return [{**row, "generation": identity}] if is_tried else []


def _written(
    host: Host, folder: Folder, declaration: Declaration, identity: str
) -> tuple[Instance, tuple[int, int] | None]:
    """The generation of a declaration, whole on the host, and its owner."""
    owner = host.runtime(declaration.config).owner()
    if folder.differs(declaration, identity):
        return folder.write(declaration, identity, owner), owner
    return declaration.placed(folder.generation(identity), identity), owner


def _untouched(name: str, error: Exception) -> Row:
    what = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) else str(error)
    return {"name": name, "state": "failed", "changed": False, "checks": [], "error": what}


def _converged(host: Host, folder: Folder, own: bytes) -> Row:
    with host.locked(folder, "deployment"):
        return _switched(host, folder, host.declared[folder.name], own)


def _switched(host: Host, folder: Folder, declaration: Declaration, own: bytes) -> Row:
    identity, verified = declaration.identity(own), folder.linked("verified")
    if verified and not reason(host, folder, verified, declaration, identity, ours=True):
        row = prove(verified, declaration.proof, host.runtime(verified), folder, progress=host.progress)
        del row["answered"]
        keep_life(row, folder)
        if not row["error"]:  # what the plan waited for was done by another run, or only tried
            folder.note("verified", generation=identity)
            return {**row, "changed": False, "state": "verified"}
        if not row["restart"]:
            return {**row, "changed": False, "state": "failed"}
    config, owner = _written(host, folder, declaration, identity)
    was_tried = identity in host.tried
    is_tried = was_tried or (verified is not None and verified.id != identity and _can_be_tried(host, folder, config))
    if verified and is_tried and not was_tried:
        refused = try_beside(host, folder, declaration, own, owner)
        if refused:
            return _refused(host, folder, verified, declaration, identity, refused)
    host.runtime(config).prepare(config)  # while the old one serves: an image may have to be built
    return {**Switch(host, folder, verified, declaration.proof).to(config), "trial": is_tried}


def _can_be_tried(host: Host, folder: Folder, config: Instance) -> bool:
    """True where a canary may be proven beside the old server, which serves."""
    if not (folder.is_steady() and host.pids(folder)):
        return False
    if host.trial != "auto":
        return host.trial == "always"
    needs = (host.declared[folder.name].proof.get("plan") or {}).get("needs")
    return has_room_for_both(config, folder, needs)


def _refused(
    host: Host, folder: Folder, verified: Instance, declaration: Declaration, identity: str, refused: Row
) -> Row:
    """The row of an instance whose new server failed its trial: the old one goes on, and is proven."""
    host.progress(f"{folder.name}: proving the old one")
    folder.note("refused", generation=identity, error=refused["error"])
    restored = prove(verified, declaration.proof, host.runtime(verified), folder, speed_counts=False)
    del restored["answered"]
    folder.tidy()
    return {**refused, "name": folder.name, "changed": False, "restored": restored, "trial": True,
            "state": "restored" if not restored["error"] else "failed"}  # fmt: skip


def remove(host: Host, folder: Folder) -> Row:
    """Stop an instance and remove what the host remembers of it."""
    with host.locked(folder, "removal"):
        config = folder.linked("verified") or folder.linked("pending")
        drained = drain(host, folder, config, host.drain_timeout) if config else Drained(None)
        host.everywhere(folder, lambda runtime: runtime.forget(folder.name))
        folder.remove()
    row: Row = {"name": folder.name, "state": "stopped", "changed": True, "checks": [], "error": None, "removed": True}
    return {**row, **drained.as_row()}
