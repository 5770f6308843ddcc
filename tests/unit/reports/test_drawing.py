"""Drawing kit: colours on light and on dark."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from nexus_tasks.reports import drawing, markup
from tests.nasty_records import NASTY, harms

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


def drawn(*names: str) -> str:
    """A figure with a name wherever one can be."""
    with drawing.drawing(drawing.WIDE_IN, 2.0) as figure:
        grid = figure.subplots(1, 2)
        for name in names:
            grid[0].plot([0, 1], label=name)
        drawing.legend_above(figure, grid[0])
        grid[0].set_yticks(range(len(names)), names)
        grid[1].set_title(names[0])
        grid[1].annotate(names[0], (0.5, 0.5))
        return drawing.block(figure, "names", alt=names[0], caption=names[0]).html


@pytest.mark.parametrize("name", ["$x^{$", r"$\frac$ and $", "a$b", "^_{}\\"])
def test_mathematics_in_a_name_are_its_letters(name: str) -> None:
    html = drawn(name)
    assert html.count(f">{name}</text>") == 4


def test_text_in_a_figure_is_clean_and_has_room() -> None:
    html = drawn(NASTY, "x" * 300, "Meta-Llama-3.1-70B-Instruct-abliterated-IQ2_XXS-imatrix.gguf")
    assert harms(html) == []
    assert max(len(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", html)) <= drawing.LEGEND_LETTERS


def test_the_names_of_curves_stand_above_them_and_cover_none() -> None:
    with drawing.drawing(drawing.WIDE_IN, 3.0) as figure:
        axes = figure.subplots()
        for place in range(4):
            axes.plot([0, 1], label=f"Meta-Llama-3.1-70B-Instruct-abliterated-IQ2_XXS-imatrix-{place}.gguf")
        drawing.legend_above(figure, axes)
        figure.draw_without_rendering()
        panel = axes.get_tightbbox()
        assert panel
        assert figure.legends[0].get_window_extent().y0 >= panel.y1


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("tiny", ["tiny"]),
        ("Qwen2.5-Coder-32B-Instruct-Q4_K_M.gguf", ["Qwen2.5-Coder-32B-Instruct-Q4_", "K_M.gguf"]),
    ],
)
def test_a_long_name_at_a_tick_has_two_lines(name: str, lines: list[str]) -> None:
    assert drawing.name_lines(name).split("\n") == lines
    assert all(len(line) < 45 for line in drawing.name_lines("x" * 300).split("\n"))


def test_names_within_a_panel_are_short() -> None:
    with drawing.drawing(drawing.WIDE_IN, 2.0) as figure:
        axes = figure.subplots()
        axes.plot([0, 1], label="x" * 60)
        axes.legend()
        html = drawing.block(figure, "names", alt="", caption="").html
    assert max(len(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", html)) == drawing.NAME_LETTERS
