"""Drawing kit of the figures: colours, sizes, inline SVG that follows the page's light or dark colours.

    with drawing(WIDE_IN, 2.7) as figure:
        axes = figure.subplots()
        ...
        return block(figure, "name-of-its-ids", alt="its main numbers in a sentence", caption="...")

Each figure is a block with a caption and, for those who can't see it, a sentence with its main numbers.
Colours are drawn as the values of PALETTE and then named (``var(--blue, #…)``), so the page's style sheet
decides; outside a page the values here hold, which are legible on white and on near-black.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from nexus_tasks.reports.markup import SKIN, Block, clean, fill, shortened, words_of
from nexus_tasks.stats.metrics import Metric

PALETTE = {
    "ink": "#707a86",
    "grid": "#80808a",
    "blue": "#2f80c2",
    "orange": "#c9651b",
    "green": "#1d8f6d",
    "purple": "#9a62ab",
    "bad": "#cc4a40",
}
BLUE, ORANGE, GREEN, PURPLE, INK, BAD, GRID = (
    PALETTE[name] for name in ("blue", "orange", "green", "purple", "ink", "bad", "grid")
)
SERIES = (BLUE, ORANGE, GREEN, PURPLE)
WIDE_IN, HALF_IN = 9.4, 4.9
NAME_LETTERS = 30  # of a name of several lines, in one of them
TICK_LETTERS = 44  # of a name beside an axis
LEGEND_LETTERS = 80
LETTERS_IN = 13  # letters of a title in an inch
LABELLED_ROWS = 30  # more requests than this, and a bar chart's labels run into each other
DRAWN = 600  # more marks than this, and a page takes a browser's breath


@contextmanager
def drawing(width_in: float, height_in: float) -> Iterator[Figure]:
    """A figure in the report's style, which holds until it is saved."""
    with mpl.rc_context(fname=SKIN / "report.mplstyle"):
        yield Figure(figsize=(width_in, height_in), layout="constrained")


def block(figure: Figure, name: str, *, alt: str, caption: str, width: str = "wide") -> Block:
    """A figure as a block of the page.

    Args:
        name: begins the ids within the SVG; another one for each figure of a page.
        alt: its main numbers in a sentence, for those who can't see it.
        caption: stands below it.
        width: wide, or half for one of two side by side.
    """
    _tame(figure)
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = _inline(stream.getvalue(), name, alt)
    return fill("blocks/figure.html", svg=svg, caption=caption, width=width)


def axis_title(metric: Metric) -> str:
    """The title of a panel that shows a metric: ``Time to first token, ms``."""
    return f"{metric.title}, {metric.unit}"


def side_by_side(*parts: Block) -> Block:
    """Figures of half the width, in a row."""
    return Block(f'<div class="plots">{"".join(part.html for part in parts)}</div>')


def spread(values: pd.Series) -> tuple[float, float]:
    """The limits of an axis on which the outermost marks are seen whole."""
    low, high = float(values.min()), float(values.max())
    pad = (high - low) * 0.02 or 0.5
    return low - pad, high + pad


def end_labels(axes: Axes, labels: Sequence[tuple[float, str, str]]) -> None:
    """Names of lines at their right ends, apart from each other where the lines come close."""
    bottom, top = axes.get_ylim()
    log = axes.get_yscale() == "log"
    place = np.log10 if log else np.asarray
    low, high = (float(place(end)) for end in (bottom, top))
    room = (high - low) * 13 / (axes.bbox.height * 72 / mpl.rcParams["figure.dpi"])
    places, at = [], -np.inf
    for value, text, colour in sorted(labels):
        at = max(float(place(value)), at + room)
        places.append((at, text, colour))
    ceiling = high
    for at, text, colour in reversed(places):
        at = min(at, ceiling)
        ceiling = at - room
        axes.annotate(
            text, (1, 10**at if log else at), xytext=(5, 0), xycoords=("axes fraction", "data"), va="center",
            textcoords="offset points", color=colour, fontsize=8.5, annotation_clip=False,
        )  # fmt: skip


