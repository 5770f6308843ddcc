"""Which driver, packages, repository and toolkit a host gets: the tables of nvidia/decisions.py."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import modules
from tests.conftest import ROOT

nvidia: Any = modules.load(ROOT / "plugins/module_utils/nvidia/decisions.py")

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
OLD = {"GTX 980", "P100", "P40", "V100"}  # proprietary modules and branch 580 are their last
OPEN_ONLY = {"GH200", "B200", "GB200", "B300", "GB300", "RTX PRO 6000", "RTX 5090", "RTX 5050", "DGX Spark"}

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
REPOSITORIES = {
    ("Ubuntu 22.04", "x86_64"): "ubuntu2204/x86_64",
    ("Ubuntu 24.04", "aarch64"): "ubuntu2404/sbsa",
    ("Debian 12", "x86_64"): "debian12/x86_64",
    ("Debian 13", "aarch64"): "debian13/sbsa",
    ("Rocky 9", "x86_64"): "rhel9/x86_64",
    ("CentOS Stream 10", "aarch64"): "rhel10/sbsa",
}


def gpu(name: str) -> dict[str, Any]:
    return {"device": GPUS[name][0], "name": f"NVIDIA {name}"}


def kernel_of(system: str, machine: str) -> str:
    el = "5.14.0-600.el9" if system.endswith("9") else "6.12.0-100.el10"
    return KERNELS.get((system, machine)) or f"{el}.{machine}"


def driver(system: str, machine: str, *names: str, **options: Any) -> Any:
    options = {"kernel": kernel_of(system, machine), **options}
    return nvidia.driver_for(nvidia.system_of(RELEASES[system]), machine, [gpu(name) for name in names], **options)


# --- drivers


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
    with pytest.raises(nvidia.NvidiaError, match=r"no driver for .* serves all GPUs of this host") as told:
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
    with pytest.raises(nvidia.NvidiaError, match=message):
        driver("Ubuntu 24.04", "x86_64", name, **options)


def test_a_driver_that_is_asked_for_and_serves_is_taken() -> None:
    found = driver("Ubuntu 24.04", "x86_64", "L4", branch="570", flavour="proprietary")
    assert (found.branch, found.flavour) == ("570", "proprietary")
    assert driver("Debian 12", "x86_64", "L4", branch="595").pin == ("nvidia-driver-pinning-595",)


def test_an_unknown_gpu_is_refused_unless_its_driver_is_named() -> None:
    system, unknown = nvidia.system_of(RELEASES["Debian 12"]), [{"device": "3401", "name": "an NVIDIA GPU"}]
    with pytest.raises(nvidia.NvidiaError, match="10de:3401 is no GPU that is known here: set nvidia_driver_branch"):
        nvidia.driver_for(system, "x86_64", unknown, kernel="6.1.0-50-amd64")
    found = nvidia.driver_for(system, "x86_64", unknown, kernel="6.1.0-50-amd64", branch="595", flavour="open")
    assert found.branch == "595"


def test_kepler_has_no_driver_any_more() -> None:
    system = nvidia.system_of(RELEASES["Ubuntu 24.04"])
    with pytest.raises(nvidia.NvidiaError, match="is driven by branch 470 and older only"):
        nvidia.driver_for(system, "x86_64", [{"device": "102d", "name": "Tesla K80"}], kernel="6.8.0-151-generic")


@pytest.mark.parametrize(
    "release",
    [
        {"ID": "fedora", "VERSION_ID": "42", "PRETTY_NAME": "Fedora Linux 42"},
        {"ID": "ubuntu", "VERSION_ID": "20.04", "PRETTY_NAME": "Ubuntu 20.04.6 LTS"},
        {"ID": "debian", "VERSION_ID": "11", "PRETTY_NAME": "Debian GNU/Linux 11 (bullseye)"},
        {"ID": "rocky", "VERSION_ID": "8.10", "PRETTY_NAME": "Rocky Linux 8.10"},
        {"ID": "arch", "PRETTY_NAME": "Arch Linux"},
    ],
    ids=lambda release: release["ID"],
)
def test_another_system_is_named_with_those_that_are_supported(release: dict[str, str]) -> None:
    with pytest.raises(nvidia.NvidiaError, match=f"^{re.escape(release['PRETTY_NAME'])} is none of") as told:
        nvidia.system_of(release)
    for name in ("Ubuntu 22.04 and 24.04", "Debian 12 and 13", "RHEL", "Rocky Linux", "9 and 10"):
        assert name in str(told.value)


def test_another_machine_is_refused() -> None:
    with pytest.raises(nvidia.NvidiaError, match="no driver for ppc64le"):
        driver("RHEL 9", "ppc64le", "V100", kernel="x")


# --- Secure Boot


def test_modules_that_are_compiled_here_need_an_enrolled_key() -> None:
    debian, compiled = nvidia.system_of(RELEASES["Debian 12"]), driver("Debian 12", "x86_64", "L4")
    for state in ("off", "enrolled"):
        nvidia.check_secure_boot(compiled, debian, state)
    with pytest.raises(nvidia.NvidiaError, match=r"mokutil --import /var/lib/dkms/mok\.pub .*; reboot; .*Enroll MOK"):
        nvidia.check_secure_boot(compiled, debian, "missing")
    with pytest.raises(nvidia.NvidiaError, match="waits to be enrolled: reboot"):
        nvidia.check_secure_boot(compiled, debian, "requested")
    nvidia.check_secure_boot(
        driver("Ubuntu 24.04", "x86_64", "L4"), nvidia.system_of(RELEASES["Ubuntu 24.04"]), "missing"
    )


# --- repositories and toolkits


@pytest.mark.parametrize(("system", "machine"), list(REPOSITORIES))
def test_each_system_has_a_folder_of_the_repository_or_its_mirror(system: str, machine: str) -> None:
    found = nvidia.repository("https://mirror.example.com/cuda/", nvidia.system_of(RELEASES[system]), machine)
    assert found == f"https://mirror.example.com/cuda/{REPOSITORIES[system, machine]}"


def test_a_password_in_the_address_of_the_repository_is_refused() -> None:
    system, url = nvidia.system_of(RELEASES["Debian 12"]), "https://ada:sesame@mirror.example.com/cuda"
    with pytest.raises(nvidia.NvidiaError, match="nvidia_driver_repository_url holds a password") as told:
        nvidia.repository(url, system, "x86_64")
    assert "sesame" not in str(told.value)


@pytest.mark.parametrize(
    ("names", "driver_version", "toolkit"),
    [
        (["V100"], "580.95.05", "12.9"),
        (["V100"], "550.163.01", "12.9"),
        (["V100", "L4"], "580.95.05", "12.9"),
        (["P40"], "535.261.03", "12.9"),
        (["T4"], "580.95.05", "13.2"),
        (["L4"], "570.211.01", "12.9"),
        (["H100"], "595.71.05", "13.2"),
        (["B200"], "570.211.01", "12.9"),
        (["B300"], "580.95.05", "13.2"),
        (["DGX Spark"], "580.95.05", "13.2"),
        (["A100", "B300", "DGX Spark"], "580.95.05", "13.2"),
        (["V100", "B300"], None, "12.9"),
    ],
)
def test_the_toolkit_compiles_for_all_gpus_what_their_driver_runs(
    names: list[str], driver_version: str | None, toolkit: str
) -> None:
    architectures = [GPUS[name][1].replace(".", "") for name in names]
    assert nvidia.toolkit_for(architectures, driver_version) == toolkit


@pytest.mark.parametrize(
    ("toolkit", "architecture", "driver_version", "message"),
    [
        ("13.0", "70", "580.95.05", "CUDA 13.0 can't compile for compute capability 70 any more, the last .* is 12.9"),
        ("12.4", "120", "580.95.05", "CUDA 12.4 can't compile for compute capability 120, which needs 12.8"),
        ("12.8", "103", "580.95.05", "compute capability 103, which needs 12.9"),
        ("13.0", "89", "570.211.01", "driver 570.211.01 is too old for CUDA 13.0, which needs 580 or newer"),
        ("12.9", "89", "470.256.02", "driver 470.256.02 is too old for CUDA 12.9, which needs 525 or newer"),
        ("12.9", "44", None, "compute capability 44 is none that is known"),
        ("13", "89", None, "write its version with one dot"),
    ],
)
def test_a_toolkit_that_does_not_fit_is_refused(
    toolkit: str, architecture: str, driver_version: str | None, message: str
) -> None:
    with pytest.raises(nvidia.NvidiaError, match=message):
        nvidia.check_toolkit(toolkit, [architecture], driver_version)


def test_the_packages_of_a_toolkit_bring_no_driver() -> None:
    assert nvidia.toolkit_packages(nvidia.system_of(RELEASES["Ubuntu 24.04"]), "12.9") == (
        "cuda-nvcc-12-9", "cuda-cudart-dev-12-9", "libcublas-dev-12-9", "cuda-cccl-12-9",
    )  # fmt: skip
    assert nvidia.toolkit_packages(nvidia.system_of(RELEASES["AlmaLinux 10"]), "13.2") == (
        "cuda-nvcc-13-2", "cuda-cudart-devel-13-2", "libcublas-devel-13-2", "cuda-cccl-13-2",
    )  # fmt: skip


@pytest.mark.parametrize("system", ["Debian 13", "AlmaLinux 10"])
def test_a_toolkit_that_a_system_does_not_have_is_refused_with_what_to_do(system: str) -> None:
    with pytest.raises(nvidia.NvidiaError, match=r"begins with CUDA 13\..*llama_cpp_build_host.*by hand"):
        nvidia.toolkit_packages(nvidia.system_of(RELEASES[system]), "12.9")


@pytest.mark.parametrize("system", ["Ubuntu 22.04", "Ubuntu 24.04", "Debian 12", "Rocky 9"])
def test_every_other_system_has_both_toolkits(system: str) -> None:
    for toolkit in nvidia.TOOLKITS:
        assert nvidia.toolkit_packages(nvidia.system_of(RELEASES[system]), toolkit)


# --- against what others publish


@pytest.fixture(scope="session")
def pci_ids(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """The names of NVIDIA's devices, from the database that Debian packages."""
    path = Path("/usr/share/misc/pci.ids")
    if not path.exists():
        folder = tmp_path_factory.mktemp("pci")
        done = subprocess.run(["apt-get", "download", "pci.ids"], cwd=folder, capture_output=True, check=False)
        if done.returncode:
            pytest.skip("neither /usr/share/misc/pci.ids nor the package pci.ids can be had")
        subprocess.run(["dpkg-deb", "-x", next(folder.glob("*.deb")), folder], check=True)
        path = folder / "usr/share/misc/pci.ids"
    section = path.read_text(encoding="utf-8", errors="replace").split("\n10de  ", 1)[1]
    lines = section.split("\n")[1:]
    end = next(index for index, line in enumerate(lines) if line and line[0] not in "\t#")
    found = (re.match(r"\t([0-9a-f]{4})  (.*)", line) for line in lines[:end])
    return {int(match[1], 16): match[2] for match in found if match}


