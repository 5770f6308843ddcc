"""Latencies, speeds and stalls of a request, from its reading."""

from __future__ import annotations

from typing import Any

import pytest

from nexus_tasks.load.reading import Reading
from nexus_tasks.load.requests import Request
from nexus_tasks.load.rows import Place, request_row, stalls
from nexus_tasks.records.benchmark_rows import Draft, RequestRow

PLACE = Place(index=0, stage=0, phase="run", key=None, conversation=None, turn=0, worker=0)


def test_latencies_count_from_when_the_request_was_due_and_queueing_from_when_it_was_sent() -> None:
    reading = Reading(
        tokens=[11.0, 11.5, 12.0], visible=11.5, end=12.25, output_tokens=3, prompt_tokens=5,
        timings={"prompt_n": 5, "prompt_ms": 200.0, "predicted_n": 3, "draft_n": 4, "draft_n_accepted": 2},
    )  # fmt: skip
    row = request_row(PLACE, Request("/completion", b""), reading, intended=10.0, sent=10.5, ended=99.0, origin=8.0)
    assert (row.intended_s, row.start_s, row.late_ms) == (2.0, 2.5, 500.0)
    assert (row.ttft_ms, row.ttft_visible_ms, row.total_ms) == (1000.0, 1500.0, 2250.0)
    assert (row.queue_ms, row.decode_ms, row.tpot_ms, row.decode_tps) == (300.0, 1000.0, 500.0, 2.0)
    assert (row.itl_ms, row.prefill_tps, row.draft) == ([500.0, 500.0], 25.0, Draft(n=4, accepted=2))


@pytest.mark.parametrize(
    ("gaps", "count"),
    [
        ([], 0),
        ([10.0] * 9 + [499.0], 0),
        ([10.0] * 9 + [501.0], 1),
        ([100.0] * 9 + [900.0], 0),
        ([100.0] * 9 + [1001.0, 1500.0], 2),
    ],
)
def test_a_stall_is_long_and_far_above_the_usual_gap(gaps: list[float], count: int) -> None:
    assert stalls(gaps) == count


CHAT = "/v1/chat/completions"


OWN_ENDS = (
    "stop", "eos", "eos_token", "end", "end_turn", "STOP", "COMPLETE", "stop_sequence", "tool_calls", "content_filter",
    "SAFETY", "some_new_reason",
)  # fmt: skip


def row_of(
    tokens: list[float], path: str = CHAT, wanted: int | None = None, exact: bool = False, **reading: Any
) -> RequestRow:
    """The row of an answer whose tokens came at these moments (s)."""
    request = Request(path, b"", output_tokens=wanted, exact_output=exact)
    answer = Reading(**{"tokens": tokens, "visible": tokens[0] if tokens else None, "end": 9.0, **reading})
    return request_row(PLACE, request, answer, intended=0.0, sent=0.0, ended=9.0, origin=0.0)


def every(seconds: float, count: int, begin: float = 1.0) -> list[float]:
    return [begin + seconds * number for number in range(count)]


TIMINGS = {"predicted_n": 100, "predicted_ms": 500.0}
ALL_AT_ONCE = every(0.0, 100)
BUNDLES = [moment for moment in every(0.02, 25) for _ in range(4)]


@pytest.mark.parametrize(
    ("tokens", "output", "timings", "untimed"),
    [
        (every(0.005, 100), 100, None, None),
        (every(0.005, 100), 101, None, None),  # the token that ends it has no text
        (every(0.005, 100), None, None, None),
        (every(0.005, 100), 50, None, None),  # an event for each letter
        (every(0.005, 100), 380, None, "its events carried 100 of its 380 tokens"),  # hidden reasoning
        (every(0.005, 51), 100, None, "its events carried 51 of its 100 tokens"),  # half of it in the first event
        (every(0.5, 2), 100, None, "its events carried 2 of its 100 tokens"),
        (every(0.5, 2), 4, None, "its events carried 2 of its 4 tokens"),
        (ALL_AT_ONCE, 100, None, "its 100 tokens came in 1 piece"),  # a proxy that buffers
        ([1.0] * 60 + [1.001] * 40, 100, None, "its 100 tokens came in 2 pieces"),
        (BUNDLES, 100, None, "its 100 tokens came in 25 pieces"),
        (ALL_AT_ONCE, None, None, "its 100 tokens came in 1 piece"),
        (BUNDLES, 100, {"predicted_n": 100, "predicted_ms": 490.0}, None),  # drafted tokens
        (every(0.02, 25), 100, {"predicted_n": 100, "predicted_ms": 490.0}, None),  # halves of letters
        (every(0.002, 25), 100, TIMINGS, "its tokens came within 48 ms, and the server took 500 ms to decode them"),
        (ALL_AT_ONCE, 100, TIMINGS, "its tokens came within 0 ms, and the server took 500 ms to decode them"),
        (every(0.004, 100), 100, TIMINGS, None),
    ],
)
def test_an_answer_whose_tokens_nobody_saw_come_has_no_decode_speed_and_says_why(
    tokens: list[float], output: int | None, timings: dict[str, float] | None, untimed: str | None
) -> None:
    row = row_of(tokens, output_tokens=output, timings=timings)
    assert row.untimed == untimed
    if untimed:
        assert (row.decode_tps, row.tpot_ms, row.decode_ms, row.itl_ms) == (None, None, None, [])
        assert row.ttft_ms == 1000.0
    else:
        assert len(row.itl_ms) == len(tokens) - 1


def test_an_answer_that_was_cut_has_as_many_tokens_as_were_asked_for() -> None:
    assert row_of(every(0.5, 2), wanted=100, finish_reason="length").untimed == "its events carried 2 of its 100 tokens"
    assert row_of(every(0.5, 2), wanted=100, finish_reason="stop").untimed is None


def test_tokens_of_the_first_moment_are_no_part_of_the_decode_speed() -> None:
    row = row_of([1.0] * 21 + every(0.005, 80, begin=1.005), output_tokens=101)
    assert row.decode_tps == pytest.approx(200)
    assert row_of(every(0.005, 100), output_tokens=101).decode_tps == pytest.approx(200)


@pytest.mark.parametrize(
    ("reason", "ok"),
    [
        *((reason, True) for reason in OWN_ENDS),
        *((reason, False) for reason in ("length", "limit", "max_tokens", "MAX_TOKENS", "model_length", None)),
    ],
)  # fmt: skip
def test_a_model_may_end_before_the_length_it_was_given(reason: str | None, ok: bool) -> None:
    row = row_of(every(0.005, 10), wanted=20, output_tokens=10, finish_reason=reason)
    assert row.ok is ok
    assert row_of(every(0.005, 10), wanted=20, exact=True, output_tokens=10, finish_reason=reason).ok is False
