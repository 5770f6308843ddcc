"""Rates of batches, as ``python -m tests.batch_rates`` prints them; in soak at full size, and held against bounds."""

from __future__ import annotations

from pathlib import Path

import pytest

from nexus_tasks.model_store.tiny_model import Shape
from tests import batch_rates
from tests.workers import tell

SMALL = pytest.param(False, id="small")
FULL = pytest.param(True, id="full", marks=[pytest.mark.soak, pytest.mark.alone])


@pytest.mark.parametrize("full", [SMALL, FULL])
def test_two_servers_of_unequal_speed_finish_together(tmp_path: Path, full: bool, pytestconfig: pytest.Config) -> None:
    found = batch_rates.split(tmp_path, 2000 if full else 40)
    tell(pytestconfig, str(found))
    assert len(found.rows) == 2
    if full:
        assert found.seconds <= 1.05 * found.ideal_s


@pytest.mark.parametrize("full", [SMALL, FULL])
def test_a_server_that_dies_half_way_leaves_its_rows_to_the_other(
    tmp_path: Path, full: bool, pytestconfig: pytest.Config
) -> None:
    found = batch_rates.half_dies(tmp_path, 2000 if full else 60)
    tell(pytestconfig, f"rows by server: {found}")
    assert len(found) == 2
    assert sum(found.values()) == (2000 if full else 60)


@pytest.mark.parametrize("full", [SMALL, FULL])
def test_short_rows_take_no_memory(tmp_path: Path, full: bool, pytestconfig: pytest.Config) -> None:
    found = batch_rates.short_rows(tmp_path, 1_000_000 if full else 1000)
    tell(pytestconfig, str(found))
    assert found.rss_mib < 300
    if full:
        assert found.rows_per_s >= 1000


@pytest.mark.parametrize("full", [SMALL, FULL])
def test_a_journal_keeps_up_with_any_server(tmp_path: Path, full: bool, pytestconfig: pytest.Config) -> None:
    found = batch_rates.journal_alone(tmp_path, 1_000_000 if full else 1000)
    tell(pytestconfig, str(found))
    if full:
        assert found.rows_per_s >= 5000


@pytest.mark.parametrize("full", [SMALL, FULL])
def test_a_batch_that_is_half_done_goes_on_soon(tmp_path: Path, full: bool, pytestconfig: pytest.Config) -> None:
    seconds = batch_rates.resume(tmp_path, 1_000_000 if full else 1000)
    tell(pytestconfig, f"resumed in {seconds:.1f} s")
    if full:
        assert seconds < 20


@pytest.mark.usefixtures("release")
@pytest.mark.parametrize("full", [SMALL, FULL])
def test_slots_are_busy_and_tokens_come_as_fast_as_from_the_bare_tool(
    tmp_path: Path, full: bool, pytestconfig: pytest.Config
) -> None:
    if full:
        found = batch_rates.throughput(tmp_path, 60)
    else:
        found = batch_rates.throughput(tmp_path, 24, rounds=1, shape=Shape(), max_tokens=16, every_s=0.02)
    ratios = f"{found.batch_ratio:.3f} of llama-batched-bench; the OpenAI client {found.openai_ratio:.3f}"
    tell(pytestconfig, f"{ratios}; {found}")
    assert found.batch.busy > 0
    if full:
        assert found.step_ms >= 20
        assert found.batch.busy >= 0.97
        assert found.batch_ratio >= 0.95
