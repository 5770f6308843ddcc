"""What is declared for a host against what runs there. Nothing is touched.

host = host_of(module.params)
rows = plan(host)             # an instance that needs nothing is proven; the others say why they change
texts = difference(host)      # for --diff
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .client import described, holder, listeners
from .host import (
    LINKS,
    TRIAL,
    Config,
    Declaration,
    Folder,
    HostError,
    folders,
    named_keys,
    old_keys,
    read_json,
    salt,
    to_json,
)  # fmt: skip
from .proof import keep, prove
from .runtimes import (
    RUNTIMES,
    Runtime,
    Settings,
    attempt,
    cause,
    container_options,
    model_files,
    resolve,
    runtime_of,
)  # fmt: skip

SYSTEM_CONFIGURATION = "/etc/llama.cpp/config.ini"

Row = dict[str, Any]


@dataclass
class Host:
    """One prefix of this machine, and what was declared for it."""

    settings: Settings
    declared: dict[str, Declaration]
    trial: str = "auto"  # auto, always or never
    prune: bool = False
    drain_timeout: int = 0  # of what is no longer declared; the others have their own
    unit: str = ""  # text of systemd's unit, the same for all
    launcher: str = ""  # text of the program that becomes a server
    progress: Callable[[str], None] = field(default=lambda line: None)

    def __post_init__(self) -> None:
        for declaration in self.declared.values():
            config = declaration.config
            config["runtime"] = resolve(config["runtime"])
            # A change of the sandbox or of the launcher is a change of the server.
            if config["runtime"] == "docker":
                config |= {"user": self.settings.user, "container": container_options(config)}
            else:
                declaration.files["launch.py"] = self.launcher
            if config["runtime"] == "systemd":
                config["unit"] = self.unit

    @property
    def root(self) -> str:
        return str(self.settings.root)

    def folder(self, name: str) -> Folder:
        return Folder(self.root, name)

    def runtime(self, config: Config) -> Runtime:
        return runtime_of(config, self.settings)

    def runtimes(self, folder: Folder) -> list[Runtime]:
        """All runtimes that may run something of an instance: a switch from one to another may have been cut off."""
        names = {config["runtime"] for config in map(folder.linked, LINKS) if config}
        return [RUNTIMES[name](self.settings) for name in sorted(names)]

    def pids(self, folder: Folder) -> set[int]:
        """The processes of an instance, as far as its runtimes answer."""
        found = set()
        for runtime in self.runtimes(folder):
            with contextlib.suppress(HostError):
                found.add(runtime.status(folder.name).pid)
        return {pid for pid in found if pid}

    def runs_nothing(self, folder: Folder, runtime: str) -> bool:
        """Whether a runtime that does not answer runs nothing of an instance: nobody listens where it would."""
        known = self.pids(folder)
        linked = [config for config in map(folder.linked, LINKS) if config and config["runtime"] == runtime]
        places = [(config["host"], config["port"]) for config in linked]
        return not any(listeners(*place) and holder(*place) not in known for place in places)

    def undeclared(self) -> list[Folder]:
        return [
            folder for folder in folders(self.root)
            if folder.name not in self.declared and not folder.name.endswith(TRIAL)
        ]  # fmt: skip


def plan(host: Host, *, remember: bool = True) -> list[Row]:
    """What converging would do, a row an instance; where it would do nothing, the running server is proven.

    ``remember``: whether what was found of a server that has started anew by itself is kept.
    """
    own = salt(host.root, create=False)
    rows = [_planned(host, declaration, own, remember) for declaration in host.declared.values()]
    for folder in host.undeclared():
        config = folder.linked("verified")
        row: Row = {"name": folder.name, "state": "undeclared", "changed": host.prune, "checks": [], "error": None}
        if config:
            row |= {"url": config["local_url"], "runtime": config["runtime"], "model": config["model"]}
        rows.append(row)
    _require_ports(host, [row["name"] for row in rows if row["changed"] and row["state"] == "planned"])
    return rows


def _planned(host: Host, declaration: Declaration, own: bytes, remember: bool) -> Row:
    folder, identity = host.folder(declaration.name), declaration.identity(own)
    verified = folder.linked("verified")
    config = declaration.placed(folder.generation(identity), identity)
    row: Row = {
        "name": declaration.name, "state": "planned", "changed": True, "generation": identity, "checks": [],
        "runtime": config["runtime"], "release": config["release"]["name"], "model": config["model"],
        "url": config["local_url"], "error": None, "reason": reason(host, folder, verified, declaration, identity),
    }  # fmt: skip
    if row["reason"] is None:
        proof = prove(config, declaration.proof, host.runtime(config), folder, load=False)
        del proof["answered"]
        known = (read_json(folder.file("proof.json")) or {}).get("placements")
        if remember and not proof["error"] and proof["placements"] != known:
            with contextlib.suppress(OSError):
                keep(proof, folder)  # it has begun another life, whose log will be gone one day
        if proof["restart"]:
            return {**row, "reason": proof["error"], "checks": proof["checks"]}
        # A server that is slow or at work is not mended by a restart: it goes on, and the play fails.
        return {**row, **proof, "changed": False, "state": "failed" if proof["error"] else "verified"}
    if config["runtime"] == "supervisor" and os.path.exists(SYSTEM_CONFIGURATION):
        # llama-server reads it before its command line; the other runtimes hide it.
        raise HostError(f"{SYSTEM_CONFIGURATION} adds options to every server that nobody declared: remove it")
    _require_reach(config)
    _try_arguments(declaration)
    return row


def reason(
    host: Host, folder: Folder, verified: Config | None, declaration: Declaration, identity: str, *, ours: bool = False
) -> str | None:
    """Why a switch is due; None where the verified generation is the declared one. ``ours``: the lock is held here."""
    if not ours and folder.is_locked():
        return "another run is switching it"
    phase = folder.state()["phase"]
    if phase in ("stopped", "failed"):
        return f"it {'was stopped' if phase == 'stopped' else 'could not be proven by the last run'}"
    if verified is None:
        return "nothing is deployed yet" if phase == "unknown" else f"the last run ended while it was {phase}"
    # A trial that was cut off touched nothing, and may have left its server, which the next switch ends.
    if not folder.is_steady() or (phase == "trial" and not ours):
        return f"the last run ended while it was {phase}"
    if verified["id"] != identity:
        return "the declaration changed"
    if host.runtime(verified).status(folder.name).state == "unsupervised":
        return "its supervisord ended, and nobody looks after the server"
    altered = folder.differs(declaration, identity) + host.runtime(verified).altered(verified)
    if altered:
        return f"{', '.join(altered)} on the host was altered"
    return None


def difference(host: Host) -> dict[str, str]:
    """What is deployed and what is declared, as texts for --diff. Of keys only the names show."""
    own = salt(host.root, create=False)
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    for name, declaration in host.declared.items():
        folder, identity = host.folder(name), declaration.identity(own)
        config = declaration.placed(folder.generation(identity), identity)
        deployed = folder.linked("verified")
        before[name] = _shown(deployed, folder.generation(deployed["id"])) if deployed else {}
        after[name] = _shown(config, None, declaration.files)
        if deployed and old_keys(deployed) != _keys_of(declaration):
            before[name]["keys"], after[name]["keys"] = "as before", "changed"
    for folder in host.undeclared() if host.prune else ():
        before[folder.name] = _shown(folder.linked("verified") or {}, None)
    return {"before": to_json(before), "after": to_json(after)}


def _keys_of(declaration: Declaration) -> dict[str, str]:
    return dict(named_keys(declaration.files.get("keys", "").splitlines()))


def _shown(config: Config, folder: str | None, files: dict[str, str] | None = None) -> dict[str, Any]:
    """A configuration without what differs by itself: the generation's name in its own paths."""
    identity, place = config.get("id", ""), config.get("folder", "")
    left = {key: value for key, value in config.items() if key not in ("id", "folder", "key_file", "unit")}
    left["argv"] = [word.replace(place, "@") if place else word for word in config.get("argv", [])]
    if "unit" in config:
        left["unit"] = config["unit"].splitlines()
    for name in ("chat_template.jinja", "models.ini"):
        text = None
        if files is not None:
            text = files.get(name)
        elif folder and identity:
            with contextlib.suppress(OSError), open(os.path.join(folder, name), encoding="utf-8") as stream:
                text = stream.read()
        if text is not None:
            left[name] = text.splitlines()
    return left


