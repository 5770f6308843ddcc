"""The packages that the tables name, resolved by a real apt against the real archives of Ubuntu and Debian.

apt works in a folder of its own with an empty list of installed packages, and only simulates. What it downloads, the
archives' indexes, is kept in the cache of the tests and brought up to date there.
"""

from __future__ import annotations

import itertools
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils.nvidia import packages as nvidia_packages
from plugins.module_utils.nvidia.drivers import UBUNTU_SIGNED, driver_for
from plugins.module_utils.nvidia.errors import DriverError
from plugins.module_utils.nvidia.installation import Installation
from plugins.module_utils.nvidia.systems import system_of
from plugins.module_utils.nvidia.versions import version
from tests.conftest import cache_folder

# debootstrap knows where the archives are: the file, and how the address is written there.
UBUNTU = ("/usr/share/debootstrap/scripts/gutsy", r"default_mirror (http://archive\S+)")
DEBIAN = ("/usr/sbin/debootstrap", r'DEF_MIRROR="(http[^"]+)')
SYSTEMS = {
    "Ubuntu 22.04": (UBUNTU, ["jammy", "jammy-updates"], "main restricted"),
    "Ubuntu 24.04": (UBUNTU, ["noble", "noble-updates"], "main restricted"),
    "Debian 12": (DEBIAN, ["bookworm", "bookworm-updates"], "main contrib non-free non-free-firmware"),
    "Debian 13": (DEBIAN, ["trixie", "trixie-updates"], "main contrib non-free non-free-firmware"),
}
GPUS = {"V100": {"device": "1db6", "name": "V100"}, "L4": {"device": "27b8", "name": "L4"}}
DESKTOP = re.compile(r"xserver|^libx11|^libgtk|^libgl1|wayland|gnome|nvidia-settings|nvidia-driver-(?!libs)|i386")


