"""Whom llama.cpp's own tools run as beside an instance."""

from __future__ import annotations

from typing import Any

import pytest

from plugins.module_utils.llama_bench.tool import identity
from tests.strangers import NOBODY, needs_root

OWN = {"user": NOBODY}
ROOT: dict[str, Any] = {}


@needs_root
@pytest.mark.parametrize(
    ("instance", "expected"),
    [
        ({"runtime": "systemd"}, OWN),
        ({"runtime": "docker", "user": "nobody"}, OWN),
        ({"runtime": "supervisor", "user": "nobody"}, OWN),
        ({"runtime": "supervisor"}, ROOT),  # of a former version, or with llama_server_user: root
    ],
)
def test_a_tool_runs_as_the_server_does(instance: dict[str, Any], expected: dict[str, Any]) -> None:
    got = identity(instance, "nobody")
    assert {key: got[key] for key in expected} == expected
    assert bool(got) == bool(expected)
