"""States of models and servers on a gateway's pages."""

from __future__ import annotations

import json
import re
from typing import Any

from plugins.plugin_utils.gateway.pages import live_models, status_json

PLAN: dict[str, Any] = {
    "models": [
        {
            "name": 'odd"%name', "backend": "model_odd", "mode": "embedding", "slots": 3,
            "servers": [
                {"name": "rig-1_main", "host": "rig-1", "instance": "main", "slots": 2},
                {"name": "rig-2_main", "host": "rig-2", "instance": "main", "slots": 1},
            ],
        }
    ]
}  # fmt: skip


def filled(text: str, value: str) -> str:
    """A text as HAProxy fills it in."""
    return re.sub(r"%\[[^]]*\]", value, text).replace("%%", "%")


def test_the_status_is_json_however_a_model_is_called() -> None:
    (model,) = json.loads(filled(status_json(PLAN), "1"))["models"]
    assert (model["name"], model["mode"], model["waiting"]) == ('odd"%name', "embedding", 1)
    assert model["servers"][1] == {"host": "rig-2", "instance": "main", "up": 1, "changing": 1, "busy": 1, "slots": 1}
    assert json.loads(status_json({"models": []})) == {"models": []}


def test_each_server_has_its_own_state() -> None:
    (model,) = live_models(PLAN)
    assert (model["use"], model["slots"]) == ("embeddings", 3)
    assert [server["busy"] for server in model["servers"]] == [
        "%[srv_conn(model_odd/rig-1_main)]", "%[srv_conn(model_odd/rig-2_main)]",
    ]  # fmt: skip
    assert "%[srv_is_up(model_odd/rig-2_main),iif(up,down)]" in model["servers"][1]["state"]
