"""Every decision of role container_engine: what is installed from where, and how a container is given a GPU.

Pure functions over tables; what is on a host is found out by ``host.py``. Python 3.9's standard
library only.

A GPU is handed over by the toolkit's runtime: ``docker run --runtime nvidia --env NVIDIA_VISIBLE_DEVICES=GPU-…``.

==================  ==============================  ============================  ===================================
way                 Docker                          needs                         why, or why not
==================  ==============================  ============================  ===================================
runtime ``nvidia``  every version                   an entry in daemon.json,      systemd knows of the devices;
                                                    which a reload takes up       nothing that a new driver outdates
``--gpus``          every version; from 29.2 on it  the hook on the PATH of       up to 29.1 the hook's devices are
                    is CDI                          dockerd when it starts        unknown to systemd, which takes
                                                                                  them away on a daemon-reload
CDI devices         from 28.2; from 25 with a       a specification that is       Debian 12 has Docker 20.10; the
                    feature flag, and a restart     made again for each driver    specification may be an old one
==================  ==============================  ============================  ===================================

The runtime edits the container as a CDI specification that it makes on the spot would, since toolkit 1.18; what its
releases before 1.18.2 do wrong after a daemon-reload or at boot is why they are replaced.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ..nvidia.systems import RHEL_FAMILY, SUPPORTED
from ..nvidia.versions import version as version_key

RUNTIME = "nvidia"
RUNTIME_ENTRY = {"args": [], "path": "nvidia-container-runtime"}  # as `nvidia-ctk runtime configure` writes it

# --- systems -------------------------------------------------------------------------------------------------------


class System(NamedTuple):
    """A supported system."""

    name: str
    manager: str
    """Its package manager, apt or dnf."""
    engine: tuple[str, ...]
    """The packages of an engine with its client."""
    client: str
    """The package of the client alone, for an engine that lacks it."""
    own: bool
    """True where the engine is the system's own; else it comes from Docker's repository."""


DOCKER_CE = ("docker-ce", "docker-ce-cli", "containerd.io")

SYSTEMS: dict[tuple[str, str], System] = {
    ("ubuntu", "22.04"): System("Ubuntu 22.04", "apt", ("docker.io",), "docker.io", own=True),
    ("ubuntu", "24.04"): System("Ubuntu 24.04", "apt", ("docker.io",), "docker.io", own=True),
    ("debian", "12"): System("Debian 12", "apt", ("docker.io",), "docker.io", own=True),
    ("debian", "13"): System("Debian 13", "apt", ("docker.io", "docker-cli"), "docker-cli", own=True),
    # podman, which they bring, is driven differently.
    ("rhel", "9"): System("RHEL 9", "dnf", DOCKER_CE, "docker-ce-cli", own=False),
    ("rhel", "10"): System("RHEL 10", "dnf", DOCKER_CE, "docker-ce-cli", own=False),
}

# The machines that NVIDIA's toolkit and Docker's repository are made for, and their names in apt's.
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def system_of(os_release: Mapping[str, str]) -> System | None:
    """The system that /etc/os-release tells of; None for one that is not supported."""
    name, version = os_release.get("ID", ""), os_release.get("VERSION_ID", "")
    if name in RHEL_FAMILY:
        name, version = "rhel", version.partition(".")[0]
    return SYSTEMS.get((name, version))


# --- repositories --------------------------------------------------------------------------------------------------

TOOLKIT_FINGERPRINT = "C95B321B61E88C1809C4F759DDCAE044F796ECB0"
DOCKER_FINGERPRINT = "060A61C51B558A7F742B77AAC52FEB6B621E9F35"  # of its packages for RHEL

TOOLKIT_MINIMUM = "1.18.2"
# All four have one version; the others come with the first, but would not be upgraded with it.
TOOLKIT = (
    "nvidia-container-toolkit", "nvidia-container-toolkit-base", "libnvidia-container-tools", "libnvidia-container1"
)  # fmt: skip


@dataclass
class Wanted:
    """The declared state: the role's variables."""

    toolkit_url: str
    toolkit_key_url: str
    docker_url: str
    docker_key_url: str
    toolkit_fingerprint: str = TOOLKIT_FINGERPRINT
    docker_fingerprint: str = DOCKER_FINGERPRINT
    toolkit_version: str = ""
    """The one that there must be; empty: any from the minimum on."""
    packages: tuple[str, ...] = ()
    """Of the engine, in place of those of the system's table."""


