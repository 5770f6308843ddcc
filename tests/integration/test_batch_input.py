"""Input of batches in all its forms, from the file to what a real server answers."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from pyarrow import parquet

from nexus_tasks import batch
from nexus_tasks.fleet import inventory
from tests.conftest import ROOT, RunningServer

ROWS = [
    {"id": "q-1", "question": "Why is it blue?\nSay it.", "about": 'the "sky", or; so', "limit": 3},
    {"id": "q-2", "question": "How warm is it?", "about": "Århus", "limit": 5},
]


class Bench:
    """A folder of a test's own with jobs that ask one server."""

    def __init__(self, folder: Path, server: RunningServer) -> None:
        self.folder, self.url = folder, server.base_url

    def asked(self, file: Path, *options: str, status: int = 0) -> list[dict[str, Any]]:
        """Ask the rows of a file; what an export has of them."""
        options = ("--name", file.name, "--temperature", "0", "--max-tokens", "4", *options)
        found, _, said = self.begun(file, *options)
        assert found == status, said
        return [json.loads(line) for line in self.run("export", file.name)[1].splitlines()]

    def begun(self, file: Path, *options: str) -> tuple[int, str, str]:
        """Ask the rows of a file."""
        return self.run(str(file), self.url, "--results", str(self.folder / "results"), *options)

    def refused(self, file: Path, *options: str) -> str:
        """Have a file refused with status 2; the error."""
        status, _, said = self.begun(file, *options)
        assert status == 2, said
        return said

    def run(self, *words: str) -> tuple[int, str, str]:
        """Run the command; its status and what it printed."""
        with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)) as out:
            with contextlib.redirect_stderr(io.StringIO()) as said:
                status = batch.main([*words, "--jobs", str(self.folder / "jobs")])
            assert isinstance(out.buffer, io.BytesIO)
            return status, out.buffer.getvalue().decode(), said.getvalue()


@pytest.fixture
def bench(tmp_path: Path, server: RunningServer) -> Bench:
    return Bench(tmp_path, server)


def written(folder: Path, ending: str) -> Path:
    """The rows as a file of a format, written by other programs' means."""
    path = folder / f"rows{ending}"
    match ending:
        case ".csv":
            with path.open("w", encoding="utf-8-sig", newline="") as stream:
                table = csv.DictWriter(stream, ROWS[0], delimiter=";")
                table.writeheader()
                table.writerows(ROWS)
        case ".parquet":
            parquet.write_table(pa.Table.from_pylist(ROWS), path)
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\r\n" for row in ROWS))
        case ".json":
            path.write_text(json.dumps({"items": ROWS}, indent=1))
    return path


def test_rows_are_asked_alike_whatever_format_they_come_in(bench: Bench, tmp_path: Path) -> None:
    options = ["--template", "{{ question }} It is about {{ about }}.", "--column", "max_tokens=limit", "--seed", "1"]
    of_format = {
        ending: bench.asked(written(tmp_path, ending), *options) for ending in (".csv", ".json", ".jsonl", ".parquet")
    }
    for rows in of_format.values():
        assert [row["id"] for row in rows] == ["q-1", "q-2"]
        assert [row["usage"]["output_tokens"] for row in rows] == [3, 5]
        assert [row["metadata"]["about"] for row in rows] == [row["about"] for row in ROWS]
        assert [row["answer"] for row in rows] == [row["answer"] for row in of_format[".csv"]]
    assert of_format[".csv"][0]["answer"] != of_format[".csv"][1]["answer"]


