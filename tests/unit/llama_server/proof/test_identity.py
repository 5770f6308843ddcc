"""Model files of a proof."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from plugins.module_utils.hostlib.instances import Instance
from plugins.module_utils.llama_server.proof.checks import Checks
from plugins.module_utils.llama_server.proof.identity import prove_context, prove_model_file


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


@pytest.mark.parametrize(
    ("ctx_size", "slots", "found", "own", "expected", "cause"),
    [
        (8192, 2, 4096, 16384, 4096, ""),
        (8192, 2, 8192, 16384, 8192, ""),  # shared
        (40000, 2, 16384, 16384, 20224, "the model's own context is 16384 tokens: set ctx_size to 16384 for each slot"),
        (40000, 4, 16384, 16384, 40192, "the model's own context is 16384 tokens: set ctx_size to 16384 for each slot"),
        (8192, 1, 4096, 16384, 8192, "it did not fit the memory"),
        (8192, 1, 4096, None, 8192, "it did not fit the memory"),
    ],
)
def test_a_context_that_is_not_the_declared_one_is_told_with_its_cause(
    ctx_size: int, slots: int, found: int, own: int | None, expected: int, cause: str
) -> None:
    answer = 200, {"data": [{"id": "tiny", "meta": {"n_ctx_train": own}}]}
    subject = SimpleNamespace(
        config=Instance.from_json({"ctx_size": ctx_size}), checks=Checks(), row={}, key=None,
        server=SimpleNamespace(ask=lambda path, key: answer),
    )  # fmt: skip
    prove_context(cast(Any, subject), {"total_slots": slots, "default_generation_settings": {"n_ctx": found}})
    (row,) = subject.checks.rows
    assert (row["expected"], row["found"], row["ok"]) == (expected, found, not cause)
    assert row["cause"].startswith(cause)
