"""Exposure of instances to strangers."""

from __future__ import annotations

import pytest

from plugins.plugin_utils.declaration.exposure import exposure


@pytest.mark.parametrize(
    ("host", "expected"),
    [(None, False), ("127.0.0.1", False), ("::1", False), ("localhost", False), ("0.0.0.0", True), ("rig-1", True)],  # noqa: S104 - not bound
)
def test_an_address_beyond_loopback_exposes_a_server(host: str | None, expected: bool) -> None:
    (server,) = exposure({"main": {"model": "tiny", "port": 8600, "host": host}}, "rig-1")
    assert (server["name"], server["host"], server["exposed"]) == ("main", "rig-1", expected)


def test_flags_are_those_of_options_of_extra_args_and_of_a_routers_models() -> None:
    models = {"chat": {"model": "tiny", "cache_reuse": 256}}
    (server,) = exposure({"main": {"port": 8600, "models": models, "extra_args": ["--slot_save_path=x", "y"]}}, "rig-1")
    assert {"--port", "--slot-save-path", "--cache-reuse", "--models-preset"} <= set(server["flags"])
    assert "y" not in server["flags"]


def test_what_is_malformed_is_told_elsewhere() -> None:
    assert exposure(["main"], "rig-1") == exposure({"main": "tiny"}, "rig-1") == []
