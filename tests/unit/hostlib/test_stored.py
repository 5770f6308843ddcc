"""Objects in files of a host keep the bytes of their files."""

from __future__ import annotations

import json
from typing import Any

import pytest

from plugins.module_utils.hostlib.instances import Instance, ProofRecord, State
from plugins.module_utils.hostlib.stored import Stored, to_json
from tests.unit.llama_server import former


def again(kind: type[Stored], text: str) -> str:
    """A file's text after it was read and written."""
    return to_json(kind.from_json(json.loads(text)).as_json())


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *((Instance, written["instance.json"]) for written in former.INSTANCES.values()),
        *((State, text) for text in former.STATES),
        (ProofRecord, former.PROOF),
    ],
)
def test_a_file_that_a_former_version_wrote_keeps_its_bytes(kind: type[Stored], text: str) -> None:
    assert again(kind, text) == text


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"name": "main", "of_a_later_version": {"a": [1, None]}},
        {"model": None, "gpus": None, "argv": [], "models": {}},
        {"model": {"path": "a.gguf", "later": True}, "side_models": [{"path": "b.gguf"}], "release": {}},
        {"models": {"chat": {"path": "a.gguf", "side_models": [{"name": "draft"}], "later": 1}}},
    ],
)
def test_keys_are_neither_lost_nor_added(found: dict[str, Any]) -> None:
    assert Instance.from_json(found).as_json() == found
