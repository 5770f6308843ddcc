from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nexus_tasks.accounting import collecting
from nexus_tasks.core.errors import DeployError
from nexus_tasks.fleet import inventory
from nexus_tasks.records import store
from plugins.module_utils.gateway.usage_sums import BOUNDS_MS
from tests.usage_records import row

SINCE, UNTIL = datetime(2026, 11, 30, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)


def told(host: str, *, there: bool = True) -> dict[str, Any]:
    plain = msgspec.to_builtins(row())
    rows = [{name: value for name, value in plain.items() if name not in ("type", "gateway")}] if there else []
    return {"host": host, "there": there, "rows": rows, "bounds_ms": list(BOUNDS_MS), "damaged": 1 if there else 0}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The answers of hosts, to be filled in; then what was asked."""
    answers: list[Any] = []

    def answer(pattern: str, play: str, variable: str, variables: dict[str, Any]) -> Any:
        hosts, lost = answers.pop()
        answers.append((pattern, variables))
        return hosts, lost

    monkeypatch.setattr(inventory, "answer", answer)
    return answers


def test_the_rows_of_all_gateways_are_kept_as_a_record(asked: list[Any], tmp_path: Path) -> None:
    asked.append(([told("gw-1"), told("gw-2"), told("localhost", there=False)], {"gw-3": "it is unreachable"}))
    usage = collecting.collect(None, SINCE, UNTIL)
    assert asked == [("gateways:local", {"usage_since": SINCE.timestamp(), "usage_until": UNTIL.timestamp()})]
    record = store.load(collecting.write(usage, tmp_path), "usage")
    assert [(each.gateway, each.prompt_tokens) for each in record.rows] == [("gw-1", 40), ("gw-2", 40)]
    assert record.header.gateways == ["gw-1", "gw-2"]
    assert record.summary is not None
    assert (record.summary.requests, record.summary.damaged) == (4, 2)
    assert record.summary.lost == {"gw-3": "it is unreachable"}


def test_a_fleet_without_a_gateway_is_told_how_to_get_one(asked: list[Any]) -> None:
    asked.append(([told("localhost", there=False)], {}))
    with pytest.raises(DeployError, match="no gateway has a log on localhost") as refused:
        collecting.collect("local", SINCE, UNTIL)
    assert "gateway_enabled" in refused.value.hint
