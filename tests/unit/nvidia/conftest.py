"""Fixtures of the tests of NVIDIA's software."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from plugins.module_utils.nvidia import facts as nvidia_facts
from tests.unit.nvidia.machine import Machine


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
        monkeypatch.setattr(nvidia_facts, name, str(tmp_path / place))
    monkeypatch.setattr(nvidia_facts, "NODES", (str(tmp_path / "dev/nvidiactl"), str(tmp_path / "dev/nvidia-uvm")))
    monkeypatch.setattr(nvidia_facts, "MARKS", {str(tmp_path / "dockerenv"): "docker"})
    return made
