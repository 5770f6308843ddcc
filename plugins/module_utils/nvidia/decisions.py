"""Every decision about NVIDIA's software, in one place: which GPU this is, which driver serves it on which system, from
where and under which names, and which toolkit compiles for it.

Pure functions over tables; what is on a host is found out by ``nvidia_host.py``. Python 3.9's standard library only.
Compute capabilities are written as the driver does, ``8.9``, where they name a GPU, and as CMake does, ``89``, where
they name what to compile for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit


class NvidiaError(Exception):
    """One line that says what does not go together, and what to do."""


def version(text: str) -> tuple[int, ...]:
    """A version as something to compare, as in ``(580, 95, 5)``."""
    return tuple(int(part) for part in re.findall(r"\d+", text))


# --- GPUs ----------------------------------------------------------------------------------------------------------


class Chip(NamedTuple):
    """A GPU as its PCI device id tells it, before any driver does."""

    first: int
    last: int
    name: str
    generation: str
    compute_cap: str


# Blocks of PCI device ids, from the pci.ids database and the list of the open kernel modules; a test holds them
# against the former.
CHIPS = tuple(
    Chip(int(first, 16), int(last, 16), name, generation, compute_cap)
    for first, last, name, generation, compute_cap in (
        ("0fc0", "0fff", "GK107", "Kepler", "3.0"),
        ("1000", "103f", "GK110", "Kepler", "3.5"),
        ("1180", "11bf", "GK104", "Kepler", "3.0"),
        ("11c0", "11ff", "GK106", "Kepler", "3.0"),
        ("1280", "12bf", "GK208", "Kepler", "3.5"),
        ("1340", "137f", "GM108", "Maxwell", "5.0"),
        ("1380", "13bf", "GM107", "Maxwell", "5.0"),
        ("13c0", "13ff", "GM204", "Maxwell", "5.2"),
        ("1400", "143f", "GM206", "Maxwell", "5.2"),
        ("1580", "15ff", "GP100", "Pascal", "6.0"),
        ("1600", "167f", "GM204", "Maxwell", "5.2"),
        ("1720", "173f", "GP100", "Pascal", "6.0"),
        ("1740", "177f", "GM108", "Maxwell", "5.0"),
        ("1780", "17bf", "GM107", "Maxwell", "5.0"),
        ("17c0", "17ff", "GM200", "Maxwell", "5.2"),
        ("1b00", "1b7f", "GP102", "Pascal", "6.1"),
        ("1b80", "1bff", "GP104", "Pascal", "6.1"),
        ("1c00", "1c7f", "GP106", "Pascal", "6.1"),
        ("1c80", "1cff", "GP107", "Pascal", "6.1"),
        ("1d00", "1d7f", "GP108", "Pascal", "6.1"),
        ("1d80", "1dff", "GV100", "Volta", "7.0"),
        ("1e00", "1e7f", "TU102", "Turing", "7.5"),
        ("1e80", "1eff", "TU104", "Turing", "7.5"),
        ("1f00", "1f7f", "TU106", "Turing", "7.5"),
        ("1f80", "1fff", "TU117", "Turing", "7.5"),
        ("2080", "20ff", "GA100", "Ampere", "8.0"),
        ("2180", "21ff", "TU116", "Turing", "7.5"),
        ("2200", "227f", "GA102", "Ampere", "8.6"),
        ("2300", "23ff", "GH100", "Hopper", "9.0"),
        ("2400", "247f", "GA103", "Ampere", "8.6"),
        ("2480", "24ff", "GA104", "Ampere", "8.6"),
        ("2500", "257f", "GA106", "Ampere", "8.6"),
        ("2580", "25ff", "GA107", "Ampere", "8.6"),
        ("2680", "26ff", "AD102", "Ada", "8.9"),
        ("2700", "277f", "AD103", "Ada", "8.9"),
        ("2780", "27ff", "AD104", "Ada", "8.9"),
        ("2800", "287f", "AD106", "Ada", "8.9"),
        ("2880", "28ff", "AD107", "Ada", "8.9"),
        ("2900", "297f", "GB100", "Blackwell", "10.0"),
        ("2980", "29ff", "GB102", "Blackwell", "10.0"),
        ("2b80", "2bff", "GB202", "Blackwell", "12.0"),
        ("2c00", "2c7f", "GB203", "Blackwell", "12.0"),
        ("2d00", "2d7f", "GB206", "Blackwell", "12.0"),
        ("2d80", "2dff", "GB207", "Blackwell", "12.0"),
        ("2e00", "2e7f", "GB10", "Blackwell", "12.1"),
        ("2f00", "2f7f", "GB205", "Blackwell", "12.0"),
        ("3180", "31ff", "GB110", "Blackwell", "10.3"),
    )
)


def chip_of(device: int) -> Chip | None:
    """The chip with a PCI device id; None for one that is not known here."""
    return next((chip for chip in CHIPS if chip.first <= device <= chip.last), None)


# --- toolkits ------------------------------------------------------------------------------------------------------

# The toolkits that are installed where none is that fits; the first that does. 12.9 is the last for Volta and older;
# from 12.8 to the first update of 13.2 the compiler may produce wrong code for nested divergence, and packages of 13.2
# are those of its second update.
TOOLKITS = ("13.2", "12.9")

# Compute capability: the first toolkit that compiles for it, and the last (None while there is none).
# From the release notes of CUDA 11.1 to 13.0.
COMPILES: dict[str, tuple[str, str | None]] = {
    "50": ("6.5", "12.9"),
    "52": ("6.5", "12.9"),
    "60": ("8.0", "12.9"),
    "61": ("8.0", "12.9"),
    "70": ("9.0", "12.9"),
    "75": ("10.0", None),
    "80": ("11.0", None),
    "86": ("11.1", None),
    "89": ("11.8", None),
    "90": ("11.8", None),
    "100": ("12.8", None),
    "103": ("12.9", None),
    "120": ("12.8", None),
    "121": ("12.9", None),
}

# Toolkit (major version): the oldest driver on which what it compiled runs, by CUDA's minor version compatibility.
NEEDS_DRIVER = {11: "450", 12: "525", 13: "580"}


def check_toolkit(toolkit: str, architectures: Iterable[str], driver: str | None) -> None:
    """NvidiaError where a toolkit can't compile for an architecture, or the driver can't run what it makes.

    Args:
        toolkit: its version, as in ``12.9``.
        architectures: as CMake writes them, with or without ``a``, ``f``, ``-real`` and ``-virtual``.
        driver: the driver's version; None where there is none yet, and then any will do.
    """
    if not re.fullmatch(r"\d+\.\d+", toolkit):
        raise NvidiaError(
            f"CUDA toolkit {toolkit}: write its version with one dot, as in 13.0 (llama_cpp_cuda_toolkit)"
        )
    for architecture in architectures:
        number = re.sub(r"[af]?(-real|-virtual)?$", "", architecture)
        if number not in COMPILES:
            raise NvidiaError(
                f"compute capability {architecture} is none that is known here ({', '.join(COMPILES)}): check "
                "llama_cpp_cuda_architectures"
            )
        first, last = COMPILES[number]
        if version(toolkit) < version(first):
            raise NvidiaError(
                f"CUDA {toolkit} can't compile for compute capability {number}, which needs {first} or newer: set "
                "llama_cpp_cuda_toolkit to such a version, or leave it out"
            )
        if last and version(toolkit) > version(last):
            raise NvidiaError(
                f"CUDA {toolkit} can't compile for compute capability {number} any more, the last that could is "
                f"{last}: set llama_cpp_cuda_toolkit: '{last}', or leave it out"
            )
    needed = NEEDS_DRIVER.get(version(toolkit)[0])
    if driver and needed and version(driver) < version(needed):
        raise NvidiaError(
            f"driver {driver} is too old for CUDA {toolkit}, which needs {needed} or newer: set nvidia_driver_upgrade: "
            "true to have the driver replaced, or llama_cpp_cuda_toolkit to an older version"
        )


def fits(toolkit: str, architectures: Iterable[str], driver: str | None) -> bool:
    """Whether a toolkit compiles for these architectures what this driver runs."""
    try:
        check_toolkit(toolkit, architectures, driver)
    except NvidiaError:
        return False
    return True


def toolkit_for(architectures: Sequence[str], driver: str | None) -> str:
    """The version of the toolkit to install for these architectures; NvidiaError where none of ours fits."""
    for toolkit in TOOLKITS:
        if fits(toolkit, architectures, driver):
            return toolkit
    for toolkit in TOOLKITS:  # the reason of the one that compiles for them
        if fits(toolkit, architectures, None):
            check_toolkit(toolkit, architectures, driver)
    check_toolkit(TOOLKITS[0], architectures, driver)
    raise NvidiaError(f"no CUDA toolkit compiles for {' and '.join(architectures)} together: build them apart")


# --- drivers -------------------------------------------------------------------------------------------------------

OPEN, PROPRIETARY = "open", "proprietary"
FLAVOURS = (OPEN, PROPRIETARY)  # the first that serves is taken


class Generation(NamedTuple):
    """Which kernel modules drive the GPUs of a generation: flavours, the first branch and the last, if there is one."""

    flavours: tuple[str, ...]
    first: str
    last: str | None


GENERATIONS = {
    "Kepler": Generation((PROPRIETARY,), "343", "470"),
    "Maxwell": Generation((PROPRIETARY,), "343", "580"),
    "Pascal": Generation((PROPRIETARY,), "367", "580"),
    "Volta": Generation((PROPRIETARY,), "384", "580"),
    "Turing": Generation(FLAVOURS, "418", None),
    "Ampere": Generation(FLAVOURS, "455", None),
    "Ada": Generation(FLAVOURS, "525", None),
    "Hopper": Generation(FLAVOURS, "535", None),
    "Blackwell": Generation((OPEN,), "570", None),
}
FIRST_OF_CHIP = {"GB110": "580", "GB10": "580"}  # where it is later than that of the generation
OPEN_ONLY = (0x2342, 0x2348)  # GH200: a Hopper whose memory only the open modules manage


def branch_of(driver: str) -> str:
    """The branch of a driver's version: ``580`` of ``580.95.05``."""
    return driver.partition(".")[0]


