"""Facts of a host about its container engine; containers that are run and a configuration that is read again.

Python 3.9's standard library only. What follows from it is decided in ``decisions.py``.
"""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from typing import Any

from ..hostlib import processes, systemd
from ..hostlib.argv import values_of
from ..hostlib.files import read_json, read_text
from ..hostlib.pids import argv_of
from ..nvidia import host as nvidia_host
from .decisions import RUNTIME, HostFacts, devices

CONFIGURATION = "/etc/docker/daemon.json"
LISTS = ("/etc/apt/sources.list", "/etc/apt/sources.list.d/*.list", "/etc/apt/sources.list.d/*.sources",
         "/etc/yum.repos.d/*.repo")  # fmt: skip
DPKG_UPDATES = "/var/lib/dpkg/updates"
PACKAGES = ("nvidia-container-toolkit-base", "nvidia-container-toolkit")  # the runtime's, since 1.11 and before
RELOAD_SECONDS = 20  # a reload is a signal: nobody says when it is done


class EngineError(Exception):
    """One line: what went wrong, and what to do."""


def look(state: str) -> HostFacts:
    """Gather the facts that a plan is made of.

    Args:
        state: the file that the last check wrote.
    """
    client, dockerd, path = _client(), _daemon(), configuration_path()
    engine = engine_info() if client == "docker" else {}
    toolkit, packaged, held = _toolkit()
    gpus = host_gpus()
    return HostFacts(
        os_release=nvidia_host.os_release(),
        machine=os.uname().machine,
        root=os.geteuid() == 0,
        systemd=systemd.is_pid_1(),
        dockerd=dockerd or ("dockerd" if engine else None),  # one that answers may run elsewhere
        client=client,
        docker=engine.get("ServerVersion"),
        runtimes=sorted(engine.get("Runtimes") or {}),
        configuration_path=path,
        configuration=read_text(path),
        toolkit=toolkit,
        toolkit_packaged=packaged,
        toolkit_held=held,
        repositories={name: read_text(name) or "" for pattern in LISTS for name in sorted(glob.glob(pattern))},
        interrupted=os.path.isdir(DPKG_UPDATES) and bool(os.listdir(DPKG_UPDATES)),
        gpus=gpus,
        driver=driver_version() if gpus else None,
        bus=[gpu["name"] for gpu in nvidia_host.bus_gpus()],
        checked=read_json(state),
    )


def engine_info() -> dict[str, Any]:
    """The engine's own description (``docker info``); empty where none answers."""
    code, output = call("docker", "info", "--format", "{{json .}}", timeout=60)
    try:
        info: dict[str, Any] = json.loads(output.strip().splitlines()[-1]) if output.strip() else {}
    except ValueError:
        return {}
    return info if code == 0 and info.get("ServerVersion") else {}


def host_gpus() -> list[str]:
    """The UUIDs of the GPUs that the driver shows."""
    code, output = call("nvidia-smi", "-L", timeout=60)
    return devices(output) if code == 0 else []


def driver_version() -> str | None:
    """The driver's version, as nvidia-smi says."""
    seen, _ = nvidia_host.driver_gpus()
    return seen[0]["driver"] if seen else None


def _toolkit() -> tuple[str | None, bool, bool]:
    """The toolkit's version, whether it came as a package, and whether that is held."""
    for package in PACKAGES:
        status, version, held = _dpkg(package)
        if status:
            return (version if status == "installed" else None), True, held
        code, output = call("rpm", "--query", "--queryformat=%{VERSION}", package)
        if code == 0:
            return output.strip(), True, False
    if shutil.which("nvidia-container-runtime"):
        code, output = call("nvidia-ctk", "--version")
        match = re.search(r"\d+\.\d+\.\d+", output)
        return (match.group() if match and code == 0 else "of an unknown version"), False, False
    return None, False, False


def _dpkg(package: str) -> tuple[str | None, str, bool]:
    """A package's state by dpkg: "installed", "half" (unpacked and no more) or None; its version; if it is held."""
    code, output = call("dpkg-query", "--show", "--showformat=${db:Status-Abbrev} ${Version}", package)
    state = output[1:2]
    if code != 0 or state in "nc":
        return None, "", False
    return ("installed" if state == "i" else "half"), output.split()[-1].partition("-")[0], output.startswith("h")


def _daemon() -> str | None:
    """The path of dockerd; None also where its package is half installed, which apt goes on with."""
    if _dpkg("docker.io")[0] == "half":
        return None
    path = shutil.which("dockerd", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin:/usr/local/sbin"]))
    if not path and os.path.exists("/snap/bin/docker"):
        return "/snap/bin/docker"
    return os.path.realpath(path) if path else None


def _client() -> str | None:
    """The program that is called docker here: docker, podman, or None."""
    if not shutil.which("docker"):
        return None
    return "podman" if "podman" in call("docker", "--version")[1].lower() else "docker"


def _daemon_process() -> int | None:
    """The process of root's dockerd."""
    for path in glob.glob("/proc/[0-9]*/comm"):
        number = int(path.split("/")[2])
        try:
            if read_text(path) == "dockerd\n" and os.stat(f"/proc/{number}").st_uid == 0:
                return number
        except OSError:
            continue
    return None


def configuration_path() -> str:
    """The configuration file of the dockerd that runs, else the usual one."""
    process = _daemon_process()
    words = argv_of(process) if process else []
    return next(iter(values_of(words, {"--config-file"})), CONFIGURATION)


def reload() -> None:
    """Have dockerd read its configuration again, and return when it knows the toolkit's runtime.

    Raises EngineError where it does not.
    """
    process = _daemon_process()
    if not process:
        raise EngineError(
            "the engine that answers is no process of root's on this host: have whoever runs it add the runtime "
            f"{RUNTIME} to its daemon.json"
        )
    os.kill(process, signal.SIGHUP)
    deadline = time.monotonic() + RELOAD_SECONDS
    while RUNTIME not in (engine_info().get("Runtimes") or {}):
        if time.monotonic() > deadline:
            raise EngineError(
                f"docker was told to read {configuration_path()} again and does not know the runtime {RUNTIME} yet: "
                "journalctl -u docker says why; a restart of docker, which may end its containers, is left to you"
            )
        time.sleep(0.2)


def call(*argv: str, timeout: float = 120) -> tuple[int, str]:
    """Run a program that may fail or be missing: its exit status, and all that it said."""
    # Where ldconfig lies is not on everybody's path.
    environment = {**os.environ, "LC_ALL": "C", "PATH": os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"}
    try:
        done = processes.run(argv, timeout=timeout, env=environment)
    except processes.NotStarted as error:
        return (127, f"{argv[0]}: not found") if error.is_missing else (126, str(error))
    except processes.ProgramError as error:
        return 126, str(error)
    return done.status, done.output


# --- the check -----------------------------------------------------------------------------------------------------

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
            done = processes.run(
                ["docker", "import", "--change", "ENV PATH=/usr/bin:/bin", "-"], timeout=120, given=stream,
                stderr=subprocess.PIPE,
            )  # fmt: skip
        except processes.ProgramError as error:
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
