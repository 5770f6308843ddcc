"""The runtime that a declaration names or that suits this host."""

from __future__ import annotations

import contextlib

from ...hostlib.systemd import is_pid_1
from ..errors import HostError
from ..folder import Folder
from .base import Runtime, Settings, is_root
from .docker import Docker
from .supervisor import Supervisor
from .systemd import Systemd

RUNTIMES: dict[str, type[Runtime]] = {runtime.name: runtime for runtime in (Systemd, Supervisor, Docker)}


def resolve(runtime: str) -> str:
    """The runtime that ``auto`` means on this host.

    Raises HostError where the wanted runtime can't be used.
    """
    if runtime == "auto":
        return "systemd" if is_pid_1() and is_root() else "supervisor"
    if runtime == "systemd" and not is_pid_1():
        raise HostError("systemd does not run here: set llama_server_runtime to auto, supervisor or docker")
    if runtime == "systemd" and not is_root():
        raise HostError("systemd units need root: set ansible_become, or llama_server_runtime: supervisor")
    return runtime


def remove_trial(folder: Folder, settings: Settings) -> None:
    """Remove the side-port server that a switch left behind; where its runtime does not answer, the next run does."""
    config = folder.linked("pending") or folder.linked("verified")
    with contextlib.suppress(HostError):
        if config:
            RUNTIMES[config.runtime](settings).forget(folder.name)
        folder.remove()
