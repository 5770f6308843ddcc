"""Packages and repositories for role nvidia_driver: apt and dnf behind the same few functions.

Python 3.9's standard library only. What is installed is decided in ``drivers.py`` and ``toolkits.py``; here it is done.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from http.client import HTTPException
from typing import NamedTuple, Union

from ..hostlib import locks, programs
from ..hostlib.files import read_text, write_file
from ..hostlib.http_client import basic_authorization, open_address, without_user
from ..openpgp import MAX_BYTES, OpenPgpError, OtherKey, binary, require_key
from .drivers import Driver
from .epel import release_package
from .errors import DriverError
from .repositories import preferences, signer
from .systems import System
from .versions import branch_of
from .versions import version as version_key

Say = Callable[[str], None]

# What belongs to a driver, beside what its name says.
DRIVER_NAMES = (
    "*nvidia*",
    "libcuda1",
    "libcudadebugger1",
    "libnv*",
    "libxnvctrl*",
    "cuda-drivers*",
    "xserver-xorg-video-nv*",
)


def run(argv: Sequence[str], say: Say | None = None, ok: Sequence[int] = (0,), **environment: str) -> str:
    """Run a program and return what it prints; DriverError with its last words when it fails.

    Args:
        say: gets each line as it comes.
    """
    lines: list[str] = []

    def take(raw: bytes) -> None:
        line = raw.decode(errors="replace").rstrip()
        lines.append(line)
        if say and line:
            say(line)

    calm = {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive", **environment}
    try:
        status = programs.stream(argv, take, env=programs.with_environment(**calm))
    except programs.NotStarted as error:
        raise DriverError(str(error)) from error
    if status not in ok:
        error_lines = [line for line in lines if line.startswith(("E:", "Error", "dpkg: error", "No match"))] or [
            ln for ln in lines if ln
        ]
        raise DriverError(f"{' '.join(argv)} failed: {' '.join(error_lines[-3:]) or f'exit status {status}'}")
    return "\n".join(lines)


def fetch_key(address: str, system: System, setting: str) -> bytes:
    """The key that a repository is signed with, once it is the one of ``signer()``."""
    wanted, url = signer(address, system, setting), f"{address}/{system.key.file}"
    try:
        with open_address(without_user(url), authorization=basic_authorization(url)) as answer:
            data: bytes = answer.read(MAX_BYTES)
        require_key(data, wanted)
    except OtherKey as error:
        raise DriverError(
            f"{url} holds {error}: whoever answers there is not NVIDIA; check nvidia_driver_repository_url, and "
            "nvidia_driver_repository_fingerprint where a mirror signs by itself"
        ) from error
    except OpenPgpError as error:
        raise DriverError(f"{url} is no OpenPGP key: {error}") from error
    except (OSError, ValueError, HTTPException) as error:
        raise DriverError(
            f"{url} can't be fetched: {error}; let the host reach it, or set nvidia_driver_repository_url to a mirror"
        ) from error
    return data


class Apt:
    """Debian and Ubuntu."""

    KEY = "/usr/share/keyrings/llama-nexus-nvidia.gpg"
    SOURCES = "/etc/apt/sources.list.d/llama-nexus-nvidia.sources"
    PREFERENCES = "/etc/apt/preferences.d/llama-nexus-nvidia"
    LOCK = "/var/lib/dpkg/lock-frontend"
    # Another apt may be at work, as just after a machine has booted.
    GET = ("apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=600", "-o", "Dpkg::Options::=--force-confold")
    INSTALL = (
        *GET, "install", "--no-install-recommends", "--allow-change-held-packages", "--allow-downgrades",
    )  # fmt: skip

    def __init__(self, system: System, codename: str) -> None:
        self.system = system
        self.codename = codename

    def repository_due(self, address: str, *, driver: bool) -> bool:
        """True where NVIDIA's repository has to be added, or what may be taken from it changed."""
        if self._has_foreign(address):
            return False
        return (
            read_text(self.SOURCES) != self._sources(address)
            or not os.path.exists(self.KEY)
            or read_text(self.PREFERENCES) != preferences(driver=self._for_driver(driver))
        )

    def add_repository(self, address: str, fingerprint: str, *, driver: bool) -> None:
        """Add it; what may be taken from it is decided before anything can be."""
        key, for_driver = fetch_key(address, self.system, fingerprint), self._for_driver(driver)
        write_file(self.PREFERENCES, preferences(driver=for_driver), parents=True)
        write_file(self.KEY, binary(key), parents=True)
        write_file(self.SOURCES, self._sources(address), parents=True)

    def _for_driver(self, driver: bool) -> bool:
        """A toolkit that is added later must not shut the repository for the driver that came from there."""
        return driver or read_text(self.PREFERENCES) == preferences(driver=True)

    def _has_foreign(self, address: str) -> bool:
        """True where somebody else has added it; a second entry with another key would stop apt altogether."""
        others = [path for path in _source_files() if path != self.SOURCES]
        return any(
            address in [uri.rstrip("/") for uri in source.uris]
            for path in others
            for source in entries(read_text(path) or "")
        )

    def _sources(self, address: str) -> str:
        return f"Types: deb\nURIs: {address}/\nSuites: /\nSigned-By: {self.KEY}\n"

    def components_due(self, components: Sequence[str]) -> list[str]:
        """Those of the distribution's components that are not enabled."""
        known = [
            source
            for path in _source_files()
            for source in entries(read_text(path) or "")
            if self.codename in source.suites
        ]
        return [name for name in components if not any(name in source.components for source in known)]

    def add_components(self, components: Sequence[str]) -> None:
        """Enable them wherever main is."""
        edited = False
        for path in _source_files():
            text = read_text(path) or ""
            new = with_components(text, self.codename, components)
            if new != text:
                write_file(path, new)
                edited = True
        if not edited:
            raise DriverError(
                f"no file of /etc/apt names the component main of {self.codename}: enable {', '.join(components)} of "
                f"{self.system.name}'s archive"
            )

    def unfinished(self, say: Say) -> None:
        """Finish what an interrupted run left half-configured."""
        with locks.held_with_programs(self.LOCK, waiting=say):  # unlike apt-get, dpkg does not wait for another
            run(["dpkg", "--configure", "-a", "--force-confold"], DPKG_FRONTEND_LOCKED="1")

    def refresh(self, say: Say) -> str:
        """Fetch the lists of packages; what went wrong on the way, which matters where a package is then missing."""
        done = run([*self.GET, "update"], say, ok=(0, 100))
        return " ".join(line for line in done.splitlines() if line.startswith(("E:", "W:")))

    def pin(self, driver: Driver, say: Say) -> None:
        """Keep to the branch."""
        missing = [name for name in driver.pin if name not in self.installed(driver.pin)]
        if missing:
            self.install(missing, say)

    def installed(self, patterns: Iterable[str]) -> dict[str, str]:
        """The versions of installed packages by name."""
        shape = "${Package}\t${Version}\t${db:Status-Status}\n"
        output = run(["dpkg-query", "-W", "-f", shape, *patterns], ok=(0, 1))
        rows = [line.split("\t") for line in output.splitlines() if line.count("\t") == 2]
        return {name: version for name, version, state in rows if state == "installed"}

    def candidates(self, names: Sequence[str]) -> dict[str, str]:
        """The versions that would be installed, of those packages that can be."""
        versions, name = {}, ""
        for line in run(["apt-cache", "policy", *names]).splitlines():
            if line and not line.startswith(" "):
                name = line.rstrip(":").partition(":")[0]
            elif line.startswith("  Candidate: ") and "(none)" not in line:
                versions[name] = line.split()[1]
        return versions

    def newer(self, names: Sequence[str]) -> list[str]:
        """Those of the installed packages of which there is a newer version."""
        here, there = self.installed(names), self.candidates(names)
        return [
            name for name, version in here.items()
            if name in there and self._is_newer(there[name], version)
        ]  # fmt: skip

    def _is_newer(self, version: str, than: str) -> bool:
        return programs.run(["dpkg", "--compare-versions", version, "gt", than]).status == 0

    def installable(self, names: Sequence[str]) -> bool:
        """True where what these depend on can be had, too, and for all of them together."""
        try:
            run([*self.INSTALL, "--simulate", *names])
        except DriverError:
            return False
        return True

    def install(self, names: Sequence[str], say: Say) -> None:
        run([*self.INSTALL, *names], say)

    def to_hold(self, driver: Driver) -> list[str]:
        """The packages of the driver, and on Ubuntu those that would bring a kernel without modules."""
        names = {
            name for name, version in self.installed(DRIVER_NAMES).items()
            if branch_of(version.rpartition(":")[2]) == driver.branch or name in driver.follow
        }  # fmt: skip
        if driver.source == "ubuntu" and not driver.dkms:
            kernels = self.installed(["linux-image-*", "linux-headers-*", "linux-generic*", "linux-virtual*"])
            names |= {name for name in kernels if not re.search(r"\d+\.\d+\.\d+-\d+", name)}
        return sorted(names)

    def held(self) -> set[str]:
        return set(run(["apt-mark", "showhold"]).split())

    def hold(self, names: Sequence[str]) -> None:
        run(["apt-mark", "hold", *names])

    def image_for(self, follow: str) -> str:
        """The kernel that headers or modules which follow it are for."""
        return follow.replace("linux-headers-", "linux-image-")

    def remedy(self, driver: Driver, address: str) -> str:
        """The remedy for a package that is not to be had."""
        if driver.source == "ubuntu":
            return "enable the component restricted (for the fabric manager multiverse) of the archive's -updates"
        if driver.source == "debian":
            return "check that the archive's components contrib and non-free can be reached"
        return f"check that {address} can be reached and holds branch {driver.branch}"


