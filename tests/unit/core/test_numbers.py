"""Numbers of options are finite and of a size that can be used."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import pytest

from nexus_tasks.core import numbers
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("text", "value"), [("2", 2.0), ("0.5", 0.5), (" 5 ", 5.0), ("-1", -1.0), (".5", 0.5), ("1e3", 1000.0)]
)
def test_numbers_are_read_as_people_write_them(text: str, value: float) -> None:
    assert numbers.number(text) == value


ODD = [
    "nan", "inf", "-inf", "Infinity", "1e300", "1e999", "-1e300", "1_0", "\uff19", "0x10", "", "five", "1,5",
    10_000 * "9",
]  # fmt: skip


@pytest.mark.parametrize("text", ODD)
@pytest.mark.parametrize("kind", [numbers.number, numbers.whole])
def test_what_no_machine_can_do_is_no_number(kind: Callable[[str], float], text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="must be a"):
        kind(text)


def test_whole_numbers_are_whole() -> None:
    assert [numbers.whole(text) for text in ("0", "-7", " 12 ")] == [0, -7, 12]
    with pytest.raises(argparse.ArgumentTypeError, match="must be a whole number"):
        numbers.whole("1.5")


def test_options_take_no_other_numbers() -> None:
    for path in (ROOT / "nexus_tasks").rglob("*.py"):
        text = path.read_text()
        if "argparse" in text:
            assert "type=float" not in text, path
            assert "type=int" not in text, path
