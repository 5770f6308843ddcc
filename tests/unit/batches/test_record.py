"""Records of batches: what a journal comes to, whatever happened."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nexus_tasks.batches import journal, record
from nexus_tasks.batches.asking import Asking
from nexus_tasks.batches.entries import Answer, Entry, Session, SetAside
from nexus_tasks.batches.items import Item, Misfit, Request, Row
from nexus_tasks.batches.record import Origin
from nexus_tasks.batches.tally import ANSWER_LETTERS, SAMPLED_ANSWERS, SAMPLED_REQUESTS
from nexus_tasks.records.batch_rows import Example
from nexus_tasks.stats.energy import EnergySum
from tests.batch_runs import Run, Server, recorded, unequal

RIG = "rig/main"


def test_a_record_tells_how_a_batch_stands(tmp_path: Path) -> None:
    read = recorded(tmp_path, unequal().entries, items=400)
    summary = read.summary
    assert summary is not None
    assert (summary.ok, summary.outcome, summary.items, summary.left) == (False, "complete", 400, 0)
    assert summary.answered + summary.set_aside == 400
    assert [one.ended for one in read.sessions] == ["interrupted", "complete"]
    assert sum(row.answered for row in read.servers) == summary.answered
    assert sum(row.set_aside for row in read.failures) == summary.set_aside
    assert sum(row.requests for row in read.endpoints) == summary.requests
    assert sum(row.output_tokens for row in read.intervals) == pytest.approx(summary.output_tokens, abs=5)
    assert summary.output_tps == pytest.approx((summary.output_tokens or 0) / summary.seconds)
    assert all(row.busy_share is not None and row.busy_share > 0.95 for row in read.endpoints)
    assert read.failures[0].examples[0] == Example(
        line=8, id="q-7", message="the prompt has 9,120 tokens, and a slot of gpu-01/main holds 8,192"
    )
    assert (read.servers[0].first_line, read.servers[0].last_line) == (1, 400)
    assert read.header.target == read.header.job.name == "prompts-20261122-1200"
    assert read.header.started_at == "2026-11-22T12:00:00+00:00"


def test_each_record_of_a_job_tells_all_so_far(tmp_path: Path) -> None:
    run = Run({RIG: Server()})
    left = run.work(range(50), seconds=4.0, ended="interrupted")
    first = recorded(tmp_path / "first", run.entries, items=50)
    run.work(left)
    last = recorded(tmp_path / "last", run.entries, items=50)
    assert first.summary is not None
    assert last.summary is not None
    assert (first.summary.ok, first.summary.outcome, first.summary.left) == (False, "interrupted", len(left))
    assert (last.summary.ok, last.summary.outcome, last.summary.answered) == (True, "complete", 50)
    assert first.header.job.created_at == last.header.job.created_at


def test_energy_is_in_the_record_where_it_is_known(tmp_path: Path) -> None:
    run = Run({RIG: Server()})
    run.work(range(5), ended=None)
    unknown = recorded(tmp_path / "unknown", [*run.entries, Session(run.at, "complete")], items=5).summary
    ended = Session(run.at, "complete", EnergySum(1000.0, ("rig-1", "rig-2")))
    known = recorded(tmp_path / "known", [*run.entries, ended], items=5).summary
    assert unknown
    assert known
    assert known.output_tokens
    assert unknown.energy is None
    assert known.energy
    assert known.energy.joules_per_token == pytest.approx(1000 / known.output_tokens)
    assert (known.energy.joules, known.energy.source, known.energy.at_least) == (1000.0, "rig-1, rig-2", False)


ODD: dict[str, tuple[list[Entry], int]] = {
    "no entry": ([], 3),
    "no item": ([Session(0.0), Session(0.0, "complete")], 0),
    "nothing sent": ([Session(0.0), *(SetAside(item, 0.0, "malformed", "no") for item in range(3))], 3),
    "killed at once": ([Session(0.0)], 3),
}


@pytest.mark.parametrize("name", ODD)
def test_a_batch_of_which_there_is_little_to_tell_has_a_record(tmp_path: Path, name: str) -> None:
    entries, items = ODD[name]
    read = recorded(tmp_path, entries, items=items)
    assert read.summary is not None
    assert not read.summary.ok
    assert read.summary.items == items
    assert (read.summary.output_tps, read.endpoints, read.requests) == (None, [], [])


def test_a_server_that_counts_no_tokens_leaves_them_unknown(tmp_path: Path) -> None:
    run = Run({RIG: Server(slots=None, counts=False)})
    run.work(range(5))
    read = recorded(tmp_path, run.entries, items=5)
    assert read.summary is not None
    assert (read.summary.ok, read.summary.output_tokens, read.summary.total_tps) == (True, None, None)
    assert (read.endpoints[0].output_tokens, read.endpoints[0].busy_share) == (None, None)


def many(items: int) -> Iterator[Entry]:
    run = Run({f"gpu-{number:02}/main": Server(slots=64) for number in range(8)})
    run.reply = lambda item: {"answer": Answer(text="x" * 3000, finish_reason="length")}
    run.work(range(items))
    yield from run.entries


def test_the_size_of_a_record_is_bounded(tmp_path: Path) -> None:
    read = recorded(tmp_path, list(many(5_000)), items=5_000)
    assert len(read.requests) == SAMPLED_REQUESTS
    assert len(read.answers) == SAMPLED_ANSWERS
    assert {len(row.answer) for row in read.answers} == {ANSWER_LETTERS}
    assert {row.answer_letters for row in read.answers} == {3000}
    assert read.summary is not None
    assert read.summary.sampled_of == 5_000
    assert read.path.stat().st_size < 2_000_000


def test_keys_of_servers_stand_in_no_record(tmp_path: Path) -> None:
    secret = "-".join(["sesame", "open", "12345"])
    run = Run({RIG: Server()}, fate=lambda item, attempt: ("refused", f"no such key: {secret}", True) if item else None)
    run.reply = lambda item: {"answer": Answer(text=f"My key is {secret}.")}
    run.work(range(3))
    read = recorded(
        tmp_path, run.entries, items=3, secrets=[secret], asking=Asking(system=f"Say {secret}"),
        origins=lambda wanted: {item: Origin(item, "a", f"Is it {secret}?") for item in wanted},
    )  # fmt: skip
    assert secret not in read.path.read_text()
    assert read.answers[0].answer == "My key is ***."
    assert read.answers[0].prompt == "Is it ***?"
    assert read.header.asking == {"system": "Say ***"}


def test_options_that_are_long_are_cut(tmp_path: Path) -> None:
    asking = Asking(system="x" * 5000, parameters={"json_schema": {"enum": ["y" * 5000]}, "seed": 4})
    read = recorded(tmp_path, [], items=1, asking=asking)
    assert read.header.asking["system"] == "x" * record.OPTION_LETTERS
    assert read.header.asking["json_schema"] == ('{"enum": ["' + "y" * 5000)[: record.OPTION_LETTERS]
    assert read.header.asking["seed"] == 4


def item(index: int, body: Any = None, misfit: bool = False) -> Item:
    row = Row(index // 2 + 1, index // 2 + 3, f"id-{index // 2}", {})
    if misfit:
        return Item(index, row, index % 2, misfit=Misfit("malformed", "no"))
    encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Item(index, row, index % 2, Request("/v1/chat/completions", encoded, b"k" * 16))


@pytest.mark.parametrize(
    ("body", "prompt"),
    [
        ({"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]}, "Why?"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "See"}, {"type": "image_url"}]}]}, "See"),
        ({"prompt": "Once"}, "Once"),
        ({"input": "to embed"}, "to embed"),
        ({"input": ["a", "b"]}, ""),
        ({"messages": []}, None),
        ({"messages": [{"role": "user"}]}, None),
        ([1], None),
        (b"{", None),
    ],
    ids=str,
)
def test_the_prompt_of_an_item_is_what_was_asked_last(body: Any, prompt: str | None) -> None:
    assert record.origins_in([item(0, body)], {0}) == {0: Origin(3, "id-0", prompt)}


def test_origins_are_looked_for_no_further_than_needed() -> None:
    def items() -> Iterator[Item]:
        yield item(0, {"prompt": "a"})
        yield item(1, misfit=True)
        raise AssertionError("read on")

    assert record.origins_in(items(), {1}) == {1: Origin(3, "id-0", None)}


def test_a_record_is_made_where_no_origin_is_found(tmp_path: Path) -> None:
    read = recorded(tmp_path, unequal().entries, items=400, origins=lambda wanted: {})
    assert read.failures[0].examples[0].line is None
    assert read.answers[0].prompt is None
    assert read.servers[0].first_line is None


def test_a_journal_and_its_record_hold_any_text(tmp_path: Path) -> None:
    text = "half \ud83e, line\u2028separator, <b>"
    run = Run({RIG: Server()}, reply=lambda item: {"answer": Answer(text=text)})
    run.work(range(1))
    read = recorded(tmp_path, run.entries, items=1)
    assert read.answers[0].answer == text.replace("\ud83e", "?")
    assert [entry for _, entry in journal.entries(tmp_path / "job" / "journal.jsonl")]
