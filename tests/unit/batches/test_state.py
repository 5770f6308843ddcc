"""The state of a batch, as its entries make it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from nexus_tasks.batches.entries import Answer, Answered, Begun, Entry, Failed, Reopened, Session, SetAside, Usage
from nexus_tasks.batches.state import ANSWERED, BEGUN, NEW, NO_OFFSET, OUTDATED, SET_ASIDE, Answerer, State
from nexus_tasks.stats.energy import EnergySum

GPU1 = Answerer("gpu1/main", "qwen", "b1")


def answered(
    item: int, *, model: str = "qwen", tokens: int = 5, at: float = 2.0, same_as: int | None = None
) -> Answered:
    usage = Usage(prompt_tokens=3, output_tokens=tokens)
    return Answered(item, "aa", "gpu1/main", model, "b1", at, 9.0, Answer(text="Hi"), usage, same_as=same_as)


def given_up(item: int, kind: str = "too_long") -> SetAside:
    return SetAside(item, 2.0, kind, "does not fit")


def state_after(entries: Sequence[Entry], total: int = 4, keys: bytes | None = None) -> State:
    state = State(total, keys)
    for offset, entry in enumerate(entries):
        state.apply(msgspec.json.encode(entry), offset)
    return state


def test_an_item_has_the_state_of_its_last_entry() -> None:
    begun: Entry = Begun([0, 1, 2], "gpu1/main", 1.0)
    state = state_after([begun, answered(0), given_up(1)])
    assert list(state.of) == [ANSWERED, SET_ASIDE, BEGUN, NEW]
    assert list(state.offsets) == [1, 2, NO_OFFSET, NO_OFFSET]
    assert (state.done, state.set_aside(), state.answers_by()) == (2, {"too_long": 1}, {GPU1: 1})


def test_a_result_is_accepted_once() -> None:
    state = state_after([answered(0, tokens=5), answered(0, tokens=7), given_up(0), Begun([0], "gpu2/main", 3.0)])
    assert (state.of[0], state.offsets[0], state.tokens.output) == (ANSWERED, 0, 5)


def test_an_answer_to_another_request_than_the_items_own_is_none() -> None:
    old, new = (msgspec.structs.replace(answered(0), key=key.hex() * 16) for key in (b"o", b"n"))
    begun: Entry = Begun([0], "gpu1/main", 3.0)
    reopened: Entry = Reopened([0], 3.0, "its request changed")
    of: dict[int, list[list[Entry]]] = {
        OUTDATED: [[old], [given_up(0), old]], NEW: [[old, reopened]], SET_ASIDE: [[old, given_up(0)]],
        ANSWERED: [[old, begun, new], [new, old], [old, reopened, new]],
    }  # fmt: skip
    for state, journals in of.items():
        for entries in journals:
            found = state_after(entries, 1, keys=b"n" * 16)
            assert (found.of[0], found.done) == (state, state in (ANSWERED, SET_ASIDE)), entries


def test_the_answer_of_another_model_takes_the_place_of_the_first() -> None:
    state = state_after([answered(0), answered(0, model="other"), answered(0, model="other")])
    assert (state.offsets[0], state.answers_by()) == (1, {Answerer("gpu1/main", "other", "b1"): 1})


def test_an_attempt_that_failed_leaves_its_item_to_be_asked_again() -> None:
    begun: Entry = Begun([0], "gpu1/main", 1.0)
    state = state_after([begun, Failed(0, "gpu1/main", 1.5, "timeout", "no answer"), begun])
    assert (state.of[0], state.failures) == (BEGUN, {"timeout": 1})


def test_what_was_under_way_when_the_batch_was_killed_is_new() -> None:
    killed: list[Entry] = [Session(0.0), Begun([0, 1], "gpu1/main", 1.0), answered(1), Session(9.0)]
    state = state_after(killed)
    assert list(state.of[:2]) == [NEW, ANSWERED]
    assert state.ended is None


def test_a_reopened_item_is_new_and_its_answer_no_longer_counts() -> None:
    begun, reopened = Begun([0, 1], "gpu1/main", 1.0), Reopened([0, 1], 3.0, "the rows changed")
    state = state_after([begun, answered(0), given_up(1), reopened, answered(0, model="other")])
    assert list(state.of[:2]) == [ANSWERED, NEW]
    assert state.answers_by() == {Answerer("gpu1/main", "other", "b1"): 1}
    assert state.set_aside() == {}
    assert state.tokens.output == 10  # both were generated


def test_a_twin_costs_no_tokens() -> None:
    state = state_after([answered(0), answered(1, same_as=0)])
    assert (state.twins, state.tokens.output, state.count(ANSWERED)) == (1, 5, 2)


def test_rows_that_the_input_no_longer_has_are_passed_over() -> None:
    state = state_after([Begun([0, 7], "gpu1/main", 1.0), answered(7), given_up(8), Reopened([9], 2.0, "why")])
    assert list(state.of) == [BEGUN, NEW, NEW, NEW]


def test_the_rate_is_that_of_the_last_session() -> None:
    sessions: list[Entry] = [Session(0.0), answered(0, at=100.0), Session(100.0, "interrupted"), Session(200.0)]
    assert state_after(sessions).rows_per_s is None
    assert state_after([*sessions, answered(1, at=202.0), answered(2, at=204.0)]).rows_per_s == 0.5


ONE, OTHER = EnergySum(1000.0, ("rig-1",)), EnergySum(500.0, ("rig-2",))


@pytest.mark.parametrize(
    ("sessions", "expected", "joules_per_token"),
    [
        ([], None, None),
        ([Session(0.0), Session(1.0, "complete")], None, None),
        ([Session(0.0), Session(1.0, "interrupted", ONE)], ONE, 200.0),
        (
            [Session(0.0), Session(1.0, "interrupted", ONE), Session(2.0), Session(3.0, "complete", OTHER)],
            EnergySum(1500.0, ("rig-1", "rig-2")), 300.0,
        ),
        ([Session(0.0), Session(1.0), Session(2.0, "complete", ONE)], EnergySum(1000.0, ("rig-1",), True), None),
        ([Session(0.0), Session(1.0, "interrupted", ONE), Session(2.0)], EnergySum(1000.0, ("rig-1",), True), None),
        ([Session(0.0), Session(1.0, "interrupted", ONE), Session(2.0, "cancelled")], ONE, 200.0),
    ],
    ids=["no session", "none tells", "one tells", "both tell", "one was killed", "one is at work", "cancelled later"],
)  # fmt: skip
def test_the_energy_is_that_of_all_sessions_and_a_lower_bound_where_one_tells_none(
    sessions: list[Entry], expected: EnergySum | None, joules_per_token: float | None
) -> None:
    state = state_after([answered(0, tokens=5), *sessions])
    assert (state.energy, state.joules_per_token) == (expected, joules_per_token)
