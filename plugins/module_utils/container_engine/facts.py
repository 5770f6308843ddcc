"""Facts of a host about its container engine.

Python 3.9's standard library only. What follows from it is decided in ``decisions.py``.
"""

from __future__ import annotations

import glob
import os
import re
import shutil

from ..hostlib import systemd
from ..hostlib.files import read_json, read_text
from ..nvidia import facts as nvidia_facts
from .decisions import HostFacts, devices
from .engine import call, configuration_path, engine_info

LISTS = ("/etc/apt/sources.list", "/etc/apt/sources.list.d/*.list", "/etc/apt/sources.list.d/*.sources",
         "/etc/yum.repos.d/*.repo")  # fmt: skip
DPKG_UPDATES = "/var/lib/dpkg/updates"
PACKAGES = ("nvidia-container-toolkit-base", "nvidia-container-toolkit")  # the runtime's, since 1.11 and before


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
        os_release=nvidia_facts.os_release(),
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
        bus=[gpu["name"] for gpu in nvidia_facts.bus_gpus()],
        checked=read_json(state),
    )


def host_gpus() -> list[str]:
    """The UUIDs of the GPUs that the driver shows."""
    code, output = call("nvidia-smi", "-L", timeout=60)
    return devices(output) if code == 0 else []


def driver_version() -> str | None:
    """The driver's version, as nvidia-smi says."""
    seen, _ = nvidia_facts.driver_gpus()
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
