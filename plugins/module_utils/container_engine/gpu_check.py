"""A container that is given a GPU, in an image that is made of this host. Python 3.9's standard library only."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
import tempfile

from ..hostlib import programs
from .decisions import RUNTIME
from .engine import EngineError, call

# How a container of role llama_server is confined; the toolkit has to manage that.
CONFINED = (
    "--network", "none", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
    "--user", "65534:65534",
)  # fmt: skip
# What programs of the driver are linked with, beside what ldd says of nvidia-smi.
C_LIBRARY = ("libc.so.6", "libdl.so.2", "libm.so.6", "libpthread.so.0", "librt.so.1")


def run_with_gpu(image: str, gpu: str) -> tuple[int, str]:
    """Run ``nvidia-smi -L`` in a container that is given one GPU: its exit status, and what it and the engine said."""
    return call(
        "docker", "run", "--rm", *CONFINED, "--runtime", RUNTIME, "--env", f"NVIDIA_VISIBLE_DEVICES={gpu}",
        "--env", "NVIDIA_DRIVER_CAPABILITIES=compute,utility", "--entrypoint", "nvidia-smi", image, "-L", timeout=300,
    )  # fmt: skip


def image_of_host() -> str:
    """Make an image that holds this host's C library and nothing else, and return its id.

    What the driver brings runs there as on the host, and no registry is needed. Raises EngineError.
    """
    with tempfile.TemporaryFile() as stream:
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for name in ("dev", "etc", "etc/ld.so.conf.d", "proc", "run", "sys", "tmp", "usr", "usr/bin"):
                entry = tarfile.TarInfo(name)
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(entry)
            for name in ("bin", "lib", "lib64", "sbin"):
                if os.path.islink(f"/{name}"):
                    archive.add(f"/{name}", arcname=name)
            for path in sorted(_libraries()):
                # Under the name that it is looked for by, in the folder that it is in: /lib is a link on most systems.
                place = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
                with open(path, "rb") as content:
                    entry = tarfile.TarInfo(place.lstrip("/"))
                    entry.size, entry.mode = os.fstat(content.fileno()).st_size, 0o755
                    archive.addfile(entry, content)
        stream.seek(0)
        try:
            done = programs.run(
                ["docker", "import", "--change", "ENV PATH=/usr/bin:/bin", "-"], timeout=120, given=stream,
                stderr=subprocess.PIPE,
            )  # fmt: skip
        except programs.ProgramError as error:
            raise EngineError(f"docker can't make an image: {error}") from error
    if done.status != 0:
        raise EngineError(f"docker can't make an image: {' '.join(done.errors.split())}")
    return done.output.split()[-1]


def remove_image(image: str) -> None:
    """Remove an image; one that is in use stays."""
    call("docker", "rmi", image)


def _libraries() -> set[str]:
    """The C library of this host and its loader, by the paths under which programs look for them."""
    known = dict(re.findall(r"^\s*(\S+) \(.*\) => (\S+)$", call("ldconfig", "-p")[1], re.MULTILINE)[::-1])
    libraries = {known[name] for name in (*C_LIBRARY, "libnvidia-ml.so.1") if name in known}
    programs = [shutil.which("nvidia-smi"), *libraries]
    for program in filter(None, [*programs, "/bin/sh"]):
        libraries |= set(re.findall(r"(/\S+) \(0x[0-9a-f]+\)", call("ldd", program)[1]))
    return {path for path in libraries if "nvidia" not in os.path.basename(path)}  # what the toolkit has to bring
