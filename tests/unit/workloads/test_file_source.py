"""What the requests of a file's prompts say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nexus_tasks.core.errors import UsageError
from nexus_tasks.workloads import sizes, workload
from tests.workload_items import OTHER, content, from_file, items, said


def test_a_files_prompts_are_asked_in_its_order_again_and_again(tmp_path: Path) -> None:
    spec = from_file(tmp_path, "a.jsonl", '{"prompt": "A \\"é\\"", "id": "x"}\n{"prompt": "B", "output_tokens": 5}\n')
    made = items(spec, count=5)
    assert [(content(item), item.key) for item in made] == [('A "é"', "x"), ("B", "2")] * 2 + [('A "é"', "x")]
    assert ["max_tokens" in said(item.requests[0]) for item in made] == [False, True, False, True, False]
    assert [item.requests[0].output_tokens for item in made[:2]] == [None, 5]


def test_entries_own_lengths_come_before_the_workloads(tmp_path: Path) -> None:
    text = "prompt,output_tokens\nA,\nB,5\n"
    made = items(from_file(tmp_path, "a.csv", text, output_tokens=sizes.fixed(9)), count=2)
    assert [said(item.requests[0])["max_tokens"] for item in made] == [9, 5]


def test_recorded_answers_are_sent_as_they_are_unless_the_conversation_is_held_anew(tmp_path: Path) -> None:
    talk = [("human", "A"), ("gpt", "recorded"), ("human", "C"), ("gpt", "unused")]
    text = json.dumps([{"conversations": [{"from": who, "value": value} for who, value in talk]}])
    (item,) = items(from_file(tmp_path, "a.json", text), count=1)
    assert [message["content"] for message in said(item.requests[0])["messages"]] == ["A", "recorded", "C"]
    spec = from_file(tmp_path, "a.json", text, kind="conversations")
    assert workload.settle(spec, OTHER).turns == 2
    (item,) = items(spec, count=1)
    assert [len(item.requests), content(item)] == [2, "A"]
    assert [m["content"] for m in said(item.requests[1], ["new"])["messages"]] == ["A", "new", "C"]


def test_a_conversation_is_no_text_for_completions(tmp_path: Path) -> None:
    text = '{"prompt": "A"}\n{"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]}\n'
    with pytest.raises(UsageError, match=r"a\.jsonl, line 2: --api completion needs a text"):
        items(from_file(tmp_path, "a.jsonl", text, api="completion"))