def why_not(branch: str, flavour: str, gpu: Mapping[str, Any]) -> str | None:
    """Why a driver does not serve a GPU of the bus (``device``, ``name``), as part of a sentence; None if it does."""
    device = int(gpu["device"], 16)
    chip = chip_of(device)
    if chip is None:
        return None  # whoever names a driver for it knows more than this table
    generation = GENERATIONS[chip.generation]
    first = FIRST_OF_CHIP.get(chip.name, generation.first)
    flavours = (OPEN,) if device in OPEN_ONLY else generation.flavours
    if flavour not in flavours:
        return f"{gpu['name']} ({chip.generation}) needs {' or '.join(flavours)} kernel modules"
    if version(branch) < version(first):
        return f"{gpu['name']} ({chip.generation}) needs branch {first} or newer"
    if generation.last and version(branch) > version(generation.last):
        return f"{gpu['name']} ({chip.generation}) is driven by branch {generation.last} and older only"
    return None


class Offer(NamedTuple):
    """A driver that a system can have: from ``ubuntu`` or ``debian`` (its own archive) or ``nvidia``."""

    branch: str
    flavours: tuple[str, ...]
    source: str


class Key(NamedTuple):
    """What a repository is signed with: the file beside it, and its fingerprint, or as much of its end as is known."""

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
    System("RHEL 10 and its family", RHEL_FAMILY, "10", "dnf", "rhel10", Key("CDF6BA43.pub", "CDF6BA43"), "13.0",
           {"x86_64": _rhel, "aarch64": _rhel}),
)  # fmt: skip
SUPPORTED = (
    "Ubuntu 22.04 and 24.04, Debian 12 and 13, and RHEL, Rocky Linux, AlmaLinux, CentOS Stream and Oracle Linux "
    "9 and 10"
)

