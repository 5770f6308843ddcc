"""Status of an instance: what it is and does now; nothing is measured."""

from __future__ import annotations

import contextlib
import http.client
import os
import re

from ..hostlib.argv import is_flag
from ..hostlib.files import read_json
from ..hostlib.instances import Instance, ProofRecord
from ..hostlib.manifests import MANIFEST, Manifest
from .client import LOOK_SECONDS, Server, Unanswered
from .errors import HostError
from .folder import Folder
from .host import Host, Row
from .keys import old_keys
from .runtimes.base import Status
from .work import work_of


def flags_of(config: Instance) -> list[str]:
    """The flags that a server was started with; those of a router's models, whose file has them as keys, too."""
    flags = {word for word in config.argv if is_flag(word)}
    if config.models:
        with (
            contextlib.suppress(OSError),
            open(os.path.join(config.folder, "models.ini"), encoding="utf-8") as stream,
        ):
            flags |= {f"--{key}" for key in re.findall(r"^([\w-]+) = ", stream.read(), re.MULTILINE)}
    return sorted(flags)


def has_web_page(config: Instance) -> bool:
    """True where a server answers ``/`` with llama.cpp's web page, of its release or of a folder that it was given."""
    if {"--no-ui", "--no-webui"} & set(config.argv):
        return False
    if "--path" in config.argv:
        return True
    inputs = Manifest.from_json(read_json(os.path.join(config.release.path, MANIFEST)) or {}).inputs
    return bool(inputs.get("web_page", "off") != "off")


def status(host: Host, folder: Folder) -> Row:
    """The row of an instance: what it is and does now."""
    config = folder.linked("verified") or folder.linked("pending")
    note = folder.state()
    row: Row = {"name": folder.name, "state": "stopped", "phase": note.phase, "since": note.at,
                "changed": False, "checks": [], "error": None,
                "switching": folder.is_locked(), "last_error": note.error}  # fmt: skip
    if config is None:
        return row
    shown = ("argv", "host", "port", "local_url", "model", "models", "side_models", "release", "mode")
    whole = config.as_json()
    row["config"] = {key: whole[key] for key in shown if key in whole}
    row["flags"] = flags_of(config)
    try:
        seen, log = host.runtime(config).status(folder.name), host.runtime(config).where_log(folder.name)
    except HostError as error:  # the others are shown all the same
        seen, log, row["why"] = Status("unknown"), None, str(error)
    last, previous = folder.last_proof(), folder.linked("previous")
    row |= {
        "url": config.local_url, "runtime": config.runtime, "model": config.model_as_json(), "pid": seen.pid,
        "release": config.release.name, "generation": config.id, "state": seen.state,
        "log": log, "tokens_per_second": last.tokens_per_second,
        "buffers_mib": last.buffers_mib, "offloaded": last.offloaded and list(last.offloaded), "n_ctx": last.n_ctx,
        "slots": last.slots, "slots_by_model": _slots(config, last), "busy": None, "health": None,
        "web_page": has_web_page(config), "previous": previous and previous.id,
    }  # fmt: skip
    if seen.state == "running":
        row |= _answers(Server(config, seen.pid), config)
    return row


def _slots(config: Instance, last: ProofRecord) -> dict[str, int]:
    """The slots that were proven, by the name by which requests ask for a model."""
    if config.model is None:
        return dict(last.slots_by_model)
    return {config.model.name: last.slots} if last.slots else {}


def _answers(server: Server, config: Instance) -> Row:
    """The part of a row that a server tells of itself. One that sleeps is not woken."""
    row: Row = {}
    try:
        row["health"] = server.ask("/health", timeout=LOOK_SECONDS)[0]
        work = work_of(server, config, next(iter(old_keys(config).values()), None))
        if work:
            row |= {"busy": work.working, "sleeping": work.is_sleeping}
    except HostError as error:  # another one answers, or nobody can tell who does
        row["unasked"] = str(error)
    except Unanswered as error:  # many clients take all its threads, and others wait for these
        row |= {"at_work": not error.idle, "clients": server.clients()}
    except (OSError, http.client.HTTPException):
        pass
    return row
