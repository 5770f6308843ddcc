"""NVIDIA facts of a host: GPUs on the bus, a driver that works or why it doesn't, toolkits. Nothing is changed.

Python 3.9's standard library only. What follows from it is decided in ``drivers.py`` and ``toolkits.py``.
"""

from __future__ import annotations

import glob
import os
import platform
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..hostlib import gpus
from ..hostlib.files import read_text
from ..hostlib.programs import ProgramError, output_of, run, with_environment
from .chips import chip_of
from .versions import version as version_key

BUS = "/sys/bus/pci/devices"
VENDOR = "0x10de"
DISPLAY = ("0x0300", "0x0302")  # a VGA controller, a 3D controller; boards also have audio, USB and switches
SWITCH = "0x0680"  # a bridge of another kind: the switch of NVLink
MODULES = "/sys/module"
MODULE_VERSION = "/sys/module/nvidia/version"
PROC_VERSION = "/proc/driver/nvidia/version"
EFI = "/sys/firmware/efi"
SECURE_BOOT = EFI + "/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
SHIM_IS_LAX = EFI + "/efivars/MokSBStateRT-605dab50-e046-4300-abb6-3dd810dd8b23"
OS_RELEASE = "/etc/os-release"
RIVALS = ("nouveau", "nova_core")  # the kernel's own modules for the same GPUs
MARKS = {"/.dockerenv": "docker", "/run/.containerenv": "podman"}  # where systemd can't say it
NODES = ("/dev/nvidiactl", "/dev/nvidia-uvm")


@dataclass
class Seen:
    """The GPUs of a host, as its bus and its driver show them, and what is wrong with that."""

    gpus: list[dict[str, Any]] = field(default_factory=list)
    """Those that the driver shows: name, compute_cap ("8.9"), driver, memory_mib."""
    bus: list[dict[str, Any]] = field(default_factory=list)
    """Those on the PCI bus: address, device ("2684"), chip, name, and the module that it is bound to; compute_cap and
    chip are None for an unknown one."""
    loaded: str | None = None
    """The version of the kernel module that is loaded."""
    flavour: str | None = None
    """Of that module: open or proprietary."""
    smi: str | None = None
    """The error of nvidia-smi, where it failed; None where it worked or is missing."""
    problem: str | None = None
    """The reason why no GPU works, and what to do about it; None where one does."""


def look() -> Seen:
    """Ask the bus, the kernel and the driver."""
    seen = Seen(bus=bus_gpus())
    seen.loaded, seen.flavour = loaded_module()
    seen.gpus, seen.smi = driver_gpus()
    if not seen.gpus:
        seen.problem = diagnose(seen)
    return seen


def bus_gpus() -> list[dict[str, Any]]:
    """The GPUs on the PCI bus, whether or not a driver knows them."""
    gpus_on_bus = []
    for device in sorted(glob.glob(f"{BUS}/*")):
        if _read(device, "vendor") == VENDOR and _read(device, "class")[:6] in DISPLAY:
            number = int(_read(device, "device") or "0", 16)
            chip, bound = chip_of(number), f"{device}/driver"
            gpus_on_bus.append(
                {
                    "address": os.path.basename(device),
                    "device": f"{number:04x}",
                    "chip": chip.name if chip else None,
                    "name": f"NVIDIA {chip.name}" if chip else f"an NVIDIA GPU with the unknown device id {number:04x}",
                    "compute_cap": chip.compute_cap if chip else None,
                    "driver": None,
                    "memory_mib": None,
                    "bound": os.path.basename(os.path.realpath(bound)) if os.path.exists(bound) else None,
                }
            )
    return gpus_on_bus


def nvswitch() -> bool:
    """True for GPUs connected by switches that show on the PCI bus, as on HGX and DGX machines up to Hopper."""
    return any(
        _read(device, "vendor") == VENDOR and _read(device, "class")[:6] == SWITCH for device in glob.glob(f"{BUS}/*")
    )