ARCHITECTURES = {"x86_64": ("x86_64", "amd64"), "aarch64": ("sbsa", "arm64")}  # NVIDIA's name, Debian's name

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


class Driver(NamedTuple):
    """What to install. Names of packages, in the order of their installation."""

    branch: str
    flavour: str
    source: str
    dkms: bool
    """Whether the modules are compiled on the host, so that Secure Boot asks for a key of the host's own."""
    pin: tuple[str, ...]
    """What keeps the package manager on the branch, before anything else: packages, or on RHEL 9 a module stream."""
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
            against = sorted({told for told in (why_not(offer.branch, kind, gpu) for gpu in gpus) if told})
            if not against:
                return _driver(system, machine, offer, kind, kernel, kernel_metas, nvswitch)
            reasons += [told for told in against if told not in reasons]
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


# --- repositories --------------------------------------------------------------------------------------------------

LABEL = "NVIDIA CUDA"  # of NVIDIA's apt repositories

# What a toolkit is made of, beside the packages asked for. The metapackages cuda and cuda-runtime are not among them:
# they bring a driver.
TOOLKIT_NAMES = (
    "cuda-*-12-* cuda-*-13-* cuda-toolkit-* libcublas-* libnvjitlink-* libnvptxcompiler-* libnvvm-* libnvfatbin-*"
)
# The container toolkit has a repository of its own.
CONTAINER_NAMES = "nvidia-container-* libnvidia-container*"


