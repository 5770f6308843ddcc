"""Model files of a proof."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from plugins.module_utils.hostlib.instances import Instance
from plugins.module_utils.llama_server.proof.checks import Checks
from plugins.module_utils.llama_server.proof.identity import prove_model_file


@pytest.mark.parametrize(
    ("changed", "failing"), [(None, []), ("a.gguf", ["model sha256"]), ("b.gguf", ["b.gguf sha256"])]
)
def test_every_file_that_is_loaded_is_held_against_what_was_verified(
    tmp_path: Path, changed: str | None, failing: list[str]
) -> None:
    files: dict[str, dict[str, Any]] = {}
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_text(name)
        files[name] = {"path": str(tmp_path / name), "sha256": hashlib.sha256(name.encode()).hexdigest()}
    if changed:
        (tmp_path / changed).write_text("another")
    config = Instance.from_json({"model": files["a.gguf"], "side_models": [files["b.gguf"]]})
    subject = SimpleNamespace(config=config, folder=SimpleNamespace(root=str(tmp_path)), checks=Checks())
    prove_model_file(cast(Any, subject))
    assert [row["check"] for row in subject.checks.rows] == ["model sha256", "b.gguf sha256"]
    assert [row["check"] for row in subject.checks.rows if not row["ok"]] == failing