def loaded_module() -> tuple[str | None, str | None]:
    """Version and flavour of the kernel module nvidia, where it is loaded.

    From ``NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build``, or without ``Open``.
    """
    version_text = _read("", PROC_VERSION)
    match = re.search(r"NVRM version:.*?(\d{3,}\.\d+(?:\.\d+)?)", version_text)
    version = match.group(1) if match else _read("", MODULE_VERSION) or None
    flavour = ("open" if "Open Kernel Module" in version_text else "proprietary") if version_text else None
    return version, flavour


def driver_gpus() -> tuple[list[dict[str, Any]], str | None]:
    """The GPUs that nvidia-smi shows, or what it says instead."""
    try:
        rows = gpus.query(["name", "compute_cap", "driver_version", "memory.total"])
    except gpus.SmiMissing:
        return [], None
    except gpus.SmiError as error:
        return [], str(error)
    shown = []
    for row in rows:
        if re.fullmatch(r"\d+\.\d+", row["compute_cap"]):
            memory_mib = gpus.number(row["memory.total"])
            shown.append({
                "name": row["name"], "compute_cap": row["compute_cap"], "driver": row["driver_version"],
                "memory_mib": None if memory_mib is None else int(memory_mib),
            })  # fmt: skip
    return (shown, None) if shown else ([], " ".join(", ".join(row.values()) for row in rows)[:300] or "exit status 0")


def diagnose(seen: Seen) -> str:
    """The reason why no GPU works, from what is there: the first of these that is missing or wrong."""
    names = ", ".join(sorted({gpu["name"] for gpu in seen.bus}))
    installed = shutil.which("nvidia-smi") is not None
    if not seen.bus and not seen.loaded and not installed:
        return "there is none on the PCI bus, and no driver: check that the machine has one and that it is seated"
    if seen.smi and "version mismatch" in seen.smi:
        return (
            f"the loaded kernel module ({seen.loaded or 'of another version'}) and the driver's libraries have "
            "different versions, as after an upgrade: reboot the host"
        )
    missing = [node for node in NODES if not os.path.exists(node)]
    # A container sees the bus and the modules of the machine below it.
    if (missing or not seen.loaded) and container():
        return (
            "this container was given none: start it with the host's GPUs, as docker does with --runtime nvidia "
            "and the variable NVIDIA_VISIBLE_DEVICES=all"
        )
    if not seen.loaded:
        rival = next((name for name in RIVALS if os.path.isdir(f"{MODULES}/{name}")), None)
        if rival and not installed:
            return f"{names} is driven by {rival}: run playbooks/provision.yml, which installs NVIDIA's driver"
        if installed:
            return (
                f"{names or 'the driver'}: NVIDIA's driver is installed, but its kernel module is not loaded "
                f"({seen.smi or 'nvidia-smi shows no GPU'}): modprobe nvidia says why; after an installation a reboot "
                "is due"
            )
        return f"{names} has no driver: run playbooks/provision.yml, which installs it"
    if missing:
        return (
            f"the driver {seen.loaded} is loaded, but {' and '.join(missing)} is not there: nvidia-modprobe -u -c=0 "
            "makes it, and the service nvidia-persistenced keeps it"
        )
    if not installed:
        return f"the driver {seen.loaded} is loaded, but nvidia-smi is not installed: add the package of its tools"
    return f"the driver {seen.loaded} is loaded, but nvidia-smi shows none: {seen.smi}"


class OnDisk(NamedTuple):
    """NVIDIA's kernel module as it is installed for a kernel, loaded or not."""

    version: str
    flavour: str


def on_disk(kernel: str) -> OnDisk | None:
    """The module that modprobe would load into a kernel; None where there is none, or no kmod to ask."""
    fields = {key: output_of(["modinfo", "-k", kernel, "-F", key, "nvidia"]) or "" for key in ("version", "license")}
    if not fields["version"].strip():
        return None
    return OnDisk(fields["version"].strip(), "proprietary" if fields["license"].strip() == "NVIDIA" else "open")


