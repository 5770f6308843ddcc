"""What profiles recommend to plans, and which hold the same model."""

from __future__ import annotations

from typing import Any

import pytest

from nexus_tasks.model_store.model_sources import catalogue_of
from nexus_tasks.model_store.profiles import other_quantisations, recommended_words
from tests.conftest import ROOT

RECOMMENDED = {
    "ctx_size": 65536, "n_gpu_layers": 99, "kv_offload": False, "temperature": 0.7,
    "override_tensor": ["a=CPU", "b=CPU"], "embeddings": True, "parallel": None,
}  # fmt: skip


def words(given: str = "") -> str:
    return " ".join(recommended_words({"recommended": RECOMMENDED}, given.split()))


def test_options_that_change_buffers_are_taken_as_the_servers_words() -> None:
    assert words() == "--ctx-size 65536 --n-gpu-layers 99 --no-kv-offload --override-tensor a=CPU,b=CPU --embeddings"


@pytest.mark.parametrize("given", ["-c 4096", "--ctx-size 4096", "--ctx_size=4096"])
def test_what_is_given_counts_more_in_any_spelling(given: str) -> None:
    assert "ctx-size" not in words(given)
    assert "--n-gpu-layers 99" in words(given)


@pytest.mark.parametrize("profile", [{}, {"recommended": None}, {"recommended": ["c"]}], ids=["none", "null", "list"])
def test_profiles_without_recommendations_bring_none(profile: dict[str, Any]) -> None:
    assert recommended_words(profile, []) == []


def test_profiles_of_the_same_model_are_found_by_name_and_by_repository() -> None:
    catalogue = catalogue_of(ROOT / "group_vars" / "all")
    assert other_quantisations("gpt-oss-20b-mxfp4", catalogue) == ["gpt-oss-20b-q4-k-m", "gpt-oss-20b-q6-k"]
    of_file = other_quantisations("unsloth/gpt-oss-20b-GGUF:gpt-oss-20b-Q6_K.gguf", catalogue)
    assert of_file == ["gpt-oss-20b-mxfp4", "gpt-oss-20b-q4-k-m"]
    assert other_quantisations("qwen3-8b", catalogue) == []
    assert other_quantisations("/models/m.gguf", catalogue) == []


@pytest.mark.parametrize("files", [None, 5, "m.gguf"])
def test_malformed_files_of_a_profile_disturb_no_other(files: Any) -> None:
    assert other_quantisations("m", {"m": {"path": "/m"}, "bad": {"path": "/bad", "files": files}}) == []


def test_two_names_for_one_file_are_no_other_quantisation() -> None:
    one = {"repo": "a/b", "file": "m-Q4_0.gguf", "quantization": "Q4_0"}
    assert other_quantisations("m", {"m": one, "again": dict(one), "larger": {**one, "file": "m-Q8_0.gguf"}}) == [
        "larger"
    ]
