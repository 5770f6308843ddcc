"""What is found on a host with or without a driver, and the line that says what is wrong with it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from plugins.module_utils.nvidia import decisions as nvidia
from plugins.module_utils.nvidia import driver_steps as nvidia_driver_steps
from plugins.module_utils.nvidia import host as nvidia_host
from plugins.module_utils.nvidia import packages as nvidia_packages
from tests.fakes.gpus import FakeGpus, Gpu


class Machine(SimpleNamespace):
    """A machine in a folder: what the module reads, and the programs that it asks."""

    folder: Path
    bin: Path

    def gpu(self, address: str = "0000:01:00.0", device: str = "0x27b8", kind: str = "0x030200") -> Path:
        place: Path = self.folder / "bus" / address
        place.mkdir(parents=True)
        for name, value in (("vendor", "0x10de"), ("device", device), ("class", kind)):
            (place / name).write_text(f"{value}\n")
        return place

    def program(self, name: str, text: str, status: int = 0) -> None:
        path = self.bin / name
        path.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {status}\n")
        path.chmod(0o755)

    def file(self, name: str, text: str | bytes) -> Path:
        path: Path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    def loaded(self, version: str = "580.95.05", kind: str = "Open Kernel Module for x86_64") -> None:
        self.file("proc/version", f"NVRM version: NVIDIA UNIX {kind}  {version}  Release Build  (dvs@host)  Tue\nGCC\n")

    def nodes(self) -> None:
        for name in ("nvidiactl", "nvidia-uvm"):
            self.file(f"dev/{name}", "")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A bare machine: nothing on the bus, nothing loaded, no programs."""
    made = Machine(folder=tmp_path, bin=tmp_path / "bin")
    made.bin.mkdir()
    for program in ("sh", "cat", "python3", "env"):
        (made.bin / program).symlink_to(f"/usr/bin/{program}" if program != "python3" else sys.executable)
    monkeypatch.setenv("PATH", str(made.bin))
    for name, place in {
        "BUS": "bus", "MODULES": "modules", "MODULE_VERSION": "modules/nvidia/version", "PROC_VERSION": "proc/version",
        "SECURE_BOOT": "efi/SecureBoot", "SHIM_IS_LAX": "efi/MokSBStateRT", "OS_RELEASE": "os-release",
    }.items():  # fmt: skip
        monkeypatch.setattr(nvidia_host, name, str(tmp_path / place))
    monkeypatch.setattr(nvidia_host, "NODES", (str(tmp_path / "dev/nvidiactl"), str(tmp_path / "dev/nvidia-uvm")))
    monkeypatch.setattr(nvidia_host, "MARKS", {str(tmp_path / "dockerenv"): "docker"})
    return made


FAILED = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
MISMATCH = "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.178"


def test_gpus_of_the_bus_are_told_from_their_audio_usb_and_switches(machine: Machine) -> None:
    machine.gpu("0000:01:00.0", "0x2330")
    machine.gpu("0000:01:00.1", "0x22be", "0x040300")
    machine.gpu("0000:01:00.2", "0x1ad6", "0x0c0330")
    machine.gpu("0000:02:00.0", "0x22a3", "0x068000")
    (machine.folder / "vfio-pci").mkdir()
    (machine.gpu("0000:03:00.0", "0x1db6", "0x030000") / "driver").symlink_to(machine.folder / "vfio-pci")
    found = nvidia_host.bus_gpus()
    assert [(gpu["address"], gpu["chip"], gpu["compute_cap"], gpu["bound"]) for gpu in found] == [
        ("0000:01:00.0", "GH100", "9.0", None),
        ("0000:03:00.0", "GV100", "7.0", "vfio-pci"),
    ]
    assert nvidia_host.nvswitch()


