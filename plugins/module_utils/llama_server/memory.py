"""Memory of this host for servers: what is free, what ours hold and give back, and the headers of models that lie here.

found = memory_of(host, ["/opt/llama-nexus/models/m.gguf"])
found["gpus"], found["available_mib"], found["servers"]["main"], found["headers"]
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

from ..hostlib import gguf
from ..hostlib.gguf_json import header_as_json
from ..hostlib.gpus import SmiError, number, query
from ..hostlib.host_memory import available_mib
from ..hostlib.instances import Instance
from .desired_state import salt
from .errors import HostError
from .folder import Folder
from .gpus import held_memory
from .host import Host
from .plan import reason
from .processes import family


def memory_of(host: Host, models: Iterable[str]) -> dict[str, Any]:
    """Memory of this host, all figures in MiB.

    ``gpus``: ``index``, ``uuid``, ``name``, ``total_mib`` and ``free_mib`` of each, null where it is not told.
    ``gpus_why``: why there is none. ``available_mib``: of the host's. ``servers``: by name ``stays`` where it runs as
    declared, ``ends`` where it runs and will be replaced or removed, and what it holds: ``gpus_mib`` by UUID and
    ``host_mib``. ``headers``: by path those of all its files, or ``problem``.
    """
    own = salt(host.root, create=False)
    try:
        rows = query(["index", "uuid", "name", "memory.total", "memory.free"])
        gpus = [
            {
                "index": row["index"], "uuid": row["uuid"], "name": row["name"],
                "total_mib": number(row["memory.total"]), "free_mib": number(row["memory.free"]),
            }
            for row in rows
        ]  # fmt: skip
        why = "" if gpus else "nvidia-smi lists none"
    except SmiError as error:
        gpus, why = [], str(error)
    uuids = [str(gpu["uuid"]) for gpu in gpus]
    folders = [*(host.folder(name) for name in host.declared), *host.undeclared()]
    return {
        "gpus": gpus,
        "gpus_why": why,
        "available_mib": available_mib(),
        "servers": {folder.name: _server(host, folder, own, uuids) for folder in folders},
        "headers": {path: headers_of(path) for path in sorted(set(models))},
    }


def _server(host: Host, folder: Folder, own: bytes, uuids: list[str]) -> dict[str, Any]:
    declaration, pids = host.declared.get(folder.name), host.pids(folder)
    stays = False
    if declaration and pids:
        with contextlib.suppress(HostError):  # its runtime does not answer
            identity, verified = declaration.identity(own), folder.linked("verified")
            stays = reason(host, folder, verified, declaration, identity) is None
    processes = {member for pid in pids for member in family(pid)}
    return {
        "stays": stays,
        "ends": bool(pids) and not stays and (declaration is not None or host.prune),
        "gpus_mib": _held(folder, processes, uuids) if processes and uuids else {},
        "host_mib": sum(map(private_mib, processes)),
    }


def _held(folder: Folder, processes: set[int], uuids: list[str]) -> dict[str, float]:
    """MiB of GPUs that a server holds: as the driver says, or where it doesn't as the server's proof did."""
    held = held_memory(processes).mib
    if held is not None:
        return held
    chosen = visible(folder.linked("verified"), uuids)
    logged = folder.last_proof().buffers_mib
    return {uuid: sum(logged[f"CUDA{place}"].values()) for place, uuid in enumerate(chosen) if f"CUDA{place}" in logged}


def visible(config: Instance | None, uuids: list[str]) -> list[str]:
    """UUIDs of the GPUs that an instance may use, in its own order."""
    if config is None or not config.gpus:
        return uuids
    by_index = dict(zip(map(str, range(len(uuids))), uuids))
    return [by_index.get(gpu, gpu) for gpu in config.gpus]


def private_mib(pid: int) -> float:
    """MiB that a process alone holds, and gives back when it ends: mapped files are not among them."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as stream:
        lines = [line.split() for line in stream if line.startswith(("RssAnon:", "RssShmem:"))]
        return sum(int(line[1]) for line in lines) / 1024
    return 0.0


def headers_of(path: str) -> dict[str, Any]:
    """The headers of a model's files by the path of the first, or the ``problem`` with them."""
    try:
        return {"files": [header_as_json(header) for header in gguf.read_model(path)]}
    except gguf.GgufError as error:
        return {"problem": str(error)}
    except OSError as error:
        return {"problem": f"{path} can't be read: {error.strerror}"}
