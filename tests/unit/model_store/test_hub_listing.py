"""Repositories of the hub, by huggingface_hub itself against a hub on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nexus_tasks.core.errors import UsageError
from nexus_tasks.model_store.hub_listing import grouped, list_repository, variant_of
from nexus_tasks.model_store.registry import ModelFile
from tests.roles.file_server import COMMIT, FileServer, serve
from tests.support import known_models


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    with serve() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server


def test_a_repository_is_listed_with_its_quantisations_the_smallest_first(hub: FileServer, tmp_path: Path) -> None:
    files = known_models.have(hub, tmp_path)
    found = list_repository(known_models.REPO)
    assert [(one.quantization, one.file) for one in found.variants] == [
        ("Q4_K_M", "small-Q4_K_M.gguf"), ("Q8_0", "small-Q8_0.gguf"),
    ]  # fmt: skip
    assert found.variants[1].files[0].sha256 == known_models.sha256(files["small-Q8_0.gguf"])
    assert (found.revision, found.license, found.base_model) == (COMMIT, "apache-2.0", "someone/base")


@pytest.mark.parametrize(
    ("repo", "revision", "says"),
    [
        ("someone/other", "main", "the hub has no repository someone/other"),
        (known_models.REPO, "v9", "has no revision v9"),
        ("some one/it's", "main", "some one/it's is no name of a hub repository"),
        ("closed/model", "main", "the hub's repository closed/model is gated"),
        ("none/here", "main", "the hub's repository none/here has no GGUF model"),
    ],
    ids=["repository", "revision", "name", "gated", "empty"],
)
def test_what_the_hub_lacks_or_refuses_is_told_in_one_line(
    hub: FileServer, tmp_path: Path, repo: str, revision: str, says: str
) -> None:
    known_models.have(hub, tmp_path)
    hub.repositories["closed/model"] = {"a.gguf": b""}
    hub.repositories["none/here"] = {"a.safetensors": b"", "mmproj-a-F16.gguf": b""}
    hub.gated.add("closed/model")
    with pytest.raises(UsageError, match=says) as refused:
        list_repository(repo, revision)
    assert "\n" not in refused.value.message


def test_a_hub_out_of_reach_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UsageError, match="can't be asked"):
        list_repository(known_models.REPO)


def test_files_of_a_split_model_are_one_and_one_that_lacks_a_file_is_none() -> None:
    names = ["m-00002-of-00002.gguf", "m-00001-of-00002.gguf", "half-00001-of-00002.gguf", "zero-00000-of-00000.gguf"]
    [found] = grouped([ModelFile(name=name, size_bytes=5) for name in names])
    assert (found.file, found.size_bytes) == ("m-00001-of-00002.gguf", 10)
    assert [one.name for one in found.files] == names[1::-1]


@pytest.mark.parametrize(
    ("name", "quantization"),
    [
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"), ("Qwen3-8B-Q4_K_M.gguf", "Q4_K_M"), ("x-UD-IQ2_XXS.gguf", "UD-IQ2_XXS"),
        ("m.Q6_K.gguf", "Q6_K"), ("BF16/m-BF16-00001-of-00002.gguf", "BF16"), ("m-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("plain.gguf", None), ("FQ4_0x.gguf", None),
    ],
    ids=str,
)  # fmt: skip
def test_a_quantisation_is_read_from_a_name_where_it_has_one(name: str, quantization: str | None) -> None:
    assert variant_of([ModelFile(name=name, size_bytes=1)]).quantization == quantization
