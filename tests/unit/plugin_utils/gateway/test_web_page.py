"""llama.cpp's web page at a gateway: whose it is, and what it is told."""

from __future__ import annotations

import json
from typing import Any

from plugins.plugin_utils.gateway.web_page import web_page, web_page_files


def offer(model: str, server: str, **changes: Any) -> dict[str, Any]:
    return {"model": model, "mode": "completion", "key": None, "web_page": True, "server": {"name": server}} | changes


def test_the_page_is_taken_from_all_servers_of_one_model_that_have_it() -> None:
    page = web_page([
        offer("a-embed", "rig-1_embed", mode="embedding"),
        offer("tiny", "rig-2_main", key="k"),
        offer("tiny", "rig-1_main", key="k"),
        offer("tiny", "rig-3_main", key="k", web_page=False),
        offer("zeta", "rig-1_zeta"),
    ])  # fmt: skip
    assert page == {"servers": [{"name": "rig-1_main"}, {"name": "rig-2_main"}], "key_of": "model_tiny"}


def test_there_may_be_no_page_or_one_without_a_key() -> None:
    assert web_page([offer("tiny", "rig-1_main", web_page=False)]) is None
    page = web_page([offer("tiny", "rig-1_main")])
    assert page is not None
    assert page["key_of"] is None


def test_the_page_is_told_of_models_that_chat_as_a_routers_that_are_loaded() -> None:
    models = [{"name": "tiny", "mode": "completion"}, {"name": "small", "mode": "embedding"}]
    files = web_page_files({"models": models, "web_page": {"servers": []}})
    assert json.loads(files["www/ui_props.json"])["role"] == "router"
    rows = json.loads(files["www/ui_models.json"])["data"]
    assert [(row["id"], row["status"]["value"]) for row in rows] == [("tiny", "loaded")]
    assert web_page_files({"models": models, "web_page": None}) == {}
