"""Whatever YAML can write where instances belong, a line says what is wrong with it."""

from __future__ import annotations

import collections
import datetime
from collections.abc import Iterator
from typing import Any

import pytest

from plugins.module_utils.hostlib.server_rows import judged
from plugins.plugin_utils import model_profiles
from plugins.plugin_utils.declaration import config, instances, keys, problems, profiles, proof
from plugins.plugin_utils.declaration.exposure import exposure
from plugins.plugin_utils.declaration.rules import instance_spec, router_model_spec

SETTINGS: dict[str, Any] = {
    "host": "rig", "prefix": "/opt/x", "runtime": "systemd", "docker_image": {"base": "debian:12"}, "models": {},
    "min_decode_tps": None, "max_regression": None, "start_timeout": 300, "start_timeout_per_gib": 30, "tokens": 16,
    "drain_timeout": 30, "sampling_presets": {}, "flags": {}, "release": "", "allow_tools": False, "gpu": False,
    "fa_quants": [],
}  # fmt: skip
OF_THE_HOST = {"host", "flags", "release", "allow_tools", "gpu", "fa_quants"}  # nobody writes these


class _OmitType:
    """As of Ansible's omit."""

    def __repr__(self) -> str:  # the same in each process, since it is in the names of tests
        return "omit"


ODD: tuple[Any, ...] = (
    _OmitType(), [_OmitType()], {"a": _OmitType()}, {"a": [{"b": _OmitType()}]},
    datetime.date(2026, 1, 1), {"a": datetime.date(2026, 1, 1)}, {"a": b"x"}, {"a": float("nan")}, {"a": 1, 2: 3},
    None, True, False, 0, -1, 1.5, float("nan"), float("inf"), 10**30, "", "x", "[]", "a\nb", "\x1b[31m", b"x",
    "__omit_place_holder__0b9f",
    [], [None], [[]], [{}], [1], ["a", "b"], [{1: 2}], [{"profile": None}],
    {}, {"a": None}, {"a": []}, {"a": {"b": {}}}, {None: 1}, {1: 2}, {True: {}},
)  # fmt: skip
RELEASE = {"name": "b1-cpu-0a", "path": "/opt/x/releases/b1-cpu-0a", "manifest": {}}
FILES: Any = collections.defaultdict(lambda: {"path": "/m/x.gguf", "size_bytes": 1, "sha256": "0" * 64})
TEMPLATES: Any = collections.defaultdict(str)
RIGHT = {"model": "m", "port": 8600}


def shapes() -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """What may stand where instances or the role's variables do, and which of it is odd."""
    for odd in ODD:
        yield f"instances: {odd!r}", odd, SETTINGS
        yield f"main: {odd!r}", {"main": odd}, SETTINGS
        for name in instance_spec():
            yield f"{name}: {odd!r}", {"main": {**RIGHT, name: odd}}, SETTINGS
        for name in router_model_spec():
            yield (
                f"models.m.{name}: {odd!r}",
                {"main": {"port": 1, "models": {"m": {"model": "m", name: odd}}}},
                SETTINGS,
            )
        for name in SETTINGS.keys() - OF_THE_HOST:
            chosen = {**RIGHT, "sampling_preset": "x", "lora": [{"profile": "x"}]}
            yield f"llama_server_{name}: {odd!r}", {"main": chosen}, {**SETTINGS, name: odd}
    for key in (0, 1.5, None, True, "", "a b", "a\nb", ("a", 1)):
        yield f"{key!r}: {{…}}", {key: RIGHT}, SETTINGS


def test_every_shape_of_a_declaration_is_judged_in_lines() -> None:
    failed = []
    for what, declared, settings in shapes():
        hostvars = {name: {"llama_server_instances": declared} for name in ("rig", "peer")}
        try:
            lines = problems.host_problems(declared, settings, hostvars, list(hostvars))
            assert not any("\n" in line for line in lines)
            if not lines:  # then nothing can be wrong any more
                for name, made in config.declaration(declared, settings, RELEASE, FILES, TEMPLATES).items():
                    assert all(isinstance(word, str) for word in made["config"]["argv"]), name
        except Exception as error:
            failed.append(f"{what}: {type(error).__name__}: {error}")
    assert failed == [], "\n".join(failed)


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_what_is_malformed_is_left_out_by_all_others_that_read_instances(odd: Any) -> None:
    for declared in (odd, {"main": odd}, {"main": {"api_keys": odd, "models": odd, "lora": odd, "chat_template": odd}}):
        exposure(declared, "rig")
        profiles.model_names(declared)
        profiles.chat_template_names(declared)
        keys.keys_by_instance(declared)
        proof.start_limits([{"name": "main"}], "start", declared, SETTINGS)
        assert all(isinstance(name, str) for name in instances.names(declared))


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_every_shape_of_the_models_is_judged_in_lines(odd: Any) -> None:
    keys_of = ("path", "url", "repo", "file", "sha256", "revision", "generator", "description")
    for catalogue in (odd, {"m": odd}, *({"m": {"path": "/x", key: odd}} for key in keys_of)):
        assert not any("\n" in line for line in model_profiles.problems(["m"], catalogue))


def test_a_number_for_a_name_is_the_name_of_an_instance() -> None:
    declared: Any = {0: RIGHT, 1: {**RIGHT, "port": 8601, "api_keys": {"ops": "7f3d9a51c2e84b06"}}}
    assert problems.host_problems(declared, SETTINGS, {"rig": {}}, ["rig"]) == []
    assert instances.names(declared) == ["0", "1"]
    assert list(keys.keys_by_instance(declared)) == ["1"]
    row = {"name": "0", "state": "running", "phase": "verified", "health": 200}
    assert [(row["name"], row["declared"]) for row in judged([row], "status", declared)] == [("0", True), ("1", True)]


@pytest.mark.parametrize(
    ("declared", "line"),
    [
        ({True: RIGHT}, "instance True: YAML takes its name for something else: write it in quotes (on rig)"),
        ({0: RIGHT, "0": {**RIGHT, "port": 1}}, "instances 0 and '0' have one name: give one of them another (on rig)"),
    ],
)
def test_a_name_that_yaml_changed_is_told(declared: dict[Any, Any], line: str) -> None:
    assert line in problems.host_problems(declared, SETTINGS, {"rig": {}}, ["rig"])
