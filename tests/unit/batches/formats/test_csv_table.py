"""CSV files as spreadsheets and programs write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from nexus_tasks.batches.formats import csv_table
from nexus_tasks.core.errors import UsageError
from tests.unit.batches.reading import read


def write(folder: Path, data: bytes) -> Path:
    path = folder / "a.csv"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("separator", [",", ";", "\t"], ids=["comma", "semicolon", "tab"])
def test_columns_are_told_apart_by_what_their_names_are(tmp_path: Path, separator: str) -> None:
    text = f'id{separator}"the; prompt, here"{separator}topic\r\n1{separator}"a, b; c\td"{separator}x\r\n'
    path = write(tmp_path, text.encode())
    assert read(csv_table.rows, path) == {2: {"id": "1", "the; prompt, here": "a, b; c\td", "topic": "x"}}
    assert csv_table.columns(path) == ("id", "the; prompt, here", "topic")


def test_a_comma_in_the_name_of_a_column_separates_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, b'\xef\xbb\xbf"a, b, ""c"", d";prompt;5" disk\n1;2;3\n')
    assert csv_table.columns(path) == ('a, b, "c", d', "prompt", '5" disk')


def test_a_row_of_empty_cells_is_one_and_an_empty_line_is_none(tmp_path: Path) -> None:
    path = write(tmp_path, b"id,prompt\n,\n\n1,a\n")
    assert read(csv_table.rows, path) == {2: {"id": "", "prompt": ""}, 4: {"id": "1", "prompt": "a"}}


def test_a_text_in_quotes_goes_over_several_lines_and_rows_have_the_line_of_their_begin(tmp_path: Path) -> None:
    path = write(tmp_path, b'\xef\xbb\xbfid,prompt\n1,"one\n\ntwo ""quoted"""\n\n2,"a\r\nb"\n')
    assert read(csv_table.rows, path) == {
        2: {"id": "1", "prompt": 'one\n\ntwo "quoted"'},
        6: {"id": "2", "prompt": "a\r\nb"},
    }


def test_a_field_may_have_ten_megabytes_and_bytes_that_are_zero(tmp_path: Path) -> None:
    path = write(tmp_path, b'prompt\n"' + b"a\n" * 5_000_000 + b'"\n"\0"\n')
    assert [len(row["prompt"]) for row in read(csv_table.rows, path).values()] == [10_000_000, 1]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (b"1,2,3", "it has 3 columns instead of 2"),
        (b"1", "it has 1 columns instead of 2"),
        (b'1,"a" b', "not CSV: ',' expected after '\"'"),
        (b"1,\xe4rgerlich f\xfcr", "byte 1 of column prompt (0xe4) is not UTF-8"),
        (b"1,f\xc3\xbcr \xfc", "byte 6 of column prompt (0xfc) is not UTF-8"),
    ],
    ids=["more", "fewer", "stray", "latin-1", "mixed"],
)
def test_a_damaged_row_is_told_with_its_reason_and_leaves_the_others_alone(
    tmp_path: Path, row: bytes, why: str
) -> None:
    found = read(csv_table.rows, write(tmp_path, b"id,prompt\n0,first\n" + row + b"\n2,last\n"))
    assert why in found[3].misfit.message
    assert [found[line]["prompt"] for line in (2, 4)] == ["first", "last"]


def test_a_row_that_a_missing_quote_joins_with_others_is_told_with_all_its_lines(tmp_path: Path) -> None:
    found = read(csv_table.rows, write(tmp_path, b'id,prompt\n1,"open\n2,"x"\n3,last\n'))
    assert "lines 2 to 3" in found[2].misfit.message
    assert found[4] == {"id": "3", "prompt": "last"}


def test_a_quote_that_is_never_closed_is_refused_by_its_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"line 3: a quote opens a text that does not end by line 4"):
        read(csv_table.rows, write(tmp_path, b'id,prompt\n1,a\n2,"open\n3,c\n'))


def test_a_quote_that_swallows_more_than_any_row_has_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_table, "MAX_ROW_BYTES", 1000)
    with pytest.raises(UsageError, match=r"line 2: a quote opens"):
        read(csv_table.rows, write(tmp_path, b'id,prompt\n1,"open\n' + b"2,x\n" * 1000))
    with pytest.raises(UsageError, match="line 2 has more than"):
        read(csv_table.rows, write(tmp_path, b"id,prompt\n" + b"a" * 2000))


@pytest.mark.parametrize(
    ("head", "why"),
    [
        (b"id,prompt,id\n", "two columns are named id"),
        (b"\nid,prompt\n", "names no columns"),
        (b"id,pr\xf6mpt\n", "line 1 is not UTF-8"),
        (b'id,"a" b\n', "line 1: ',' expected"),
    ],
    ids=["twice", "blank", "latin-1", "stray"],
)
def test_names_that_are_none_are_refused(tmp_path: Path, head: bytes, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        read(csv_table.rows, write(tmp_path, head + b"1,2\n"))


def test_columns_without_names_are_called_by_their_places(tmp_path: Path) -> None:
    assert csv_table.columns(write(tmp_path, b",prompt,\n")) == ("column 1", "prompt", "column 3")


def test_a_second_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    assert csv_table.columns(write(tmp_path, b"\xef\xbb\xbf\xef\xbb\xbfid,prompt\n1,a\n")) == ("id", "prompt")
