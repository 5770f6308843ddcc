"""Files of an instance: what is read of them, and that they keep their bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from plugins.module_utils.hostlib.instances import (
    Instance,
    ModelFile,
    Placement,
    ProofRecord,
    Release,
    State,
    Stored,
    to_json,
)
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


def test_an_instance_is_read_whole() -> None:
    routes = Instance.from_json(json.loads(former.INSTANCES["routes"]["instance.json"]))
    assert routes.model is None
    assert routes.models["chat"].side_models[0].name == "draft"
    assert [file.path for file in routes.model_files()] == ["/srv/models/chat.gguf"] * 2
    boxed = Instance.from_json(json.loads(former.INSTANCES["boxed"]["instance.json"]))
    assert (boxed.release.backend, boxed.gpus, boxed.image) == ("cuda", ("GPU-1a2b", "1"), {"base": "debian:13"})
    assert [file.path for file in boxed.model_files()] == ["/srv/models/chat.gguf", "/srv/models/draft.gguf"]


def test_what_is_new_is_written_without_what_it_has_not() -> None:
    instance = Instance(name="main", model=ModelFile(path="a.gguf"), release=Release(name="b1"))
    assert instance.as_json() == {"name": "main", "model": {"path": "a.gguf"}, "release": {"name": "b1"}}


def test_a_proof_tells_where_memory_went_by_life() -> None:
    proof = ProofRecord.from_json(json.loads(former.PROOF))
    [placement] = proof.placements.values()
    assert isinstance(placement, Placement)
    assert (placement.offloaded, placement.buffers_mib) == (None, proof.buffers_mib)
    assert proof.model is not None
    assert proof.model.name == "tiny"
    assert proof.other["load_seconds"] > 0


def test_without_a_file_nothing_is_known() -> None:
    assert State.from_json({}).phase == "unknown"
    assert ProofRecord.from_json({}).placements == {}
