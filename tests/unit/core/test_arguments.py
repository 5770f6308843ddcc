"""Command lines of names and options, in any order."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest

from nexus_tasks import benchmark, compare, export, models, monitor, report
from nexus_tasks.core import arguments

ROOT = Path(arguments.__file__).parents[1]
PARSERS: dict[str, Callable[[], argparse.ArgumentParser]] = {
    "benchmark": benchmark._parser, "compare": compare.parser, "export": export._parser,
    "models": lambda: models._parser("list"), "monitor": monitor._parser, "report": report._parser,
}  # fmt: skip
OPTIONS = {
    "benchmark": ["--requests", "4"], "compare": ["--results", "r"], "export": ["--format", "csv"],
    "models": ["--json"], "monitor": ["--once"], "report": ["--force"],
}  # fmt: skip


@pytest.mark.parametrize("command", PARSERS)
@pytest.mark.parametrize("order", ["{options} a b", "a {options} b", "a b {options}"])
def test_options_may_stand_between_names(command: str, order: str) -> None:
    argv = order.format(options=" ".join(OPTIONS[command])).split()
    given = vars(arguments.parse(PARSERS[command](), argv))
    expected = vars(PARSERS[command]().parse_args([*OPTIONS[command], "a", "b"]))
    assert given == expected


@pytest.mark.parametrize("command", PARSERS)
def test_without_a_name_the_default_holds(command: str) -> None:
    assert arguments.parse(PARSERS[command](), []) == PARSERS[command]().parse_args([])


@pytest.mark.parametrize("command", PARSERS)
def test_help_is_that_of_argparse(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for parse in (PARSERS[command]().parse_args, lambda argv: arguments.parse(PARSERS[command](), argv)):
        with pytest.raises(SystemExit) as ended:
            parse(["a", "--help"])
        assert ended.value.code == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]


@pytest.mark.parametrize("command", PARSERS)
def test_what_nobody_knows_is_refused_with_the_whole_usage(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        arguments.parse(PARSERS[command](), ["a", "--nonsense", "b"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(PARSERS[command]().format_usage())
    assert "unrecognized arguments: --nonsense" in said


def test_every_command_that_takes_names_is_parsed_so() -> None:
    taking = [path for path in ROOT.glob("*.py") if 'nargs="*"' in path.read_text(encoding="utf-8")]
    # Those of batch can't be asked for without a name that is needed.
    assert {path.stem for path in taking} == {*PARSERS, "batch"}
    for path in taking:
        # What stands behind an action is parsed by the action.
        text = path.read_text(encoding="utf-8").replace("_actions().parse_args(argv)", "")
        assert ".parse_args(" not in text, path