class Repository(NamedTuple):
    """Files that make packages from elsewhere installable."""

    url: str
    key: dict[str, str]
    """Of its key: url, fingerprint, path."""
    files: dict[str, str]
    """Texts by path."""
    marks: list[str]
    """Marks of a list of repositories that has it already."""


def toolkit_repository(system: System, machine: str, wanted: Wanted) -> Repository:
    """NVIDIA's repository of the toolkit, or a mirror of it."""
    base = url = wanted.toolkit_url.rstrip("/")
    name = "nvidia-container-toolkit"
    if system.manager == "dnf":
        key = f"/etc/pki/rpm-gpg/RPM-GPG-KEY-{name}.asc"
        # Its index is signed, and its packages are not.
        text = _repo_file(name, "NVIDIA container toolkit", f"{url}/rpm/$basearch", key, signed="index")
        files = {f"/etc/yum.repos.d/{name}.repo": text}
        marks = [f"{base}/rpm", f"[{name}]"]
    else:
        key = f"/etc/apt/keyrings/{name}.gpg"
        url = f"{url}/deb/{MACHINES[machine]}"
        marks = [f"{base}/deb"]
        files = {
            f"/etc/apt/sources.list.d/{name}.sources": f"Types: deb\nURIs: {url}\nSuites: /\nSigned-By: {key}\n",
            # CUDA's repository has some of these packages, too, in other versions and with a higher priority.
            f"/etc/apt/preferences.d/{name}": (
                f'Package: {" ".join(TOOLKIT)}\nPin: origin "{urlsplit(base).hostname or ""}"\nPin-Priority: 700\n'
            ),
        }
    named = {"url": wanted.toolkit_key_url, "fingerprint": wanted.toolkit_fingerprint, "path": key}
    return Repository(url, named, files, marks)


def engine_repository(os_release: Mapping[str, str], wanted: Wanted) -> Repository:
    """Docker's repository for the RHEL family, or a mirror of it."""
    url = f"{wanted.docker_url.rstrip('/')}/{os_release['VERSION_ID'].partition('.')[0]}"
    key = "/etc/pki/rpm-gpg/RPM-GPG-KEY-docker-ce.asc"
    name = "docker-ce-stable"
    text = _repo_file(name, "Docker CE", f"{url}/$basearch/stable", key, signed="packages")
    named = {"url": wanted.docker_key_url, "fingerprint": wanted.docker_fingerprint, "path": key}
    return Repository(url, named, {"/etc/yum.repos.d/docker-ce.repo": text}, [url, f"[{name}]"])


def _repo_file(name: str, title: str, url: str, key: str, *, signed: str) -> str:
    index, packages = int(signed == "index"), int(signed == "packages")
    return (
        f"[{name}]\nname={title}\nbaseurl={url}\nenabled=1\nrepo_gpgcheck={index}\ngpgcheck={packages}\n"
        f"gpgkey=file://{key}\n"
    )


# --- the engine's configuration ------------------------------------------------------------------------------------


class ConfigurationError(Exception):
    """One line: what is wrong with the engine's configuration, and what to do."""


def configuration(text: str | None, path: str) -> dict[str, Any]:
    """The settings of a daemon.json; none where it is missing or empty.

    Raises ConfigurationError for one that the engine would not read either.
    """
    if not (text or "").strip():
        return {}
    try:
        settings = json.loads(text or "")
    except ValueError as error:
        raise ConfigurationError(f"{path} is not valid JSON ({error}): mend it, it was left as it is") from error
    if not isinstance(settings, dict):
        raise ConfigurationError(f"{path} holds no JSON object: mend it, it was left as it is")
    if not isinstance(settings.get("runtimes", {}), dict):
        raise ConfigurationError(f"runtimes in {path} is no JSON object: mend it, it was left as it is")
    return settings


def with_runtime(text: str | None, path: str) -> str:
    """A daemon.json with the toolkit's runtime, and with all else that it says; the same text where it has one."""
    settings = configuration(text, path)
    if RUNTIME in settings.get("runtimes", {}):
        return text or ""
    settings["runtimes"] = {**settings.get("runtimes", {}), RUNTIME: RUNTIME_ENTRY}
    return json.dumps(settings, indent=4, ensure_ascii=False) + "\n"