def test_a_driver_that_works_has_no_problem(machine: Machine, tmp_path: Path) -> None:
    machine.gpu()
    machine.loaded()
    machine.nodes()
    gpus = FakeGpus.make(tmp_path / "gpus", None, [Gpu("NVIDIA L4", "8.9", 23034)], driver_version="580.95.05")
    (machine.bin / "nvidia-smi").symlink_to(gpus.folder / "nvidia-smi")
    seen = nvidia_host.look()
    assert seen.problem is None
    assert seen.gpus == [{"name": "NVIDIA L4", "compute_cap": "8.9", "driver": "580.95.05", "memory_mib": 23034}]
    assert (seen.loaded, seen.flavour) == ("580.95.05", "open")


@pytest.mark.parametrize(
    ("kind", "version", "flavour"),
    [
        ("Open Kernel Module for x86_64", "580.142", "open"),
        ("Open Kernel Module for aarch64", "595.71.05", "open"),
        ("x86_64 Kernel Module", "550.163.01", "proprietary"),
    ],
)
def test_the_loaded_module_says_its_version_and_kind(machine: Machine, kind: str, version: str, flavour: str) -> None:
    machine.loaded(version, kind)
    assert nvidia_host.loaded_module() == (version, flavour)


def nothing(machine: Machine) -> None:
    pass


def bus_only(machine: Machine) -> None:
    machine.gpu()


def unknown(machine: Machine) -> None:
    machine.gpu(device="0x3401")


def nouveau(machine: Machine) -> None:
    machine.gpu()
    (machine.folder / "modules/nouveau").mkdir(parents=True)


def nova(machine: Machine) -> None:
    machine.gpu()
    (machine.folder / "modules/nova_core").mkdir(parents=True)


def not_loaded(machine: Machine) -> None:
    machine.gpu()
    machine.program("nvidia-smi", FAILED, 9)


def mismatch(machine: Machine) -> None:
    machine.gpu()
    machine.loaded("580.95.05")
    machine.nodes()
    machine.program("nvidia-smi", MISMATCH, 18)


def without_nodes(machine: Machine) -> None:
    machine.gpu()
    machine.loaded()
    machine.file("dev/nvidiactl", "")
    machine.program("nvidia-smi", "No devices were found", 6)


def no_devices(machine: Machine) -> None:
    machine.gpu()
    machine.loaded("580.95.05", "x86_64 Kernel Module")
    machine.nodes()
    machine.program("nvidia-smi", "No devices were found", 0)


def without_tools(machine: Machine) -> None:
    machine.gpu()
    machine.loaded()
    machine.nodes()


def in_docker(machine: Machine) -> None:
    machine.gpu()
    machine.loaded()  # which is seen from inside, too
    machine.file("dockerenv", "")


def in_docker_without_driver(machine: Machine) -> None:
    machine.gpu()
    machine.file("dockerenv", "")


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (nothing, ["none on the PCI bus", "seated"]),
        (bus_only, ["NVIDIA AD104 has no driver", "playbooks/provision.yml"]),
        (unknown, ["unknown device id 3401 has no driver"]),
        (nouveau, ["driven by nouveau", "playbooks/provision.yml"]),
        (nova, ["driven by nova_core", "playbooks/provision.yml"]),
        (not_loaded, ["installed, but its kernel module is not loaded", FAILED, "modprobe nvidia", "reboot"]),
        (mismatch, ["kernel module (580.95.05)", "different versions", "reboot the host"]),
        (without_nodes, ["nvidia-uvm is not there", "nvidia-modprobe -u -c=0"]),
        (no_devices, ["580.95.05 is loaded, but nvidia-smi shows none: No devices were found"]),
        (without_tools, ["580.95.05 is loaded, but nvidia-smi is not installed"]),
        (in_docker, ["this container was given none", "NVIDIA_VISIBLE_DEVICES=all"]),
        (in_docker_without_driver, ["this container was given none", "NVIDIA_VISIBLE_DEVICES=all"]),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_one_line_says_why_no_gpu_works_and_what_to_do(machine: Machine, prepare: Any, words: list[str]) -> None:
    prepare(machine)
    problem = nvidia_host.look().problem
    assert "\n" not in problem
    for word in words:
        assert word in problem


