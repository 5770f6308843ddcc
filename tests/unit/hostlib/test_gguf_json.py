"""Headers of GGUF files as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from nexus_tasks.hostlib import gguf, gguf_json
from nexus_tasks.hostlib.model_shape import shape_of
from tests.memory_model_list import MODELS
from tests.memory_models import write


def test_a_header_is_the_same_after_its_way_as_json(tmp_path: Path) -> None:
    for name in ("qwen3moe", "granitehybrid"):  # the second has numbers that differ from layer to layer
        header = gguf.read_header(str(write(tmp_path / "m.gguf", MODELS[name])))
        text = json.dumps(gguf_json.header_as_json(header))
        assert gguf_json.header_from_json(json.loads(text)) == header
        assert shape_of([gguf_json.header_from_json(json.loads(text))]).n_layer_all > 0
