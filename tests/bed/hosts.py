"""The test hosts: containers with an address of their own, ssh and, where asked for, systemd."""

from __future__ import annotations

import contextlib
import io
import ipaddress
import itertools
import os
import shlex
import shutil
import socket
import struct
import subprocess
import tarfile
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self

import docker
from docker.errors import NotFound
from docker.models.containers import Container
from docker.types import IPAMConfig, IPAMPool
from docker.utils.socket import STDERR, STDOUT

from tests.bed.images import Images, Stage
from tests.locks import lock

Kind = Literal["systemd", "plain", "engine"]

LABEL = "llama-nexus-tests"
FOLDER = "nexus-bed"
BOOT_SECONDS = 180
ARCHIVES = "/mnt/images"  # where hosts with an engine find what they load
# A host may have device nodes of GPUs: opening one fails with ENXIO, or with EPERM where a unit forbids it.
NVIDIA_MAJOR = 195
# Runs a program. On a busy machine the engine may lose what one said that ends at once, so the shell ends when all has
# arrived: what it says last is a mark, which is answered.
LINGERING = """
eval "set -- $BED_ARGV"; mark=$BED_MARK; unset BED_ARGV BED_MARK
env -- "$@" </dev/null; status=$?
printf %s "$mark"; printf %s "$mark" >&2; read -r mark; exit $status
"""
STAGES: dict[Kind, Stage] = {"systemd": "target", "plain": "target", "engine": "engine"}


