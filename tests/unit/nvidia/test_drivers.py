"""Drivers: which one a host gets, and its packages."""

from __future__ import annotations

import pytest

from plugins.module_utils.nvidia.drivers import check_secure_boot, driver_for
from plugins.module_utils.nvidia.errors import NvidiaError
from plugins.module_utils.nvidia.systems import system_of
from tests.unit.nvidia.hosts import GPUS, RELEASES, driver

OLD = {"GTX 980", "P100", "P40", "V100"}  # proprietary modules and branch 580 are their last
OPEN, PROPRIETARY = "open", "proprietary"
# System, machine: the branch and modules of V100 and older, and of all others; None where there is no driver.
EXPECTED = {
    ("Ubuntu 22.04", "x86_64"): (("580", PROPRIETARY, "ubuntu"), ("580", OPEN, "ubuntu")),
    ("Ubuntu 22.04", "aarch64"): (("580", PROPRIETARY, "ubuntu"), ("580", OPEN, "ubuntu")),
    ("Ubuntu 24.04", "x86_64"): (("580", PROPRIETARY, "ubuntu"), ("580", OPEN, "ubuntu")),
    ("Ubuntu 24.04", "aarch64"): (("580", PROPRIETARY, "ubuntu"), ("580", OPEN, "ubuntu")),
    ("Debian 12", "x86_64"): (("580", PROPRIETARY, "nvidia"), ("580", OPEN, "nvidia")),
    ("Debian 12", "aarch64"): (("535", PROPRIETARY, "debian"), ("595", OPEN, "nvidia")),
    ("Debian 13", "x86_64"): (("550", PROPRIETARY, "debian"), ("595", OPEN, "nvidia")),
    ("Debian 13", "aarch64"): (("550", PROPRIETARY, "debian"), ("595", OPEN, "nvidia")),
    **{(name, machine): (("580", PROPRIETARY, "nvidia"), ("580", OPEN, "nvidia"))
       for name in ("Rocky 9", "RHEL 9", "AlmaLinux 10", "CentOS Stream 10", "Oracle Linux 9")
       for machine in ("x86_64", "aarch64")},
}  # fmt: skip
# System, machine: pin, packages and kernel packages of an L4.
PACKAGES = {
    ("Ubuntu 22.04", "x86_64"): (
        (), ("nvidia-headless-no-dkms-580-server-open", "nvidia-utils-580-server"),
        ("linux-modules-nvidia-580-server-open-5.15.0-204-generic",),
    ),
    ("Ubuntu 22.04", "aarch64"): (
        (), ("nvidia-headless-no-dkms-580-server-open", "nvidia-utils-580-server"),
        ("linux-modules-nvidia-580-server-open-6.8.0-1064-nvidia-64k",),
    ),
    ("Ubuntu 24.04", "x86_64"): (
        (), ("nvidia-headless-no-dkms-580-server-open", "nvidia-utils-580-server"),
        ("linux-modules-nvidia-580-server-open-6.8.0-151-generic",),
    ),
    ("Ubuntu 24.04", "aarch64"): (
        (), ("nvidia-headless-no-dkms-580-server-open", "nvidia-utils-580-server"),
        ("linux-modules-nvidia-580-server-open-7.0.0-1025-nvidia",),
    ),
    ("Debian 12", "x86_64"): (
        ("nvidia-driver-pinning-580",), ("nvidia-driver-cuda", "nvidia-kernel-open-dkms"),
        ("linux-headers-6.1.0-50-amd64",),
    ),
    ("Debian 12", "aarch64"): (
        ("nvidia-driver-pinning-595",), ("nvidia-driver-cuda", "nvidia-kernel-open-dkms"),
        ("linux-headers-6.1.0-50-cloud-arm64",),
    ),
    ("Debian 13", "x86_64"): (
        ("nvidia-driver-pinning-595",), ("nvidia-driver-cuda", "nvidia-kernel-open-dkms"),
        ("linux-headers-6.12.107+deb13-amd64",),
    ),
    ("Debian 13", "aarch64"): (
        ("nvidia-driver-pinning-595",), ("nvidia-driver-cuda", "nvidia-kernel-open-dkms"),
        ("linux-headers-6.12.107+deb13-arm64",),
    ),
    ("Rocky 9", "x86_64"): (
        ("nvidia-driver:580-open",), ("nvidia-driver-cuda", "kmod-nvidia-open-dkms"),
        ("kernel-devel-5.14.0-600.el9.x86_64",),
    ),
    ("RHEL 9", "aarch64"): (
        ("nvidia-driver:580-open",), ("nvidia-driver-cuda", "kmod-nvidia-open-dkms"),
        ("kernel-devel-5.14.0-600.el9.aarch64",),
    ),
    ("AlmaLinux 10", "x86_64"): (
        (), ("nvidia-driver-cuda", "kmod-nvidia-open-dkms"), ("kernel-devel-6.12.0-100.el10.x86_64",),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("system", "machine"), list(EXPECTED))
@pytest.mark.parametrize("name", list(GPUS))
def test_each_system_gets_the_driver_that_serves_its_gpu(system: str, machine: str, name: str) -> None:
    found = driver(system, machine, name)
    expected = EXPECTED[system, machine][0 if name in OLD else 1]
    assert (found.branch, found.flavour, found.source) == expected


@pytest.mark.parametrize(("system", "machine"), list(PACKAGES))
def test_the_packages_have_no_desktop_and_fit_the_running_kernel(system: str, machine: str) -> None:
    found = driver(system, machine, "L4")
    assert (found.pin, found.packages, found.kernel) == PACKAGES[system, machine]


def test_the_packages_of_proprietary_modules() -> None:
    assert driver("Ubuntu 24.04", "x86_64", "V100").packages == (
        "nvidia-headless-no-dkms-580-server", "nvidia-utils-580-server",
    )  # fmt: skip
    assert driver("Debian 12", "x86_64", "V100").packages == ("nvidia-driver-cuda", "nvidia-kernel-dkms")
    own = driver("Debian 13", "x86_64", "V100")
    assert own.packages[:3] == ("nvidia-kernel-dkms", "libcuda1", "nvidia-smi")
    assert own.components == ("contrib", "non-free", "non-free-firmware")
    rocky = driver("Rocky 9", "x86_64", "V100")
    assert (rocky.pin, rocky.packages) == (
        ("nvidia-driver:580-dkms",), ("nvidia-driver-cuda", "kmod-nvidia-latest-dkms"),
    )  # fmt: skip


def test_modules_follow_new_kernels() -> None:
    ubuntu = driver("Ubuntu 24.04", "x86_64", "L4", kernel="7.0.0-43-generic", kernel_metas=["virtual-hwe-24.04"])
    assert ubuntu.follow == ("linux-modules-nvidia-580-server-open-generic-hwe-24.04", "linux-image-virtual-hwe-24.04")
    assert driver("Debian 12", "x86_64", "L4", kernel="6.1.0-50-cloud-amd64").follow == ("linux-headers-cloud-amd64",)
    assert driver("Debian 13", "x86_64", "L4", kernel="6.12.107+deb13-rt-amd64").follow == ("linux-headers-rt-amd64",)


def test_a_kernel_of_ubuntu_without_signed_modules_compiles_them() -> None:
    found = driver("Ubuntu 24.04", "x86_64", "L4", kernel="6.11.0-1010-oem", kernel_metas=["oem-24.04"])
    assert found.dkms
    assert found.packages[0] == "nvidia-headless-580-server-open"
    assert (found.kernel, found.follow) == (("linux-headers-6.11.0-1010-oem",), ("linux-headers-oem-24.04",))
    assert not driver("Ubuntu 24.04", "x86_64", "L4").dkms


def test_switches_between_gpus_take_the_fabric_manager() -> None:
    assert "nvidia-fabricmanager-580" in driver("Ubuntu 22.04", "x86_64", "H100", nvswitch=True).packages
    assert "nvidia-fabricmanager-580" in driver("Debian 12", "x86_64", "A100", nvswitch=True).extras
    assert "nvidia-fabricmanager-580" not in driver("Ubuntu 22.04", "x86_64", "H100").packages


def test_large_pages_have_headers_of_their_own_on_rhel() -> None:
    found = driver("RHEL 9", "aarch64", "GH200", kernel="5.14.0-600.el9.aarch64+64k")
    assert found.kernel == ("kernel-64k-devel-5.14.0-600.el9.aarch64",)


@pytest.mark.parametrize("system", list(RELEASES))
def test_generations_that_one_driver_serves_share_it(system: str) -> None:
    assert driver(system, "x86_64", "T4", "L4", "H100", "B200").flavour == OPEN
    assert driver(system, "x86_64", "V100", "T4", "L4").flavour == PROPRIETARY


@pytest.mark.parametrize("system", list(RELEASES))
@pytest.mark.parametrize("new", ["B200", "RTX 5090", "DGX Spark"])
def test_generations_that_no_driver_serves_together_are_refused_by_name(system: str, new: str) -> None:
    with pytest.raises(NvidiaError, match=r"no driver for .* serves all GPUs of this host") as told:
        driver(system, "x86_64", "V100", new)
    assert "V100 (Volta) needs proprietary" in str(told.value)
    assert f"{new} (Blackwell) needs open" in str(told.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("B200", {"flavour": "proprietary"}, r"B200 \(Blackwell\) needs open kernel modules"),
        ("GH200", {"flavour": "proprietary"}, r"GH200 \(Hopper\) needs open kernel modules"),
        ("V100", {"flavour": "open"}, r"V100 \(Volta\) needs proprietary kernel modules"),
        ("B300", {"branch": "570"}, r"B300 \(Blackwell\) needs branch 580 or newer"),
        ("DGX Spark", {"branch": "570"}, r"DGX Spark \(Blackwell\) needs branch 580 or newer"),
        ("L4", {"branch": "615"}, r"has the drivers 580 \(open and proprietary\), 570 .*, not 615"),
    ],
)
def test_a_driver_that_can_not_serve_is_refused(name: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(NvidiaError, match=message):
        driver("Ubuntu 24.04", "x86_64", name, **options)


def test_a_driver_that_is_asked_for_and_serves_is_taken() -> None:
    found = driver("Ubuntu 24.04", "x86_64", "L4", branch="570", flavour="proprietary")
    assert (found.branch, found.flavour) == ("570", "proprietary")
    assert driver("Debian 12", "x86_64", "L4", branch="595").pin == ("nvidia-driver-pinning-595",)


def test_an_unknown_gpu_is_refused_unless_its_driver_is_named() -> None:
    system, unknown = system_of(RELEASES["Debian 12"]), [{"device": "3401", "name": "an NVIDIA GPU"}]
    with pytest.raises(NvidiaError, match="10de:3401 is no GPU that is known here: set nvidia_driver_branch"):
        driver_for(system, "x86_64", unknown, kernel="6.1.0-50-amd64")
    found = driver_for(system, "x86_64", unknown, kernel="6.1.0-50-amd64", branch="595", flavour="open")
    assert found.branch == "595"


def test_kepler_has_no_driver_any_more() -> None:
    system = system_of(RELEASES["Ubuntu 24.04"])
    with pytest.raises(NvidiaError, match="is driven by branch 470 and older only"):
        driver_for(system, "x86_64", [{"device": "102d", "name": "Tesla K80"}], kernel="6.8.0-151-generic")


def test_another_machine_is_refused() -> None:
    with pytest.raises(NvidiaError, match="no driver for ppc64le"):
        driver("RHEL 9", "ppc64le", "V100", kernel="x")


def test_modules_that_are_compiled_here_need_an_enrolled_key() -> None:
    debian, compiled = system_of(RELEASES["Debian 12"]), driver("Debian 12", "x86_64", "L4")
    for state in ("off", "enrolled"):
        check_secure_boot(compiled, debian, state)
    with pytest.raises(NvidiaError, match=r"mokutil --import /var/lib/dkms/mok\.pub .*; reboot; .*Enroll MOK"):
        check_secure_boot(compiled, debian, "missing")
    with pytest.raises(NvidiaError, match="waits to be enrolled: reboot"):
        check_secure_boot(compiled, debian, "requested")
    check_secure_boot(driver("Ubuntu 24.04", "x86_64", "L4"), system_of(RELEASES["Ubuntu 24.04"]), "missing")
