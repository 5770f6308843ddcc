"""llama.cpp's own web page at a gateway: the servers that it is taken from, and what it is told of the fleet.

page = web_page(offers)          # {"servers": […], "key_of": BACKEND or None}, None where no server has it
files = web_page_files(plan)     # what the page reads before it chats

To the page the gateway is a router all of whose models are loaded: it names a model in each request, and loads none.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from .names import backend_name

CHATS = "completion"


def web_page(offers: Iterable[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The servers that have the page, all of one model, since those take one key; None where there is none.

    ``key_of`` is the backend whose key they take, None where they take none.
    """
    having = [offer for offer in offers if offer["web_page"]]
    if not having:
        return None
    chosen = min(having, key=lambda offer: (offer["mode"] != CHATS, offer["model"]))
    of_model = [offer for offer in having if offer["model"] == chosen["model"]]
    return {
        "servers": sorted((offer["server"] for offer in of_model), key=lambda server: str(server["name"])),
        "key_of": None if chosen["key"] is None else backend_name(chosen["model"]),
    }


def web_page_files(plan: Mapping[str, Any]) -> dict[str, str]:
    """Answers to the page's ``/props`` and ``/v1/models``, by their place below the gateway's folder."""
    if plan["web_page"] is None:
        return {}
    props = {
        "role": "router",
        "model_path": "none",
        "default_generation_settings": {"params": {}, "n_ctx": 0},
        "ui_settings": {},
        "cors_proxy_enabled": False,
    }
    rows = [_row(model["name"]) for model in plan["models"] if model["mode"] == CHATS]
    return {
        "www/ui_props.json": json.dumps(props) + "\n",
        "www/ui_models.json": json.dumps({"object": "list", "data": rows}) + "\n",
    }


def _row(name: str) -> dict[str, Any]:
    """A model in the list of a router."""
    return {
        "id": name, "object": "model", "created": 0, "owned_by": "llama-nexus", "aliases": [], "tags": [],
        "status": {"value": "loaded"}, "architecture": {"input_modalities": ["text"], "output_modalities": ["text"]},
    }  # fmt: skip
