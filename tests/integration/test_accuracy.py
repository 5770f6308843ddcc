"""The mock server keeps its schedule, the load generator reports what the server did, and nothing gets lost."""

from __future__ import annotations

import json
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

from nexus_tasks import accuracy
from nexus_tasks.load import generator
from nexus_tasks.load.requests import Item, Limits, Request, Stage
from nexus_tasks.load.selfcheck.costs import items
from nexus_tasks.load.selfcheck.mock_server import mock_server, true_times
from nexus_tasks.records.benchmark_rows import RequestRow
from nexus_tasks.servers import route
from tests.support.known import known

pytestmark = pytest.mark.alone


def drive(address: str, stage: Stage, tokens: int, path: str = "/completion") -> list[RequestRow]:
    rows: list[RequestRow] = []
    asked = (
        Item((Request(path, item.requests[0].body, 1, tokens, exact_output=True),), key=item.key)
        for item in items(tokens)
    )
    way = route.to(address).resolved()
    generator.run(way, None, asked, stage, Limits(), index=0, origin=time.perf_counter(), on_rows=rows.extend)
    return rows


def test_the_mock_server_sends_what_was_asked_and_not_before_it_is_due(tmp_path: Path) -> None:
    log = tmp_path / "times"
    with mock_server(20, 2, log=log) as address:
        body = {"n_predict": 5, "seed": 7}
        lines = httpx.post(f"{address}/completion", json=body).text.split("\n\n")
    messages = [json.loads(line.removeprefix("data: ")) for line in lines if line]
    assert [message["tokens_predicted"] for message in messages] == [1, 2, 3, 4, 5, 5]
    received, sent = true_times(log)[7]
    assert messages[-1]["timings"]["prompt_ms"] == pytest.approx((sent[0] - received) / 1e6, abs=1e-5)
    assert messages[-1]["timings"]["predicted_ms"] == pytest.approx((sent[-1] - sent[0]) / 1e6, abs=1e-5)
    due = received + 20_000_000 + np.arange(5) * 2_000_000
    assert (sent >= due).all()


def test_the_mock_server_chats_in_events_as_large_as_llama_servers() -> None:
    with mock_server() as address:
        events = httpx.post(f"{address}/v1/chat/completions", json={"n_predict": 3}).text.split("\n\n")
    assert [len(event) in range(230, 300) for event in events[:3]] == [True] * 3
    assert {"choices", "created", "id", "model", "object"} <= set(json.loads(events[0].removeprefix("data: ")))


@pytest.mark.parametrize("path", ["/completion", "/v1/chat/completions"])
@pytest.mark.parametrize("closes", [False, True])
def test_every_token_has_an_arrival_and_none_before_it_was_sent(tmp_path: Path, path: str, closes: bool) -> None:
    log = tmp_path / "times"
    origin = time.perf_counter()
    with mock_server(10, 1, log=log, closes=closes) as address:
        rows = drive(address, Stage("closed", concurrency=8, requests=24), 30, path)
    truth = true_times(log)
    assert [row.error for row in rows] == [None] * 24
    for row in rows:
        received, sent = truth[int(known(row.key))]
        assert row.output_tokens == len(sent) == 30
        assert len(row.itl_ms) == (0 if row.untimed else 29)
        # Both clocks are the machine's monotonic one, so moments can be compared, not only durations.
        began_s = known(row.start_s)
        assert began_s > 0
        assert origin + began_s < received / 1e9
        arrivals_ms = known(row.ttft_ms) + np.concatenate([[0.0], np.cumsum(row.itl_ms)])
        assert (arrivals_ms > (sent[: len(arrivals_ms)] - received) / 1e6 - 0.1).all()
    # On a machine that stands still for a moment, tokens of some come at once; of all of them they do not.
    assert not all(row.untimed for row in rows)


def test_an_answer_longer_than_a_segment_is_read_whole(tmp_path: Path) -> None:
    """It is handed on in pieces while it comes, so that memory stays bounded."""
    with mock_server() as address:
        rows = drive(address, Stage("closed", concurrency=2, requests=4), 60_000)
    assert [(row.ok, row.output_tokens, len(row.itl_ms)) for row in rows] == [(True, 60_000, 59_999)] * 4


def test_thousands_of_requests_at_once_make_no_errors() -> None:
    with mock_server() as address:
        rows = drive(address, Stage("closed", concurrency=256, requests=3000), 4)
    assert sorted(row.index for row in rows) == list(range(3000))
    assert [row.error for row in rows if not row.ok] == []


def test_all_figures_are_there_in_a_quick_run(capsys: pytest.CaptureFixture[str]) -> None:
    accuracy.main(["--quick", "--json"])
    figures = json.loads(capsys.readouterr().out)
    assert [row["concurrency"] for row in figures["errors"]] == [1, 16, 64]
    assert [row["errors"] for row in figures["errors"]] == [0, 0, 0]
    names = [*(f"completion at {number}" for number in (1, 8, 64)), "chat at 8", "chat at 64", "64 x 1,000/s"]
    assert list(figures["costs"]) == names
    for both in figures["costs"].values():
        assert both["load"]["errors"] == 0
        assert 0 < both["share"]["evaluated_per_cpu_s"] < both["share"]["streaming_per_cpu_s"]
    assert figures["many"]["errors"] == 0
    assert figures["memory"]["tokens"] == 100_000
    bounded = {check["name"] for check in figures["checks"]}
    assert bounded >= {"chat at 8, streaming, of bare C", "chat at 64, with record, of bare C", "start, CPU-s"}
