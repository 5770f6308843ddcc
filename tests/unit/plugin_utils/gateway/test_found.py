"""Instances of a host as gateways have to know them."""

from __future__ import annotations

from typing import Any

from plugins.plugin_utils.gateway.found import merged, served

MAIN = {
    "name": "main", "phase": "verified", "generation": "abc", "slots_by_model": {"tiny": 4},
    "config": {"host": "0.0.0.0", "port": 8600, "mode": "completion", "model": {"name": "tiny", "sha256": "a"}},  # noqa: S104 - found, not bound
}  # fmt: skip
ROUTER = {
    "name": "router", "phase": "verified", "generation": "def", "slots_by_model": {"one": 2},
    "config": {
        "host": "127.0.0.1", "port": 8601, "mode": "router",
        "models": {"one": {"sha256": "a", "mode": "completion"}, "two": {"sha256": "b", "mode": "embedding"}},
    },
}  # fmt: skip
HOST: dict[str, Any] = {
    "host": "rig-1", "address": "192.0.2.7", "local": False, "declared": ["main", "router"],
    "deployed": [MAIN, ROUTER], "api_keys": {"main": {"gateway": "secret"}},
}  # fmt: skip


def test_models_have_the_slots_that_were_proven() -> None:
    row = served(HOST)
    main, router = row["instances"]
    assert main["models"] == {"tiny": {"slots": 4, "mode": "completion", "sha256": "a"}}
    assert (main["keys"], main["port"], router["keys"]) == ({"gateway": "secret"}, 8600, {})
    assert router["models"]["one"]["slots"] == 2
    assert router["models"]["two"] == {"slots": None, "mode": "embedding", "sha256": "b"}
    assert row["unproven"] == []


def test_what_is_no_longer_declared_or_was_never_proven_is_not_there() -> None:
    assert served({**HOST, "declared": ["router"]})["instances"][0]["name"] == "router"
    fresh = {**MAIN, "slots_by_model": {}, "phase": "failed"}
    row = served({**HOST, "deployed": [fresh]})
    assert (row["instances"], row["unproven"]) == ([], ["main", "router"])


def test_of_a_host_that_is_in_both_the_newer_row_counts() -> None:
    rows = [{"host": "b", "at": 1}, {"host": "a", "at": 1}]
    assert merged(rows, [{"host": "b", "at": 2}]) == [{"host": "a", "at": 1}, {"host": "b", "at": 2}]
