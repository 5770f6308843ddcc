"""Drivers: which one serves the GPUs of a host on its system, under which names of packages.

Pure functions over tables; what is on a host is found out by ``host.py``. Python 3.9's standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .chips import FLAVOURS, OPEN, chip_of, why_not
from .errors import NvidiaError
from .systems import ARCHITECTURES, Offer, System

# Kernels for which Ubuntu's archive has signed modules of the server branches: what `uname -r` ends with.
UBUNTU_SIGNED = frozenset(
    [
        "generic",
        "lowlatency",
        "aws",
        "azure",
        "azure-fde",
        "gcp",
        "gke",
        "ibm",
        "intel-iotg",
        "nvidia",
        "nvidia-lowlatency",
        "oracle",
        "vmware",
        *(f"{name}-64k" for name in ("generic", "lowlatency", "aws", "azure", "gcp", "nvidia", "oracle")),
    ]
)


class Driver(NamedTuple):
    """A driver to install: names of packages, in the order of their installation."""

    branch: str
    flavour: str
    source: str
    dkms: bool
    """True where the modules are compiled on the host, so that Secure Boot asks for a key of the host's own."""
    pin: tuple[str, ...]
    """The pin of the package manager to the branch, before anything else: packages, or on RHEL 9 a module stream."""
    packages: tuple[str, ...]
    kernel: tuple[str, ...]
    """Modules or headers for the running kernel."""
    follow: tuple[str, ...]
    """Those for the kernels to come; with signed modules also these kernels, or only a part of each would come."""
    extras: tuple[str, ...]
    """Installed where the repository has them for the branch."""
    components: tuple[str, ...]
    """Of Debian's archive, beside main."""

    def __str__(self) -> str:
        origin = {"ubuntu": "Ubuntu's archive", "debian": "Debian's archive", "nvidia": "NVIDIA's repository"}
        return f"driver {self.branch} with {self.flavour} kernel modules from {origin[self.source]}"


def driver_for(
    system: System,
    machine: str,
    gpus: Sequence[Mapping[str, Any]],
    *,
    kernel: str,
    kernel_metas: Sequence[str] = (),
    branch: str = "",
    flavour: str = "",
    nvswitch: bool = False,
) -> Driver:
    """The driver for the GPUs of a host; NvidiaError where there is none, or not the one that is asked for.

    Args:
        machine: as in ``uname -m``.
        gpus: those of the bus: ``device`` (four hexadecimal digits), ``name``.
        kernel: as in ``uname -r``.
        kernel_metas: on Ubuntu, the packages that keep the kernel up to date, as in ``generic-hwe-24.04``.
        branch: the one that the user wants, if any; ``flavour`` as well.
        nvswitch: whether the GPUs are connected by switches, which takes a service more.
    """
    if machine not in ARCHITECTURES:
        raise NvidiaError(f"NVIDIA has no driver for {machine}: {' and '.join(ARCHITECTURES)} have one")
    unknown = sorted({gpu["device"] for gpu in gpus if chip_of(int(gpu["device"], 16)) is None})
    if unknown and not (branch and flavour):
        raise NvidiaError(
            f"the PCI device {' and '.join('10de:' + device for device in unknown)} is no GPU that is known here: set "
            "nvidia_driver_branch and nvidia_driver_flavour to those of a driver that its maker names"
        )
    reasons: list[str] = []
    for offer in system.offers[machine]:
        for kind in FLAVOURS:
            if kind not in offer.flavours or branch not in ("", offer.branch) or flavour not in ("", kind):
                continue
            against = sorted({reason for reason in (why_not(offer.branch, kind, gpu) for gpu in gpus) if reason})
            if not against:
                return _driver(system, machine, offer, kind, kernel, kernel_metas, nvswitch)
            reasons += [reason for reason in against if reason not in reasons]
    has = ", ".join(f"{offer.branch} ({' and '.join(offer.flavours)})" for offer in system.offers[machine])
    if not reasons:
        raise NvidiaError(
            f"{system.name} on {machine} has the drivers {has}, not {' '.join(filter(None, [branch, flavour]))}: "
            "change nvidia_driver_branch and nvidia_driver_flavour, or leave them out"
        )
    wanted = " that nvidia_driver_branch and nvidia_driver_flavour allow" if branch or flavour else ""
    raise NvidiaError(
        f"no driver for {system.name}{wanted} serves all GPUs of this host: {'; '.join(reasons)}; the drivers are "
        f"{has}. Take out the GPUs of one kind, or choose a system that has a driver for them"
    )


