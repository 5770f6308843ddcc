"""Recommendations of model profiles: beneath what an instance says, and void where that makes them so."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from plugins.plugin_utils.declaration.recommendations import recommendation_problems, with_recommendations
from plugins.plugin_utils.model_profiles import catalogue, profile_problem, source
from tests.conftest import ROOT

RECOMMENDED = {
    "ctx_size": 128000, "n_gpu_layers": 999, "temperature": 0.7, "chat_template": "plain", "min_decode_tps": 20,
}  # fmt: skip


def completed(options: dict[str, Any], *, gpu: bool = True, **recommended: Any) -> dict[str, Any]:
    settings = {"gpu": gpu, "models": {"big": {"path": "/m.gguf", "recommended": recommended or RECOMMENDED}}}
    instance: dict[str, Any] = with_recommendations({"main": options}, settings)["main"]
    return instance


def test_an_instance_has_what_its_profile_recommends_unless_it_says_otherwise() -> None:
    assert completed({"model": "big", "port": 1}) == {**RECOMMENDED, "model": "big", "port": 1}
    assert completed({"model": "big", "ctx_size": 4096})["ctx_size"] == 4096
    assert completed({"model": "big", "ctx_size": None})["ctx_size"] is None
    assert completed({"model": "other"}) == {"model": "other"}


@pytest.mark.parametrize(
    ("said", "gone"),
    [
        ({"sampling_preset": "coding"}, {"temperature"}),
        ({"embeddings": True}, {"temperature", "chat_template", "min_decode_tps"}),
        ({"jinja": False}, {"chat_template"}),
        ({"device": "none"}, {"n_gpu_layers"}),
        ({"fit": "on"}, {"n_gpu_layers"}),
    ],
    ids=["preset", "embeddings", "jinja", "device", "fit"],
)
def test_recommendations_give_way_to_what_makes_them_void(said: dict[str, Any], gone: set[str]) -> None:
    assert set(RECOMMENDED) - set(completed({"model": "big", **said})) == gone


def test_what_is_about_gpus_is_not_taken_where_a_processor_serves() -> None:
    assert set(RECOMMENDED) - set(completed({"model": "big"}, gpu=False)) == {"n_gpu_layers", "min_decode_tps"}


def test_a_routers_models_have_theirs_without_what_only_instances_have() -> None:
    router = completed({"port": 1, "models": {"a": {"model": "big", "ctx_size": 1}, "b": None}})
    assert router["models"]["a"] == {"model": "big", "ctx_size": 1, "n_gpu_layers": 999, "temperature": 0.7}
    assert router["models"]["b"] is None


@pytest.mark.parametrize("odd", [None, [], "text", {"main": None}, {"main": {"model": ["big"]}}], ids=str)
def test_what_is_malformed_stays_as_it_is(odd: Any) -> None:
    assert with_recommendations(odd, {"gpu": True, "models": {"big": {"recommended": RECOMMENDED}}}) == odd


@pytest.mark.parametrize(
    ("recommended", "problem"),
    [
        ("much", "is no dict"),
        ({"ctx_siz": 1}, "there is no option ctx_siz: did you mean ctx_size?"),
        ({"ctx_size": "long"}, "ctx_size"),
        ({"mmproj": "other"}, "has mmproj, which is not about this model alone"),
        ({"port": 1}, "there is no option port"),
    ],
    ids=["text", "name", "type", "other", "port"],
)
def test_what_cannot_be_recommended_is_told_with_the_profile(recommended: Any, problem: str) -> None:
    settings = {"gpu": True, "models": {"big": {"path": "/m.gguf", "recommended": recommended}}}
    [line] = recommendation_problems(settings)
    assert line.startswith("model big in llama_models: recommended")
    assert problem in line
    assert with_recommendations({"main": {"model": "big"}}, settings) == {"main": {"model": "big"}}


def test_a_users_profiles_stand_beside_the_projects_and_replace_those_of_one_name() -> None:
    assert catalogue({"a": 1, "b": 2}, {"b": 3, "c": 4}) == {"a": 1, "b": 3, "c": 4}
    assert catalogue({"a": 1}, {}) == {"a": 1}
    assert catalogue({"a": 1}, "text") == "text"


def test_all_profiles_of_the_catalogue_are_right_and_nothing_of_a_file_depends_on_recommendations() -> None:
    models = yaml.safe_load((ROOT / "group_vars/all/models.yml").read_text())["llama_models"]
    assert [problem for problem in map(profile_problem, models.values()) if problem] == []
    assert list(recommendation_problems({"gpu": True, "models": models})) == []
    assert all("recommended" not in source(profile) for profile in models.values())
