"""Plan of a gateway: models, their backends and servers, and everything that is wrong, before the host is touched.

plan = gateway_plan(settings, rows)
plan["problems"]                      # one line each; where there is one, the rest is not to be used
plan["models"][0]["servers"]          # address, slots
plan["instance_keys"]                 # by backend, the key that its servers take; not to be shown
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ...module_utils.hostlib.addresses import is_loopback
from .answers import OWN
from .names import backend_name, server_id, server_name
from .users import user_problems
from .web_page import web_page

Settings = Mapping[str, Any]
Row = Mapping[str, Any]

KEY_OF_GATEWAY = "gateway"  # the name in an instance's api_keys
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where what listens there is asked from its own host
MODEL_NAME = re.compile(r"[!-~]+")  # a key of a map ends at white space
ADDRESS = re.compile(r"[A-Za-z0-9.:_%-]+")
MAX_WEIGHT = 256  # HAProxy's


def gateway_plan(settings: Settings, rows: Iterable[Row]) -> dict[str, Any]:
    """Plan of one gateway.

    Args:
        settings: the role's variables without their prefix, and ``name``, the gateway's in the inventory.
        rows: of :func:`found.served`, a host each.
    """
    hosts = [row for row in rows if row["host"] in settings["hosts"]]
    offers: list[dict[str, Any]] = []
    problems = [*settings["problems"], *([] if settings["problems"] else setting_problems(settings))]
    for row in hosts:
        for instance in row["instances"]:
            there = list(reach_problems(settings, row, instance))
            problems += there
            if not there:
                offers += offers_of(settings, row, instance)
    problems += model_problems(offers)
    models = models_of(settings, offers)
    problems += override_problems(settings, models)
    problems += user_problems(settings["users"], [model["name"] for model in models])
    return {
        "models": models,
        "web_page": web_page(offers),
        "servers": {
            one["name"]: {"host": one["host"], "instance": one["instance"]}
            for model in models
            for one in model["servers"]
        },
        "instance_keys": {model["backend"]: key for model in models if (key := _key(offers, model["name"]))},
        "own_statuses": list(OWN),
        "unproven": [f"{row['host']}/{name}" for row in hosts for name in row["unproven"]],
        "problems": problems,
    }


def setting_problems(settings: Settings) -> Iterator[str]:
    """Problems of where the gateway listens, and for whom."""
    name, host = settings["name"], settings["host"]
    if not ADDRESS.fullmatch(host):
        yield f"gateway_host '{host}' of {name} is not one address: use an address of it, 0.0.0.0 or ::, without a port"
        return
    if not 1 <= settings["port"] <= 65535:
        yield f"gateway_port {settings['port']} of {name} is none: use a number from 1 to 65535"
    if not is_loopback(host) and not settings["users"]:
        yield (
            f"the gateway on {name} listens on {host}, and whoever reaches it could use every model: name its users "
            "and their keys in gateway_users, or leave gateway_host at 127.0.0.1"
        )
    for number, least in (
        ("log_keep_days", 1),
        ("max_body_kib", 64),
        ("hold_timeout", 1),
        ("max_connections", 1),
        ("queue_timeout", 1),
        ("threads", 1),
    ):
        if settings[number] < least:
            yield f"gateway_{number} of {name} is {settings[number]}: use {least} or more"


def reach_problems(settings: Settings, row: Row, instance: Row) -> Iterator[str]:
    """Problems of the way from the gateway to an instance."""
    where = f"{row['host']}/{instance['name']}"
    if is_loopback(instance["listens"]) and not is_near(settings, row):
        yield (
            f"{where} listens on {instance['listens']}, where the gateway on {settings['name']} does not reach it: set "
            f"its host to an address of {row['host']} and give it api_keys, one of them under the name "
            f"{KEY_OF_GATEWAY}, open port {instance['port']} to {settings['name']}, and deploy"
        )
    if instance["keys"] and KEY_OF_GATEWAY not in instance["keys"]:
        yield (
            f"{where} asks for a key, and none of its api_keys is the gateway's: add one of the name {KEY_OF_GATEWAY}"
        )
    for model in instance["models"]:
        if not MODEL_NAME.fullmatch(model):
            yield f"{where} serves a model whose name has white space or more than ASCII: give it another name"


def is_near(settings: Settings, row: Row) -> bool:
    """True where a host is the gateway's own."""
    return bool(row["host"] == settings["name"] or (row["is_here"] and settings["is_here"]))


