"""JSON files of any size, and of all the ways in which an array is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nexus_tasks.batches.formats import json_array
from nexus_tasks.batches.items import CannotAsk
from nexus_tasks.core.errors import UsageError
from tests.unit.batches.reading import read

NASTY = [
    {"prompt": 'quotes " and \\ and \\"', "list": [1, [2, {"a": "]}"}], ",["], "none": None},
    {"prompt": "two\nlines, Ärger, \U0001f600", "o": {}, "l": [], "n": -1.5e3},
    "a text, [not] {more}: \\",
    {"prompt": "", "": {"items": ["x"]}},
]


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "a.json"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize("part_bytes", [1, 7, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2], ids=["one line", "pretty"])
@pytest.mark.parametrize("wrapped", [False, True], ids=["array", "items"])
def test_rows_are_those_of_any_other_reader_of_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part_bytes: int, indent: int | None, wrapped: bool
) -> None:
    monkeypatch.setattr(json_array, "_PART_BYTES", part_bytes)
    value = {"of": ["items"], "n": {"items": [1]}, "items": NASTY, "after": ["x"]} if wrapped else NASTY
    text = "\ufeff " + json.dumps(value, indent=indent, ensure_ascii=False)
    rows = read(json_array.rows, write(tmp_path, text))
    assert list(rows) == [1, 2, 3, 4]
    assert list(rows.values()) == [row if isinstance(row, dict) else {"prompt": row} for row in NASTY]


def test_an_empty_array_has_no_rows_and_a_comma_at_its_end_is_none(tmp_path: Path) -> None:
    assert read(json_array.rows, write(tmp_path, " [ \n ] ")) == {}
    assert read(json_array.rows, write(tmp_path, '["a",\n]\n')) == {1: {"prompt": "a"}}


def test_an_element_that_is_damaged_inside_is_set_aside_alone(tmp_path: Path) -> None:
    rows = read(json_array.rows, write(tmp_path, b'["a", {"prompt": NaN}, "\\ud800", "\xff", 5, , "last"]'))
    assert [isinstance(row, CannotAsk) for row in rows.values()] == [False, True, True, True, True, True, False]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('["a", {"prompt": "b"', "after row 1: a quote or bracket is never closed"),
        ('["a", "b', "after row 1: a quote or bracket"),
        ("5", "neither an array"),
        ("null\n", "neither an array"),
        ('"[a]"', "neither an array"),
        ('{"rows": ["a"]}', "neither an array of rows nor an object with such an array as its items"),
        ('{"items": 5, "x": "items"}', "neither an array"),
        ('["a"] ["b"]', "goes on behind its array"),
    ],
    ids=["cut", "cut in a text", "number", "null", "text", "no items", "items of another kind", "two arrays"],
)
def test_rows_that_cannot_be_told_apart_are_refused(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        read(json_array.rows, write(tmp_path, text))


def test_an_element_may_have_ten_megabytes_and_not_more_than_any_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, '["' + "a" * 10_000_000 + '", "b"]')
    assert [len(row["prompt"]) for row in read(json_array.rows, path).values()] == [10_000_000, 1]
    monkeypatch.setattr(json_array, "MAX_ROW_BYTES", 1 << 20)
    with pytest.raises(UsageError, match="after row 0: the next has more than 1 MiB"):
        read(json_array.rows, path)
