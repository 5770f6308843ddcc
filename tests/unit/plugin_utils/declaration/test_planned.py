"""What plans of memory need of instances."""

from __future__ import annotations

import pytest

from plugins.plugin_utils.declaration.planned import planned

CATALOGUE = {
    "large": {"repo": "a/b", "file": "large.gguf", "description": "A large one.", "recommended": {"ctx_size": 4096}},
    "small": {"path": "/small.gguf"},
    "unused": {"path": "/unused.gguf"},
}
SETTINGS = {"models": CATALOGUE, "sampling_presets": {}, "allow_overcommit": False, "gpu": False}


def test_each_instance_has_the_words_of_its_command_line_with_profiles_for_paths() -> None:
    made = planned({"main": {"model": "large", "port": 8600, "ctx_size": 8192, "model_draft": "small"}}, SETTINGS)
    (one,) = made["models"]
    assert (one["instance"], one["model"], one["gpus"]) == ("main", "large", None)
    words = " ".join(one["argv"])
    assert "--model large" in words
    assert "--ctx-size 8192" in words
    assert "--model-draft small" in words
    assert made["profiles"] == {"large": {"repo": "a/b", "file": "large.gguf"}, "small": {"path": "/small.gguf"}}


def test_each_model_of_a_router_is_one_of_its_own() -> None:
    models = {"chat": {"model": "large", "ctx_size": 512}, "other": {"model": "small"}}
    made = planned({"all": {"port": 8600, "gpus": ["1"], "models": models}}, SETTINGS)
    assert [(one["instance"], one["model"], one["gpus"]) for one in made["models"]] == [
        ("all:chat", "large", ["1"]),
        ("all:other", "small", ["1"]),
    ]
    assert "--ctx-size 512" in " ".join(made["models"][0]["argv"])


def test_keys_stay_where_they_are_and_what_is_malformed_is_left_out() -> None:
    keyed = {"model": "small", "port": 8600, "api_keys": {"alice": "very-secret"}}
    made = planned({"main": keyed, "broken": 7, "without": {"port": 8601}}, SETTINGS)
    assert [one["instance"] for one in made["models"]] == ["main"]
    assert "very-secret" not in str(made)
    broken, without = made["problems"]
    assert broken.startswith("instance broken: it is no dict: ")
    assert without == "instance without: it serves nothing: set model to a profile of llama_models"


@pytest.mark.parametrize(
    ("instances", "problem"),
    [
        (["main"], "llama_server_instances is no dict: write NAME: OPTIONS for each server"),
        ({"main": {"model": {"name": "large"}, "port": 8600}}, "instance main: model "),
        ({"main": {"modle": "large", "port": 8600}}, "instance main: there is no option modle"),
        ({"main": {"model": "large", "models": {"a": {"model": "small"}}}}, "instance main: it has both model and mo"),
        ({"main": {"models": {"a": 7}, "port": 8600}}, "instance main: model a: it is no dict"),
        ({"main": {"models": {"a": {"ctx_size": 1}}, "port": 8600}}, "instance main: model a: "),
        ({"main": {"model": "large", "gpus": ["0", "0"]}}, "instance main: gpus names one twice"),
    ],
)  # fmt: skip
def test_what_is_malformed_is_told(instances: object, problem: str) -> None:
    assert any(one.startswith(problem) for one in planned(instances, SETTINGS)["problems"])


def test_servers_say_how_many_models_they_hold_and_whether_they_may_overcommit() -> None:
    models = {name: {"model": "small"} for name in "abcdef"}
    instances = {
        "one": {"model": "small", "port": 8600, "allow_overcommit": True},
        "four": {"port": 8601, "models": models},
        "two": {"port": 8602, "models": models, "models_max": 2},
        "all": {"port": 8603, "models": models, "models_max": 0},
    }
    servers = planned(instances, SETTINGS)["servers"]
    assert {name: server["at_once"] for name, server in servers.items()} == {"one": 1, "four": 4, "two": 2, "all": 6}
    assert [name for name, server in servers.items() if server["may_overcommit"]] == ["one"]
    servers = planned({"one": {**instances["one"], "allow_overcommit": False}}, {**SETTINGS, "allow_overcommit": True})
    assert not servers["servers"]["one"]["may_overcommit"]
