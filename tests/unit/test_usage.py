"""The command that tells usage, with hosts that answer at once."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from nexus_tasks import usage
from nexus_tasks.accounting import collecting
from nexus_tasks.accounting.collecting import Usage
from nexus_tasks.records import store
from plugins.module_utils.gateway.usage_sums import BOUNDS_MS
from tests.usage_records import row


@pytest.fixture
def gateways(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Why gateways could not be asked, to be filled in."""
    lost: dict[str, str] = {}

    def collect(pattern: str | None, since: datetime, until: datetime) -> Usage:
        return Usage(pattern or "gateways:local", since, until, ["gw-1"], [row()], list(BOUNDS_MS), 0, lost)

    monkeypatch.setattr(collecting, "collect", collect)
    return lost


def run(tmp_path: Path, *words: str) -> int:
    return usage.main([*words, "--results", str(tmp_path)])


def test_usage_is_told_and_kept(tmp_path: Path, gateways: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--since", "7d") == 0
    said = capsys.readouterr()
    assert "alice" in said.out
    (path,) = store.paths("usage", tmp_path)
    assert said.err == f"record: {path}\n"


def test_programs_get_json_and_nothing_else(tmp_path: Path, gateways: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--json", "--by", "day,user", "gw-1") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["by"] == ["day", "user"]
    assert [(each["day"], each["user"], each["completion_tokens"]) for each in told["rows"]] == [
        ("2026-11-30", "alice", 20)
    ]


def test_a_gateway_that_could_not_be_asked_is_an_error(
    tmp_path: Path, gateways: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    gateways["gw-2"] = "it is unreachable"
    assert run(tmp_path) == 1
    assert "gw-2: it is unreachable" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--since", "soon"], "'soon' is no time"),
        (["--by", "price"], "usage is not told by 'price'"),
        (["--since", "1h", "--until", "2h"], "has no length"),
    ],
)
def test_what_can_not_be_meant_is_refused(
    tmp_path: Path, gateways: Any, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert run(tmp_path, *words) == 1
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
