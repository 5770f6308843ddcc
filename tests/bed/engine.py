"""The Docker engine of this machine: what it takes to use one, and one of our own where none runs."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
from docker.errors import DockerException

from tests.locks import lock

SOCKET = Path("/var/run/docker.sock")
PACKAGES = {  # by the program that they bring
    "debootstrap": "debootstrap",
    "dockerd": "docker.io",
    "gpg": "gnupg",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
}


def missing(*, root: bool, which: Callable[[str], str | None] = shutil.which) -> str | None:
    """Why there can be no test hosts on this machine, in one line; None when there can."""
    needs = "needs root and a Docker engine"
    if not root:
        return f"{needs}: run the tests as root"
    programs = [program for program in PACKAGES if which(program) is None]
    if programs:
        packages = " ".join(sorted({PACKAGES[program] for program in programs}))
        return f"{needs}: {', '.join(programs)} not found (apt-get install {packages})"
    return None


def connect() -> docker.DockerClient | None:
    """A client of the engine that runs on this machine, if one does."""
    # Not the engine of DOCKER_HOST: folders of this machine are mounted, and addresses of containers used.
    # The client leaves a socket open where nobody listens, so that is found out first.
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(str(SOCKET)) != 0:
            return None
    try:
        return docker.DockerClient(base_url=f"unix://{SOCKET}", timeout=600)  # asks for the version of the engine
    except DockerException:
        return None


@contextlib.contextmanager
def running_engine(cache: Path) -> Iterator[docker.DockerClient]:
    """A client of this machine's engine. Where none runs, one is started, and ends when nobody uses it any more.

    RuntimeError when it doesn't start, with the end of its log.
    """
    users = cache / "engine.users"
    with contextlib.ExitStack() as stack:
        with lock(cache / "engine.lock"):
            stack.enter_context(lock(users, shared=True))  # after one that is about to end has ended
            client = connect() or _start(users, cache / "logs" / "dockerd.log")
        stack.callback(client.close)
        yield client


# It ends with the last of its users, though that may be another worker or run than the one that started it, and though
# they may be killed: then the lock of all of them can be had, which is kept until the engine has ended.
KEEPER = 'exec 9>"$1"; dockerd 9>&- & flock 9 & wait -n; kill $(jobs -pr); wait'


def _start(users: Path, log: Path) -> docker.DockerClient:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as stream:
        keeper = subprocess.Popen(
            ["bash", "-c", KEEPER, "bash", users],
            # Not vfs, which copies every layer. As a flag it would clash with a configuration file that names one.
            env={**os.environ, "DOCKER_DRIVER": "overlay2"},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the tests; the hosts are removed before the engine goes
        )
    deadline = time.monotonic() + 180
    while (client := connect()) is None:
        if keeper.poll() is not None or time.monotonic() > deadline:
            keeper.terminate()
            raise RuntimeError(f"dockerd did not start, see {log}:\n{log.read_text()[-2000:]}")
        time.sleep(0.1)
    keeper.returncode = 0  # nobody waits for it
    return client


def is_root() -> bool:
    """Whether this process may run a Docker engine and debootstrap."""
    return os.geteuid() == 0