def _require_reach(config: Config) -> None:
    """Refuse files that the servers' user can't get at, before a server that can't start says so less clearly."""
    # The sandbox hides homes; in a container only the root user's is closed to others.
    closed = {"systemd": ("/root/", "/home/", "/run/user/"), "docker": ("/root/",)}.get(config["runtime"], ())
    for path in [config["argv"][0], *model_files(config)]:
        if closed and (os.path.realpath(path) if config["runtime"] == "systemd" else path).startswith(closed):
            raise HostError(
                f"instance {config['name']}: {path} lies in a home, which its user can't enter under "
                f"{config['runtime']}: set llama_nexus_prefix or the model's path to another place, or "
                "llama_server_runtime: supervisor"
            )


def _try_arguments(declaration: Declaration) -> None:
    """Have the release's own parser read the arguments, before anything is stopped.

    Raises HostError with what it says. ``--version`` at the end makes it stop after reading them.
    """
    binary = declaration.config["argv"][0]
    if not os.path.exists(binary):
        return  # check mode before the first build, or an image that holds its own
    with tempfile.TemporaryDirectory() as scratch:
        for name, text in declaration.files.items():
            with open(
                os.open(os.path.join(scratch, name), os.O_CREAT | os.O_WRONLY, 0o600), "w", encoding="utf-8"
            ) as out:
                out.write(text)
        argv = declaration.placed(scratch, "")["argv"]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("LLAMA_")}
        code, output = attempt(*argv, "--version", env={**kept, **declaration.config["environment"]})
    if code != 0:
        raise HostError(
            f"instance {declaration.name}: llama-server of release {declaration.config['release']['name']} refuses the "
            f"command line: {cause(output) or 'it says nothing'}; nothing was touched"
        )