def repository(url: str, system: System, machine: str) -> str:
    """The address of NVIDIA's repository for a system; NvidiaError where it would give a password away."""
    if urlsplit(url).username is not None:
        raise NvidiaError(
            "nvidia_driver_repository_url holds a password, which would stand in a file that all may read: add that "
            "repository to the package manager's own with what it takes (/etc/apt/auth.conf.d, or a .repo file of your "
            "own), and name it here without"
        )
    return f"{url.rstrip('/')}/{system.folder}/{ARCHITECTURES[machine][0]}"


def preferences(*, driver: bool) -> str:
    """What apt may take from NVIDIA's repository: all that is for a driver, or nothing but toolkits."""
    rules = [(CONTAINER_NAMES, -1), ("*", 600)] if driver else [(TOOLKIT_NAMES, 600), ("*", -1)]
    pin = f"Pin: release l={LABEL}"
    return "".join(f"Package: {names}\n{pin}\nPin-Priority: {priority}\n\n" for names, priority in rules)


def toolkit_packages(system: System, toolkit: str) -> tuple[str, ...]:
    """The packages of a CUDA toolkit: compiler, runtime, cuBLAS. NvidiaError where the system's folder has none."""
    if not re.fullmatch(r"\d+\.\d+", toolkit):
        raise NvidiaError(f"CUDA toolkit {toolkit}: write its version with one dot, as in 13.0")
    if version(toolkit) < version(system.first_toolkit):
        raise NvidiaError(
            f"NVIDIA's repository for {system.name} begins with CUDA {system.first_toolkit}, so CUDA {toolkit} can't "
            "be installed here: have another host build (llama_cpp_build_host), or install that toolkit by hand, which "
            "is used where its nvcc is on PATH or in /usr/local/cuda*"
        )
    dashed = toolkit.replace(".", "-")
    dev = "dev" if system.manager == "apt" else "devel"
    return (f"cuda-nvcc-{dashed}", f"cuda-cudart-{dev}-{dashed}", f"libcublas-{dev}-{dashed}", f"cuda-cccl-{dashed}")
