"""What is found on a host with or without a driver, and the line that says what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils.nvidia import facts as nvidia_facts
from tests.fakes.gpus import FakeGpus, Gpu
from tests.unit.nvidia.machine import Machine, bus_only, in_docker, nothing, nouveau, unknown

FAILED = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
MISMATCH = "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.178"


def test_gpus_of_the_bus_are_told_from_their_audio_usb_and_switches(machine: Machine) -> None:
    machine.gpu("0000:01:00.0", "0x2330")
    machine.gpu("0000:01:00.1", "0x22be", "0x040300")
    machine.gpu("0000:01:00.2", "0x1ad6", "0x0c0330")
    machine.gpu("0000:02:00.0", "0x22a3", "0x068000")
    (machine.folder / "vfio-pci").mkdir()
    (machine.gpu("0000:03:00.0", "0x1db6", "0x030000") / "driver").symlink_to(machine.folder / "vfio-pci")
    found = nvidia_facts.bus_gpus()
    assert [(gpu["address"], gpu["chip"], gpu["compute_cap"], gpu["bound"]) for gpu in found] == [
        ("0000:01:00.0", "GH100", "9.0", None),
        ("0000:03:00.0", "GV100", "7.0", "vfio-pci"),
    ]
    assert nvidia_facts.nvswitch()


def test_a_driver_that_works_has_no_problem(machine: Machine, tmp_path: Path) -> None:
    machine.gpu()
    machine.loaded()
    machine.nodes()
    gpus = FakeGpus.make(tmp_path / "gpus", None, [Gpu("NVIDIA L4", "8.9", 23034)], driver_version="580.95.05")
    (machine.bin / "nvidia-smi").symlink_to(gpus.folder / "nvidia-smi")
    seen = nvidia_facts.look()
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
    assert nvidia_facts.loaded_module() == (version, flavour)


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
    problem = nvidia_facts.look().problem or ""
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
    assert nvidia_facts.secure_boot(str(machine.folder / "mok.pub")) == state


@pytest.mark.parametrize(
    ("license_", "flavour"), [("Dual MIT/GPL", "open"), ("NVIDIA", "proprietary")]
)  # fmt: skip
def test_the_module_on_the_disk_may_differ_from_the_loaded_one(machine: Machine, license_: str, flavour: str) -> None:
    assert nvidia_facts.on_disk("6.1.0-50-amd64") is None
    script = f'#!/bin/sh\ncase "$4" in version) echo 580.178.04;; license) echo {license_};; esac\n'
    (machine.bin / "modinfo").write_text(script)
    (machine.bin / "modinfo").chmod(0o755)
    assert nvidia_facts.on_disk("6.1.0-50-amd64") == ("580.178.04", flavour)


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
    assert nvidia_facts.container() == kind


def test_the_system_is_read_as_a_shell_would(machine: Machine) -> None:
    machine.file("os-release", 'PRETTY_NAME="Rocky Linux 9.6 (Blue Onyx)"\n# comment\nID="rocky"\nVERSION_ID=9.6\n')
    found = nvidia_facts.os_release()
    assert (found["ID"], found["VERSION_ID"], found["PRETTY_NAME"]) == ("rocky", "9.6", "Rocky Linux 9.6 (Blue Onyx)")


def real_nvcc(folder: Path) -> Path:
    """What of a toolkit is asked: a compiler that names the folder it lies in, and complains of the file."""
    path = folder / "bin/nvcc"
    path.parent.mkdir(parents=True)
    told = "#$ _HERE_=$here\n#$ TOP=$here/..\n#$ LD_LIBRARY_PATH=$here/../lib"
    fatal = "nvcc fatal   : Don't know what to do with '$2'"
    path.write_text(f'#!/bin/sh\nhere=$(dirname "$0")\necho "{told}"\necho "{fatal}" >&2\nexit 1\n')
    path.chmod(0o755)
    return path


def test_the_toolkit_of_a_compiler_is_the_folder_that_it_names(tmp_path: Path) -> None:
    nvcc = real_nvcc(tmp_path / "cuda-13.0")
    (tmp_path / "cuda").symlink_to("cuda-13.0")
    assert nvidia_facts.toolkit_folder(str(nvcc)) == str(tmp_path / "cuda-13.0")
    assert nvidia_facts.toolkit_folder(str(tmp_path / "cuda/bin/nvcc")) == str(tmp_path / "cuda-13.0")


def test_a_script_on_the_path_leads_to_the_toolkit_of_the_compiler_that_it_runs(tmp_path: Path) -> None:
    nvcc, script = real_nvcc(tmp_path / "opt/cuda-12.9"), tmp_path / "local/bin/nvcc"
    script.parent.mkdir(parents=True)
    script.write_text(f'#!/bin/sh\nexec {nvcc} "$@"\n')
    script.chmod(0o755)
    assert nvidia_facts.toolkit_folder(str(script)) == str(tmp_path / "opt/cuda-12.9")


@pytest.mark.parametrize("text", [None, "#!/bin/sh\necho something else\n"])
def test_of_a_compiler_that_names_none_it_is_the_folder_above(tmp_path: Path, text: str | None) -> None:
    nvcc = tmp_path / "cuda/bin/nvcc"
    nvcc.parent.mkdir(parents=True)
    if text:
        nvcc.write_text(text)
        nvcc.chmod(0o755)
    (tmp_path / "nvcc").symlink_to(nvcc)
    assert nvidia_facts.toolkit_folder(str(tmp_path / "nvcc")) == str(tmp_path / "cuda")
