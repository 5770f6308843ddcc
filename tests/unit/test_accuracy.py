"""nox -s accuracy prints its figures beside their bounds, which decide its exit status."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nexus_tasks import accuracy
from nexus_tasks.load.selfcheck.costs import share

BARE = {"tokens_per_s": 200.0, "streaming_per_cpu_s": 1000.0, "evaluated_per_cpu_s": 1000.0, "tokens_per_piece": 1.0}
LOAD = {"tokens_per_s": 100.0, "streaming_per_cpu_s": 810.0, "evaluated_per_cpu_s": 430.0, "tokens_per_piece": 1.5}


def figures(*, ok: bool) -> dict[str, Any]:
    check = {"name": "chat at 8, with record, of bare C", "value": 0.43, "bound": 0.35, "at_most": False, "ok": ok}
    return {
        "errors": [],
        "costs": {"chat at 8": {"bare": BARE, "load": LOAD, "share": share(LOAD, BARE)}},
        "checks": [check],
    }


@pytest.mark.parametrize(("ok", "status"), [(True, 0), (False, 1)])
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_bounds_decide_the_exit_status(
    ok: bool, status: int, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accuracy, "measure", lambda step, **_: figures(ok=ok))
    assert accuracy.main(options) == status


def test_shares_of_bare_c_are_printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "measure", lambda step, **_: figures(ok=False))
    accuracy.main([])
    printed = capsys.readouterr().out
    shares = next(line for line in printed.splitlines() if "share" in line)
    assert [word for word in shares.split() if word[0].isdigit()] == ["0.50", "0.81", "0.43"]
    assert "missed" in printed
    accuracy.main(["--json"])
    printed_json = json.loads(capsys.readouterr().out)
    assert printed_json["costs"]["chat at 8"]["share"]["evaluated_per_cpu_s"] == 0.43
    assert printed_json["checks"][0]["ok"] is False