def _driver(
    system: System, machine: str, offer: Offer, flavour: str, kernel: str, kernel_metas: Sequence[str], nvswitch: bool
) -> Driver:
    branch, is_open = offer.branch, flavour == OPEN
    switch = (f"nvidia-fabricmanager-{branch}", "nvidia-fabricmanager", "nvidia-fabric-manager") if nvswitch else ()
    if offer.source == "ubuntu":
        # The server branches: those for which there is a fabric manager. Their libraries are the same.
        tree = f"{branch}-server"
        modules = tree + ("-open" if is_open else "")
        signed = re.sub(r"^[\d.]+-\d+-", "", kernel) in UBUNTU_SIGNED
        stem = f"linux-modules-nvidia-{modules}-" if signed else "linux-headers-"
        # A virtual machine's package brings the same kernel without some of its modules.
        metas = [re.sub(r"^virtual(?=$|-)", "generic", meta) if signed else meta for meta in kernel_metas]
        return Driver(
            branch, flavour, offer.source, dkms=not signed, pin=(),
            packages=(f"nvidia-headless-no-dkms-{modules}" if signed else f"nvidia-headless-{modules}",
                      f"nvidia-utils-{tree}", *switch[:1]),
            kernel=(stem + kernel,),
            follow=tuple(dict.fromkeys(
                [*(stem + meta for meta in metas), *(f"linux-image-{meta}" for meta in kernel_metas if signed)]
            )),
            extras=(), components=(),
        )  # fmt: skip
    if system.manager == "dnf":
        large_pages = kernel.endswith("+64k")
        headers = f"kernel-64k-devel-{kernel[:-4]}" if large_pages else f"kernel-devel-{kernel}"
        stream = f"nvidia-driver:{branch}-{'open' if is_open else 'dkms'}"
        return Driver(
            branch, flavour, offer.source, dkms=True, pin=(stream,) if system.version == "9" else (),
            packages=("nvidia-driver-cuda", "kmod-nvidia-open-dkms" if is_open else "kmod-nvidia-latest-dkms"),
            kernel=(headers,), follow=(), extras=("nvidia-persistenced", "nvidia-modprobe", *switch), components=(),
        )  # fmt: skip
    suffix = re.search(r"(?:(?:cloud|rt)-)?(?:amd64|arm64)(?:-16k)?$", kernel)
    follow = (f"linux-headers-{suffix.group() if suffix else ARCHITECTURES[machine][1]}",)
    if offer.source == "debian":
        return Driver(
            branch, flavour, offer.source, dkms=True, pin=(),
            packages=("nvidia-open-kernel-dkms" if is_open else "nvidia-kernel-dkms", "libcuda1", "nvidia-smi",
                      "libnvidia-cfg1", "nvidia-persistenced", "nvidia-modprobe"),
            kernel=(f"linux-headers-{kernel}",), follow=follow, extras=(),
            components=("contrib", "non-free", "non-free-firmware"),
        )  # fmt: skip
    return Driver(
        branch, flavour, offer.source, dkms=True, pin=(f"nvidia-driver-pinning-{branch}",),
        packages=("nvidia-driver-cuda", "nvidia-kernel-open-dkms" if is_open else "nvidia-kernel-dkms"),
        kernel=(f"linux-headers-{kernel}",), follow=follow,
        extras=("nvidia-persistenced", "nvidia-modprobe", "firmware-nvidia-gsp", *switch), components=("contrib",),
    )  # fmt: skip


def check_secure_boot(driver: Driver, system: System, state: str) -> None:
    """NvidiaError where Secure Boot would refuse the modules of a driver that is yet to be installed.

    Args:
        state: ``off``; or it is on, and the key that signs what the host compiles is ``enrolled``, ``requested`` or
            ``missing``.
    """
    if not driver.dkms or state in ("off", "enrolled"):
        return
    if state == "requested":
        raise NvidiaError(
            "Secure Boot is on, and the host's key waits to be enrolled: reboot, confirm it at the machine's console "
            "(Enroll MOK, Continue, the password), and run this again"
        )
    install = "apt-get install dkms mokutil" if system.manager == "apt" else "dnf install dkms mokutil openssl"
    make = {
        "ubuntu": "update-secureboot-policy --new-key",
        "debian": "dkms generate_mok" if system.version != "12" else
                  "openssl req -new -x509 -newkey rsa:2048 -nodes -days 36500 -subj /CN=DKMS/ -outform DER "
                  "-keyout /var/lib/dkms/mok.key -out /var/lib/dkms/mok.pub",
    }.get(system.ids[0], "dkms generate_mok")  # fmt: skip
    raise NvidiaError(
        f"Secure Boot is on and refuses kernel modules that are compiled here, as those of {driver} are. As root: "
        f"{install}; {make}; mokutil --import {mok(system)} (it asks for a password of your choice); reboot; at the "
        "machine's console choose Enroll MOK and give that password; run this again. Or switch Secure Boot off in the "
        "firmware"
    )


def mok(system: System) -> str:
    """The certificate of the key that signs modules compiled on a host."""
    return "/var/lib/shim-signed/mok/MOK.der" if system.ids == ("ubuntu",) else "/var/lib/dkms/mok.pub"