# --- the plan ------------------------------------------------------------------------------------------------------


@dataclass
class HostFacts:
    """The facts of a host that a plan follows from."""

    os_release: dict[str, str] = field(default_factory=dict)
    machine: str = "x86_64"
    root: bool = True
    systemd: bool = True
    dockerd: str | None = None
    """The path of the engine's program, of whatever package."""
    client: str | None = None
    """The program that is called docker here: docker, podman, or None."""
    docker: str | None = None
    """The version of the engine that answers."""
    runtimes: list[str] = field(default_factory=list)
    """Those that it knows."""
    configuration_path: str = "/etc/docker/daemon.json"
    configuration: str | None = None
    """The text of that file."""
    toolkit: str | None = None
    """The version of the toolkit."""
    toolkit_packaged: bool = False
    """True where it came as a package."""
    toolkit_held: bool = False
    repositories: dict[str, str] = field(default_factory=dict)
    """The package manager's lists of repositories: texts by path."""
    interrupted: bool = False
    """True where dpkg was interrupted."""
    gpus: list[str] = field(default_factory=list)
    """The UUIDs that the driver shows, of GPUs or of parts of them."""
    driver: str | None = None
    bus: list[str] = field(default_factory=list)
    """The names of the GPUs on the PCI bus."""
    checked: dict[str, Any] | None = None
    """The ``checkable`` of the last time that a container was seen to be given a GPU."""

    def has_gpu(self) -> bool:
        return bool(self.gpus or self.bus)

    def checkable(self) -> dict[str, Any]:
        """All that a container is given a GPU by: when any of it changes, it is looked at again."""
        return {"docker": self.docker, "toolkit": self.toolkit, "driver": self.driver, "gpus": self.gpus}


@dataclass
class Plan:
    """The steps that are due, and what they need."""

    steps: list[str] = field(default_factory=list)
    """A sentence each."""
    notes: list[str] = field(default_factory=list)
    """Work that is left out, and why."""
    problem: str = ""
    """Reasons why it can't be done, and what to do; then there are no steps."""
    disruptive: bool = False
    """True where containers that run may lose their GPUs, as those of an older toolkit do when its packages are
    replaced: that has systemd read its units again."""
    finish: bool = False
    keys: list[dict[str, str]] = field(default_factory=list)
    files: list[dict[str, str]] = field(default_factory=list)
    manager: str = ""
    packages: list[str] = field(default_factory=list)
    start: bool = False
    configure: bool = False
    check: bool = False


def decide(facts: HostFacts, wanted: Wanted) -> Plan:
    """The steps until this host's engine hands its GPUs to containers; none where it does already.

    An engine that is there is left alone but for what is missing. It learns of the runtime by reading its
    configuration again, so containers go on running; what would need a restart is not done.
    """
    system, plan = system_of(facts.os_release), Plan()
    problems = _problems(facts, wanted, system)
    if problems:
        return Plan(problem="; ".join(problems))
    plan.manager = system.manager if system else ""
    packages = _engine_packages(facts, wanted, system)
    upgrade = _toolkit_due(facts, wanted)
    if facts.interrupted and (packages or upgrade):  # apt refuses to go on before that
        plan.finish = True
        plan.steps.append("finish the installation that dpkg was interrupted in")
    if packages and system:
        if not system.own and not wanted.packages:
            _add_repository(plan, facts, engine_repository(facts.os_release, wanted))
        plan.packages += packages
        plan.steps.append(f"install {' '.join(packages)}")
    if not facts.docker:
        plan.start = True
        if not packages:
            plan.steps.append("start docker, now and with the host")
    if not facts.has_gpu():
        plan.notes.append("there is no NVIDIA GPU on this host: nvidia-container-toolkit is left out")
        return plan
    if upgrade and system:
        _add_repository(plan, facts, toolkit_repository(system, facts.machine, wanted))
        plan.packages += [_specified(name, wanted.toolkit_version, system.manager) for name in TOOLKIT]
        version = wanted.toolkit_version or f"{TOOLKIT_MINIMUM} or newer"
        instead = f" in place of {facts.toolkit}" if facts.toolkit else ""
        plan.disruptive = facts.toolkit is not None and _older(facts.toolkit, TOOLKIT_MINIMUM)
        plan.steps.append(f"install nvidia-container-toolkit {version}{instead}")
    if not _knows_runtime(facts):
        plan.configure = True
        plan.steps.append(f"add the runtime nvidia to {facts.configuration_path} and have docker read it again")
    if plan.steps or facts.checked != facts.checkable():
        plan.check = True
        plan.steps.append("check that a container is given a GPU")
    return plan


