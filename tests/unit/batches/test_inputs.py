"""Rows of a file as items."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from nexus_tasks.batches import inputs, sources
from nexus_tasks.batches.asking import Asking
from nexus_tasks.batches.columns import Columns
from nexus_tasks.batches.inputs import Input
from nexus_tasks.core.errors import UsageError


def given(folder: Path, name: str, text: str, asking: Asking = Asking()) -> Input:  # noqa: B008 - it is frozen
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return Input(sources.find(path), asking)


def test_each_row_is_an_item_and_one_that_cannot_be_asked_is_one_too(tmp_path: Path) -> None:
    rows = '{"id": "q", "prompt": "Why?", "topic": "sky"}\nbroken\n\n{"id": 7}\n'
    first, broken, empty = inputs.items(given(tmp_path, "a.jsonl", rows))
    assert first.request
    assert b'[{"role":"user","content":"Why?"}]' in first.request.body
    assert (first.index, first.row.number, first.row.line, first.row.id) == (0, 1, 1, "q")
    assert (broken.index, broken.row.number, broken.row.line, broken.row.id) == (1, 2, 2, "2")
    assert broken.misfit
    assert broken.misfit.kind == "malformed"
    assert (empty.index, empty.row.number, empty.row.line, empty.row.id) == (2, 3, 4, "7")
    assert empty.misfit
    assert (empty.misfit.kind, empty.misfit.message) == ("no_prompt", "it has no prompt and no messages")


def test_samples_of_a_row_are_items_that_differ_in_their_seed(tmp_path: Path) -> None:
    rows = '{"prompt": "a"}\n{"prompt": "b", "parameters": {"seed": 40}}\n{}\n'
    items = list(inputs.items(given(tmp_path, "a.jsonl", rows, Asking(samples=2))))
    assert [(item.index, item.row.line, item.sample) for item in items] == [
        (0, 1, 0), (1, 1, 1), (2, 2, 0), (3, 2, 1), (4, 3, 0), (5, 3, 1),
    ]  # fmt: skip
    assert [msgspec.json.decode(item.request.body)["seed"] for item in items if item.request] == [0, 1, 40, 41]
    assert len({item.request.key for item in items if item.request}) == 4


def test_items_that_are_not_wanted_keep_their_numbers(tmp_path: Path) -> None:
    source = given(tmp_path, "a.txt", "a\nb\nc\n", Asking(samples=2))
    assert [item.index for item in inputs.items(source, {1, 4, 5}.__contains__)] == [1, 4, 5]


def test_an_input_is_the_same_after_it_was_written_as_json(tmp_path: Path) -> None:
    asking = Asking(columns=Columns(prompt="q", single={"seed": "s"}), parameters={"temperature": 0.5}, system="S")
    before = given(tmp_path, "a.jsonl", '{"q": "a", "s": 3}\n', asking)
    after = msgspec.json.decode(msgspec.json.encode(before), type=Input)
    assert list(inputs.items(after)) == list(inputs.items(before))


def test_a_column_that_all_rows_lack_is_refused_before_any_is_read(tmp_path: Path) -> None:
    table = "id,question\n1,Why?\n"
    with pytest.raises(UsageError, match="has no column prompt or messages") as refused:
        inputs.check(given(tmp_path, "a.csv", table))
    assert refused.value.hint == "its columns are id, question; name one with --prompt-column"
    with pytest.raises(UsageError, match="has no column topic"):
        inputs.check(given(tmp_path, "a.csv", table, Asking(template="{{ question }} {{ topic }}")))
    single = Columns(prompt="question", single={"max_tokens": "limit"})
    with pytest.raises(UsageError, match="has no column limit"):
        inputs.check(given(tmp_path, "a.csv", table, Asking(columns=single)))
    with pytest.raises(UsageError, match="has no column key, role"):
        inputs.check(given(tmp_path, "a.csv", table, Asking(columns=Columns(id="key", system="role"))))
    inputs.check(given(tmp_path, "a.csv", table, Asking(template="{{ question }}")))
    inputs.check(given(tmp_path, "a.jsonl", "{}"))


@pytest.mark.parametrize(
    ("asking", "why"),
    [
        (Asking(api="embeddings", parameters={"seed": 1}), "embeddings have no seed"),
        (Asking(parameters={"grammar": "x", "json_schema": {}}), "json_schema and grammar exclude each other"),
        (Asking(api="completion", system="S"), "a system prompt needs --api chat"),
    ],
    ids=["embeddings", "grammar", "system"],
)
def test_options_that_exclude_each_other_are_refused(tmp_path: Path, asking: Asking, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        inputs.check(given(tmp_path, "a.jsonl", '"a"', asking))


def test_rows_that_say_all_themselves_are_not_overridden(tmp_path: Path) -> None:
    row = '{"custom_id": "1", "method": "POST", "url": "/v1/embeddings", "body": {"input": "a"}}'
    inputs.check(given(tmp_path, "a.jsonl", row))
    with pytest.raises(UsageError, match="in OpenAI's format, whose rows say themselves what is asked"):
        inputs.check(given(tmp_path, "a.jsonl", row, Asking(parameters={"max_tokens": 5})))
