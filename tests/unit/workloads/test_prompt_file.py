"""Files of prompts and conversations in each form, and what is said about those that are damaged."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from nexus_tasks.core.errors import UsageError
from nexus_tasks.records.benchmark_rows import File
from nexus_tasks.workloads import prompt_file
from nexus_tasks.workloads.prompt_file import Entry, Message


def written(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def entries(folder: Path, name: str, text: str | bytes) -> tuple[Entry, ...]:
    return prompt_file.read(written(folder, name, text)).entries


def prompt(line: int, text: str, *, key: str | None = None, output_tokens: int | None = None) -> Entry:
    return Entry(f"line {line}", key or str(line), (Message("user", text),), output_tokens)


def test_a_line_of_text_is_a_prompt_and_empty_lines_are_passed_over(tmp_path: Path) -> None:
    found = entries(tmp_path, "a.txt", "one\r\n\n  \ntwo words, é\u2028not a line end")
    assert found == (prompt(1, "one"), prompt(4, "two words, é\u2028not a line end"))


def test_lines_of_json_hold_prompts_messages_and_sharegpt_conversations(tmp_path: Path) -> None:
    lines = [
        {"prompt": "Why?", "id": "q1", "output_tokens": 7, "source": "a data set's own key"},
        {"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]},
        {"id": 3, "conversations": [{"from": "human", "value": "A"}, {"from": "gpt", "value": "B"}]},
    ]
    text = "\n\n".join(json.dumps(line) for line in lines) + "\n"
    assert entries(tmp_path, "a.jsonl", text) == (
        prompt(1, "Why?", key="q1", output_tokens=7),
        Entry("line 3", "3", (Message("system", "Be kind."), Message("user", "Hi"))),
        Entry("line 5", "3#2", (Message("user", "A"),)),
    )


def test_sharegpt_files_are_lists_whose_entries_know_their_lines(tmp_path: Path) -> None:
    talk = [
        {"from": "gpt", "value": "an answer to nothing"},
        {"from": "human", "value": "A"},
        {"from": "gpt", "value": "B"},
        {"from": "human", "value": "C"},
        {"from": "gpt", "value": "D"},
    ]
    text = json.dumps([{"id": "x", "conversations": talk}, {"conversations": []}, {"prompt": "E"}], indent=1)
    first, second = entries(tmp_path, "sharegpt.json", text)
    assert first.messages == (Message("user", "A"), Message("assistant", "B"), Message("user", "C"))
    assert first.turns == ((Message("user", "A"),), (Message("user", "C"),))
    assert (first.key, first.place, first.text) == ("x", "line 2, entry 1", None)
    assert (second.key, second.text) == ("3", "E")
    line = int(second.place.removeprefix("line ").partition(",")[0])
    assert text.splitlines()[line].strip() == '"prompt": "E"'


def test_each_user_message_is_a_turn_with_what_stands_before_it(tmp_path: Path) -> None:
    roles = ["system", "user", "user", "assistant", "user"]
    line = json.dumps({"messages": [{"role": role, "content": str(n)} for n, role in enumerate(roles)]})
    (entry,) = entries(tmp_path, "a.jsonl", line)
    assert [[message.content for message in turn] for turn in entry.turns] == [["0", "1"], ["2"], ["4"]]


def test_a_table_has_prompts_ids_and_lengths_by_the_names_of_its_columns(tmp_path: Path) -> None:
    text = 'id,prompt,output_tokens,x\na,"two\nlines, ""quoted""",9,\n,plain,,\n,,,\n'
    assert entries(tmp_path, "a.csv", text) == (
        prompt(2, 'two\nlines, "quoted"', key="a", output_tokens=9),
        prompt(4, "plain"),
    )


def test_a_prompt_of_a_table_may_be_long(tmp_path: Path) -> None:
    (entry,) = entries(tmp_path, "a.csv", f"prompt\n{'long ' * 100_000}\n")
    assert len(entry.messages[0].content) == 500_000


def test_a_file_is_known_by_its_content(tmp_path: Path) -> None:
    data = b"\xef\xbb\xbfprompt\nA\n"
    file = prompt_file.read(written(tmp_path, "a.csv", data))
    assert file.as_row() == File(name="a.csv", sha256=hashlib.sha256(data).hexdigest(), entries=1)


