"""Which format a file has."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from nexus_tasks.batches import sources
from nexus_tasks.core.errors import UsageError

OPENAI = b'{"custom_id": "1", "method": "POST", "url": "/v1/embeddings", "body": {"input": "a"}}\n'


def write(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("name", "data", "format_"),
    [
        ("a.txt", b"Why?", "txt"),
        ("a.CSV", b"prompt\na", "csv"),
        ("a.tsv", b"prompt\na", "csv"),
        ("a.json", b'["a"]', "json"),
        ("a.json", b'{"items": ["a"]}', "json"),
        ("a.jsonl", b'"a"', "jsonl"),
        ("a.ndjson", b'{"custom_id": "1", "prompt": "a"}', "jsonl"),
        ("a.jsonl", b"\xef\xbb\xbf\nbroken\n" + OPENAI, "openai"),
    ],
)
def test_the_ending_and_the_first_row_say_which_format_a_file_has(
    tmp_path: Path, name: str, data: bytes, format_: str
) -> None:
    assert sources.find(write(tmp_path, name, data)).format == format_


def test_parquet_is_known_by_its_ending_and_its_first_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.pq"
    parquet.write_table(pa.table({"q": ["a"]}), path)
    assert sources.find(path).format == "parquet"
    assert sources.find(path).columns() == ("q",)
    with pytest.raises(UsageError, match="is Parquet"):
        sources.find(path, "jsonl")
    with pytest.raises(UsageError, match="is not Parquet"):
        sources.find(write(tmp_path, "b.parquet", b"prompt\na"))


def test_the_format_that_is_said_counts_more_than_the_ending(tmp_path: Path) -> None:
    path = write(tmp_path, "prompts", b"Why?\n")
    with pytest.raises(UsageError, match=r"prompts ends in none of \.txt"):
        sources.find(path)
    assert sources.find(path, "txt").columns() == ("prompt",)
    assert sources.find(write(tmp_path, "a.jsonl", OPENAI), "jsonl").format == "jsonl"
    with pytest.raises(UsageError, match="there is no format xml"):
        sources.find(path, "xml")


@pytest.mark.parametrize("data", [b"", b"\xef\xbb\xbf", b" \r\n\n"], ids=["nothing", "mark", "blank"])
def test_an_empty_file_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(UsageError, match="is empty"):
        sources.find(write(tmp_path, "a.jsonl", data))


@pytest.mark.parametrize("text", ["id,prompt\r\n1,Why?\r\n", "提示\n你好世界\n再见世界\n"], ids=["latin", "chinese"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["no mark", "mark"])
@pytest.mark.parametrize("encoding", ["UTF-16LE", "UTF-16BE", "UTF-32LE", "UTF-32BE"])
def test_another_encoding_of_all_the_file_is_refused_with_the_command_that_mends_it(
    tmp_path: Path, encoding: str, mark: str, text: str
) -> None:
    path = write(tmp_path, "it's.csv", (mark + text).encode(encoding))
    with pytest.raises(UsageError, match="is UTF-") as refused:
        sources.find(path)
    command = refused.value.hint.removeprefix("save it as UTF-8: ").replace("NEW", str(tmp_path / "new.csv"))
    subprocess.run(["bash", "-c", command], check=True)
    assert (tmp_path / "new.csv").read_bytes().removeprefix(b"\xef\xbb\xbf") == text.encode()


def test_zeros_within_a_text_of_utf_8_do_not_make_it_another_encoding(tmp_path: Path) -> None:
    assert sources.find(write(tmp_path, "a.txt", "Größe\0\nÄrger\0\n".encode())).format == "txt"
    with pytest.raises(UsageError, match="has nothing but zero bytes"):
        sources.find(write(tmp_path, "b.txt", b"\0" * 100))


@pytest.mark.parametrize("data", [b"one\rtwo\r", b"one\rtwo\rthree", b"\r\rone"])
def test_lines_that_end_as_no_reader_of_lines_knows_them_are_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(UsageError, match="ends its lines with CR alone"):
        sources.find(write(tmp_path, "a.txt", data))


def test_a_table_may_end_its_lines_with_cr_alone_and_a_text_have_one_within(tmp_path: Path) -> None:
    table = sources.find(write(tmp_path, "a.csv", b"prompt\rone\rtwo\r"))
    assert [(line, fields()) for line, fields in table.rows()] == [(2, {"prompt": "one"}), (3, {"prompt": "two"})]
    for text in (b"one\rmore\ntwo\nthree\r\n", b"one\rmore\n", b"one\r"):
        assert sources.find(write(tmp_path, "a.txt", text)).format == "txt"


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("a.jsonl", b'[\n{"prompt": "a"}\n]', "is a JSON array, and no JSONL"),
        ("a.jsonl", b'[{"prompt": "a"},\n{"prompt": "b"}]', "is a JSON array, and no JSONL"),
        ("a.jsonl", b'{\n "prompt": "a"\n}\n', "has rows that go over several lines"),
        ("a.json", b'{"prompt": "a"}\n{"prompt": "b"}\n', "has a JSON object in each line"),
    ],
)
def test_json_of_the_other_form_is_refused_with_the_right_format(
    tmp_path: Path, name: str, data: bytes, why: str
) -> None:
    with pytest.raises(UsageError, match=why):
        sources.find(write(tmp_path, name, data))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    for name, why in (("none.txt", "can't be read: No such file"), ("", "is not a file"), ("pipe.txt", "not a file")):
        with pytest.raises(UsageError, match=why):
            sources.find(tmp_path / name)


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.json", "a.jsonl"])
def test_a_file_that_is_gone_is_told_as_what_it_is(tmp_path: Path, name: str) -> None:
    source = sources.find(write(tmp_path, name, b'"prompt"\n'))
    source.file.unlink()
    with pytest.raises(UsageError, match="can't be read: No such file"):
        list(source.rows())


def test_a_parquet_file_that_is_gone_is_not_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"prompt": ["a"]}), path)
    source = sources.find(path)
    path.unlink()
    for read in (source.columns, lambda: list(source.rows())):
        with pytest.raises(UsageError, match="can't be read: No such file"):
            read()
