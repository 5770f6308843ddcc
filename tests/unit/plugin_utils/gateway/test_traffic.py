from __future__ import annotations

from typing import Any

import pytest

from plugins.plugin_utils.gateway import traffic

PROVEN: dict[str, Any] = {
    "name": "main",
    "state": "verified",
    "changed": True,
    "url": "http://127.0.0.1:8600",
    "slots": 4,
}
RESTORED = {**PROVEN, "state": "restored", "url": "http://127.0.0.1:9", "slots": None, "restored": PROVEN}
UNTOUCHED = {"name": "main", "state": "failed", "changed": False, "error": "no room"}
PLACE = {"rig-1_main": {"port": 8600, "slots": 4}}


@pytest.mark.parametrize(
    ("row", "place"),
    [
        pytest.param(PROVEN, PLACE, id="proven"),
        pytest.param({**PROVEN, "slots": None}, {"rig-1_main": {"port": 8600}}, id="a router, whose models have slots"),
        pytest.param(RESTORED, PLACE, id="the old one is back"),
        pytest.param(UNTOUCHED, {"rig-1_main": {}}, id="not begun"),
        pytest.param({**PROVEN, "state": "failed", "restored": None}, {}, id="nothing proven runs"),
        pytest.param({"name": "main", "state": "stopped", "changed": True}, {}, id="stopped"),
        pytest.param({**PROVEN, "removed": True}, {}, id="removed"),
    ],
)
def test_only_what_is_proven_is_taken_back(row: dict[str, Any], place: dict[str, Any]) -> None:
    assert traffic.taken_back(["main"], "rig-1", [row]) == place


def test_what_was_not_begun_is_taken_back_and_what_nobody_knows_of_is_not() -> None:
    assert traffic.taken_back(["main", "side"], "rig-1", [PROVEN]) == {**PLACE, "rig-1_side": {}}
    assert traffic.taken_back(["main", "side"], "rig-1", None) == {}


def test_rows_of_a_status_have_what_gateways_say_of_them() -> None:
    looks: list[dict[str, Any]] = [
        {"gateway_name": "gate-1", "state": "running", "servers": [{"name": "rig-1_main", "state": "maintenance"}]},
        {"gateway_name": "gate-2", "unreachable": True, "msg": "no route\nto host"},
    ]
    rows = traffic.seen([{"name": "main"}, {"name": "side"}], "rig-1", looks)
    assert [row["gateways"] for row in rows] == [{"gate-1": "maintenance"}, {}]


def test_a_gateway_that_is_down_or_out_of_reach_is_a_row_with_its_trouble() -> None:
    looks: list[dict[str, Any]] = [
        {"gateway_name": "gate-1", "state": "running", "servers": []},
        {"gateway_name": "gate-2", "state": "down", "why": "HAProxy does not run"},
        {"gateway_name": "gate-3", "unreachable": True, "msg": "no route\nto host"},
        {"gateway_name": "gate-4", "state": "absent", "servers": []},
    ]
    rows = traffic.gateway_rows(looks)
    assert [(row["host"], row["state"], row["trouble"]) for row in rows] == [
        ("gate-1", "running", None),
        ("gate-2", "down", "nothing gets through it: ansible-playbook playbooks/gateway.yml (HAProxy does not run)"),
        ("gate-3", "unreachable", "no route to host"),
    ]


def test_the_error_for_gateways_out_of_reach_says_what_to_do() -> None:
    said = traffic.unreachable([{"gateway_name": "gate-1", "msg": "no route\nto host"}])
    assert said.startswith(
        "gateway gate-1 can't be reached, so it would go on sending requests here: mend that, or take"
    )
    assert said.endswith("It says: no route to host")
