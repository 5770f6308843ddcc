"""The images of the test hosts, made from Debian packages alone: no container registry is needed."""

from __future__ import annotations

import hashlib
import io
import os
import platform
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import docker
from docker.errors import BuildError, ImageNotFound

from tests.locks import lock

Stage = Literal["base", "target", "engine"]

DOCKERFILE = Path(__file__).with_name("Dockerfile")
LOCAL_CERTIFICATES = Path("/usr/local/share/ca-certificates")
PROXIES = ["http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"]
# What a release of llama.cpp is linked with, and certificates.
RUNTIME = ["ca-certificates", "libgomp1", "libstdc++6"]
# Two thirds of a minimal Debian, and nothing that a test reads.
LEFT_OUT = [
    "./usr/share/doc/*",
    "./usr/share/locale/*",
    "./usr/share/man/*/*",
    "./var/cache/apt/*",
    "./var/lib/apt/lists/*",
]


class Images:
    """The images by stage. Each is made when it is first asked for; the engine keeps it under a hash of its inputs."""

    def __init__(self, client: docker.DockerClient, cache: Path, report: Callable[[str], None]) -> None:
        self._client = client
        self._cache = cache
        self._report = report
        self._tags: dict[Stage, str] = {}

    def tag(self, stage: Stage) -> str:
        """The tag of a stage's image. RuntimeError, with the end of the log, when it can't be made."""
        if stage not in self._tags:
            with lock(self._cache / "images.lock"):
                self._tags[stage] = self._make(stage)
        return self._tags[stage]

    def _make(self, stage: Stage) -> str:
        release = platform.freedesktop_os_release()
        # The hosts run what this machine runs: a release that was built here finds its C library there.
        distribution, codename = release["ID"], release["VERSION_CODENAME"]
        rootfs = f"llama-nexus-tests/rootfs:{_hash({'of': f'{distribution} {codename} {RUNTIME} {LEFT_OUT}'.encode()})}"
        context = {
            "Dockerfile": DOCKERFILE.read_bytes(),
            "apt.conf": _apt_configuration(),
            "ca-certificates/": b"",
            **{f"ca-certificates/{path.name}": path.read_bytes() for path in sorted(LOCAL_CERTIFICATES.glob("*.crt"))},
        }
        tag = f"llama-nexus-tests/{stage}:{_hash({'ROOTFS': rootfs.encode(), **context})}"
        if self._has(tag):
            return tag
        if not self._has(rootfs):
            archive = self._cache / "rootfs" / f"{rootfs.rpartition(':')[2]}.tar"
            if not archive.exists():
                self._report(f"making a root file system of {distribution} {codename}, about half a minute")
                _bootstrap(archive, distribution, codename)
            repository, _, version = rootfs.partition(":")
            self._client.api.import_image_from_file(str(archive), repository=repository, tag=version)
        self._report(f"making the image {tag}, about a quarter of a minute")
        try:
            self._client.images.build(
                fileobj=io.BytesIO(_tar(context)),
                custom_context=True,
                target=stage,
                tag=tag,
                buildargs={"ROOTFS": rootfs, **{name: os.environ[name] for name in PROXIES if name in os.environ}},
                network_mode="host",  # a proxy or a name server on loopback can be reached
                rm=True,
                forcerm=True,
            )
        except BuildError as error:
            log = "".join(str(line.get("stream", "")) for line in error.build_log)
            raise RuntimeError(f"image {tag} can't be made: {error.msg}\n{log[-3000:]}") from error
        return tag

    def _has(self, tag: str) -> bool:
        try:
            self._client.images.get(tag)
        except ImageNotFound:
            return False
        return True


def _hash(inputs: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, content in inputs.items():
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:12]


def _tar(files: Mapping[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name.rstrip("/"))
            if name.endswith("/"):
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def _apt_configuration() -> bytes:
    """How this machine's apt reaches its mirror: proxies, and what it doesn't insist on."""
    dump = subprocess.run(["apt-config", "dump", "Acquire"], capture_output=True, text=True, check=True).stdout
    wanted = ("Acquire::http", "Acquire::https", "Acquire::Check-", "Acquire::Retries")
    return "".join(line + "\n" for line in dump.splitlines() if line.startswith(wanted)).encode()


def _mirror(distribution: str, codename: str) -> list[str]:
    """This machine's mirror of its own distribution, as debootstrap's last argument; empty where apt doesn't say."""
    filters = [f"Origin: {distribution.capitalize()}", f"Codename: {codename}", "Component: main"]
    listing = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", *filters],
        capture_output=True,
        text=True,
        check=True,
    )
    return listing.stdout.split()[:1]


def _bootstrap(archive: Path, distribution: str, codename: str) -> None:
    """Write a minimal root file system with what RUNTIME names as a tar archive."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix="making-") as folder:
        root, packed = Path(folder, "root"), Path(folder, "packed.tar")
        components = "main,universe" if distribution == "ubuntu" else "main"  # docker.io is in universe
        done = subprocess.run(
            ["debootstrap", "--variant=minbase", f"--components={components}", f"--include={','.join(RUNTIME)}",
             codename, str(root), *_mirror(distribution, codename)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(f"debootstrap of {distribution} {codename} failed:\n{done.stdout[-3000:]}")
        left_out = [f"--exclude={pattern}" for pattern in LEFT_OUT]
        subprocess.run(["tar", "--numeric-owner", "--anchored", *left_out, "-C", root, "-cf", packed, "."], check=True)
        packed.rename(archive)
