"""The table of chips, held against what others publish."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from plugins.module_utils.nvidia.chips import CHIPS, chip_of
from tests.unit.nvidia.hosts import GPUS


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
    known, seen, wrong = {chip.name for chip in CHIPS}, set(), []
    for device, name in pci_ids.items():
        told = re.match(r"GB20B|(?:G[KMPVAHB]|TU|AD)\d+", name)
        if not told or re.search(r"audio|usb|host|switch|tegra|jetson|\[GM107 ", name, re.IGNORECASE):
            continue
        chip, expected = chip_of(device), other_names.get(told[0], told[0])
        if expected in known:
            seen.add(expected)
        if (chip.name if chip else None) != (expected if expected in known else None):
            wrong.append((f"{device:04x}", name, chip))
    assert wrong == []
    assert len(seen) > 30


def test_the_gpus_of_this_test_are_those_of_the_database(pci_ids: dict[int, str]) -> None:
    for name, (device, compute_cap) in GPUS.items():
        chip = chip_of(int(device, 16))
        assert chip
        assert chip.compute_cap == compute_cap
        if known := pci_ids.get(int(device, 16)):
            assert chip.name in known, (name, known)