class Host:
    """A running test host. A context manager that removes it."""

    def __init__(
        self,
        client: docker.DockerClient,
        container: Container,
        kind: Kind,
        name: str,
        address: str,
        user: str,
        session: Path,
    ) -> None:
        self._client = client
        self.container = container
        self.kind = kind
        self.name = name
        self.address = address
        self.user = user
        self._session = session

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.remove()

    def inventory(self, **variables: object) -> dict[str, Any]:
        """An inventory with this host alone; ``variables`` are host variables beside those of the connection."""
        own = {
            "ansible_host": self.address,
            "ansible_user": self.user,
            "ansible_ssh_private_key_file": str(self._session / "key"),
            "ansible_ssh_common_args": " ".join(self._ssh_options()),
            "ansible_control_path_dir": str(self._session / "ssh"),  # kept connections end with their host
            "ansible_python_interpreter": "/usr/bin/python3",
        }
        return {"all": {"hosts": {self.name: own | variables}}}

    def exec(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program on the host as root, past ssh. AssertionError when it fails, unless ``check`` is false."""
        mark = uuid.uuid4().hex.encode()
        # In the environment: a pattern that processes are looked for by must not find the shell.
        variables = {"BED_ARGV": shlex.join(argv), "BED_MARK": mark.decode()}
        api = self._client.api
        started = api.exec_create(self.container.id, ["sh", "-c", LINGERING], stdin=True, environment=variables)["Id"]
        said = {STDOUT: b"", STDERR: b""}
        # The types know nothing of what is behind a stream: the connection, and the answer that it came with.
        stream: Any = api.exec_start(started, socket=True)
        with contextlib.closing(stream._response):
            stream._sock.settimeout(None)  # a program may be silent for as long as it likes
            for number, block in _frames(stream._response.raw._fp.fp):
                said[number] += block
                if all(text.endswith(mark) for text in said.values()):
                    stream._sock.sendall(b"\n")
        out, err = (text.removesuffix(mark).decode(errors="replace") for text in said.values())
        code = api.exec_inspect(started)["ExitCode"]
        return _checked(self.name, subprocess.CompletedProcess(argv, code, out, err), check)

    def ssh(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command as the user who logs in; ssh joins its words with spaces for a shell."""
        command = [*self._ssh(self.user), *argv]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        return _checked(self.name, done, check)

    def put(self, source: Path, path: str) -> None:
        """Copy a file or a folder to an absolute path on the host; it belongs to root, and its parents are made."""
        # As a stream into the running system: Docker's own copy doesn't see what is mounted there.
        with subprocess.Popen(
            [*self._ssh("root"), "tar -C / -xpf -"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            assert process.stdin
            assert process.stdout
            with contextlib.suppress(BrokenPipeError):  # what tar said tells more
                with tarfile.open(fileobj=process.stdin, mode="w|") as archive:
                    archive.add(source, arcname=path.lstrip("/"), filter=_owned_by_root)
                process.stdin.close()
            said = process.stdout.read().decode(errors="replace").strip()
        assert process.returncode == 0, f"{source} can't be copied to {path} on {self.name}: {said}"

    def load_image(self, tag: str) -> None:
        """Bring an image of this machine's engine to that of the host."""
        assert self.kind == "engine", f"{self.name} is a {self.kind} host, without a Docker engine"
        archive = self._session / "images" / f"{tag.replace('/', '_')}.tar"
        if not archive.exists():
            with archive.open("wb") as stream:
                for block in self._client.images.get(tag).save(named=tag):
                    stream.write(block)
        self.exec("docker", "load", "--quiet", "--input", f"{ARCHIVES}/{archive.name}")

    def reboot(self, *, power_loss: bool = False) -> None:
        """Shut the host down and boot it, or only boot it as after a power failure; it answers ssh afterwards."""
        if power_loss:
            self.container.kill()
            self.container.wait()
            self.container.start()
        else:
            self.container.restart(timeout=BOOT_SECONDS)
        self.wait()

    def remove(self) -> None:
        """Remove the host and its volumes; a host that is gone already is fine."""
        with contextlib.suppress(NotFound):
            self.container.remove(force=True, v=True)

    def wait(self) -> None:
        """Return when the host has booted and answers ssh. RuntimeError, with what it says, when it doesn't."""
        deadline = time.monotonic() + BOOT_SECONDS
        for answers in (self._booted, self._answers_ssh):
            while self._running() and not answers():
                if time.monotonic() > deadline:
                    raise RuntimeError(f"host {self.name} has not booted after {BOOT_SECONDS} s")
                time.sleep(0.05)

    def _running(self) -> bool:
        self.container.reload()
        if self.container.status != "running":
            said = self.container.logs(tail=20).decode(errors="replace")
            raise RuntimeError(f"host {self.name} is {self.container.status}, it said:\n{said}")
        return True

    def _booted(self) -> bool:
        if self.kind == "plain":
            return True
        state = self.exec("timeout", str(BOOT_SECONDS), "systemctl", "is-system-running", "--wait", check=False)
        return state.stdout.strip() in ("running", "degraded")

    def _answers_ssh(self) -> bool:
        return self.ssh("true", check=False).returncode == 0

    def _ssh_options(self) -> list[str]:
        known = self._session / "known_hosts"
        return ["-F", "/dev/null", "-o", f"UserKnownHostsFile={known}", "-o", "StrictHostKeyChecking=accept-new"]

    def _ssh(self, user: str) -> list[str]:
        options = ["-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=5"]
        return ["ssh", *self._ssh_options(), *options, "-i", str(self._session / "key"), f"{user}@{self.address}"]


class Bed:
    """The test hosts of a session, their network and their ssh key. A context manager that removes all of them."""

    def __init__(self, client: docker.DockerClient, images: Images, cache: Path) -> None:
        self._client = client
        self._images = images
        self._lock = cache / "hosts.lock"
        owner = f"{socket.gethostname()}-{os.getpid()}"
        self._prefix = f"{LABEL}-{owner}"
        self._labels = {LABEL: owner}

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            # A short path: that of a socket may have 107 characters.
            self._session = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"{FOLDER}-{os.getpid()}-")))
            (self._session / "images").mkdir()
            keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", LABEL, "-f", str(self._session / "key")]
            subprocess.run(keygen, check=True)
            with lock(self._lock):
                self._remove_leftovers()
                # A network of the session's own, because a host keeps its address over reboots only where it was given
                # one. That takes a network with a given subnet, and which one is free is for Docker to find out.
                probe = self._client.networks.create(self._prefix)
                probe.reload()
                subnet = ipaddress.ip_network(probe.attrs["IPAM"]["Config"][0]["Subnet"])
                probe.remove()
                network = self._client.networks.create(
                    self._prefix, labels=self._labels, ipam=IPAMConfig(pool_configs=[IPAMPool(subnet=str(subnet))])
                )
            stack.callback(network.remove)
            self._addresses = itertools.islice(subnet.hosts(), 1, None)  # the first is the gateway's
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._cleanup.close()

    def image(self, stage: Stage = "base") -> str:
        """The tag of an image that hosts are made of, or of ``base``: bare, with what a release needs to run."""
        return self._images.tag(stage)

    def host(
        self,
        kind: Kind,
        name: str,
        *,
        mounts: Mapping[Path, str] | None = None,
        tmpfs: Mapping[str, str] | None = None,
        user: str = "root",
        sudo: bool = False,
    ) -> Host:
        """Boot a host and return it when it answers ssh. Names are unique among the hosts that run.

        ``mounts``: places on the host by folders of this machine, read-only. ``tmpfs``: sizes ("64m") by places on the
        host. ``user``: who logs in, made if it isn't root; with ``sudo`` without a password where that is asked for.
        """
        return self.hosts(kind, [name], mounts=mounts, tmpfs=tmpfs, user=user, sudo=sudo)[0]

    def hosts(
        self,
        kind: Kind,
        names: Iterable[str],
        *,
        mounts: Mapping[Path, str] | None = None,
        tmpfs: Mapping[str, str] | None = None,
        user: str = "root",
        sudo: bool = False,
    ) -> list[Host]:
        """Boot several hosts of a kind at once; see ``host``."""
        made = [self._start(kind, name, mounts or {}, tmpfs or {}, user) for name in names]
        for host in made:
            if user != "root":
                host.exec("useradd", "--create-home", "--shell", "/bin/bash", user)
            if sudo:
                host.exec("sh", "-c", f"echo '{user} ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/{user}")
            host.wait()
        return made

    def _start(self, kind: Kind, name: str, mounts: Mapping[Path, str], tmpfs: Mapping[str, str], user: str) -> Host:
        address = str(next(self._addresses))
        options: dict[str, Any] = {
            "name": f"{self._prefix}-{name}",
            "hostname": name,
            "labels": self._labels,
            "network": self._prefix,
            "networking_config": {self._prefix: self._client.api.create_endpoint_config(ipv4_address=address)},
            "volumes": {str(source): {"bind": place, "mode": "ro"} for source, place in mounts.items()},
            # Docker's defaults forbid to execute what lies on a tmpfs.
            "tmpfs": {"/run": "", "/run/lock": "", **{place: f"size={size},exec" for place, size in tmpfs.items()}},
        }
        if kind == "plain":
            start = "mkdir -p /run/sshd && exec /usr/sbin/sshd -D"
            options["stop_signal"] = "SIGTERM"
        else:
            # As on a machine that it booted itself; else credentials and mounts of its services stay out of sight.
            start = "mount --make-rshared / && exec /sbin/init"
            options |= {
                "environment": {"container": "docker"},  # as systemd asks of what runs it
                # Not privileged: the engine may lack SYS_RESOURCE itself, in a small virtual machine for one. It is
                # dropped everywhere, so that hosts are the same everywhere.
                "cap_add": ["ALL"],
                "cap_drop": ["SYS_RESOURCE"],
                "security_opt": ["seccomp=unconfined", "apparmor=unconfined"],
                "device_cgroup_rules": [f"c {NVIDIA_MAJOR}:* rwm"],
            }
            if self._client.info()["CgroupVersion"] == "2":
                options["cgroupns"] = "private"
                start = f"mount -o remount,rw /sys/fs/cgroup && {start}"
            else:
                options["volumes"]["/sys/fs/cgroup"] = {"bind": "/sys/fs/cgroup", "mode": "ro"}
        if kind == "engine":
            options["volumes"][str(self._session / "images")] = {"bind": ARCHIVES, "mode": "ro"}
        container = self._client.containers.create(self.image(STAGES[kind]), ["sh", "-c", start], **options)
        host = Host(self._client, container, kind, name, address, user, self._session)
        self._cleanup.callback(host.remove)
        # One file for all users: whoever is made on the host can log in.
        container.put_archive("/etc/ssh/authorized_keys.d", _archive("bed", (self._session / "key.pub").read_bytes()))
        container.start()
        return host

    def _remove_leftovers(self) -> None:
        """Remove what sessions that were killed left behind."""
        for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER}-*"):
            if not _lives(f"{socket.gethostname()}-{folder.name.split('-')[2]}"):
                shutil.rmtree(folder)
        for container in self._client.containers.list(all=True, filters={"label": LABEL}):
            if not _lives(container.labels[LABEL]):
                container.remove(force=True, v=True)
        for network in self._client.networks.list(filters={"label": LABEL}):
            if not _lives(network.attrs["Labels"][LABEL]):
                network.remove()


