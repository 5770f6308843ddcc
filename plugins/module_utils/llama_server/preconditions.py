"""Preconditions of a switch: a server's files in reach, its arguments understood, its port free."""

from __future__ import annotations

import os
import pwd
import socket
import tempfile

from ..hostlib.instances import Instance
from .commands import attempt, cause
from .desired_state import Declaration
from .errors import HostError
from .folder import folders
from .host import Host
from .processes import described
from .rights import acting_as
from .sockets import process_holding, rivals

NOBODY = 65534  # a user with no rights but those of all
SYSTEM_CONFIGURATION = "/etc/llama.cpp/config.ini"


def require_no_system_configuration(config: Instance) -> None:
    """Refuse options that nobody declared: llama-server reads this file before its command line.

    The runtimes other than supervisor hide it.
    """
    if config.runtime == "supervisor" and os.path.exists(SYSTEM_CONFIGURATION):
        raise HostError(f"{SYSTEM_CONFIGURATION} adds options to every server that nobody declared: remove it")


def require_reach(config: Instance) -> None:
    """Refuse files that the servers' user can't get at, before a server that can't start says so less clearly."""
    # The sandbox hides homes; in a container only the root user's is closed to others.
    closed = {"systemd": ("/root/", "/home/", "/run/user/"), "docker": ("/root/",)}.get(config.runtime, ())
    for path in [config.argv[0], *(file.path for file in config.model_files())]:
        if closed and (os.path.realpath(path) if config.runtime == "systemd" else path).startswith(closed):
            raise HostError(
                f"instance {config.name}: {path} lies in a home, which its user can't enter under "
                f"{config.runtime}: set llama_nexus_prefix or the model's path to another place, or "
                "llama_server_runtime: supervisor"
            )
    hidden = _unreadable(config) if config.runtime == "supervisor" and config.user else []
    if hidden:
        raise HostError(
            f"instance {config.name}: {', '.join(hidden)} can't be read by user {config.user}, as which its server "
            "runs: open the folders above, set llama_nexus_prefix or the model's path to another place, or "
            "llama_server_user: root"
        )


def _unreadable(config: Instance) -> list[str]:
    """The files and folders that the server's user can't read, of those that are there."""
    try:
        account = pwd.getpwnam(str(config.user))
        uid, gid, groups = account.pw_uid, account.pw_gid, os.getgrouplist(account.pw_name, account.pw_gid)
    except KeyError:  # it is made with the first generation
        uid = gid = NOBODY
        groups = [gid]
    needed = [config.argv[0], *(file.path for file in config.model_files()), config.folder]
    there = [path for path in needed if os.path.exists(path)]
    try:
        with acting_as(uid, gid, groups):
            return [path for path in there if not os.access(path, os.R_OK, effective_ids=True)]
    except PermissionError as error:
        raise HostError(
            f"instance {config.name}: root can't become user {config.user} here, as which its server runs: set "
            "llama_server_user: root"
        ) from error


def require_startable(config: Instance) -> None:
    """Refuse a generation that can't start: asked by each switch before anything is stopped for it (switch.py).

    Raises HostError with what is missing, closed or refused.
    """
    require_no_system_configuration(config)
    require_files(config)
    require_reach(config)
    require_arguments(config)


def require_files(config: Instance) -> None:
    """Refuse a generation of which the host lacks a file: the release's, the models' or its own."""
    own = [word for word in config.argv if word.startswith(config.folder + os.sep)]
    needed = [*own, *(file.path for file in config.model_files())]
    if config.runtime != "docker":  # whose image holds the release, and which needs no launcher
        needed = [config.argv[0], os.path.join(config.folder, "launch.py"), *needed]
    missing = [path for path in dict.fromkeys(needed) if not os.path.exists(path)]
    if missing:
        raise HostError(
            f"instance {config.name} can't be started, {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} "
            "missing: deploy it; what runs was left alone"
        )


def require_declared_arguments(declaration: Declaration) -> None:
    """The same as require_arguments, of what has no generation on the disk yet."""
    with tempfile.TemporaryDirectory() as scratch:
        for name, text in declaration.files.items():
            with open(
                os.open(os.path.join(scratch, name), os.O_CREAT | os.O_WRONLY, 0o600), "w", encoding="utf-8"
            ) as out:
                out.write(text)
        require_arguments(declaration.placed(scratch, ""))


def require_arguments(config: Instance) -> None:
    """Have the release's own parser read the arguments, before anything is stopped.

    Raises HostError with what it says. ``--version`` at the end makes it stop after reading them.
    """
    if not os.path.exists(config.argv[0]):
        return  # check mode before the first build, or an image that holds its own
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LLAMA_")}
    code, output = attempt(*config.argv, "--version", env={**kept, **config.environment})
    if code != 0:
        raise HostError(
            f"instance {config.name}: llama-server of release {config.release.name} refuses the command line: "
            f"{cause(output) or 'it says nothing'}; nothing was touched"
        )


def require_ports(host: Host, names: list[str]) -> None:
    """Refuse ports that anything holds but the same instance, or one that is removed first."""
    leaving = {folder.name for folder in host.undeclared()} if host.prune else set()
    for name in names:
        config = host.declared[name].config
        for taken in _listeners(config.host, config.port, name):
            other = _instance_of(host, taken)
            if other not in {name, *leaving}:
                who = f"instance {other}, which runs there" if other else "a process of another user"
                if taken and not other:
                    who = described(taken)
                raise HostError(
                    f"port {config.port} on {config.host} is taken by {who}: end it, or give instance {name} another"
                )


def _instance_of(host: Host, pid: int) -> str | None:
    for folder in folders(host.root) if pid else ():
        if pid in host.pids(folder):
            return str(folder.name)
    return None


def _listeners(address: str, port: int, name: str) -> list[int]:
    """The processes beside which nobody can listen at ``address``: 0 for one that can't be told."""
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
            return [process_holding(entry.inode) or 0 for entry in rivals(address, port)] or [0]
    return []