@pytest.mark.parametrize(
    ("variable", "lax", "certificate", "mokutil", "state"),
    [
        (None, False, True, None, "off"),
        (b"\x06\0\0\0\0", False, True, None, "off"),
        (b"\x06\0\0\0\1", True, True, None, "off"),
        (b"\x06\0\0\0\1", False, False, None, "missing"),
        (b"\x06\0\0\0\1", False, True, None, "missing"),
        (b"\x06\0\0\0\1", False, True, ("mok.pub is not enrolled", 0), "missing"),
        (b"\x06\0\0\0\1", False, True, ("mok.pub is already enrolled", 1), "enrolled"),
        (b"\x06\0\0\0\1", False, True, ("mok.pub is already in the enrollment request", 1), "requested"),
        (b"\x06\0\0\0\1", False, True, ("mok.pub is already in the built-in trusted keyring", 255), "enrolled"),
    ],
)
def test_secure_boot_is_read_from_the_firmware_and_the_key_from_mokutils_words(
    machine: Machine, variable: bytes | None, lax: bool, certificate: bool,
    mokutil: tuple[str, int] | None, state: str,
) -> None:  # fmt: skip
    if variable:
        machine.file("efi/SecureBoot", variable)
    if lax:
        machine.file("efi/MokSBStateRT", b"\x06\0\0\0\1")
    if certificate:
        machine.file("mok.pub", "certificate")
    if mokutil:
        machine.program("mokutil", *mokutil)
    assert nvidia_host.secure_boot(str(machine.folder / "mok.pub")) == state


@pytest.mark.parametrize(
    ("license_", "flavour"), [("Dual MIT/GPL", "open"), ("NVIDIA", "proprietary")]
)  # fmt: skip
def test_the_module_on_the_disk_may_differ_from_the_loaded_one(machine: Machine, license_: str, flavour: str) -> None:
    assert nvidia_host.on_disk("6.1.0-50-amd64") is None
    script = f'#!/bin/sh\ncase "$4" in version) echo 580.178.04;; license) echo {license_};; esac\n'
    (machine.bin / "modinfo").write_text(script)
    (machine.bin / "modinfo").chmod(0o755)
    assert tuple(nvidia_host.on_disk("6.1.0-50-amd64")) == ("580.178.04", flavour)


