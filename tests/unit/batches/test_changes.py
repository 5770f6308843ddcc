"""Changes of a job's input, of what is asked, and of who answers."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from nexus_tasks.batches import changes, index, journal, sources
from nexus_tasks.batches.asking import Asking
from nexus_tasks.batches.changes import Requests
from nexus_tasks.batches.columns import Columns
from nexus_tasks.batches.entries import Answer, Answered, Reopened, Server, SetAside, Usage
from nexus_tasks.batches.inputs import Input
from nexus_tasks.batches.state import ANSWERED, NEW, SET_ASIDE, Answerer, State
from nexus_tasks.core.errors import BatchError
from tests.unit.batches.test_state import state_after

ROWS = ["one", "two", "three", "four"]


def compared(tmp_path: Path, before: list[str], now: list[str], samples: int = 1) -> Requests:
    """The changes of a file of prompts; its first line is empty, so that lines are not numbers of rows."""
    path = tmp_path / "rows.txt"
    given = Input(sources.Source(str(path), "txt"), Asking(samples=samples))
    for rows, name in ((before, "before"), (now, "now")):
        path.write_text("\n" + "\n".join(rows) + "\n")
        index.write(given, tmp_path / name)
    return changes.of_requests(given, tmp_path / "before", tmp_path / "now")


@pytest.mark.parametrize(
    ("now", "text", "reopened"),
    [
        (ROWS, "no request of it differs", []),
        (["one", "2", "three", "4"], "2 rows differ, the first on line 3", [1, 3]),
        (["one", "two", "three", "4"], "1 row differs, the first on line 5", [3]),
        ([*ROWS, "five"], "1 row is new", []),
        (["1", "two", "three", "four", "5", "6"], "1 row differs, the first on line 2; 2 rows are new", [0]),
        (ROWS[:2], "2 rows are gone", [2, 3]),
        (["1"], "1 row differs, the first on line 2; 3 rows are gone", [0, 1, 2, 3]),
    ],
    ids=["same", "two", "one", "added", "both", "gone", "cut"],
)
def test_a_changed_input_is_told_in_numbers_with_the_first_line(
    tmp_path: Path, now: list[str], text: str, reopened: list[int]
) -> None:
    found = compared(tmp_path, ROWS, now)
    assert str(found) == text
    assert found.reopened.tolist() == reopened


def test_rows_are_counted_and_not_their_samples(tmp_path: Path) -> None:
    found = compared(tmp_path, ROWS, ["one", "2", "three", "four", "five"], samples=3)
    assert str(found) == "1 row differs, the first on line 3; 1 row is new"
    assert found.reopened.tolist() == [3, 4, 5]


def test_a_change_of_what_is_asked_is_told_by_name_and_value() -> None:
    before = Asking(system="Be short.", parameters={"temperature": 0.7, "max_tokens": 5})
    now = Asking(template="x" * 90, parameters={"temperature": 0.2, "max_tokens": 5}, columns=Columns(prompt="q"))
    assert changes.of_asking(before, now) == [
        'prompt column is "q" instead of not set',
        'system is not set instead of "Be short."',
        "temperature is 0.2 instead of 0.7",
        'template is "' + "x" * 38 + "… instead of not set",
    ]
    assert changes.of_asking(before, before) == []


def answered(item: int, model: str, build: str = "b1") -> Answered:
    return Answered(item, "aa", "gpu1/main", model, build, 2.0, 9.0, Answer(text="Hi"), Usage())


@pytest.fixture
def state() -> State:
    """Items 0 and 2 were answered by qwen, item 1 is set aside, item 3 is new."""
    server = Server("gpu1/main", 1.0, "qwen", "b1", 4, 4096)
    return state_after([server, answered(0, "qwen"), SetAside(1, 2.0, "too_long", "long"), answered(2, "qwen")])


@pytest.mark.parametrize(
    ("now", "told", "reopened"),
    [
        ([Answerer("gpu1/main", "qwen", "b1")], [], []),
        ([Answerer("gpu9/main", "qwen", "b1")], [], []),
        ([Answerer("gpu1/main", "qwen", "b2")], ["gpu1/main has build b2 instead of b1"], []),
        ([Answerer("gpu1/main", "gemma", "b1")], ["gpu1/main serves gemma instead of qwen"], [0, 2]),
    ],
    ids=["same", "elsewhere", "build", "model"],
)
def test_another_model_costs_its_answers_and_another_build_none(
    state: State, now: list[Answerer], told: list[str], reopened: list[int]
) -> None:
    found, items = changes.of_servers(state, now)
    assert (found, items.tolist()) == (told, reopened)


def test_nothing_changed_where_nobody_was_asked() -> None:
    assert changes.of_servers(State(4), [Answerer("gpu1/main", "qwen", "b1")])[0] == []


def test_only_items_with_a_result_are_reopened(state: State) -> None:
    found = changes.reopened(Requests(state.items(ANSWERED)).reopened, state, "why")
    assert [entry.items for entry in found if isinstance(entry, Reopened)] == [[0, 2]]
    found = changes.reopened(state.items(SET_ASIDE), state, "why")
    assert [entry.items for entry in found if isinstance(entry, Reopened)] == [[1]]
    assert changes.reopened(state.items(NEW), state, "why") == []


def test_the_refusal_says_what_changed_and_what_allows_it() -> None:
    error = changes.refusal("night", ["rows.txt changed since it was begun", "2 rows differ, the first on line 3"])
    assert error.message == (
        "the job night can't simply go on: rows.txt changed since it was begun; 2 rows differ, the first on line 3"
    )
    assert "--allow-change" in error.hint


def test_of_an_index_that_is_lost_the_keys_of_answers_are_those_of_the_journal(tmp_path: Path) -> None:
    found = compared(tmp_path, ROWS, ["one", "2", "3", "4", "five"])  # of four rows, three differ
    assert found.reopened.tolist() == [1, 2, 3]
    keys = (tmp_path / "before").read_bytes()
    with journal.opened(tmp_path / "journal.jsonl", 4) as log:
        log.write([ANSWER, msgspec.structs.replace(ANSWER, item=1), SetAside(2, 1.0, "refused", "no")])
        for item in (0, 1):
            log.write(
                [Reopened([item], 2.0, "test"), msgspec.structs.replace(ANSWER, item=item, key=key_of(keys, item))]
            )
    (tmp_path / "before").write_bytes(changes.keys_of_answers(tmp_path / "journal.jsonl", 4, tmp_path / "now"))
    given = Input(sources.Source(str(tmp_path / "rows.txt"), "txt"))
    # The fourth was not asked: whether it differs makes no difference.
    assert changes.of_requests(given, tmp_path / "before", tmp_path / "now").reopened.tolist() == [1, 2]


def test_a_journal_of_other_requests_is_refused(tmp_path: Path) -> None:
    compared(tmp_path, ROWS, ["one", "2"])
    keys = (tmp_path / "before").read_bytes()
    with journal.opened(tmp_path / "journal.jsonl", 4, keys=keys) as log:
        changes.check_journal(log.path, log.state)
        log.write([msgspec.structs.replace(ANSWER, item=item, key=key_of(keys, 0)) for item in (1, 2)])
        with pytest.raises(BatchError, match=r"journal\.jsonl is the journal of other requests: it has 2 answers"):
            changes.check_journal(log.path, log.state)
        log.write([msgspec.structs.replace(ANSWER, key=key_of(keys, 0))])
        changes.check_journal(log.path, log.state)


ANSWER = Answered(0, "00" * 16, "gpu1/main", "qwen", "b1", 1.0, 9.0, Answer(text="Hi"), Usage(3, 5))


def key_of(keys: bytes, item: int) -> str:
    return keys[item * 16 : item * 16 + 16].hex()
