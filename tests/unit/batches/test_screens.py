"""Jobs on a terminal of 80 columns."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from nexus_tasks.batches import screens
from nexus_tasks.batches.entries import Begun, Entry, Failed, Session
from nexus_tasks.batches.options import Outcome, Served
from nexus_tasks.batches.summary import Summary, summary_of
from nexus_tasks.core.text import SPACE
from nexus_tasks.stats.energy import EnergySum
from tests.unit.batches.jobs import answered, declared, set_aside, told

WORK: list[Entry] = [
    Session(1.0), Begun([0, 1, 2], "gpu1/main", 1.0), Failed(0, "gpu1/main", 2.0, "timeout", "no answer"),
    set_aside(1, "too_long"), answered(0, "Hi"),
]  # fmt: skip


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=80)


def shown(console: Console) -> list[str]:
    stream = console.file
    assert isinstance(stream, io.StringIO)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def summary(tmp_path: Path, name: str = "night") -> Summary:
    folder = declared(tmp_path, name)
    told(folder, *WORK)
    return summary_of(folder)


def test_a_job_is_told_with_its_failures_and_the_first_row_of_each_kind(tmp_path: Path, console: Console) -> None:
    screens.show(summary(tmp_path), console)
    lines = shown(console)
    assert "answered     1 of 3" in lines
    assert "failed       1: 1 too_long" in lines
    assert "             too_long, row 2: why item 1" in lines
    assert "tried again  1: 1 timeout" in lines
    assert "gpu1/main    1 answered by qwen, build b1" in lines


def test_long_names_and_markup_are_shown_whole_within_the_width(tmp_path: Path, console: Console) -> None:
    name = "[red]" + "long name " * 15 + "[b]"
    one = summary(tmp_path, name)
    screens.show(one, console)
    screens.show_all([one], console)
    lines = shown(console)
    assert max(map(len, lines)) <= 80
    assert "".join(lines).replace(" ", "").count("[b]") >= 2


def test_an_error_that_ended_a_job_is_told(tmp_path: Path, console: Console) -> None:
    folder = declared(tmp_path)
    told(folder, Session(1.0), Session(2.0, "no space left"))
    screens.show(summary_of(folder), console)
    assert "state      failed: no space left" in shown(console)


def test_a_session_is_told_with_its_rates_and_lost_endpoints(console: Console) -> None:
    outcome = Outcome(10, answered=5, output_tokens=500, seconds=2.0, served=[Served("gpu1/main", problem="is gone")])
    screens.show_session(outcome, console)
    assert shown(console) == [
        "5 answers in 2.0 s, 2.50 rows/s, 250 tokens/s", "gpu1/main was not in use at the end: is gone"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("energy", "line"),
    [
        (EnergySum(4200.0, ("client", "rig-2")), "4,200 J of this machine and rig-2, 840 J a token"),
        (EnergySum(4200.0, ("rig-1",), at_least=True), "at least 4,200 J of rig-1"),
        (None, None),
    ],
    ids=["known", "a lower bound", "unknown"],
)
def test_energy_is_told_where_it_is_known(
    tmp_path: Path, console: Console, energy: EnergySum | None, line: str | None
) -> None:
    folder = declared(tmp_path)
    told(folder, *WORK, Session(9.0, "complete", energy))
    screens.show(summary_of(folder), console)
    lines = [text.replace(SPACE, " ") for text in shown(console)]
    told_of = [text.removeprefix("energy").strip() for text in lines if text.startswith("energy")]
    assert told_of == ([] if line is None else [line])


def test_a_narrow_terminal_breaks_the_lines_of_a_list_and_loses_no_column(tmp_path: Path) -> None:
    narrow = Console(file=io.StringIO(), width=40)
    screens.show_all([summary(tmp_path, "night")], narrow)
    [line] = [line.split() for line in shown(narrow) if "night" in line]
    assert (line[0], line[-1]) == ("night", "3")