def inventory(*hosts: Host, groups: Mapping[str, Iterable[Host]] | None = None, **variables: object) -> dict[str, Any]:
    """An inventory of several hosts, with groups by name if wanted; ``variables`` are those of all hosts."""
    merged: dict[str, Any] = {"hosts": {}, "vars": variables}
    for host in hosts:
        merged["hosts"] |= host.inventory()["all"]["hosts"]
    if groups:
        merged["children"] = {
            group: {"hosts": {member.name: {} for member in members}} for group, members in groups.items()
        }
    return {"all": merged}


def _lives(owner: str) -> bool:
    """Whether the session that made something still runs; one on another machine or in a container might."""
    machine, _, pid = owner.rpartition("-")
    return machine != socket.gethostname() or Path("/proc", pid).exists()


def _archive(name: str, content: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def _owned_by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


def _frames(reader: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """What a program without a terminal wrote: by frame 1 for stdout or 2 for stderr, and the bytes.

    Args:
        reader: the buffer that the answer's head was read through. It may hold frames already, which docker's own
            reader never sees, because it goes on with the socket: then it waits for ever.
    """
    while len(head := reader.read(8)) == 8:
        number, size = struct.unpack(">BxxxL", head)
        yield number, reader.read(size)


def _checked(host: str, done: subprocess.CompletedProcess[str], check: bool) -> subprocess.CompletedProcess[str]:
    assert not check or done.returncode == 0, (
        f"{' '.join(map(str, done.args))} failed on {host} with status {done.returncode}:\n{done.stdout}{done.stderr}"
    )
    return done
