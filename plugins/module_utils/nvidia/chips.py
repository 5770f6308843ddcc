"""NVIDIA's chips as their PCI device ids tell them, and which kernel modules drive each generation.

Compute capabilities are written as the driver does, ``8.9``. Python 3.9's standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from .versions import version

OPEN, PROPRIETARY = "open", "proprietary"
FLAVOURS = (OPEN, PROPRIETARY)  # of kernel modules; the first that serves is taken


class Chip(NamedTuple):
    """A GPU as its PCI device id tells it, before any driver does."""

    first: int
    last: int
    name: str
    generation: str
    compute_cap: str


# Blocks of PCI device ids, from the pci.ids database and the list of the open kernel modules; a test holds them
# against the former.
CHIPS = tuple(
    Chip(int(first, 16), int(last, 16), name, generation, compute_cap)
    for first, last, name, generation, compute_cap in (
        ("0fc0", "0fff", "GK107", "Kepler", "3.0"),
        ("1000", "103f", "GK110", "Kepler", "3.5"),
        ("1180", "11bf", "GK104", "Kepler", "3.0"),
        ("11c0", "11ff", "GK106", "Kepler", "3.0"),
        ("1280", "12bf", "GK208", "Kepler", "3.5"),
        ("1340", "137f", "GM108", "Maxwell", "5.0"),
        ("1380", "13bf", "GM107", "Maxwell", "5.0"),
        ("13c0", "13ff", "GM204", "Maxwell", "5.2"),
        ("1400", "143f", "GM206", "Maxwell", "5.2"),
        ("1580", "15ff", "GP100", "Pascal", "6.0"),
        ("1600", "167f", "GM204", "Maxwell", "5.2"),
        ("1720", "173f", "GP100", "Pascal", "6.0"),
        ("1740", "177f", "GM108", "Maxwell", "5.0"),
        ("1780", "17bf", "GM107", "Maxwell", "5.0"),
        ("17c0", "17ff", "GM200", "Maxwell", "5.2"),
        ("1b00", "1b7f", "GP102", "Pascal", "6.1"),
        ("1b80", "1bff", "GP104", "Pascal", "6.1"),
        ("1c00", "1c7f", "GP106", "Pascal", "6.1"),
        ("1c80", "1cff", "GP107", "Pascal", "6.1"),
        ("1d00", "1d7f", "GP108", "Pascal", "6.1"),
        ("1d80", "1dff", "GV100", "Volta", "7.0"),
        ("1e00", "1e7f", "TU102", "Turing", "7.5"),
        ("1e80", "1eff", "TU104", "Turing", "7.5"),
        ("1f00", "1f7f", "TU106", "Turing", "7.5"),
        ("1f80", "1fff", "TU117", "Turing", "7.5"),
        ("2080", "20ff", "GA100", "Ampere", "8.0"),
        ("2180", "21ff", "TU116", "Turing", "7.5"),
        ("2200", "227f", "GA102", "Ampere", "8.6"),
        ("2300", "23ff", "GH100", "Hopper", "9.0"),
        ("2400", "247f", "GA103", "Ampere", "8.6"),
        ("2480", "24ff", "GA104", "Ampere", "8.6"),
        ("2500", "257f", "GA106", "Ampere", "8.6"),
        ("2580", "25ff", "GA107", "Ampere", "8.6"),
        ("2680", "26ff", "AD102", "Ada", "8.9"),
        ("2700", "277f", "AD103", "Ada", "8.9"),
        ("2780", "27ff", "AD104", "Ada", "8.9"),
        ("2800", "287f", "AD106", "Ada", "8.9"),
        ("2880", "28ff", "AD107", "Ada", "8.9"),
        ("2900", "297f", "GB100", "Blackwell", "10.0"),
        ("2980", "29ff", "GB102", "Blackwell", "10.0"),
        ("2b80", "2bff", "GB202", "Blackwell", "12.0"),
        ("2c00", "2c7f", "GB203", "Blackwell", "12.0"),
        ("2d00", "2d7f", "GB206", "Blackwell", "12.0"),
        ("2d80", "2dff", "GB207", "Blackwell", "12.0"),
        ("2e00", "2e7f", "GB10", "Blackwell", "12.1"),
        ("2f00", "2f7f", "GB205", "Blackwell", "12.0"),
        ("3180", "31ff", "GB110", "Blackwell", "10.3"),
    )
)


def chip_of(device: int) -> Chip | None:
    """The chip with a PCI device id; None for one that is not known here."""
    return next((chip for chip in CHIPS if chip.first <= device <= chip.last), None)


class Generation(NamedTuple):
    """Kernel modules that drive the GPUs of a generation: flavours, the first branch and the last, if there is one."""

    flavours: tuple[str, ...]
    first: str
    last: str | None


GENERATIONS = {
    "Kepler": Generation((PROPRIETARY,), "343", "470"),
    "Maxwell": Generation((PROPRIETARY,), "343", "580"),
    "Pascal": Generation((PROPRIETARY,), "367", "580"),
    "Volta": Generation((PROPRIETARY,), "384", "580"),
    "Turing": Generation(FLAVOURS, "418", None),
    "Ampere": Generation(FLAVOURS, "455", None),
    "Ada": Generation(FLAVOURS, "525", None),
    "Hopper": Generation(FLAVOURS, "535", None),
    "Blackwell": Generation((OPEN,), "570", None),
}
FIRST_OF_CHIP = {"GB110": "580", "GB10": "580"}  # where it is later than that of the generation
OPEN_ONLY = (0x2342, 0x2348)  # GH200: a Hopper whose memory only the open modules manage


def why_not(branch: str, flavour: str, gpu: Mapping[str, Any]) -> str | None:
    """The reason why a driver does not serve a GPU (``device``, ``name``), as part of a sentence; None if it does."""
    device = int(gpu["device"], 16)
    chip = chip_of(device)
    if chip is None:
        return None  # whoever names a driver for it knows more than this table
    generation = GENERATIONS[chip.generation]
    first = FIRST_OF_CHIP.get(chip.name, generation.first)
    flavours = (OPEN,) if device in OPEN_ONLY else generation.flavours
    if flavour not in flavours:
        return f"{gpu['name']} ({chip.generation}) needs {' or '.join(flavours)} kernel modules"
    if version(branch) < version(first):
        return f"{gpu['name']} ({chip.generation}) needs branch {first} or newer"
    if generation.last and version(branch) > version(generation.last):
        return f"{gpu['name']} ({chip.generation}) is driven by branch {generation.last} and older only"
    return None
