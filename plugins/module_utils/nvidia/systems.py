"""Operating systems that NVIDIA's software is installed on, and which drivers each can have.

Python 3.9's standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from .chips import FLAVOURS, OPEN, PROPRIETARY
from .errors import NvidiaError


class Offer(NamedTuple):
    """A driver that a system can have: from ``ubuntu`` or ``debian`` (its own archive) or ``nvidia``."""

    branch: str
    flavours: tuple[str, ...]
    source: str


class Key(NamedTuple):
    """The key of a repository: the file beside it, and its whole fingerprint, empty where only its end is known."""

    file: str
    fingerprint: str


class System(NamedTuple):
    """An operating system that drivers and toolkits are installed on."""

    name: str
    ids: tuple[str, ...]  # ID of /etc/os-release
    version: str  # VERSION_ID; for RHEL and its family what is before the dot
    manager: str  # apt or dnf
    folder: str  # in NVIDIA's repository
    key: Key
    first_toolkit: str  # the oldest that the folder has
    offers: Mapping[str, tuple[Offer, ...]]  # by machine, the best first


RHEL_FAMILY = ("rhel", "rocky", "almalinux", "centos", "ol")
KEY = Key("3bf863cc.pub", "EB693B3035CD5710E231E123A4B469963BF863CC")

_ubuntu = (Offer("580", FLAVOURS, "ubuntu"), Offer("570", FLAVOURS, "ubuntu"))
# NVIDIA's folders for Debian 13, and for Debian 12 on aarch64, begin after 580; Debian's own driver serves what needs
# an older one.
_debian_13 = (Offer("595", (OPEN,), "nvidia"), Offer("550", (PROPRIETARY,), "debian"))
_rhel = (Offer("580", FLAVOURS, "nvidia"),)

SYSTEMS = (
    System("Ubuntu 22.04", ("ubuntu",), "22.04", "apt", "ubuntu2204", KEY, "11.7",
           {"x86_64": _ubuntu, "aarch64": _ubuntu}),
    System("Ubuntu 24.04", ("ubuntu",), "24.04", "apt", "ubuntu2404", KEY, "12.5",
           {"x86_64": _ubuntu, "aarch64": _ubuntu}),
    System("Debian 12", ("debian",), "12", "apt", "debian12", KEY, "12.3",
           {"x86_64": (Offer("580", FLAVOURS, "nvidia"), Offer("595", (OPEN,), "nvidia")),
            "aarch64": (Offer("595", (OPEN,), "nvidia"), Offer("535", (PROPRIETARY,), "debian"))}),
    System("Debian 13", ("debian",), "13", "apt", "debian13",
           Key("8793F200.pub", "02182E60104FCDC26EAE1B8597A5D4CB8793F200"), "13.1",
           {"x86_64": _debian_13, "aarch64": _debian_13}),
    System("RHEL 9 and its family", RHEL_FAMILY, "9", "dnf", "rhel9",
           Key("D42D0685.pub", "610C7B14E068A878070DA4E99CD0A493D42D0685"), "11.7",
           {"x86_64": _rhel, "aarch64": _rhel}),
    System("RHEL 10 and its family", RHEL_FAMILY, "10", "dnf", "rhel10", Key("CDF6BA43.pub", ""), "13.0",
           {"x86_64": _rhel, "aarch64": _rhel}),
)  # fmt: skip
SUPPORTED = (
    "Ubuntu 22.04 and 24.04, Debian 12 and 13, and RHEL, Rocky Linux, AlmaLinux, CentOS Stream and Oracle Linux "
    "9 and 10"
)

ARCHITECTURES = {"x86_64": ("x86_64", "amd64"), "aarch64": ("sbsa", "arm64")}  # NVIDIA's name, Debian's name


def system_of(os_release: Mapping[str, str]) -> System:
    """The system that /etc/os-release describes; NvidiaError for one that is not supported."""
    name, number = os_release.get("ID", "linux"), os_release.get("VERSION_ID", "")
    for system in SYSTEMS:
        asked = number.partition(".")[0] if system.manager == "dnf" else number
        if name in system.ids and asked == system.version:
            return system
    raise NvidiaError(
        f"{os_release.get('PRETTY_NAME') or f'{name} {number}'.strip()} is none of the systems that NVIDIA's software "
        f"is installed on here: {SUPPORTED} are; what is installed there by hand and works is used as it is"
    )
