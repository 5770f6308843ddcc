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
from nexus_tasks.load.selfcheck.figures import items
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
        assert len(row.itl_ms) == 29
        # Both clocks are the machine's monotonic one, so moments can be compared, not only durations.
        began_s = known(row.start_s)
        assert began_s > 0
        assert origin + began_s < received / 1e9
        arrivals_ms = known(row.ttft_ms) + np.concatenate([[0.0], np.cumsum(row.itl_ms)])
        assert (arrivals_ms > (sent - received) / 1e6 - 0.1).all()


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


def test_a_bound_that_is_missed_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    missed = {"name": "x", "value": 2.0, "bound": 1.0, "at_most": True, "ok": False}
    monkeypatch.setattr(accuracy, "measure", lambda step, **_: {"checks": [missed]})
    assert accuracy.main(["--json"]) == 1
    assert json.loads(capsys.readouterr().out)["checks"][0]["ok"] is False


def test_all_figures_are_there_in_a_quick_run(capsys: pytest.CaptureFixture[str]) -> None:
    accuracy.main(["--quick", "--json"])
    figures = json.loads(capsys.readouterr().out)
    assert [row["concurrency"] for row in figures["errors"]] == [1, 16, 64]
    assert [row["errors"] for row in figures["errors"]] == [0, 0, 0]
    assert list(figures["ceiling"]) == ["1", "8", "64"]
    assert figures["many"]["errors"] == 0
    assert figures["memory"]["tokens"] == 100_000
    assert {check["name"].split()[0] for check in figures["checks"]} >= {"TTFT", "ITL", "streaming", "paced,", "start,"}