def test_the_table_of_chips_agrees_with_the_database_of_pci_ids(pci_ids: dict[int, str]) -> None:
    assert len(pci_ids) > 500
    other_names = {"GK180": "GK110", "GK210": "GK110", "GB20B": "GB10"}
    known, seen, wrong = {chip.name for chip in nvidia.CHIPS}, set(), []
    for device, name in pci_ids.items():
        told = re.match(r"GB20B|(?:G[KMPVAHB]|TU|AD)\d+", name)
        if not told or re.search(r"audio|usb|host|switch|tegra|jetson|\[GM107 ", name, re.IGNORECASE):
            continue
        chip, expected = nvidia.chip_of(device), other_names.get(told[0], told[0])
        if expected in known:
            seen.add(expected)
        if (chip.name if chip else None) != (expected if expected in known else None):
            wrong.append((f"{device:04x}", name, chip))
    assert wrong == []
    assert len(seen) > 30


def test_the_gpus_of_this_test_are_those_of_the_database(pci_ids: dict[int, str]) -> None:
    for name, (device, compute_cap) in GPUS.items():
        chip = nvidia.chip_of(int(device, 16))
        assert chip
        assert chip.compute_cap == compute_cap
        if known := pci_ids.get(int(device, 16)):
            assert chip.name in known, (name, known)
