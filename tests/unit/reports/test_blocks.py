"""Tables, notes and figures of reports."""

from __future__ import annotations

import re
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest

from nexus_tasks.core import text
from nexus_tasks.records import store
from nexus_tasks.records.store import Record
from nexus_tasks.reports import blocks, figures, frames, markup
from tests.report_records import NOON, failure, request, sample, write

STYLE = (markup.SKIN / "report.css").read_text()
HTML_IN_A_MESSAGE = 'HTTP 500: <script>alert("x")</script> & more'


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return store.load(write(tmp_path))


def test_what_a_server_said_is_never_markup(tmp_path: Path) -> None:
    record = store.load(write(tmp_path, requests=[request(1), failure(2, "http_status", HTML_IN_A_MESSAGE)]))
    html = blocks.failures(record).html
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_a_run_without_failures_has_no_table_of_failures(record: Record) -> None:
    assert blocks.failures(record).html == ""


def test_the_command_line_shows_a_flag_a_line_quoted_for_a_shell(record: Record) -> None:
    html = blocks.measured(record).html
    assert "/bin/llama-server \\\n    --port 8600 \\\n    --alias &#39;a name&#39;</pre>" in html


@pytest.mark.parametrize(("limit", "tone"), [(2.0, "good"), (0.5, "bad")])
def test_the_agreement_is_judged_by_its_mark(record: Record, limit: float, tone: str) -> None:
    assert f'class="note {tone}"' in blocks.agreement(record, limit).html


def test_only_a_distinct_change_is_coloured(tmp_path: Path) -> None:
    slower = [request(number, ttft_ms=150.0) for number in range(1, 5)]
    write(tmp_path, NOON - timedelta(hours=1), requests=slower)
    record = store.load(write(tmp_path, requests=[request(number) for number in range(1, 5)]))
    html = blocks.head(record, frames.history(record, tmp_path)).html
    assert re.findall(r'<dd class="(\w+)">([-+.\d]+)\s% since', html) == [
        ("good", "-33.3"),  # TTFT: less is better
        ("muted", "+0.00"),
        ("muted", "+0.00"),
        ("good", "+51.0"),  # prefill: more is better
    ]


def test_every_colour_of_the_figures_is_in_the_style_sheet_for_light_dark_and_print() -> None:
    defined = Counter(re.findall(r"--(\w+):", STYLE))
    assert {name: defined[name] for name in figures.PALETTE} == dict.fromkeys(figures.PALETTE, 3)


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
    for name, colour in figures.PALETTE.items():
        assert _contrast(colour, paper) >= 3, name


def test_a_figure_names_its_colours_and_says_what_it_shows(record: Record) -> None:
    html = figures.breakdown(record).html
    assert "var(--orange, " in html
    assert not re.search(r"(?<!, )#[0-9a-f]{6}", html), "a colour that the page can't change"
    assert re.search(r'<svg role="img" aria-label="Bars of 4 requests\. A median one took \d+\sms', html)


def test_figures_of_one_page_share_no_ids(tmp_path: Path) -> None:
    gpus = [{"index": 0, "utilization_percent": 50.0, "memory_used_mib": 1024.0, "power_w": 300.0}]
    hot = [{**gpus[0], "utilization_percent": 98.0, "power_w": 350.0}]
    write(tmp_path, NOON - timedelta(hours=1))
    record = store.load(write(tmp_path, samples=[sample(0.0, gpus), sample(0.5, hot)]))
    page = "".join(
        figure.html
        for figure in (
            figures.latencies(record),
            figures.breakdown(record),
            figures.timeline(record),
            figures.agreement(record, 2.0),
            figures.history(frames.history(record, tmp_path)),
        )
    )
    ids = Counter(re.findall(r' id="([^"]+)"', page))
    assert max(ids.values()) == 1
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', page)) <= set(ids)
    assert "GPU load, %" in page
    assert "GPU power, W" in page
    assert "Hardly moved: processor 90.0" in page


def test_few_points_are_drawn_themselves_and_many_as_a_histogram(tmp_path: Path) -> None:
    few = figures.latencies(store.load(write(tmp_path, requests=[request(1)]))).html
    assert "request, in order" in few
    many = figures.latencies(store.load(write(tmp_path, requests=[request(i) for i in range(1, 30)]))).html
    assert many.count("count</text>") == 2
    assert "p99" in many


def test_tokens_that_came_in_one_event_do_not_break_a_logarithmic_axis(tmp_path: Path) -> None:
    gaps = [0.0] * 5 + [3.0] * 30 + [400.0]
    html = figures.latencies(store.load(write(tmp_path, requests=[request(1, itl_ms=gaps)]))).html
    assert f"n = 36, 0 to {text.number(400, 'ms')}" in html


def test_a_run_in_which_everything_failed_still_has_every_block(tmp_path: Path) -> None:
    record = store.load(write(tmp_path, requests=[failure(1, "timeout", "no token")], samples=[]))
    past = frames.history(record, tmp_path)
    shown = [
        blocks.head(record, past), blocks.failures(record), blocks.measured(record), blocks.summary(record),
        figures.latencies(record), figures.breakdown(record), blocks.requests(record), figures.timeline(record),
        blocks.agreement(record, 2.0), figures.agreement(record, 2.0), figures.history(past),
        blocks.history(past), blocks.footer(record),
    ]  # fmt: skip
    text = " ".join(block.html for block in shown)
    assert "1 of 1 request failed" in text
    assert "No statistics: no request succeeded." in text


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
