"""A run over time."""

from __future__ import annotations

from pathlib import Path

import pytest

from nexus_tasks.records import store
from nexus_tasks.reports import frames
from tests.report_records import request, write


def test_requests_in_flight_are_the_mean_of_each_moment(tmp_path: Path) -> None:
    rows = [request(index, 0.0, ttft_ms=1000.0, itl_ms=[]) for index in (1, 2)]
    rows.append(request(3, 0.5, ttft_ms=1500.0, itl_ms=[]))
    frame = frames.in_flight(store.load(write(tmp_path, requests=rows)))
    middle = frame[(frame["t_s"] > 0.55) & (frame["t_s"] < 0.9)]["in_flight"]
    assert middle.to_numpy() == pytest.approx(3.0)
    assert frame[frame["t_s"] < 0.4]["in_flight"].to_numpy() == pytest.approx(2.0)
