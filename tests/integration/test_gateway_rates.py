"""Rates of the gateway, as ``python -m tests.gateway_rates`` prints them; in soak at full size, and within bounds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import gateway_rates
from tests.support.haproxy import needs_haproxy
from tests.workers import tell

pytestmark = needs_haproxy
SMALL = pytest.param(False, id="small")
FULL = pytest.param(True, id="full", marks=[pytest.mark.soak, pytest.mark.alone])


@pytest.mark.parametrize("full", [SMALL, FULL])
def test_no_request_waits_within_a_server_and_all_clients_get_as_many(
    tmp_path: Path, full: bool, pytestconfig: pytest.Config
) -> None:
    found = gateway_rates.fairness(tmp_path, 640 if full else 96)
    tell(pytestconfig, str(found))
    fewest, most = found.requests_per_client
    assert most - fewest <= 2
    if full:
        assert most <= 1.1 * fewest
        assert found.max_over_median_ttft <= 1.15
        # A server takes a moment to see that a slot is free; to wait for another answer would take all of its time.
        assert found.waited_in_server_ms < gateway_rates.TTFT_MS


@pytest.mark.parametrize("full", [SMALL, FULL])
def test_a_slow_server_keeps_no_request_from_a_fast_one(
    tmp_path: Path, full: bool, pytestconfig: pytest.Config
) -> None:
    found = gateway_rates.unequal(tmp_path, 640 if full else 128)
    tell(pytestconfig, str(found))
    fast, slow = found.requests
    assert fast > slow > 0
    if full:
        assert found.ratio <= 1.2


@pytest.mark.parametrize("full", [SMALL, FULL])
def test_a_first_token_comes_as_soon_and_a_million_tokens_cost_seconds(
    tmp_path: Path, full: bool, pytestconfig: pytest.Config
) -> None:
    added_ms = gateway_rates.added(tmp_path / "added", 400 if full else 10, 1, pairs=5 if full else 1)
    cost = gateway_rates.cpu(tmp_path / "cpu", 1280 if full else 64)
    tell(pytestconfig, f"{added_ms:+.3f} ms; {cost}")
    assert cost.gateway_s > 0
    if full:
        assert added_ms <= 0.6
        assert cost.gateway_s <= 40


@pytest.mark.usefixtures("release")
@pytest.mark.parametrize("full", [SMALL, FULL])
def test_conversations_find_what_was_computed_for_them(tmp_path: Path, full: bool, pytestconfig: pytest.Config) -> None:
    found = gateway_rates.turns(tmp_path, 8 if full else 2, both_ways=full)
    tell(pytestconfig, str(found))
    assert found.with_affinity < 1.3
    if full:
        assert found.without is not None
        assert found.with_affinity <= 1.1
        assert found.with_affinity < found.without