def name_lines(name: str) -> str:
    """A name at a tick in two lines where it is long."""
    first, rest = "", words_of(shortened(clean(name), 2 * NAME_LETTERS))
    while rest and (not first or len(first) + len(rest[0]) <= max(NAME_LETTERS, len("".join(rest)) // 2)):
        first += rest.pop(0)
    return "\n".join(filter(None, [first, "".join(rest)]))


def legend_above(figure: Figure, axes: Axes) -> None:
    """The names of the lines of a panel above all panels, a line each: names are as long as they like."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=1, handlelength=3)


def log_ticks(axis: Axis, low: float, high: float) -> None:
    """Ticks of a logarithmic axis as plain numbers: 1, 2 and 5 of each power of ten, or fewer over many powers."""
    powers = range(int(np.floor(np.log10(low))) - 1, int(np.ceil(np.log10(high))) + 2)
    steps = (1, 2, 5) if high < 300 * low else (1,)
    ticks = [step * 10.0**power for power in powers for step in steps]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter("{x:,g}")
    axis.set_minor_locator(NullLocator())


def thinned(frame: pd.DataFrame, slowest_by: str) -> pd.DataFrame:
    """At most DRAWN rows, in order: what failed, what stalled, the slowest, and of the others one in so many."""
    if len(frame) <= DRAWN:
        return frame.sort_values("start_s")
    slow = frame[slowest_by].rank(ascending=False) <= DRAWN // 4
    kept = frame[~frame["ok"] | (frame["stalls"] > 0) | slow].head(DRAWN // 2)
    others = frame.drop(index=kept.index)
    step = -(-len(others) // (DRAWN - len(kept)))
    return pd.concat([kept, others.iloc[::step]]).sort_values("start_s")


def left_out(frame: pd.DataFrame, drawn: pd.DataFrame) -> str:
    """The sentence that says what :func:`thinned` left out, with a space before it; empty where all are drawn."""
    more = len(frame) - len(drawn)
    return f" Of {len(frame):,} requests {len(drawn):,} are drawn, the slowest among them." if more else ""


def _tame(figure: Figure) -> None:
    """Have no text of a figure be longer than there is room for, or hold what turns others around.

    The style switches mathematics off: a dollar in a name is a dollar.
    """
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            formatter = axis.get_major_formatter()
            if isinstance(formatter, FuncFormatter):  # names at ticks, which are written anew when they are drawn
                axis.set_major_formatter(_Named(formatter))
        grid = axes.get_subplotspec()
        room = figure.get_figwidth() / (grid.get_gridspec().ncols if grid else 1)
        for place in ("left", "center", "right"):
            axes.set_title(_lines(axes.get_title(place), int(room * LETTERS_IN)), loc=place)
        for text in legend.get_texts() if (legend := axes.get_legend()) else ():  # it covers what it stands on
            text.set_text(_lines(text.get_text(), NAME_LETTERS))
    for text in figure.findobj(Text):
        if isinstance(text, Text):  # as its type does not say
            text.set_text(_lines(text.get_text(), LEGEND_LETTERS))


class _Named(FuncFormatter):
    """Names at ticks, with no more letters than there is room for."""

    def __init__(self, names: FuncFormatter) -> None:
        super().__init__(lambda value, place: _lines(names(value, place), TICK_LETTERS))


def _lines(text: str, most: int) -> str:
    return "\n".join(shortened(line, most) for line in clean(text).split("\n"))


def _inline(svg: str, name: str, alt: str) -> str:
    """An SVG file as part of a page: named colours, ids of its own, a text for screen readers."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (xmlns(:\w+)?|version)="[^"]*"', "", svg)
    svg = svg.replace("xlink:href", "href")
    # matplotlib's ids are hashes of coordinates, which differ in the last digit from run to run.
    used = dict.fromkeys(re.findall(r'(?:url\(|href=")#([^")]+)', svg))
    names = {old: f"{name}-{position}" for position, old in enumerate(used)}
    svg = re.sub(r' id="([^"]+)"', lambda at: f' id="{names[at[1]]}"' if at[1] in names else "", svg)
    svg = re.sub(r'((?:url\(|href=")#)([^")]+)', lambda at: at[1] + names[at[2]], svg)
    svg = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\.\d\d)\d+", r"\1", tag[0]), svg)  # a hundredth of a point is enough
    svg = re.sub(r'<g( clip-path="[^"]*")?>\s*((?:<use [^>]*?( style="[^"]*")/>\s*)+)</g>', _styled_once, svg)
    for colour, value in PALETTE.items():
        svg = re.sub(re.escape(value), f"var(--{colour}, {value})", svg, flags=re.IGNORECASE)
    label = html.escape(clean(alt))
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def _styled_once(group: re.Match[str]) -> str:
    """Marks that look the same, with their looks said once."""
    styles = set(re.findall(r' style="[^"]*"', group[2]))
    if len(styles) > 1:
        return group[0]
    return f"<g{group[1] or ''}{group[3]}>{group[2].replace(group[3], '')}</g>"
