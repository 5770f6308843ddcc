"""The load generator against a real llama-server."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from nexus_tasks.load.requests import Item, Limits, Request, Stage
from tests.conftest import RunningServer
from tests.support.known import known
from tests.support.load_runs import drive
from tests.support.raw_server import CHAT

pytestmark = pytest.mark.alone


@pytest.mark.parametrize("processes", [1, 2])
def test_a_real_server_is_measured_as_it_measures_itself(server: RunningServer, processes: int) -> None:
    def items() -> Iterator[Item]:
        for number in range(100):
            body = {"prompt": [5 + number] * 20, "n_predict": 12, "stream": True, "ignore_eos": True, "temperature": 0}
            yield Item((Request("/completion", json.dumps(body).encode(), 20, 12, exact_output=True),))

    rows, _ = drive(server.base_url, Stage("closed", concurrency=2, requests=6), items=items(), processes=processes)
    assert [row.error for row in rows] == [None] * 6
    for row in rows:
        assert (row.prompt_tokens, row.output_tokens, row.finish_reason) == (20, 12, "limit")
        assert len(row.itl_ms) == 11
        assert known(row.server).predicted_n == 12
        assert sum(row.itl_ms) == pytest.approx(row.decode_ms, abs=0.02)
        assert 0 < known(row.ttft_ms) < known(row.total_ms)
        assert row.queue_ms == pytest.approx(known(row.ttft_ms) - known(known(row.server).prompt_ms), abs=0.01)


def test_a_chat_of_a_real_server_has_an_answer(server: RunningServer) -> None:
    body = {
        "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8, "stream": True, "ignore_eos": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    item = Item((Request(CHAT, json.dumps(body).encode(), None, 8, exact_output=True),))
    rows, _ = drive(server.base_url, items=iter([item]), limits=Limits(keep_answers=True))
    assert rows[0].error is None
    assert rows[0].output_tokens == 8
    assert rows[0].answer
    assert rows[0].backend