def _problems(facts: HostFacts, wanted: Wanted, system: System | None) -> list[str]:
    """Reasons why the host can't be brought there, a line each."""
    packages, upgrade = _engine_packages(facts, wanted, system), facts.has_gpu() and _toolkit_due(facts, wanted)
    problems = [
        f"container_engine_{name} holds a password, which would stand in files that all may read: give that to the "
        "package manager (/etc/apt/auth.conf.d, or a .repo file of your own)"
        for name in ("toolkit_url", "toolkit_key_url", "docker_url", "docker_key_url")
        if urlsplit(getattr(wanted, name)).username is not None
    ]
    if wanted.toolkit_version and _older(wanted.toolkit_version, TOOLKIT_MINIMUM):
        problems.append(
            f"container_engine_toolkit_version is {wanted.toolkit_version}, before {TOOLKIT_MINIMUM} containers lose "
            "their GPUs when systemd is reloaded: set a newer one, or leave it out"
        )
    if (facts.dockerd or "").startswith("/snap/"):
        problems.append(
            "docker is a snap here, which can't use the toolkit of the host: remove it (snap remove docker), and the "
            "system's own is installed"
        )
    if not facts.dockerd and facts.client == "podman":
        problems.append("podman is called docker here: remove it (dnf remove podman-docker), and Docker is installed")
    if not facts.docker and not facts.systemd:
        problems.append(
            "no Docker engine answers, and there is no systemd to keep one running: start one, or leave "
            "llama_server_runtime at auto"
        )
    try:
        configuration(facts.configuration, facts.configuration_path)
    except ConfigurationError as error:
        problems.append(str(error))
    if upgrade and facts.toolkit_held:
        problems.append(
            f"nvidia-container-toolkit is held at {facts.toolkit}, and {_needed(wanted)} is needed: apt-mark unhold "
            f"{' '.join(TOOLKIT)}"
        )
    if upgrade and facts.toolkit and not facts.toolkit_packaged:
        problems.append(
            f"nvidia-container-toolkit {facts.toolkit} did not come as a package, and {_needed(wanted)} is needed: "
            "replace it, or remove it to have the package installed"
        )
    if packages or upgrade:
        needed = {"a Docker engine": packages, f"nvidia-container-toolkit {_needed(wanted)}": upgrade}
        missing = " and ".join(name for name, due in needed.items() if due)
        if system is None:
            name = facts.os_release.get("PRETTY_NAME") or "an unknown system"
            problems.append(f"{missing} can't be installed on {name}: supported are {SUPPORTED}")
        elif facts.machine not in MACHINES and (upgrade or not system.own):
            problems.append(f"{missing} is not there for {facts.machine}, only for {' and '.join(MACHINES)}")
    due = packages or upgrade or not facts.docker or (facts.has_gpu() and not _knows_runtime(facts))
    if due and not facts.root:
        problems.append("a container engine that hands out GPUs is set up by root: set ansible_become: true")
    return problems


def _engine_packages(facts: HostFacts, wanted: Wanted, system: System | None) -> list[str]:
    """The packages of the engine that are missing; the engine's name where no package is known."""
    if not facts.dockerd:
        return list(wanted.packages or (system.engine if system else ("docker",)))
    if not facts.client:
        return [system.client if system else "docker"]
    return []


def _toolkit_due(facts: HostFacts, wanted: Wanted) -> bool:
    """True where the toolkit is to be installed or replaced."""
    if not facts.has_gpu():
        return False
    if not facts.toolkit:
        return True
    if wanted.toolkit_version:
        other: bool = version_key(facts.toolkit) != version_key(wanted.toolkit_version)
        return other
    return _older(facts.toolkit, TOOLKIT_MINIMUM)


def _needed(wanted: Wanted) -> str:
    return wanted.toolkit_version or f"{TOOLKIT_MINIMUM} or newer"