@pytest.mark.parametrize(
    ("says", "kubernetes", "kind"),
    [("none", False, None), ("docker", False, "docker"), ("lxc", False, "lxc"), ("wsl", False, "wsl"),
     ("none", True, "kubernetes")],
)  # fmt: skip
def test_containers_are_known_by_what_systemd_says_and_pods_by_their_service(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, says: str, kubernetes: bool, kind: str | None
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    if kubernetes:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    machine.program("systemd-detect-virt", says, 0 if says != "none" else 1)
    assert nvidia_host.container() == kind


def test_the_system_is_read_as_a_shell_would(machine: Machine) -> None:
    machine.file("os-release", 'PRETTY_NAME="Rocky Linux 9.6 (Blue Onyx)"\n# comment\nID="rocky"\nVERSION_ID=9.6\n')
    found = nvidia_host.os_release()
    assert (found["ID"], found["VERSION_ID"], found["PRETTY_NAME"]) == ("rocky", "9.6", "Rocky Linux 9.6 (Blue Onyx)")


# --- what follows from it


def plan(machine: Machine, container: str | None = None, **settings: Any) -> Any:
    """What the role makes of a machine with Debian 12, on which no driver is installed."""
    machine.file("os-release", 'ID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\n')
    for program in ("apt-get", "apt-cache", "dpkg-query"):
        machine.program(program, "")
    given = nvidia_driver_steps.Settings(repository_url="https://mirror.example.com/cuda", **settings)
    return nvidia_driver_steps.Plan(given, kernel="6.1.0-50-amd64", container=container, state={}).made()


@pytest.mark.parametrize(
    ("prepare", "settings", "message"),
    [
        (
            nothing,
            {"required": True},
            r"no working NVIDIA GPU: there is none on the PCI bus.*llama_cpp_require_gpu: false",
        ),
        (nouveau, {"required": True, "manage": "never"}, "no working NVIDIA GPU: NVIDIA AD104 is driven by nouveau"),
        (in_docker, {"required": True, "container": "docker"}, "no working NVIDIA GPU: this container was given none"),
        (
            in_docker,
            {"manage": "always", "container": "docker"},
            r"this is a container \(docker\), which uses the driver",
        ),
        (bus_only, {"branch": "615"}, r"has the drivers 580 .*, not 615"),
        (unknown, {}, "10de:3401 is no GPU that is known here: set nvidia_driver_branch"),
    ],
)
def test_what_can_not_be_is_refused_before_anything_is_touched(
    machine: Machine, prepare: Any, settings: dict[str, Any], message: str
) -> None:
    prepare(machine)
    with pytest.raises((nvidia.NvidiaError, nvidia_packages.DriverError), match=message):
        plan(machine, **settings)


def test_secure_boot_without_an_enrolled_key_is_refused_before_a_driver_is_installed(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    machine.gpu()
    assert plan(machine).installation.driver.branch == "580"
    machine.file("efi/SecureBoot", b"\x06\0\0\0\1")
    with pytest.raises(nvidia.NvidiaError, match="Secure Boot is on and refuses kernel modules that are compiled here"):
        plan(machine)


def test_what_dpkg_left_is_finished_when_another_has_let_go_of_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, gone = machine.file("lock", ""), machine.folder / "gone"
    monkeypatch.setattr(nvidia_packages.Apt, "LOCK", str(lock))
    machine.program("dpkg", "")
    (machine.bin / "dpkg").write_text(f'#!/bin/sh\n[ -e {gone} ] && [ "$DPKG_FRONTEND_LOCKED" = 1 ]\n')
    holder = "import fcntl, pathlib, sys, time\nlock = open(sys.argv[1], 'a')\nfcntl.lockf(lock, fcntl.LOCK_EX)\n"
    holder += "print(flush=True)\nsys.stdin.read()\npathlib.Path(sys.argv[2]).touch()\n"
    told: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-c", holder, lock, gone], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdin
        assert other.stdout
        other.stdout.readline()

        def let_go(line: str) -> None:
            told.append(line)
            other.communicate()

        nvidia_packages.Apt(nvidia.SYSTEMS[2], "bookworm").unfinished(let_go)
    assert re.fullmatch(rf"waiting for process {other.pid} \(python\S*\)", told[0])


ONE_LINE = (
    "deb [arch=amd64] http://mirror.example.com/debian bookworm main\ndeb http://other.example.com/apt stable main\n"
)
DEB822 = """Types: deb
URIs: http://mirror.example.com/debian
Suites: bookworm bookworm-updates
Components: main contrib

Types: deb
URIs: http://other.example.com/apt
Suites: stable
Components: main
"""


def test_components_are_added_wherever_the_distributions_main_is_and_nowhere_else() -> None:
    added = ["contrib", "non-free"]
    assert nvidia_packages.with_components(ONE_LINE, "bookworm", added) == ONE_LINE.replace(
        "bookworm main", "bookworm main contrib non-free"
    )
    new = nvidia_packages.with_components(DEB822, "bookworm", added)
    assert new == DEB822.replace("Components: main contrib", "Components: main contrib non-free")
    assert nvidia_packages.with_components(new, "bookworm", added) == new
    assert os.linesep not in nvidia_packages.with_components("", "bookworm", added)
    for text in (ONE_LINE, DEB822):
        first, *_, last = nvidia_packages.entries(nvidia_packages.with_components(text, "bookworm", added))
        assert (first.uris, first.components) == (["http://mirror.example.com/debian"], ["main", "contrib", "non-free"])
        assert last == (["http://other.example.com/apt"], ["stable"], ["main"])