def offers_of(settings: Settings, row: Row, instance: Row) -> Iterator[dict[str, Any]]:
    """The models of an instance, each with the server that has it."""
    near = is_near(settings, row)
    listens = str(instance["listens"])
    address = EVERYWHERE.get(listens, listens) if near else row["address"] if listens in EVERYWHERE else listens
    for model, facts in instance["models"].items():
        yield {
            "model": model,
            "mode": facts["mode"],
            "sha256": facts["sha256"],
            "key": instance["keys"].get(KEY_OF_GATEWAY),
            "web_page": instance.get("web_page", False),
            "server": {
                "name": server_name(row["host"], instance["name"]),
                "id": server_id(row["host"], instance["name"]),
                "host": row["host"],
                "instance": instance["name"],
                "address": f"[{address}]" if ":" in address else address,
                "port": instance["port"],
                "slots": facts["slots"],
                "weight": min(facts["slots"] or 1, MAX_WEIGHT),
            },
        }


def _where(offer: Mapping[str, Any]) -> str:
    return f"{offer['server']['host']}/{offer['server']['instance']}"


def model_problems(offers: list[dict[str, Any]]) -> Iterator[str]:
    """Names that mean two models, and servers of one model that don't take one key."""
    first: dict[str, dict[str, Any]] = {}
    for offer in offers:
        name = offer["model"]
        known = first.setdefault(name, offer)
        if (known["sha256"], known["mode"]) != (offer["sha256"], offer["mode"]):
            what = "file" if known["mode"] == offer["mode"] else f"use ({known['mode']} and {offer['mode']})"
            yield (
                f"{_where(known)} and {_where(offer)} both serve {name}, each another {what} of it: give one of the "
                "models another name, or both the same file"
            )
        elif known["key"] != offer["key"]:
            yield (
                f"{_where(known)} and {_where(offer)} both serve {name} and have different keys under the name "
                f"{KEY_OF_GATEWAY}: the gateway sends one to all servers of a model, so give them the same"
            )
        if offer is not known and offer["server"]["id"] == known["server"]["id"]:
            yield f"{_where(known)} and {_where(offer)} have one number: give one of the instances another name"
        if offer["server"]["slots"] is None:
            yield f"how many slots {_where(offer)} has for {name} was never proven: restart it (nox -s restart)"


def models_of(settings: Settings, offers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The models by name, each with its backend and servers."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for offer in offers:
        by_name.setdefault(offer["model"], []).append(offer)
    return [
        {
            "name": name,
            "backend": backend_name(name),
            "mode": of_model[0]["mode"],
            "affinity": _affinity(settings, name, of_model),
            "has_key": of_model[0]["key"] is not None,
            "slots": sum(offer["server"]["slots"] or 0 for offer in of_model),
            "servers": sorted((offer["server"] for offer in of_model), key=lambda server: server["name"]),
        }
        for name, of_model in sorted(by_name.items())
    ]


def _affinity(settings: Settings, name: str, offers: list[dict[str, Any]]) -> bool:
    """True where conversations go back to their server: that is wanted, there is a choice, and a prefix is kept."""
    options = settings["models"].get(name)
    wanted = options.get("affinity") if isinstance(options, Mapping) else None  # else it is one of the problems
    return (
        bool(settings["affinity"] if wanted is None else wanted)
        and len(offers) > 1
        and offers[0]["mode"] == "completion"
    )


def _key(offers: list[dict[str, Any]], name: str) -> str | None:
    return next((offer["key"] for offer in offers if offer["model"] == name), None)


def override_problems(settings: Settings, models: list[dict[str, Any]]) -> Iterator[str]:
    """Options in ``gateway_models`` that can't be meant."""
    known = {model["name"] for model in models}
    for name, options in settings["models"].items():
        if known and name not in known:
            yield f"gateway_models names {name}, which no instance serves: it has {', '.join(sorted(known))}"
        is_meant = isinstance(options, Mapping) and all(
            option == "affinity" and isinstance(value, bool) for option, value in options.items()
        )
        if not is_meant:
            yield f"gateway_models.{name} is to hold affinity: true or false, and nothing else"
