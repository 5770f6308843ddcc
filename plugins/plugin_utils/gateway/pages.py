"""Pages of a gateway: the states of its models and servers, as HAProxy knows them at each request.

rows = live_models(plan)          # for the front page: {"name", "state", "servers": [{"name", "state", …}], …}
text = status_json(plan)          # the same for programs

What changes is in HAProxy's log format: ``%[…]`` is filled in with each request, and a plain ``%`` is written twice.
``@ROOT@`` in it is the gateway's folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

HELD = 'str({key}),map_str("@ROOT@/run/hold.map",""),length,bool'  # hold.lua's: what waits for a server that comes back
USES = {"completion": "chat", "embedding": "embeddings", "rerank": "reranking"}


def live_models(plan: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The models with what HAProxy fills in: ``state``, ``tone`` (good or bad), numbers ``waiting`` and ``busy``."""
    return [
        {
            "name": model["name"],
            "use": USES.get(model["mode"], model["mode"]),
            "slots": model["slots"],
            "state": f"%[nbsrv({model['backend']}),bool,iif(up,down)]"
            + f"%[{HELD.format(key=model['backend'])},iif(: requests wait for a server that changes,)]",
            "tone": f"%[nbsrv({model['backend']}),bool,iif(good,bad)]",
            "servers_up": f"%[nbsrv({model['backend']})]",
            "waiting": f"%[queue({model['backend']})]",
            "servers": [_live_server(model["backend"], server) for server in model["servers"]],
        }
        for model in plan["models"]
    ]


def _live_server(backend: str, server: Mapping[str, Any]) -> dict[str, Any]:
    key = f"{backend}/{server['name']}"
    return {
        "name": f"{server['host']}/{server['instance']}",
        "state": f"%[srv_is_up({key}),iif(up,down)]%[{HELD.format(key=key)},iif(: being changed,)]",
        "tone": f"%[srv_is_up({key}),iif(good,bad)]",
        "slots": server["slots"],
        "busy": f"%[srv_conn({key})]",
    }


def status_json(plan: Mapping[str, Any]) -> str:
    """The states as JSON: {"models": [{"name", "mode", "waiting", "held", "servers": [{"host", "instance", "up",
    "changing", "busy", "slots"}]}]}, numbers of requests and of slots.
    """
    facts: list[str] = []

    def fact(expression: str) -> str:
        facts.append(f"%[{expression}]")
        return f"\0{len(facts) - 1}"  # no name has a NUL

    models = [
        {
            "name": model["name"].replace("%", "%%"),
            "mode": model["mode"],
            "waiting": fact(f"queue({model['backend']})"),
            "held": fact(f"{HELD.format(key=model['backend'])},iif(true,false)"),
            "servers": [
                {
                    "host": server["host"].replace("%", "%%"),
                    "instance": server["instance"].replace("%", "%%"),
                    "up": fact(f"srv_is_up({model['backend']}/{server['name']}),iif(true,false)"),
                    "changing": fact(f"{HELD.format(key=model['backend'] + '/' + server['name'])},iif(true,false)"),
                    "busy": fact(f"srv_conn({model['backend']}/{server['name']})"),
                    "slots": server["slots"],
                }
                for server in model["servers"]
            ],
        }
        for model in plan["models"]
    ]
    text = json.dumps({"models": models})
    for number, expression in enumerate(facts):
        text = text.replace(f'"\\u0000{number}"', expression, 1)
    return text + "\n"
