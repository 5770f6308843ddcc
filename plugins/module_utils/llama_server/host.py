"""One prefix of this machine and what was declared for it, as a module's parameters say.

host = host_of(module.params)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from ..hostlib.instances import Instance
from .desired_state import TRIAL, Declaration
from .errors import HostError
from .folder import LINKS, Folder, folders
from .runtimes.base import Runtime, Settings, user_under_supervisor
from .runtimes.choice import RUNTIMES, resolve
from .runtimes.docker import container_options
from .sockets import holder, listeners

LOCK_SECONDS = 1800  # a switch of a big model on a slow disk

Row = dict[str, Any]

PLACES: dict[str, Any] = {
    "root": {"type": "path", "required": True},
    "logs": {"type": "path", "required": True},
    "user": {"type": "str", "required": True},
    "supervisor_python": {"type": "path", "default": ""},
}
ARGUMENTS: dict[str, Any] = {
    **PLACES,
    "instances": {"type": "dict", "required": True},
    "keys": {"type": "dict", "default": {}, "no_log": True},
    "launcher": {"type": "str", "required": True},
    "unit": {"type": "str", "required": True},
    "trial": {"type": "str", "choices": ["auto", "always", "never"], "default": "auto"},
    "prune": {"type": "bool", "default": False},
    "drain_timeout": {"type": "int", "default": 30},
}


@dataclass
class Host:
    """One prefix of this machine, and what was declared for it."""

    settings: Settings
    declared: dict[str, Declaration]
    trial: str = "auto"  # auto, always or never
    tried: frozenset[str] = frozenset()  # generations that were proven beside the old servers a moment ago
    prune: bool = False
    drain_timeout: int = 0  # of what is no longer declared; the others have their own
    unit: str = ""  # text of systemd's unit, the same for all
    launcher: str = ""  # text of the program that becomes a server
    progress: Callable[[str], None] = field(default=lambda line: None)

    def __post_init__(self) -> None:
        for declaration in self.declared.values():
            config = replace(declaration.config, runtime=resolve(declaration.config.runtime))
            # A change of the sandbox or of the launcher is a change of the server.
            if config.runtime == "docker":
                config = replace(config, user=self.settings.user, container=tuple(container_options(config)))
            else:
                declaration.files["launch.py"] = self.launcher
            if config.runtime == "systemd":
                config = replace(config, unit=self.unit)
            if config.runtime == "supervisor":
                config = replace(config, user=user_under_supervisor(self.settings))
            declaration.config = config

    @property
    def root(self) -> str:
        return str(self.settings.root)

    def folder(self, name: str) -> Folder:
        return Folder(self.root, name)

    def runtime(self, config: Instance) -> Runtime:
        return self.runtime_named(config.runtime)

    def runtime_named(self, name: str) -> Runtime:
        return RUNTIMES[name](self.settings)

    def runtimes(self, folder: Folder) -> list[Runtime]:
        """All runtimes that may run something of an instance: a switch from one to another may have been cut off."""
        names = {config.runtime for config in map(folder.linked, LINKS) if config}
        return [self.runtime_named(name) for name in sorted(names)]

    def pids(self, folder: Folder) -> set[int]:
        """The processes of an instance, as far as its runtimes answer."""
        pids = set()
        for runtime in self.runtimes(folder):
            with contextlib.suppress(HostError):
                pids.add(runtime.status(folder.name).pid)
        return {pid for pid in pids if pid}

    def runs_nothing(self, folder: Folder, runtime: str) -> bool:
        """True where a runtime that does not answer runs nothing of an instance: nobody listens where it would."""
        known = self.pids(folder)
        linked = [config for config in map(folder.linked, LINKS) if config and config.runtime == runtime]
        places = [(config.host, config.port) for config in linked]
        return not any(there and holder(there) not in known for there in (listeners(*place) for place in places))

    def undeclared(self) -> list[Folder]:
        return [
            folder for folder in folders(self.root)
            if folder.name not in self.declared and not folder.name.endswith(TRIAL)
        ]  # fmt: skip

    def locked(self, folder: Folder, what: str, wait: float = LOCK_SECONDS) -> contextlib.AbstractContextManager[None]:
        """Hold an instance's lock; whoever follows this run is told for whom it waits."""
        return folder.locked(wait, what, lambda line: self.progress(f"{folder.name}: {line}"))

    def everywhere(self, folder: Folder, do: Callable[[Runtime], None], *, must: str | None = None) -> None:
        """Do something with all runtimes that may run an instance, but for those that fail and run nothing.

        ``must``: the runtime in which it must succeed all the same.
        """
        for runtime in self.runtimes(folder):
            try:
                do(runtime)
            except HostError:
                if runtime.name == must or not self.runs_nothing(folder, runtime.name):
                    raise


def host_of(params: dict[str, Any], progress: Callable[[str], None] = lambda line: None) -> Host:
    """The host that a module's parameters describe."""

    def tell(line: str) -> None:
        with contextlib.suppress(OSError):  # a full disk must not end a switch
            progress(line)

    settings = Settings(
        root=params["root"], logs=params["logs"], user=params["user"], supervisor_python=params["supervisor_python"]
    )
    declared = {
        name: Declaration(
            Instance.from_json(entry["config"]),
            entry["files"],
            params["keys"].get(name, {}),
            {**entry["proof"], "plan": params.get("plans", {}).get(name)},
        )
        for name, entry in params.get("instances", {}).items()
    }
    return Host(
        settings,
        declared,
        trial=params.get("trial", "never"),
        tried=frozenset(params.get("tried", ())),
        prune=params.get("prune", False),
        drain_timeout=params.get("drain_timeout", 0),
        unit=params.get("unit", ""),
        launcher=params.get("launcher", ""),
        progress=tell,
    )
