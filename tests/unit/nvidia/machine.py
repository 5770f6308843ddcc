"""A machine in a folder, with or without GPUs and a driver: what modules read there, and the programs they ask."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace


class Machine(SimpleNamespace):
    """The machine; the fixture of that name makes one."""

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


def nothing(machine: Machine) -> None:
    pass


def bus_only(machine: Machine) -> None:
    machine.gpu()


def unknown(machine: Machine) -> None:
    machine.gpu(device="0x3401")


def nouveau(machine: Machine) -> None:
    machine.gpu()
    (machine.folder / "modules/nouveau").mkdir(parents=True)


def in_docker(machine: Machine) -> None:
    machine.gpu()
    machine.loaded()  # which is seen from inside, too
    machine.file("dockerenv", "")
