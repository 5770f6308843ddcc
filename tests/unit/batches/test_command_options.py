"""Options of a command line, and what they come to."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from nexus_tasks.batches import command_options
from nexus_tasks.batches.asking import Asking
from nexus_tasks.batches.columns import Columns
from nexus_tasks.core.errors import UsageError
from nexus_tasks.fleet import inventory


def asking(*words: str, before: Asking = Asking()) -> Asking:  # noqa: B008 - it is frozen
    parser = argparse.ArgumentParser()
    command_options.add_to(parser)
    return command_options.asking(parser.parse_args(words), before)


@pytest.fixture
def presets(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"precise": {"temperature": 0.1, "top_k": 10}, "odd": {"temprature": 1}}
    monkeypatch.setattr(inventory, "sampling_presets", lambda: known)


def test_nothing_said_is_nothing_asked_for() -> None:
    assert asking() == Asking()


def test_options_count_more_than_the_sampling_preset_that_they_stand_beside(presets: None) -> None:
    made = asking("--temperature", "0.5", "--sampling", "precise")
    assert (made.sampling, made.parameters) == ("precise", {"temperature": 0.5, "top_k": 10})
    with pytest.raises(UsageError, match="there is no sampling preset wild") as refused:
        asking("--sampling", "wild")
    assert refused.value.hint == "llama_sampling_presets has precise, odd"
    with pytest.raises(UsageError, match="there is no parameter temprature"):
        asking("--sampling", "odd")


@pytest.mark.parametrize(
    ("words", "columns"),
    [
        (["--prompt-column", "q"], Columns(prompt="q", messages=None)),
        (["--messages-column", "m"], Columns(prompt=None, messages="m")),
        (["--messages-column", "m", "--prompt-column", "q"], Columns(prompt="q", messages="m")),
        (["--no-ids", "--column", "seed=s", "--column", "max_tokens=n"],
         Columns(id=None, single={"seed": "s", "max_tokens": "n"})),
    ],
    ids=["prompt", "messages", "both", "single"],
)  # fmt: skip
def test_columns_are_named_by_what_they_hold(words: list[str], columns: Columns) -> None:
    assert asking(*words).columns == columns


def test_texts_come_from_the_command_line_or_a_file(tmp_path: Path) -> None:
    path = tmp_path / "system.md"
    path.write_bytes(b"\xef\xbb\xbfBe short.\n\n")
    assert asking("--system", f"@{path}", "--template", "{{ a }}").system == "Be short.\n"
    with pytest.raises(UsageError, match="can't be read"):
        asking("--system", "@none")
    with pytest.raises(UsageError, match="begins no variable"):
        asking("--template", "{{ a")


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("json-schema", '{"type": "objekt"}', r"--json-schema: no JSON Schema: at \$\.type: is not one of"),
        ("json-schema", "{", "is not JSON"),
        ("json-schema", "[]", "json_schema: Expected"),
        ("tools", '[{"name": "f"}]', "tools.*missing required field"),
    ],
    ids=["no schema", "no json", "a list", "no tool"],
)
def test_files_that_are_not_what_they_should_be_are_refused(tmp_path: Path, name: str, content: str, why: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=why):
        asking(f"--{name}", str(path))


def test_what_is_not_said_again_stays_as_it_was() -> None:
    before = Asking(system="S", samples=2, parameters={"max_tokens": 5, "seed": 1}, columns=Columns(prompt="q"))
    made = asking("--max-tokens", "9", before=before)
    expected: dict[str, Any] = {"max_tokens": 9, "seed": 1}
    assert (made.system, made.samples, made.columns, made.parameters) == ("S", 2, Columns(prompt="q"), expected)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--system", "a\udcffb"], r"--system: 'a\\udcffb' is not UTF-8"),
        (["--stop", "x", "--stop", "\udcff"], "--stop: .* is not UTF-8"),
        (["--template", "@FILE"], "is empty"),
        (["--grammar", "FILE"], "is empty"),
        (["--system", "@"], "@ names no file"),
        (["--samples", "10001"], "--samples must be from 1 to 10,000, not 10,001"),
        (["--samples", "1000000000"], "--samples must be from 1 to 10,000"),
    ],
    ids=["system", "stop", "template", "grammar", "no file", "samples", "many samples"],
)
def test_what_cannot_be_asked_is_refused(tmp_path: Path, words: list[str], why: str) -> None:
    path = tmp_path / "empty"
    path.write_text("\n")
    with pytest.raises(UsageError, match=why):
        asking(*(word.replace("FILE", str(path)) for word in words))


def test_a_schema_that_is_null_is_not_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    path.write_text("null")
    with pytest.raises(UsageError, match=r"schema\.json is null"):
        asking("--json-schema", str(path))
