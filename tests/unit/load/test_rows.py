"""Latencies, speeds and stalls of a request, from its reading."""

from __future__ import annotations

import pytest

from nexus_tasks.load.reading import Reading
from nexus_tasks.load.requests import Request
from nexus_tasks.load.rows import Place, request_row, stalls
from nexus_tasks.records.benchmark_rows import Draft

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
