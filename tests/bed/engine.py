"""The Docker engine of this machine: what it takes to use one, and one of our own where none runs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
from docker.errors import DockerException

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


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold a lock file, so that two sessions don't make the same thing at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


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
    """A client of this machine's engine; where none runs, one is started and stopped at the end.

    RuntimeError when it doesn't start, with the end of its log.
    """
    with contextlib.ExitStack() as stack:
        with lock(cache / "engine.lock"):
            client = connect() or stack.enter_context(_started(cache / "logs" / "dockerd.log"))
        stack.callback(client.close)
        yield client


@contextlib.contextmanager
def _started(log: Path) -> Iterator[docker.DockerClient]:
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("wb") as stream,
        subprocess.Popen(
            ["dockerd"],
            # Not vfs, which copies every layer. As a flag it would clash with a configuration file that names one.
            env={**os.environ, "DOCKER_DRIVER": "overlay2"},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the tests; the hosts are removed before the engine goes
        ) as process,
    ):
        try:
            deadline = time.monotonic() + 180
            while (client := connect()) is None:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"dockerd did not start, see {log}:\n{log.read_text()[-2000:]}")
                time.sleep(0.1)
            yield client
        finally:
            process.terminate()


def is_root() -> bool:
    """Whether this process may run a Docker engine and debootstrap."""
    return os.geteuid() == 0
