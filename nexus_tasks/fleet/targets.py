"""Targets: the servers that a command means, and the way to them.

for target in targets.find(["gpu-hosts"]):          # or HOST/INSTANCE, http://..., @NAME of llama_endpoints
    with targets.reach(target) as reached:          # opens an ssh tunnel where the server listens on loopback there
        client.connect(reached.base_url, reached.api_key)
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil

from nexus_tasks.core.errors import DeployError, EndpointDown, UsageError
from nexus_tasks.fleet import inventory
from nexus_tasks.fleet.inventory import Instance
from nexus_tasks.servers import endpoint, route

TUNNEL_SECONDS = 20.0
"""For ssh to log in."""
EXTERNAL_KEYS = {"base_url", "api_path", "api_key_env", "model"}
# Runs the command that follows until it ends, or until standard input does, which it does however this process ends.
TIED = 'exec 3<&0; "$@" 3<&- </dev/null & command=$!; { read -r _ <&3; kill "$command"; } & wait "$command"'


@dataclass(frozen=True)
class Target:
    """A server. ``name`` is the key of its history in reports.

    ``api_path`` is where its OpenAI API is below ``base_url``; ``model`` is asked for by name, or None for the first.
    ``tunnel`` is the host through which a reached target is reached, and ``external`` its name in llama_endpoints.
    ``lost`` is why there is no way to one that the inventory has.
    """

    name: str
    base_url: str
    api_key: str | None = field(default=None, repr=False)
    instance: Instance | None = field(default=None, repr=False)
    api_path: str = endpoint.API_PATH
    model: str | None = None
    external: str | None = None
    tunnel: str | None = None
    lost: str | None = None

    def must_be_there(self) -> None:
        """Go on only where there is a way to it.

        Raises:
            EndpointDown: it is lost.
        """
        if self.lost:
            raise EndpointDown(f"{self.name}: {self.lost}", hint="nox -s status shows how the servers are")


def find(texts: Sequence[str] = (), environment: Mapping[str, str] = os.environ) -> list[Target]:
    """The servers that the TARGETs of a command name, each once.

    Args:
        texts: inventory patterns, ``HOST/INSTANCE``, base URLs, ``@NAME``; none means the inventory's default.
        environment: where the keys of base URLs and of external endpoints come from.

    Raises:
        UsageError, DeployError: as :func:`inventory.deployed` does for all that is named, or a key is missing.
    """
    targets: list[Target] = []
    failures: list[DeployError] = []
    for text in texts or (None,):
        try:
            targets += _find(text, environment)
        except DeployError as error:  # the others may well be there
            failures.append(error)
            targets.append(Target(text or "", "", lost=" ".join(error.message.split())))
    if failures and len(failures) == len(targets):
        raise failures[0]
    return list({target.name: target for target in targets}.values())


def _find(text: str | None, environment: Mapping[str, str]) -> list[Target]:
    if text is not None and text.startswith("@"):
        return [_external(text[1:], environment)]
    if text is not None and "://" in text:
        address = route.base_url(text)
        return [Target(address, address, environment.get(route.KEY_VARIABLE) or None)]
    if text is not None and re.fullmatch(r"([\w.-]+|\[[\da-fA-F:.]+\]):\d+(/.*)?", text):
        raise UsageError(
            f"an address must begin with http:// or https://, which {text} lacks", hint=f"write http://{text}"
        )
    deployed = inventory.deployed(text)
    there = [Target(instance.target, instance.base_url, instance.api_key, instance) for instance in deployed.instances]
    return there + [Target(name, "", lost=why) for name, why in deployed.lost.items()]


def _external(name: str, environment: Mapping[str, str]) -> Target:
    known = inventory.external_endpoints()
    where = f"llama_endpoints.{name} in group_vars"
    if name not in known:
        raise UsageError(
            f"llama_endpoints has no {name!r}", hint=f"it has {', '.join(sorted(known)) or 'none'}; see group_vars/all"
        )
    entry: Mapping[str, Any] = known[name]
    unknown = sorted(set(entry) - EXTERNAL_KEYS)
    if unknown or not all(isinstance(value, str) and value for value in entry.values()) or "base_url" not in entry:
        raise UsageError(
            f"{where} must have known keys only, not {', '.join(unknown)}"
            if unknown
            else f"{where} must have base_url, and a text for each key",
            hint="give it base_url, and where needed api_path, api_key_env and model, each a text",
        )
    variable = entry.get("api_key_env")
    key = environment.get(variable) if variable else None
    if variable and not key:
        raise UsageError(f"{where} needs an API key", hint=f"put it into the environment variable {variable}")
    return Target(
        f"@{name}",
        route.base_url(entry["base_url"]),
        key,
        api_path=route.api_path(entry.get("api_path", endpoint.API_PATH)),
        model=entry.get("model"),
        external=name,
    )


@contextlib.contextmanager
def reach(target: Target) -> Iterator[Target]:
    """The target as it can be reached from here, for as long as the block lasts.

    Raises:
        EndpointDown: there is no way to it, or ssh does not get there.
    """
    target.must_be_there()
    if target.instance is None or target.instance.ssh is None:
        yield target
        return
    there = target.base_url.removeprefix("http://")
    with tunnel(target.instance.ssh, there, target.instance.host) as here:
        yield dataclasses.replace(target, base_url=f"http://127.0.0.1:{here}", tunnel=target.instance.host)


@contextlib.contextmanager
def tunnel(ssh: Sequence[str], there: str, host: str) -> Iterator[int]:
    """A port of this machine's loopback that leads to an address and port of the host's.

    It ends with the block, and with this process, however that ends.

    Raises:
        EndpointDown: ssh does not get there.
    """
    here = _free_port()
    options = ["-N", "-T", "-o", "BatchMode=yes", "-o", "ExitOnForwardFailure=yes", "-o", "ServerAliveInterval=15",
               # One of Ansible's own connections would keep the forwarding after this process is gone.
               "-o", "ControlMaster=no", "-o", "ControlPath=none",
               "-L", f"127.0.0.1:{here}:{there}"]  # fmt: skip
    command = ["sh", "-c", TIED, "sh", ssh[0], *options, *ssh[1:]]
    # A group of its own: Ctrl-C is for the measurement, which ends the tunnel when it has written its record.
    # What it says goes to a file: in a pipe that nobody reads, a line for each broken connection would stop it.
    with (
        tempfile.TemporaryFile() as stderr,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True
        ) as process,
    ):
        try:
            deadline = time.monotonic() + TUNNEL_SECONDS
            # Another process may have got the port meanwhile, the tunnel to another host among them.
            while not (_accepts(here) and _listens(process.pid, here)):
                if process.poll() is not None or time.monotonic() > deadline:
                    _end(process)
                    stderr.seek(0)
                    lines = stderr.read().decode(errors="replace").strip().splitlines()
                    why = lines[-1] if lines else f"ssh was not there within {TUNNEL_SECONDS:g} s"
                    raise EndpointDown(
                        f"no ssh tunnel to {host}: {why}",
                        hint=f"the server listens on loopback there; see that this works: ssh {ssh[-1]} true",
                    )
                time.sleep(0.05)
            yield here
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and those that it started, which are a group of their own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _accepts(port: int) -> bool:
    """True where something listens there: ssh does as soon as it is logged in."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _listens(pid: int, port: int) -> bool:
    """True where a process, or one that it started, listens on the port."""
    try:
        leader = psutil.Process(pid)
        processes = [leader, *leader.children(recursive=True)]
        sockets = [socket for process in processes for socket in process.net_connections("tcp")]
    except psutil.Error:  # one ended meanwhile
        return False
    return any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in sockets)