class Dnf:
    """RHEL and its family."""

    KEY = "/etc/pki/rpm-gpg/RPM-GPG-KEY-llama-nexus-nvidia"
    REPOSITORY = "/etc/yum.repos.d/llama-nexus-nvidia.repo"
    DNF = ("dnf", "-q", "-y", "--setopt=install_weak_deps=False")

    def __init__(self, system: System, distribution: str, machine: str) -> None:
        self.system = system
        self.distribution = distribution
        self.machine = machine

    def repository_due(self, address: str, *, driver: bool) -> bool:
        return not self._has_foreign(address) and read_text(self.REPOSITORY) != self._repository(address)

    def add_repository(self, address: str, fingerprint: str, *, driver: bool) -> None:
        write_file(self.KEY, fetch_key(address, self.system, fingerprint), parents=True)
        write_file(self.REPOSITORY, self._repository(address), parents=True)

    def _has_foreign(self, address: str) -> bool:
        others = [path for path in glob.glob("/etc/yum.repos.d/*.repo") if path != self.REPOSITORY]
        return any(
            re.search(rf"^\s*baseurl\s*=\s*{re.escape(address)}/?\s*$", read_text(path) or "", re.M) for path in others
        )

    def _repository(self, address: str) -> str:
        return (
            f"[llama-nexus-nvidia]\nname=NVIDIA CUDA\nbaseurl={address}\nenabled=1\ngpgcheck=1\n"
            f"gpgkey=file://{self.KEY}\n"
        )

    def components_due(self, components: Sequence[str]) -> list[str]:
        """EPEL has what compiles modules, and needs CodeReady Builder."""
        return [] if self.installed(["dkms"]) or self.candidates(["dkms"]) else ["EPEL", "CodeReady Builder"]

    def add_components(self, components: Sequence[str]) -> None:
        major, get = self.system.version, ["dnf", "-q", "-y"]
        builder = f"codeready-builder-for-rhel-{major}-{self.machine}-rpms"
        steps = {
            "rhel": [["subscription-manager", "repos", "--enable", builder]],
            "ol": [[*get, "install", "dnf-plugins-core", f"oracle-epel-release-el{major}"],
                   ["dnf", "config-manager", "--set-enabled", f"ol{major}_codeready_builder"]],
        }.get(self.distribution, [[*get, "install", "dnf-plugins-core", "epel-release"],
                                  ["dnf", "config-manager", "--set-enabled", "crb"]])  # fmt: skip
        for step in steps:
            run(step)
        if self.distribution == "rhel":  # the others' own repositories have it
            with release_package(major) as package:
                run([*get, "install", package])

    def unfinished(self, say: Say) -> None:
        pass  # rpm finishes or undoes what it began

    def refresh(self, say: Say) -> str:
        try:
            run(["dnf", "-q", "makecache"], say)
        except DriverError as error:
            return str(error)
        return ""

    def pin(self, driver: Driver, say: Say) -> None:
        if not self.installed(["python3-dnf-plugin-versionlock"]):
            self.install(["python3-dnf-plugin-versionlock"], say)
        run(["dnf", "-q", "versionlock", "delete", "*nvidia*"], say, ok=(0, 1))
        if driver.pin:
            run(["dnf", "-q", "-y", "module", "reset", "nvidia-driver"], say)
            run(["dnf", "-q", "-y", "module", "enable", *driver.pin], say)
        else:
            # By pattern, dnf would take the versions that are installed and no others.
            shape = "%{name}-%{epoch}:%{version}-%{release}.*\n"
            output = run(["dnf", "-q", "repoquery", "--available", "--qf", shape, "*nvidia*"], ok=(0, 1))
            locks = [line for line in output.splitlines() if f":{driver.branch}." in line]
            if locks:  # a repository without the branch is told of by what it lacks
                run(["dnf", "-q", "versionlock", "add", "--raw", *locks], say)

    @staticmethod
    def _locks() -> list[tuple[str, str]]:
        """Names and versions that dnf keeps to: of nvidia-driver-cuda-3:580.95.05-1.el9.* both."""
        output = run(["dnf", "-q", "versionlock", "list"], ok=(0, 1))
        return re.findall(r"^(\S+)-(?:\d+:)?([^-\s]+-[^-\s]+)\.\*$", output, re.M)

    def installed(self, patterns: Iterable[str]) -> dict[str, str]:
        patterns = list(patterns)
        output = run(["rpm", "-qa", "--qf", "%{NAME}\t%{VERSION}-%{RELEASE}\t%{ARCH}\n", *patterns])
        return self._by_name([line.split("\t") for line in output.splitlines() if line.count("\t") == 2], patterns)

    def candidates(self, names: Sequence[str]) -> dict[str, str]:
        locks: dict[str, set[str]] = {}
        for name, version in self._locks():
            locks.setdefault(name, set()).add(version)
        available = self._available(names)
        # A query sees what is locked out as well; what is not of an enabled stream it does not see.
        rows = [row for row in available if row[0] not in locks or row[1] in locks[row[0]]]
        return self._by_name(sorted(rows, key=lambda row: version_key(row[1])), names)

    def newer(self, names: Sequence[str]) -> list[str]:
        here = self.installed(names)
        return sorted({
            name for name, version, _ in self._available(names, "--cacheonly")
            if name in here and branch_of(version) == branch_of(here[name])
            and version_key(version) > version_key(here[name])
        })  # fmt: skip

    @staticmethod
    def _available(names: Sequence[str], *options: str) -> list[list[str]]:
        """Name, version and architecture of all versions in the repositories."""
        shape = "%{name}\t%{version}-%{release}\t%{arch}\n"
        output = run(["dnf", "-q", *options, "repoquery", "--available", "--qf", shape, *names], ok=(0, 1))
        return [line.split("\t") for line in output.splitlines() if line.count("\t") == 2]

    @staticmethod
    def _by_name(rows: Iterable[Sequence[str]], asked: Sequence[str]) -> dict[str, str]:
        """Versions by name, and by what was asked for: kernel-devel-5.14.0-600.el9.x86_64 holds name and version."""
        versions = {}
        for name, version, arch in rows:
            versions[name] = version
            versions.update(
                {spec: version for spec in asked if spec in (f"{name}-{version}", f"{name}-{version}.{arch}")}
            )
        return versions

    def install(self, names: Sequence[str], say: Say) -> None:
        run([*self.DNF, "install", "--allowerasing", *names], say)
        # What was there before goes to the version that is wanted, up or down.
        run([*self.DNF, "distro-sync", "--allowerasing", *(name for name in names if "nvidia" in name)], say)

    def to_hold(self, driver: Driver) -> list[str]:
        return sorted(
            name for name, version in self.installed(["*nvidia*"]).items() if branch_of(version) == driver.branch
        )

    def held(self) -> set[str]:
        here, locks = self.installed(["*nvidia*"]), self._locks()
        # Held is what one lock names: those on a branch name each of its versions.
        return {name for name in here if [lock[1] for lock in locks if lock[0] == name] == [here[name]]}

    def hold(self, names: Sequence[str]) -> None:
        # What keeps to the branch lets updates through.
        run(["dnf", "-q", "versionlock", "delete", "*nvidia*"], ok=(0, 1))
        run(["dnf", "-q", "versionlock", "add", *names])

    def image_for(self, follow: str) -> str:
        return "kernel"

    def remedy(self, driver: Driver, address: str) -> str:
        return f"check that {address} can be reached and holds branch {driver.branch}"


