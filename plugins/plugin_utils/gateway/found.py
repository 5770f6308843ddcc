"""Instances of one host as a gateway has to know them. These rows are kept on the gateway between deployments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Row = dict[str, Any]


def served(host: Mapping[str, Any]) -> Row:
    """The row of a host: ``host``, ``address``, ``is_here``, its ``instances`` and those that are ``unproven``.

    Of an instance: ``name``, ``listens``, ``port``, ``keys`` by name, ``web_page`` (whether it has llama.cpp's), and
    ``models`` by the name that requests use, each with ``slots`` (None where its proof told none), ``mode`` and the
    ``sha256`` of its file.

    Args:
        host: what ``playbooks/endpoints.yml`` finds of it: ``host``, ``address``, ``local``, ``declared``, ``deployed``
            and ``api_keys``.
    """
    declared = set(host["declared"])
    rows = [row for row in host["deployed"] if row["name"] in declared]
    proven = [row for row in rows if _is_proven(row)]
    return {
        "host": host["host"],
        "address": host["address"],
        "is_here": bool(host["local"]),
        "instances": [_instance(row, host["api_keys"].get(row["name"], {})) for row in proven],
        "unproven": sorted(declared - {row["name"] for row in proven}),
    }


def _is_proven(row: Mapping[str, Any]) -> bool:
    """True for what was proven at some time; of a router that was proven by another version no slots are known."""
    known = row.get("slots_by_model") or (row.get("phase") == "verified" and (row.get("config") or {}).get("models"))
    return bool(row.get("config") and row.get("generation") and known)


def _instance(row: Mapping[str, Any], keys: Mapping[str, str]) -> Row:
    config = row["config"]
    model = config.get("model")
    models = {model["name"]: {**model, "mode": config.get("mode", "completion")}} if model else config.get("models", {})
    return {
        "name": row["name"],
        "listens": config["host"],
        "port": config["port"],
        "keys": dict(keys),
        "web_page": bool(row.get("web_page")),
        "models": {
            name: {
                "slots": row["slots_by_model"].get(name),
                "mode": one.get("mode", "completion"),
                "sha256": one.get("sha256"),
            }
            for name, one in models.items()
        },
    }


def merged(rows: Iterable[Row], newer: Iterable[Row]) -> list[Row]:
    """The rows of all hosts by their names; of a host that is in both the newer one."""
    by_host = {row["host"]: row for row in [*rows, *newer]}
    return [by_host[host] for host in sorted(by_host)]
