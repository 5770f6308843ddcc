"""Package managers: what another run left, and which components are enabled."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from plugins.module_utils import openpgp
from plugins.module_utils.nvidia import packages as nvidia_packages
from plugins.module_utils.nvidia.errors import DriverError, NvidiaError
from plugins.module_utils.nvidia.systems import SYSTEMS, Key
from tests.unit.nvidia.machine import Machine

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

        nvidia_packages.Apt(SYSTEMS[2], "bookworm").unfinished(let_go)
    assert re.fullmatch(rf"waiting for process {other.pid} \(python\S*\)", told[0])


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


RHEL_9, RHEL_10 = (system for system in SYSTEMS if system.manager == "dnf")


@pytest.mark.parametrize("part", [slice(-8, None), slice(-16, None), slice(1, None)])
def test_a_key_that_only_ends_as_the_wanted_one_is_not_trusted(tmp_path: Path, part: slice) -> None:
    body = b"\x04" + bytes(50)
    key = bytes([0xC0 | 6, len(body)]) + body
    for system in (RHEL_9, RHEL_10):
        (tmp_path / system.key.file).write_bytes(key)
    digits = openpgp.fingerprint(key)
    address = tmp_path.as_uri()
    assert nvidia_packages.fetch_key(address, RHEL_9, digits) == key
    with pytest.raises(NvidiaError, match=r"nvidia_driver_repository_fingerprint: '.*' is no whole fingerprint"):
        nvidia_packages.fetch_key(address, RHEL_9, digits[part])
    ending = RHEL_9._replace(key=Key(RHEL_9.key.file, digits[part]))
    with pytest.raises(NvidiaError, match="is no whole fingerprint"):
        nvidia_packages.fetch_key(address, ending, "")
    with pytest.raises(DriverError, match=f"holds key {digits}, not 610C7B14E068A878070DA4E99CD0A493D42D0685: whoever"):
        nvidia_packages.fetch_key(address, RHEL_9, "")
    with pytest.raises(NvidiaError, match="key for RHEL 10 and its family is not known here: have file://"):
        nvidia_packages.fetch_key(address, RHEL_10, "")