def secure_boot(certificate: str) -> str:
    """``off``; or it is on, and the certificate of this host's modules ``enrolled``, ``requested`` or ``missing``."""
    try:
        with open(SECURE_BOOT, "rb") as stream:
            enforced = stream.read()[4:5] == b"\x01"  # after four bytes of attributes
    except OSError:
        enforced = False  # a machine that boots by BIOS, or hides its variables
    if not enforced or os.path.exists(SHIM_IS_LAX):
        return "off"
    if not os.path.exists(certificate):
        return "missing"
    try:  # its exit status is 0 for a key that is not enrolled
        output = run(["mokutil", "--test-key", certificate], env=with_environment(LC_ALL="C")).output
    except ProgramError:
        return "missing"
    if "enrollment request" in output:
        return "requested"
    return "enrolled" if "already enrolled" in output or "trusted keyring" in output else "missing"


def os_release() -> dict[str, str]:
    """The variables of /etc/os-release."""
    variables = {}
    for line in _read("", OS_RELEASE).splitlines():
        key, separator, value = line.partition("=")
        if separator and not key.startswith("#"):
            variables[key.strip()] = " ".join(shlex.split(value))
    return variables


def container() -> str | None:
    """The kind of container that this is (docker, podman, lxc, …), None on a machine of its own."""
    try:  # its exit status is 1 outside of one
        kind = run(["systemd-detect-virt", "--container"], stderr=subprocess.DEVNULL).output.strip()
    except ProgramError:
        kind = ""
    if kind not in ("", "none"):
        return kind
    if "microsoft" in platform.release().lower():
        return "wsl"
    # A pod leaves less for systemd to see.
    if os.environ.get("KUBERNETES_SERVICE_HOST") or os.path.isdir("/var/run/secrets/kubernetes.io"):
        return "kubernetes"
    if "kubepods" in _read("", "/proc/1/cgroup"):
        return "kubernetes"
    if kind == "none":
        return None
    return next((name for mark, name in MARKS.items() if os.path.exists(mark)), None)


def toolkits(tools_path: str | None = None) -> dict[str, str]:
    """The CUDA compilers on this host: the path of nvcc by the version of its toolkit, as in ``{"13.0": …}``.

    The one on PATH comes first, then the host's own default, then the others, the newest first.
    """
    search = os.pathsep.join(filter(None, [tools_path, os.environ.get("PATH", os.defpath)]))
    # NVIDIA's packages don't put the toolkit on PATH.
    others = sorted(glob.glob("/usr/local/cuda-*/bin/nvcc"), key=version_key, reverse=True)
    compilers: dict[str, str] = {}
    for nvcc in (shutil.which("nvcc", path=search), "/usr/local/cuda/bin/nvcc", *others):
        if nvcc and os.access(nvcc, os.X_OK):
            version = toolkit_version(nvcc)
            if version:
                compilers.setdefault(version, nvcc)
    return compilers


def toolkit_version(nvcc: str) -> str | None:
    """The version that a CUDA compiler says it has, as in ``13.0``."""
    match = re.search(r"release (\d+\.\d+)", output_of([nvcc, "--version"]) or "")
    return match.group(1) if match else None


def toolkit_folder(nvcc: str) -> str:
    """The folder of the toolkit that a CUDA compiler belongs to.

    The compiler is asked, as CMake asks it: it may be a script on PATH that runs the real one. It names the folder
    before it complains of a file that is not there.
    """
    try:
        output = run([nvcc, "-v", "__nexus_determine_cuda"]).output
    except ProgramError:
        output = ""
    match = re.search(r"^#\$ TOP=(.+)$", output, re.MULTILINE)
    if match:
        return os.path.realpath(match.group(1).strip())
    return os.path.dirname(os.path.dirname(os.path.realpath(nvcc)))


def _read(folder: str, name: str) -> str:
    return (read_text(os.path.join(folder, name)) or "").strip()
