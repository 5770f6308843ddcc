"""Prompts and JSON values, one a line."""

from __future__ import annotations

from pathlib import Path

import pytest

from nexus_tasks.batches import formats
from nexus_tasks.batches.formats import lines
from nexus_tasks.batches.items import CannotAsk
from tests.unit.batches.reading import read


def test_a_line_of_text_is_a_prompt_with_the_spaces_at_its_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b" Why? \n\n   \nHow?\r\nW\xc3\xa4r\xe2\x80\xa8um?")
    assert read(lines.txt, path) == {1: {"prompt": " Why? "}, 4: {"prompt": "How?"}, 5: {"prompt": "Wär\u2028um?"}}


@pytest.mark.parametrize("reader", [lines.txt, lines.jsonl], ids=["txt", "jsonl"])
def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path, reader: formats.Reader) -> None:
    path = tmp_path / "a"
    path.write_bytes(b'\xef\xbb\xbf"a"\r\n"b"\r\n')
    assert [fields["prompt"].strip('"') for fields in read(reader, path).values()] == ["a", "b"]


@pytest.mark.parametrize("reader", [lines.txt, lines.jsonl], ids=["txt", "jsonl"])
def test_marks_where_files_were_joined_and_line_ends_that_were_translated_twice_are_no_part_of_a_row(
    tmp_path: Path, reader: formats.Reader
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b'\xef\xbb\xbf\xef\xbb\xbf"a"\r\r\n\xef\xbb\xbf"b"\r\r\n\xef\xbb\xbf\r\n')
    assert [fields["prompt"] for fields in read(reader, path).values()] in (["a", "b"], ['"a"', '"b"'])


def test_a_line_of_jsonl_is_an_object_or_a_text(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "a\\u0000b", "n": 12345678901234567890123}\n\n"only a text"\n')
    assert read(lines.jsonl, path) == {
        1: {"prompt": "a\0b", "n": 12345678901234567890123},
        3: {"prompt": "only a text"},
    }


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"prompt": "a"', "not JSON"),
        (b'{"prompt": NaN}', "not JSON: invalid character"),
        (b'{"prompt": "a\0b"}', "not JSON: invalid character"),
        (b'{"prompt": "\\ud83d"}', "it has half a surrogate pair"),
        (b'{"prompt": "\\uDC00b", "n": 1}', "it has half a surrogate pair"),
        (b'{"prompt": "' + b"J\xfcrgen".join([b"", b'"}']), "byte 14 (0xfc) is not UTF-8"),
        (b"[1]", "it is a list instead of an object or a text"),
        (b"null", "it is null"),
        (b"[" * 5000 + b"]" * 5000, "nested too deeply"),
    ],
    ids=["cut", "nan", "nul", "first half", "second half", "latin-1", "list", "null", "deep"],
)
def test_a_damaged_line_is_told_with_its_reason_and_leaves_the_others_alone(
    tmp_path: Path, line: bytes, why: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'"first"\n' + line + b'\n"last"\n')
    found = read(lines.jsonl, path)
    assert (found[1], found[3]) == ({"prompt": "first"}, {"prompt": "last"})
    assert isinstance(found[2], CannotAsk)
    assert found[2].misfit.kind == "malformed"
    assert why in found[2].misfit.message


def test_a_line_that_no_server_takes_is_passed_over_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_ROW_BYTES", 64)
    path = tmp_path / "a.txt"
    path.write_bytes(b"x" * 63 + b"\n" + b"y" * 64 + b"\n" + b"z" * 1000 + b"\nlast")
    found = read(lines.txt, path)
    assert [len(found[1]["prompt"]), found[4]] == [63, {"prompt": "last"}]
    assert [found[line].misfit.kind for line in (2, 3)] == ["too_large", "too_large"]


def test_a_row_may_have_ten_megabytes(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"a" * 10_000_000)
    assert len(read(lines.txt, path)[1]["prompt"]) == 10_000_000
