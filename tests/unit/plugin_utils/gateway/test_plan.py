"""Plan of a gateway: models, servers, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from plugins.plugin_utils.gateway.plan import gateway_plan

EVERYWHERE = "0.0.0.0"  # noqa: S104 - declared, and not bound
SETTINGS: dict[str, Any] = {
    "name": "front", "host": "127.0.0.1", "port": 3000, "hosts": ["front", "rig-1", "rig-2"], "users": {},
    "models": {}, "affinity": True, "is_here": False, "max_body_kib": 2048, "max_connections": 100,
    "queue_timeout": 60, "hold_timeout": 300, "threads": 1, "log_keep_days": 90, "problems": [],
}  # fmt: skip


def instance(name: str, *models: str, **changes: Any) -> dict[str, Any]:
    """An instance as found on its host, with two slots for each model."""
    facts = {"slots": 2, "mode": "completion", "sha256": "a"}
    known = {"name": name, "listens": EVERYWHERE, "port": 8600, "keys": {"gateway": "k" * 20}}
    return {**known, "models": {model: dict(facts) for model in models}, **changes}


def row(host: str, *instances: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The row of a host."""
    return {
        "host": host, "address": f"{host}.lan", "is_here": False, "instances": list(instances), "unproven": [],
        **changes,
    }  # fmt: skip


def planned(*rows: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return gateway_plan({**SETTINGS, **settings}, rows)


def test_a_model_of_several_hosts_is_one_backend_with_a_server_for_each() -> None:
    plan = planned(row("rig-1", instance("main", "tiny")), row("rig-2", instance("main", "tiny", "embed/small")))
    assert plan["problems"] == []
    by_name = {model["name"]: model for model in plan["models"]}
    assert [(one["name"], one["address"], one["slots"]) for one in by_name["tiny"]["servers"]] == [
        ("rig-1_main", "rig-1.lan", 2), ("rig-2_main", "rig-2.lan", 2),
    ]  # fmt: skip
    assert by_name["tiny"]["backend"] == "model_tiny"
    assert by_name["embed/small"]["backend"].startswith("model_embed_small.")
    assert plan["servers"]["rig-2_main"] == {"host": "rig-2", "instance": "main"}
    assert plan["instance_keys"] == {model["backend"]: "k" * 20 for model in plan["models"]}


def test_an_instance_beside_the_gateway_is_reached_on_loopback() -> None:
    near = instance("main", "tiny", listens="127.0.0.1", keys={})
    [model] = planned(row("front", near))["models"]
    assert (model["servers"][0]["address"], model["has_key"]) == ("127.0.0.1", False)
    open_to_all = planned(row("front", instance("main", "tiny", listens="::")))["models"][0]["servers"][0]
    assert open_to_all["address"] == "[::1]"


def test_a_conversation_goes_back_only_where_there_is_a_choice_and_a_prefix() -> None:
    embedding = {"small": {"slots": 4, "mode": "embedding", "sha256": "b"}}
    plan = planned(
        row("rig-1", instance("a", "tiny", "alone"), instance("b", models=embedding, port=8601)),
        row("rig-2", instance("a", "tiny"), instance("b", models=embedding, port=8601)),
    )
    assert {model["name"]: model["affinity"] for model in plan["models"]} == {
        "alone": False, "small": False, "tiny": True,
    }  # fmt: skip
    off = planned(
        *[row(host, instance("a", "tiny")) for host in ("rig-1", "rig-2")], models={"tiny": {"affinity": False}}
    )
    assert [model["affinity"] for model in off["models"]] == [False]


def test_hosts_that_it_does_not_stand_before_are_left_out() -> None:
    plan = planned(row("rig-9", instance("main", "tiny", listens="127.0.0.1")))
    assert (plan["models"], plan["problems"]) == ([], [])


REFUSED: dict[str, tuple[list[dict[str, Any]], dict[str, Any], str]] = {
    "loopback elsewhere": (
        [row("rig-1", instance("main", "tiny", listens="127.0.0.1"))], {},
        "rig-1/main listens on 127.0.0.1, where the gateway on front does not reach it",
    ),
    "no key of the gateway's": (
        [row("rig-1", instance("main", "tiny", keys={"alice": "x" * 20}))], {},
        "none of its api_keys is the gateway's: add one of the name gateway",
    ),
    "one name, two files": (
        [
            row("rig-1", instance("main", "tiny")),
            row("rig-2", instance("main", models={"tiny": {"slots": 1, "mode": "completion", "sha256": "b"}})),
        ], {},
        "rig-1/main and rig-2/main both serve tiny, each another file of it",
    ),
    "one name, two uses": (
        [
            row("rig-1", instance("main", "tiny")),
            row("rig-2", instance("main", models={"tiny": {"slots": 1, "mode": "embedding", "sha256": "a"}})),
        ], {},
        "each another use (completion and embedding) of it",
    ),
    "two keys": (
        [row("rig-1", instance("main", "tiny")), row("rig-2", instance("main", "tiny", keys={"gateway": "y" * 20}))],
        {}, "have different keys under the name gateway",
    ),
    "slots that nobody proved": (
        [row("rig-1", instance("main", models={"tiny": {"slots": None, "mode": "completion", "sha256": "a"}}))], {},
        "how many slots rig-1/main has for tiny was never proven",
    ),
    "open without users": ([], {"host": EVERYWHERE}, "name its users and their keys in gateway_users"),
    "no port": ([], {"port": 70000}, "gateway_port 70000 of front is none"),
    "a small buffer": ([], {"max_body_kib": 1}, "gateway_max_body_kib of front is 1: use 64 or more"),
    "another's model": (
        [row("rig-1", instance("main", "tiny"))], {"models": {"tinny": {"affinity": True}}},
        "gateway_models names tinny, which no instance serves: it has tiny",
    ),
    "an option of another kind": (
        [row("rig-1", instance("main", "tiny"))], {"models": {"tiny": {"affinity": "false"}}},
        "gateway_models.tiny is to hold affinity",
    ),
    "no options": ([row("rig-1", instance("main", "tiny"))], {"models": {"tiny": True}}, "gateway_models.tiny is to"),
    "no wait": ([], {"hold_timeout": -1}, "gateway_hold_timeout of front is -1: use 1 or more"),
    "an unknown option": (
        [row("rig-1", instance("main", "tiny"))], {"models": {"tiny": {"afinity": True}}},
        "gateway_models.tiny is to hold affinity: true or false, and nothing else",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_not_be_right_is_one_line_and_holds_no_key(case: str) -> None:
    rows, settings, words = REFUSED[case]
    problems = planned(*rows, **settings)["problems"]
    assert len(problems) == 1, problems
    assert words in problems[0]
    assert "\n" not in problems[0]
    assert not any(secret * 20 in problems[0] for secret in "kxy")
