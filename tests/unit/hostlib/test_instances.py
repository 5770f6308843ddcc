"""Files of an instance: what is read of them, and that they keep their bytes."""

from __future__ import annotations

import json

from plugins.module_utils.hostlib.instances import (
    Instance,
    ModelFile,
    Placement,
    ProofRecord,
    Release,
    State,
)
from tests.unit.llama_server import former


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
