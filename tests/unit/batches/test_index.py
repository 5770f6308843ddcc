"""What a first reading of an input finds out."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

import pytest

from nexus_tasks.batches import index, inputs, sources
from nexus_tasks.batches.asking import Asking
from nexus_tasks.batches.columns import Columns
from nexus_tasks.batches.index import NO_KEY
from nexus_tasks.batches.inputs import Input
from nexus_tasks.batches.items import KEY_BYTES
from nexus_tasks.core.errors import BatchError, UsageError


def given(folder: Path, text: str, name: str = "a.jsonl", samples: int = 1) -> Input:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return Input(sources.find(path), Asking(samples=samples))


def test_the_index_has_the_key_of_each_item_and_zeros_for_those_that_cannot_be_asked(tmp_path: Path) -> None:
    source = given(tmp_path, '"a"\n{}\nbroken\n"b"\n', samples=2)
    found = index.write(source, tmp_path / "rows.index")
    assert (found.rows, found.items, found.misfits) == (4, 8, {"no_prompt": 2, "malformed": 2})
    assert found.sha256 == hashlib.sha256(source.source.file.read_bytes()).hexdigest()
    keys = b"".join(item.request.key if item.request else NO_KEY for item in inputs.items(source))
    assert (tmp_path / "rows.index").read_bytes() == keys
    assert len(keys) == 8 * KEY_BYTES
    assert [path.name for path in tmp_path.iterdir() if "index" in path.name] == ["rows.index"]


@pytest.mark.parametrize(
    ("name", "text", "places"),
    [
        ("a.jsonl", '{"id": "x", "prompt": "a"}\n\n{"id": "y"}\n{"id": "x"}\n', "line 1 and line 4 have one id, x"),
        ("a.jsonl", '{"id": 2, "prompt": "a"}\n{"prompt": "b"}\n', "line 1 and line 2 have one id, 2"),
        ("a.csv", 'id,prompt\n1,"two\nlines"\n1,b\n', "line 2 and line 4 have one id, 1"),
        ("a.json", '[{"id": "x", "prompt": "a"}, {"id": "x", "prompt": "b"}]', "row 1 and row 2 have one id, x"),
    ],
    ids=["jsonl", "an id that is another's line", "csv", "json"],
)
def test_two_rows_with_one_id_are_refused_with_both_their_places(
    tmp_path: Path, name: str, text: str, places: str
) -> None:
    with pytest.raises(UsageError, match=places):
        index.write(given(tmp_path, text, name, samples=2), tmp_path / "rows.index")
    assert not (tmp_path / "rows.index").exists()


def test_a_row_that_cannot_be_read_does_not_take_the_id_of_another(tmp_path: Path) -> None:
    text = 'id,prompt\n1,"a"b\n2,b\n'  # the damaged row is on line 2
    assert index.write(given(tmp_path, text, "a.csv"), tmp_path / "rows.index").misfits == {"malformed": 1}
    with pytest.raises(UsageError, match="line 3 and line 4 have one id, 2"):
        index.write(given(tmp_path, text + "2,c\n", "a.csv"), tmp_path / "rows.index")


def test_of_a_long_id_that_is_there_twice_the_beginning_is_shown(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        index.write(given(tmp_path, f'{{"id": "{"x" * 9999}", "prompt": "a"}}\n' * 2), tmp_path / "rows.index")
    assert len(refused.value.message) < 300


def test_more_requests_than_a_job_can_have_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "MAX_ITEMS", 5)
    assert index.write(given(tmp_path, '"a"\n' * 5), tmp_path / "rows.index").items == 5
    with pytest.raises(UsageError, match="has more than 5 requests"):
        index.write(given(tmp_path, '"a"\n' * 2, samples=3), tmp_path / "rows.index")


def test_a_column_that_is_named_and_that_no_row_has_is_refused(tmp_path: Path) -> None:
    source = given(tmp_path, '{"prompt": "a"}\n{"prompt": "b", "limit": 3}\n')
    for column, why in (("limit", None), ("limits", "no row of .* has limits")):
        asking = Asking(columns=Columns(single={"max_tokens": column}))
        with pytest.raises(UsageError, match=why) if why else contextlib.nullcontext():
            index.write(Input(source.source, asking), tmp_path / "rows.index")


def test_ids_that_only_share_a_hash_are_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "hash", lambda text: 7, raising=False)
    assert index.write(given(tmp_path, '"a"\n"b"\n'), tmp_path / "rows.index").rows == 2


def test_an_input_of_which_nothing_can_be_asked_is_refused_with_its_first_reason(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no row can be asked; the first, line 2: not JSON"):
        index.write(given(tmp_path, "\nbroken\n{}\n"), tmp_path / "rows.index")
    with pytest.raises(UsageError, match="has no rows"):
        index.write(given(tmp_path, "id,prompt\n\n", "a.csv"), tmp_path / "rows.index")


def test_a_file_that_is_still_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "_PROGRESS_ROWS", 1)
    source = given(tmp_path, '"a"\n')

    def append(rows: int) -> None:
        if rows == 1:
            with source.source.file.open("a") as stream:
                stream.write('"b"\n')

    with pytest.raises(UsageError, match="changed while it was read"):
        index.write(source, tmp_path / "rows.index", append)


def test_an_index_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    source = tmp_path / "prompts.txt"
    source.write_text("Why?\n")
    with pytest.raises(BatchError, match=r"gone/rows\.index can't be written: No such file or directory"):
        index.write(Input(sources.find(source)), tmp_path / "gone/rows.index")


def test_progress_is_told_by_the_number_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "_PROGRESS_ROWS", 2)
    told: list[int] = []
    index.write(given(tmp_path, '"a"\n' * 5, samples=3), tmp_path / "rows.index", told.append)
    assert told == [2, 4]