Manager = Union[Apt, Dnf]


class Source(NamedTuple):
    """One entry of apt's sources."""

    uris: list[str]
    suites: list[str]
    components: list[str]


def _source_files() -> list[str]:
    return ["/etc/apt/sources.list", *sorted(glob.glob("/etc/apt/sources.list.d/*"))]


def entries(text: str) -> list[Source]:
    """The sources in a file of apt's, in either of its two formats. apt itself names only those that it fetched."""
    lines = re.findall(r"^deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+(\S+)[ \t]*([^#\n]*)", text, re.M)
    sources = [Source([uri], [suite], components.split()) for uri, suite, components in lines]
    for stanza in re.split(r"\n[ \t]*\n", text):
        fields = dict(re.findall(r"^(URIs|Suites|Components):[ \t]*(.*)$", stanza, re.M | re.I))
        values = {name.lower(): value.split() for name, value in fields.items()}
        if "uris" in values:
            sources.append(Source(values["uris"], values.get("suites", []), values.get("components", [])))
    return sources


def with_components(text: str, codename: str, components: Sequence[str]) -> str:
    """A file of apt's sources, in either of its two formats, with more components wherever it has main."""

    def add(match: re.Match[str]) -> str:
        here = match.group("components").split()
        if "main" not in here:
            return match.group()
        return match.group("before") + " ".join([*here, *(name for name in components if name not in here)])

    suite = rf"{re.escape(codename)}(?:-updates|-security|/updates)?"
    text = re.sub(
        rf"^(?P<before>deb\s+(?:\[[^]]*\]\s+)?\S+\s+{suite}\s+)(?P<components>[^#\n]*\S)", add, text, flags=re.M
    )
    stanzas = re.split(r"(\n[ \t]*\n)", text)
    for index, stanza in enumerate(stanzas):
        if re.search(rf"^Suites:.*\b{suite}\b", stanza, re.M | re.I):
            stanzas[index] = re.sub(
                r"^(?P<before>Components:[ \t]*)(?P<components>.*\S)", add, stanza, flags=re.M | re.I
            )
    return "".join(stanzas)


def manager_of(system: System, os_release: Mapping[str, str], machine: str) -> Manager:
    """The package manager of a system; DriverError where it is missing."""
    program = {"apt": "apt-get", "dnf": "dnf"}[system.manager]
    if not shutil.which(program):
        raise DriverError(f"this is {system.name}, but {program} is not there")
    if system.manager == "apt":
        return Apt(system, os_release.get("VERSION_CODENAME", ""))
    return Dnf(system, os_release["ID"], machine)
