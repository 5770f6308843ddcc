"""Models that lie in a folder: what they are, what they take, who uses them, and what is removed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils.gguf_model.errors import ModelError
from plugins.module_utils.gguf_model.model_file import ModelFile
from plugins.module_utils.gguf_model.progress import Progress
from plugins.module_utils.gguf_model.stored import (
    StoredModel,
    forget,
    open_files,
    remove,
    stored_models,
    users_of,
    verify,
)
from plugins.module_utils.hostlib import locks
from tests.roles.file_server import serve
from tests.support.split_model import split_model
from tests.unit.gguf_model.test_model_file import wanted


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of models: a verified one in three files, one by hand, a part of one, and a user's own elsewhere."""
    models = tmp_path / "models"
    with serve() as server:
        ModelFile(wanted(models, server, split_model(3))).have()
        own: dict[str, Any] = wanted(models, server, split_model(3))
    (models / "by-hand.gguf").write_bytes(b"x" * 1000)
    (models / "begun-00002-of-00002.gguf.partial").write_bytes(b"x" * 10)
    (models / "notes.txt").write_text("not a model")
    (tmp_path / "mine.gguf").write_bytes(split_model(1)[0])
    profile = {**own["profile"], "urls": None, "path": str(tmp_path / "mine.gguf")}
    ModelFile({**own, "name": "mine", "profile": profile}).have()
    return models


def found(folder: Path) -> dict[str, StoredModel]:
    return {model.name: model for model in stored_models(str(folder))}


def progress(folder: Path) -> Progress:
    return Progress(str(folder / "verify.progress"))


def test_each_model_is_listed_with_state_size_and_source(folder: Path) -> None:
    models = found(folder)
    assert {name: model.state for name, model in models.items()} == {
        "begun": "partial", "by-hand": "not verified", "mine": "verified", "model": "verified",
    }  # fmt: skip
    assert models["by-hand"].size_bytes == 1000
    assert models["model"].size_bytes > sum(map(len, split_model(3)))  # and the record
    assert [Path(path).name for path in models["model"].files] == [f"model-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    assert (models["model"].source or "").endswith("/m-00001-of-00003.gguf")
    assert (models["mine"].source, models["mine"].lies_elsewhere) == (str(folder.parent / "mine.gguf"), True)
    assert stored_models(str(folder / "none")) == []


def test_a_model_that_is_not_as_recorded_says_so(folder: Path) -> None:
    os.utime(folder / "model-00002-of-00003.gguf", (1, 1))
    assert found(folder)["model"].state == "changed"
    assert verify(found(folder)["model"], progress(folder)) == "verified"
    (folder / "model-00003-of-00003.gguf").unlink()
    assert found(folder)["model"].state == "incomplete"
    with locks.held(str(folder / ".model.lock"), "a fetch"):
        assert found(folder)["model"].state == "fetching"


def test_a_file_that_decayed_is_found_and_the_next_run_does_not_trust_it(folder: Path) -> None:
    path = folder / "model-00002-of-00003.gguf"
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    model = found(folder)["model"]
    assert (model.state, verify(model, progress(folder))) == ("verified", "damaged")
    forget(model)
    assert found(folder)["model"].state == "not verified"
    forget(found(folder)["mine"])
    assert found(folder)["mine"].state == "verified"


def test_what_is_used_or_fetched_is_left_alone(folder: Path) -> None:
    model = found(folder)["model"]
    used = {str(folder / "model-00001-of-00003.gguf"): ["main"], "/elsewhere/x.gguf": ["other"]}
    assert users_of(model, used) == ["main"]
    with pytest.raises(ModelError, match="model model is used by main: it is left alone"):
        remove(model, used)
    with locks.held(str(folder / ".model.lock"), "a fetch"), pytest.raises(ModelError, match="is being fetched"):
        remove(model, {})
    assert found(folder)["model"].state == "verified"


def test_a_removed_model_leaves_nothing_and_a_users_own_file_stays(folder: Path) -> None:
    for model in found(folder).values():
        remove(model, {})
    assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == {"notes.txt"}
    assert (folder.parent / "mine.gguf").exists()


def test_a_file_that_a_process_has_open_is_known(folder: Path) -> None:
    path = folder / "by-hand.gguf"
    with path.open() as stream, subprocess.Popen(["sleep", "60"], stdin=stream) as process:
        try:
            assert open_files(str(folder))[str(path)]
        finally:
            process.kill()
    assert open_files(str(folder)) == {}