def _knows_runtime(facts: HostFacts) -> bool:
    """True where the engine knows the runtime, by its file or a flag; one that does not run, by its file."""
    if facts.docker:
        return RUNTIME in facts.runtimes
    return RUNTIME in configuration(facts.configuration, facts.configuration_path).get("runtimes", {})


def _add_repository(plan: Plan, facts: HostFacts, repository: Repository) -> None:
    """Plan to add a repository, unless somebody did: a second entry with another key file is an error for apt."""
    theirs = any(
        mark in line
        for path, text in facts.repositories.items() if repository.files.get(path) != text
        for line in text.splitlines() if not line.lstrip().startswith("#")
        for mark in repository.marks
    )  # fmt: skip
    for path, text in repository.files.items():
        if not theirs or path.startswith("/etc/apt/preferences.d/"):
            plan.files.append({"path": path, "content": text})
    if not theirs:
        plan.keys.append(repository.key)
        plan.steps.append(f"add the repository {repository.url}")


def _specified(package: str, version: str, manager: str) -> str:
    """A package as the package manager is told which version it must have."""
    if manager == "dnf":
        return f"{package}-{version}" if version else f"{package} >= {TOOLKIT_MINIMUM}"
    return f"{package}={version}-*" if version else f"{package}>={TOOLKIT_MINIMUM}"


def _older(version: str, minimum: str) -> bool:
    older: bool = version_key(version) < version_key(minimum)
    return older


# --- the check -----------------------------------------------------------------------------------------------------

# What the engine and the toolkit say, and what it means; the first that fits.
CAUSES = (
    (r"(unknown or invalid runtime name|Unknown runtime specified):? ?nvidia",
     "docker does not know the runtime nvidia: its daemon.json was changed, run the role again"),
    (r"nvidia-container-runtime\W+(executable file not found|no such file)",
     "docker can't find nvidia-container-runtime: reinstall nvidia-container-toolkit-base"),
    (r"version mismatch",
     "the loaded kernel module and the driver's libraries have different versions: reboot the host"),
    (r"driver not loaded|ERROR_DRIVER_NOT_LOADED|couldn't communicate with the NVIDIA driver",
     "the driver's kernel module is not loaded: run role nvidia_driver"),
    (r"ERROR_LIBRARY_NOT_FOUND|libnvidia-ml\.so\S* ?(:|not found|library)|load library failed",
     "the driver's libraries are not where the toolkit looks: reinstall the driver's packages, then run ldconfig"),
    (r"unresolvable CDI devices|unknown device|no such device",
     "the toolkit knows of no such GPU: a CDI specification in /etc/cdi or /var/run/cdi may be of an older driver"),
    (r"bpf_prog_query|BPF_CGROUP_DEVICE|failed to get device cgroup",
     "this host may not give devices to containers, as in a container of its own: set no-cgroups = true in "
     "/etc/nvidia-container-runtime/config.toml"),
    (r"nvidia-smi\W+executable file not found",
     "the runtime nvidia ran and added nothing: look at /etc/nvidia-container-runtime/config.toml "
     "(accept-nvidia-visible-devices-envvar-when-unprivileged, mode)"),
    (r"Failed to initialize NVML: Unknown Error|Operation not permitted|Insufficient Permissions",
     "the container may not open the GPU's device nodes: look at no-cgroups in "
     "/etc/nvidia-container-runtime/config.toml"),
)  # fmt: skip


def cause(output: str) -> str:
    """The likely cause of a container that was given no GPU, from what was said; with the words that tell."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for pattern, meaning in CAUSES:
        for line in lines:
            if re.search(pattern, line, re.IGNORECASE):
                return f"{meaning} ({_short(line)})"
    return _short(lines[0]) if lines else "nothing was said"


def _short(line: str, length: int = 300) -> str:
    """The end of a long line, where the cause stands: engines put their own words before it."""
    return line if len(line) <= length else f"…{line[-length:]}"


def devices(listed: str) -> list[str]:
    """The UUIDs of what a container can be given, in what ``nvidia-smi -L`` prints: GPUs, or the parts of one (MIG)."""
    uuids: list[str] = []
    for kind, uuid in re.findall(r"^ *(GPU|MIG) .*\(UUID: ([^)]+)\)", listed, re.MULTILINE):
        if kind == "MIG" and uuids and not uuids[-1].startswith("MIG-"):
            uuids.pop()  # a GPU that is divided can't be given as a whole
        uuids.append(uuid)
    return uuids
