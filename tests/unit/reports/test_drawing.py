"""Drawing kit: colours on light and on dark."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from nexus_tasks.reports import drawing, markup

STYLE = (markup.SKIN / "report.css").read_text()


def test_every_colour_of_the_figures_is_in_the_style_sheet_for_light_dark_and_print() -> None:
    defined = Counter(re.findall(r"--(\w+):", STYLE))
    assert {name: defined[name] for name in drawing.PALETTE} == dict.fromkeys(drawing.PALETTE, 3)


def test_every_colour_that_the_style_sheet_uses_is_defined() -> None:
    assert set(re.findall(r"var\(--(\w+)\)", STYLE)) <= set(re.findall(r"--(\w+):", STYLE))


@pytest.mark.parametrize("scheme", [0, 1])
def test_text_and_lines_stand_out_against_the_page(scheme: int) -> None:
    colours = {name: values[scheme] for name, values in _schemes().items()}
    assert _contrast(colours["text"], colours["paper"]) >= 7
    for name in ("ink", "good", "bad", "blue"):  # used for text
        assert _contrast(colours[name], colours["panel"]) >= 4.5, name
    for name in ("orange", "green", "purple"):  # used for lines
        assert _contrast(colours[name], colours["paper"]) >= 3, name


@pytest.mark.parametrize("paper", ["#ffffff", "#14171c"])
def test_figures_outside_a_page_are_legible_on_light_and_dark(paper: str) -> None:
    for name, colour in drawing.PALETTE.items():
        assert _contrast(colour, paper) >= 3, name


def _schemes() -> dict[str, list[str]]:
    """The values of each colour: light, dark, print."""
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"--(\w+): (#[0-9a-f]{6})", STYLE):
        found.setdefault(name, []).append(value)
    return found


def _contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2, from 1 to 21."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