GOOD = '{"prompt": "A"}\n'


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.jsonl", GOOD + "{", "a.jsonl, line 2: Input data was truncated"),
        ("a.jsonl", GOOD + "[]", "a.jsonl, line 2: Expected `object`, got `array`"),
        ("a.jsonl", GOOD + '{"prompt": 5}', "a.jsonl, line 2: Expected `str | null`, got `int` - at `$.prompt`"),
        ("a.jsonl", GOOD + '{"text": "B"}', "a.jsonl, line 2: the entry has none of prompt, messages, conversations"),
        ("a.jsonl", '{"prompt": "A", "messages": []}', "a.jsonl, line 1: the entry has more than one of prompt,"),
        ("a.jsonl", '{"prompt": "A", "output_tokens": 0}', "a.jsonl, line 1: Expected `int` >= 1"),
        ("a.jsonl", '{"messages": [{"role": "tool", "content": ""}]}', "a.jsonl, line 1: the role must be one of"),
        ("a.jsonl", '{"messages": [{"role": "user"}]}', "a.jsonl, line 1: Object missing required field `content`"),
        ("a.json", GOOD, "a.json, line 1: it must be a list"),
        (
            "a.json",
            '[\n{"prompt": "A"},\n{"prompt": 1}\n]',
            "a.json, line 3, entry 2: Expected `str | null`, got `int`",
        ),
        ("a.json", '[\n{"prompt": "A"},\n{oops}\n]', "a.json, line 3: JSON is malformed"),
        ("a.csv", "question\nA\n", "a.csv, line 1: no column is named prompt; there are question"),
        ("a.csv", 'prompt\n"a\nb"\n"c" d\n', "a.csv, line 4: ',' expected after '\"'"),
        ("a.csv", "prompt,id\nA\n", "a.csv, line 2: it has 1 columns instead of 2"),
        ("a.csv", "prompt,output_tokens\nA,5\nB,many\n", "a.csv, line 3: output_tokens must be 1 or more, not 'many'"),
        ("a.txt", b"one\ntwo \xff\n", "a.txt, line 2: it is not UTF-8"),
        ("a.txt", "\n \n", "a.txt must hold at least one prompt"),
        ("a.jsonl", "", "a.jsonl must hold at least one prompt"),
        ("a.parquet", "", "a.parquet must end in one of .jsonl, .ndjson, .json, .csv, .txt"),
    ],
)
def test_a_damaged_file_is_refused_by_name_and_line(tmp_path: Path, name: str, text: str | bytes, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"{tmp_path}/{said}")) as caught:
        entries(tmp_path, name, text)
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_a_file_that_is_missing_or_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.txt can't be read: No such file"):
        prompt_file.read(tmp_path / "none.txt")
    folder = tmp_path / "folder.txt"
    folder.mkdir()
    with pytest.raises(UsageError, match=r"folder\.txt can't be read: Is a directory"):
        prompt_file.read(folder)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_columns_are_separated_as_the_line_of_their_names_is(tmp_path: Path, delimiter: str, quote: str) -> None:
    head = delimiter.join(f"{quote}{name}{quote}" for name in ("id", "prompt", "output_tokens"))
    rows = delimiter.join(["a", '"one; two, three\tfour"', "9"])
    found = entries(tmp_path, "a.csv", f"\ufeff{head}\r\n{rows}\r\n")
    assert found == (prompt(2, "one; two, three\tfour", key="a", output_tokens=9),)


def test_a_file_of_one_line_names_the_entry_that_is_damaged(tmp_path: Path) -> None:
    text = json.dumps([{"prompt": "A"}] * 16 + [{"conversations": [{"from": "tool", "value": "B"}]}])
    with pytest.raises(UsageError, match=r"a\.json, line 1, entry 17: the role must be one of"):
        entries(tmp_path, "a.json", text)


def test_entries_with_the_id_of_another_are_told_apart(tmp_path: Path) -> None:
    ids = ["a", "b", "a", "a", "a#2", "a#2", None, 7, "7"]
    lines = [{"prompt": "P", "id": one} for one in ids]
    file = prompt_file.read(written(tmp_path, "a.jsonl", "\n".join(map(json.dumps, lines))))
    assert [entry.key for entry in file.entries] == ["a", "b", "a#3", "a#4", "a#2", "a#2#2", "7", "7#2", "7#3"]
    assert file.repeated == 5
    assert prompt_file.read(written(tmp_path, "b.txt", "one\ntwo\n")).repeated == 0


def test_many_entries_with_one_id_are_told_apart_at_once(tmp_path: Path) -> None:
    text = '{"id": "x", "prompt": "P"}\n' * 20_000
    assert len({entry.key for entry in entries(tmp_path, "a.jsonl", text)}) == 20_000
