"""Rows of the tables that a record makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from nexus_tasks.records import store
from nexus_tasks.views import tables
from tests.report_records import NOON, fixed, simulate, write


def test_each_token_has_the_moment_at_which_it_came(tmp_path: Path) -> None:
    made = simulate([{"concurrency": 2, "requests": 8, "warmup": 2}], output_tokens=16)
    record = store.load(write(tmp_path, NOON, **made, prompt_tokens=fixed(512), output_tokens=fixed(16)))
    row = record.requests[5]
    own = [token for token in tables.rows(record)["tokens"] if token["index"] == row.index]
    assert {token["run_id"] for token in own} == {record.run_id}
    assert row.intended_s is not None
    assert row.ttft_ms is not None
    assert row.decode_ms is not None
    assert [token["token"] for token in own] == list(range(row.output_tokens or 0))
    assert own[0]["t_s"] == pytest.approx(row.intended_s + row.ttft_ms / 1000)
    assert own[-1]["t_s"] == pytest.approx(row.intended_s + (row.ttft_ms + row.decode_ms) / 1000)
    assert [token["gap_ms"] for token in own[1:]] == row.itl_ms


def test_each_row_has_columns_of_its_table_only(tmp_path: Path) -> None:
    record = store.load(write(tmp_path, **simulate([{"concurrency": 2, "requests": 4}], output_tokens=4)))
    for name, rows in tables.rows(record).items():
        if name != "stages":  # keeps further keys, which its columns leave out
            assert all(set(row) <= set(tables.COLUMNS[name]) for row in rows), name