class Apt:
    """apt for another system than this machine's."""

    def __init__(self, folder: Path, system: str) -> None:
        (file, pattern), suites, components = SYSTEMS[system]
        if not Path(file).exists():
            pytest.skip("needs debootstrap, which knows where the archives are (apt-get install debootstrap)")
        found = re.search(pattern, Path(file).read_text())
        assert found, f"{file} does not name an archive"
        address = found[1]
        for name in ("lists/partial", "cache/archives/partial", "etc/preferences.d", "etc/apt.conf.d"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "status").touch()
        sources = folder / "sources.list"
        sources.write_text("".join(f"deb [trusted=yes] {address} {suite} {components}\n" for suite in suites))
        self.options = [
            "-o", f"Dir::Etc::sourcelist={sources}", "-o", "Dir::Etc::sourceparts=/dev/null",
            "-o", f"Dir::Etc::preferencesparts={folder}/etc/preferences.d", "-o", "Dir::Etc::preferences=/dev/null",
            "-o", f"Dir::State::lists={folder}/lists", "-o", f"Dir::State::status={folder}/status",
            "-o", f"Dir::State::extended_states={folder}/extended_states", "-o", f"Dir::Cache={folder}/cache",
            "-o", "APT::Architecture=amd64", "-o", "APT::Architectures=amd64", "-o", "APT::Sandbox::User=root",
            "-o", "Acquire::Languages=none", "-o", "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false",
        ]  # fmt: skip
        done = self("apt-get", "update", "-q", "-o", "APT::Update::Error-Mode=any", "-o", "Acquire::Check-Date=false")
        if done.returncode:
            pytest.skip(f"{address} can't be reached: {done.stderr.strip().splitlines()[-1]}")

    def __call__(self, program: str, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([program, *self.options, *words], capture_output=True, text=True, check=False)

    def would_install(self, *names: str) -> set[str]:
        """What comes with these packages; AssertionError where they can't be installed together."""
        done = self("apt-get", "install", "--simulate", "--no-install-recommends", "-y", *names)
        assert done.returncode == 0, done.stdout + done.stderr
        return set(re.findall(r"^Inst (\S+)", done.stdout, re.MULTILINE))

    def parts_of(self, meta: str) -> set[str]:
        """The packages of the newest kernel: image, and where there are any more modules, those."""
        told = self("apt-cache", "depends", f"linux-image-{meta}").stdout
        return set(re.findall(r"Depends: (linux-\S+\d\S+)", told))

    def newest_kernel(self, meta: str) -> str:
        told = self("apt-cache", "depends", meta).stdout
        found = re.search(r"Depends: linux-(?:image|headers)-(\d\S+)", told)
        assert found, told
        return found[1]


@pytest.fixture(scope="module")
def apt() -> Callable[[str], Apt]:
    made: dict[str, Apt] = {}

    def of(system: str) -> Apt:
        if system not in made:
            made[system] = Apt(cache_folder() / "archives" / system.replace(" ", "-").lower(), system)
        return made[system]

    return of


def driver(system: str, gpu: str, kernel: str, **options: Any) -> Any:
    name, _, number = system.partition(" ")
    release = {"ID": name.lower(), "VERSION_ID": number}
    return driver_for(system_of(release), "x86_64", [GPUS[gpu]], kernel=kernel, **options)


# Always run is each system, GPU and kind of kernel once.
USUAL = {("Ubuntu 22.04", "V100", "generic"), ("Ubuntu 24.04", "L4", "generic-hwe-{}")}
SIGNED = [
    pytest.param(*case, marks=[] if case in USUAL else pytest.mark.soak)
    for case in itertools.product(("Ubuntu 22.04", "Ubuntu 24.04"), GPUS, ("generic", "generic-hwe-{}"))
]


@pytest.mark.parametrize(("system", "gpu", "meta"), SIGNED)
def test_ubuntus_signed_modules_come_with_their_kernel_and_no_desktop(
    apt: Callable[[str], Apt], system: str, gpu: str, meta: str
) -> None:
    meta = meta.format(system.split()[1])
    archive = apt(system)
    kernel = archive.newest_kernel(f"linux-image-{meta}")
    wanted = driver(system, gpu, kernel, kernel_metas=[meta])
    assert not wanted.dkms
    come = archive.would_install(*wanted.packages, *wanted.kernel, *wanted.follow)
    assert {*wanted.packages, *wanted.kernel, *wanted.follow, f"linux-image-{kernel}"} <= come
    assert {"nvidia-compute-utils-580-server", "libnvidia-compute-580-server"} <= come  # persistenced, libcuda
    assert archive.parts_of(meta) <= come  # or the next boot is one without network cards
    assert "dkms" not in come
    assert [name for name in come if DESKTOP.search(name)] == []


def test_on_a_kernel_whose_modules_are_of_an_older_driver_the_newest_kernel_comes(
    apt: Callable[[str], Apt], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = "Ubuntu 24.04"
    archive = apt(system)
    stem = "linux-modules-nvidia-580-server-open-"
    newest = archive.newest_kernel("linux-image-generic")
    names = archive("apt-cache", "pkgnames", stem + newest.partition("-")[0]).stdout.split()
    kernels = [name.removeprefix(stem) for name in names if name.endswith("-generic")]
    oldest = min(kernels, key=version)
    settings = tmp_path / "apt.conf"  # for programs that know nothing of the folder
    settings.write_text("".join('{} "{}";\n'.format(*option.split("=")) for option in archive.options[1::2]))
    monkeypatch.setenv("APT_CONFIG", str(settings))
    manager = nvidia_packages.Apt(system_of({"ID": "ubuntu", "VERSION_ID": "24.04"}), "noble")

    def chosen(kernel: str, *, may_boot: bool = True) -> list[str]:
        wanted = driver(system, "L4", kernel, kernel_metas=["generic"])
        steps = Installation(wanted, manager, "", "", kernel, may_boot=may_boot)
        found: list[str] = steps.for_kernel("")
        archive.would_install(*wanted.packages, *found)
        return found

    assert chosen(newest) == [f"{stem}{newest}", f"{stem}generic", "linux-image-generic"]
    assert chosen(oldest) == [f"{stem}generic", "linux-image-generic"]
    with pytest.raises(DriverError, match=f"{oldest} any more, .* nvidia_driver_reboot: true"):
        chosen(oldest, may_boot=False)


@pytest.mark.parametrize("system", ["Ubuntu 22.04", "Ubuntu 24.04"])
def test_the_kernels_of_ubuntu_that_have_signed_modules_are_those_of_the_table(
    apt: Callable[[str], Apt], system: str
) -> None:
    names = apt(system)("apt-cache", "pkgnames", "linux-modules-nvidia-580-server-").stdout.split()
    kernels = {match[1] for name in names if (match := re.search(r"-\d[\d.]+-\d+-([a-z][-a-z0-9]*)$", name))}
    assert {"generic", "aws", "azure", "gcp", "oracle", "nvidia"} <= kernels <= UBUNTU_SIGNED


@pytest.mark.parametrize("system", ["Ubuntu 24.04", pytest.param("Ubuntu 22.04", marks=pytest.mark.soak)])
def test_ubuntus_other_kernels_compile_their_modules(apt: Callable[[str], Apt], system: str) -> None:
    archive = apt(system)
    wanted = driver(system, "L4", archive.newest_kernel("linux-image-generic").replace("generic", "raspi"))
    assert wanted.dkms
    come = archive.would_install(*wanted.packages)
    assert "nvidia-dkms-580-server-open" in come or any(name.startswith("linux-modules-nvidia-580") for name in come)
    assert [name for name in come if DESKTOP.search(name)] == []


def test_debians_own_driver_comes_without_a_desktop(apt: Callable[[str], Apt]) -> None:
    archive = apt("Debian 13")
    kernel = archive.newest_kernel("linux-headers-amd64")
    wanted = driver("Debian 13", "V100", kernel)
    come = archive.would_install(*wanted.packages, *wanted.kernel, *wanted.follow)
    assert {"nvidia-kernel-dkms", "libcuda1", "dkms", f"linux-headers-{kernel}"} <= come
    assert [name for name in come if DESKTOP.search(name)] == []
    version = archive("apt-cache", "policy", "nvidia-kernel-dkms").stdout
    assert f"Candidate: {wanted.branch}." in version


@pytest.mark.parametrize("system", ["Debian 13", pytest.param("Debian 12", marks=pytest.mark.soak)])
def test_headers_follow_debians_kernels(apt: Callable[[str], Apt], system: str) -> None:
    archive = apt(system)
    for meta in ("linux-headers-amd64", "linux-headers-cloud-amd64"):
        kernel = archive.newest_kernel(meta)
        wanted = driver(system, "L4", kernel)
        assert wanted.follow == (meta,)
        assert set(wanted.kernel) <= archive.would_install(*wanted.kernel, *wanted.follow)