def _require_ports(host: Host, names: list[str]) -> None:
    """Refuse ports that anything holds but the same instance, or one that is removed first."""
    leaving = {folder.name for folder in host.undeclared()} if host.prune else set()
    for name in names:
        config = host.declared[name].config
        taken = _listener(config["host"], config["port"], name)
        if taken is None:
            continue
        other = _instance_of(host, taken)
        if other not in {name, *leaving}:
            who = f"instance {other}, which runs there" if other else "a process of another user"
            if taken and not other:
                who = described(taken)
            raise HostError(
                f"port {config['port']} on {config['host']} is taken by {who}: end it, or give instance {name} another"
            )


def _instance_of(host: Host, pid: int) -> str | None:
    for folder in folders(host.root) if pid else ():
        if pid in host.pids(folder):
            return str(folder.name)
    return None


def _listener(address: str, port: int, name: str) -> int | None:
    """The process that listens where ``address`` could not: 0 for one that can't be told, None for nobody."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As llama-server binds: a connection that is only closing down does not hold the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            if error.errno != 98:  # EADDRINUSE
                raise HostError(
                    f"instance {name} can't listen on {address}, port {port}: {error.strerror}; choose an address of "
                    "this host and a port above 1023"
                ) from error
            return holder(address, port) or 0
    return None


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


def host_of(params: dict[str, Any], progress: Callable[[str], None] = lambda line: None) -> Host:
    """The host that a module's parameters describe."""

    def tell(line: str) -> None:
        with contextlib.suppress(OSError):  # a full disk must not end a switch
            progress(line)

    settings = Settings(
        root=params["root"], logs=params["logs"], user=params["user"], supervisor_python=params["supervisor_python"]
    )
    declared = {
        name: Declaration(entry["config"], entry["files"], params["keys"].get(name, {}), entry["proof"])
        for name, entry in params.get("instances", {}).items()
    }
    return Host(
        settings,
        declared,
        trial=params.get("trial", "never"),
        prune=params.get("prune", False),
        drain_timeout=params.get("drain_timeout", 0),
        unit=params.get("unit", ""),
        launcher=params.get("launcher", ""),
        progress=tell,
    )


def said(rows: list[Row]) -> str:
    """What failed, for people: one line an instance, then the end of its log; empty when nothing did."""
    lines: list[str] = []
    for row in rows:
        if not row["error"]:
            continue
        restored = row.get("restored")
        if restored and not restored["error"]:
            after = "the old one was restored and proven" if row["changed"] else "the old one never stopped serving"
        elif restored:
            after = f"the old one does not serve either: {restored['error']}"
        elif row["state"] == "failed" and not row["changed"]:
            after = "what ran before runs on"
        else:
            after = "there was nothing proven to go back to"
        lines.append(f"instance {row['name']} does not serve what was declared: {row['error']}; {after}")
        if row.get("log_tail"):
            lines += [f"The last {len(row['log_tail'])} lines of its log ({row.get('log', 'gone')}):", *row["log_tail"]]
    return "\n".join(lines)
