"""GPUs and systems that the tests of NVIDIA's software have."""

from __future__ import annotations

from typing import Any

from plugins.module_utils.nvidia.drivers import Driver, driver_for
from plugins.module_utils.nvidia.systems import system_of

GPUS = {
    "GTX 980": ("13c0", "5.2"),
    "P100": ("15f8", "6.0"),
    "P40": ("1b38", "6.1"),
    "V100": ("1db6", "7.0"),
    "T4": ("1eb8", "7.5"),
    "A100": ("20b2", "8.0"),
    "A10": ("2236", "8.6"),
    "L4": ("27b8", "8.9"),
    "RTX 4090": ("2684", "8.9"),
    "H100": ("2330", "9.0"),
    "H200": ("2335", "9.0"),
    "GH200": ("2342", "9.0"),
    "B200": ("2901", "10.0"),
    "GB200": ("2941", "10.0"),
    "B300": ("3182", "10.3"),
    "GB300": ("31c2", "10.3"),
    "RTX PRO 6000": ("2bb5", "12.0"),
    "RTX 5090": ("2b85", "12.0"),
    "RTX 5050": ("2d83", "12.0"),
    "DGX Spark": ("2e12", "12.1"),
}
RELEASES = {
    "Ubuntu 22.04": {"ID": "ubuntu", "VERSION_ID": "22.04"},
    "Ubuntu 24.04": {"ID": "ubuntu", "VERSION_ID": "24.04"},
    "Debian 12": {"ID": "debian", "VERSION_ID": "12"},
    "Debian 13": {"ID": "debian", "VERSION_ID": "13"},
    "Rocky 9": {"ID": "rocky", "VERSION_ID": "9.6"},
    "RHEL 9": {"ID": "rhel", "VERSION_ID": "9.7"},
    "AlmaLinux 10": {"ID": "almalinux", "VERSION_ID": "10.1"},
    "CentOS Stream 10": {"ID": "centos", "VERSION_ID": "10"},
    "Oracle Linux 9": {"ID": "ol", "VERSION_ID": "9.5"},
}
KERNELS = {
    ("Ubuntu 22.04", "x86_64"): "5.15.0-204-generic",
    ("Ubuntu 22.04", "aarch64"): "6.8.0-1064-nvidia-64k",
    ("Ubuntu 24.04", "x86_64"): "6.8.0-151-generic",
    ("Ubuntu 24.04", "aarch64"): "7.0.0-1025-nvidia",
    ("Debian 12", "x86_64"): "6.1.0-50-amd64",
    ("Debian 12", "aarch64"): "6.1.0-50-cloud-arm64",
    ("Debian 13", "x86_64"): "6.12.107+deb13-amd64",
    ("Debian 13", "aarch64"): "6.12.107+deb13-arm64",
}


def gpu(name: str) -> dict[str, Any]:
    return {"device": GPUS[name][0], "name": f"NVIDIA {name}"}


def kernel_of(system: str, machine: str) -> str:
    el = "5.14.0-600.el9" if system.endswith("9") else "6.12.0-100.el10"
    return KERNELS.get((system, machine)) or f"{el}.{machine}"


def driver(system: str, machine: str, *names: str, **options: Any) -> Driver:
    options = {"kernel": kernel_of(system, machine), **options}
    return driver_for(system_of(RELEASES[system]), machine, [gpu(name) for name in names], **options)