def test_each_row_that_cannot_be_asked_is_told_and_all_others_are_answered(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    bad = {
        "not UTF-8": '{"prompt": "Gr\xfc\xdfe"}'.encode("latin-1"),
        "not JSON": b'{"prompt": "a"',
        "has no prompt": b'{"text": "a"}',
        "half a surrogate pair": b'{"prompt": "\\ud800"}',
        "there is no parameter max_token": b'{"prompt": "a", "parameters": {"max_token": 1}}',
        "no JSON Schema": b'{"prompt": "a", "parameters": {"json_schema": {"type": "x"}}}',
        "the prompt has": json.dumps({"prompt": "hello " * 5000}).encode(),
    }
    good = [
        b'{"prompt": "a\\u0000b"}',
        b'"a text alone"',
        b'{"messages": [{"role": "user", "content": "\xf0\x9f\x98\x80"}]}',
    ]
    path.write_bytes(b"\n".join([*bad.values(), *good]))
    rows = bench.asked(path, status=1)
    for row, why in zip(rows, bad, strict=False):
        assert why in row["error"]["message"]
    assert [row["line"] for row in rows] == list(range(1, len(bad) + len(good) + 1))
    assert all(row["usage"]["output_tokens"] for row in rows[len(bad) :])


def test_the_requests_of_openai_s_format_are_asked_as_they_are(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "batch.jsonl"
    chat = {"messages": [{"role": "user", "content": "Hi"}], "model": "gpt-x", "max_tokens": 2}
    text = {"prompt": "Hi", "max_tokens": 3, "stream": False}
    requests = [("/v1/chat/completions", chat), ("/v1/completions", text), ("/v1/images", {})]
    rows = [
        {"custom_id": url, "method": "POST", "url": url, "body": {"temperature": 0, **body}} for url, body in requests
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert "whose rows say themselves what is asked" in bench.refused(path, "--max-tokens", "4")
    status, _, said = bench.begun(path, "--name", "n")
    assert status == 1, said
    out = tmp_path / "out.jsonl"
    assert bench.run("export", "n", "--format", "openai", "--out", str(out))[0] == 0
    answered = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["custom_id"] for row in answered] == [url for url, _ in requests[:2]]
    assert [row["response"]["body"]["usage"]["completion_tokens"] for row in answered] == [2, 3]


def test_answers_keep_to_a_schema_and_one_that_the_server_cannot_express_is_told_in_its_words(
    bench: Bench, tmp_path: Path
) -> None:
    path, schema = tmp_path / "rows.txt", tmp_path / "schema.json"
    path.write_text("Why?\nHow?\n")
    schema.write_text('{"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}')
    options = ["--json-schema", str(schema), "--max-tokens", "40", "--samples", "2"]
    rows = bench.asked(path, *options)
    assert len(rows) == 4
    assert {json.loads(row["answer"])["n"] for row in rows} <= {1, 2}
    schema.write_text('{"type": "string", "minLength": 5000}')
    other = path.rename(tmp_path / "others.txt")
    errors = [row["error"] for row in bench.asked(other, *options, status=1)]
    assert {error["kind"] for error in errors} == {"schema"}
    assert all("failed to parse grammar" in error["message"] for error in errors)
    schema.write_text('{"type": "objekt"}')
    assert "no JSON Schema: at $.type" in bench.refused(other, *options)


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("a.jsonl", b"", "is empty"),
        ("a.csv", "id;prompt\n1;Grüße\n".encode("utf-16"), "is UTF-16"),
        ("a.csv", b'id,prompt\n1,a\n2,"open\n', "line 3: a quote opens a text"),
        ("a.csv", b"id,prompt\n1,a\n1,b\n", "line 2 and line 3 have one id, 1"),
        ("a.csv", b"id,text\n1,a\n", "has no column prompt"),
        ("a.jsonl", b"{}\n[]\n", "no row can be asked; the first, line 1: it has no prompt"),
    ],
    ids=["empty", "encoding", "quote", "ids", "column", "nothing"],
)
def test_a_file_that_cannot_be_asked_is_refused_in_one_line_and_leaves_no_job(
    bench: Bench, tmp_path: Path, name: str, data: bytes, why: str
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    said = bench.refused(path)
    assert why in said
    assert said.count("error: ") == said.count(" hint: ") == 1
    assert not list((tmp_path / "jobs").glob("*"))


def test_sampling_presets_are_those_of_the_inventory() -> None:
    presets = yaml.safe_load((ROOT / "group_vars/all/sampling.yml").read_text())["llama_sampling_presets"]
    assert inventory.sampling_presets() == presets
