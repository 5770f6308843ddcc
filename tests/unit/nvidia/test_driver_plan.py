"""The plan: what follows from what a host has."""

from __future__ import annotations

import os
from typing import Any

import pytest

from plugins.module_utils.nvidia.driver_plan import Plan, Settings
from plugins.module_utils.nvidia.errors import DriverError, NvidiaError
from tests.unit.nvidia.machine import Machine, bus_only, in_docker, nothing, nouveau, unknown


def plan(machine: Machine, container: str | None = None, **settings: Any) -> Any:
    """What the role makes of a machine with Debian 12, on which no driver is installed."""
    machine.file("os-release", 'ID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\n')
    for program in ("apt-get", "apt-cache", "dpkg-query"):
        machine.program(program, "")
    given = Settings(repository_url="https://mirror.example.com/cuda", **settings)
    return Plan(given, kernel="6.1.0-50-amd64", container=container, state={}).made()


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
    with pytest.raises((NvidiaError, DriverError), match=message):
        plan(machine, **settings)


def test_secure_boot_without_an_enrolled_key_is_refused_before_a_driver_is_installed(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    machine.gpu()
    assert plan(machine).installation.driver.branch == "580"
    machine.file("efi/SecureBoot", b"\x06\0\0\0\1")
    with pytest.raises(NvidiaError, match="Secure Boot is on and refuses kernel modules that are compiled here"):
        plan(machine)
