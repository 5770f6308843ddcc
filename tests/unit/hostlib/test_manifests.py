"""The manifest of a release: what is read of it, and that a former version's keeps its bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from plugins.module_utils.hostlib.manifests import MANIFEST, Manifest
from plugins.module_utils.llama_cpp.release import read_manifest, write_manifest

FORMER = {
    "name": "b11312-cpu-1a2b3c4d", "inputs": {"ref": "b11312", "backend": "cpu", "targets": ["llama-server"]},
    "compiler": None, "ccache": {"hits": 1, "misses": 2}, "built_on": "rig", "built_at": "2026-11-22T12:00:00+00:00",
    "build_seconds": 12.5, "size": 2, "files": {"bin/llama-server": {"size": 2, "sha256": "ab"}},
    "links": {"bin/libllama.so": "libllama.so.0"}, "of_a_later_version": {"a": None},
}  # fmt: skip


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """The folder of a release with one program and one link."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "llama-server").write_text("#!")
    (tmp_path / "bin" / "libllama.so").symlink_to("libllama.so.0")
    return tmp_path


def test_a_manifest_of_before_flags_keeps_its_keys() -> None:
    manifest = Manifest.from_json(FORMER)
    assert manifest.flags is None
    assert manifest.files["bin/llama-server"].size == 2
    assert manifest.as_json() == FORMER


def test_what_is_written_is_read_with_every_key(release: Path) -> None:
    written = write_manifest(str(release), Manifest(name="b1", inputs={"backend": "cpu"}))
    assert read_manifest(str(release)) == written
    stored = json.loads((release / MANIFEST).read_text())
    assert {key: stored[key] for key in ("flags", "compiler", "ccache", "build_seconds")} == dict.fromkeys(
        ("flags", "compiler", "ccache", "build_seconds")
    )
    assert (stored["size"], stored["links"]) == (2, {"bin/libllama.so": "libllama.so.0"})


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "null", '"x"', '{"name": "b1"}', json.dumps({**FORMER, "files": [1]}),
     json.dumps({**FORMER, "files": {"bin/llama-server": 5}}), json.dumps({**FORMER, "links": None}),
     json.dumps({**FORMER, "files": {"bin/llama-server": {"size": 3}}}), json.dumps({**FORMER, "links": {"bin": "x"}})],
)  # fmt: skip
def test_a_manifest_that_does_not_tell_of_a_whole_release_is_none(release: Path, text: str) -> None:
    (release / MANIFEST).write_text(text)
    assert read_manifest(str(release)) is None


def test_a_release_of_other_inputs_is_none(release: Path) -> None:
    write_manifest(str(release), Manifest(name="b1", inputs={"backend": "cpu"}))
    assert read_manifest(str(release), {"backend": "cpu"}) is not None
    assert read_manifest(str(release), {"backend": "cuda"}) is None
