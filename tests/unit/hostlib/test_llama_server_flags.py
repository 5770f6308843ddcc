"""Flags of llama-server by the tables of role llama_server."""

from __future__ import annotations

from typing import Any

import pytest

from nexus_tasks.hostlib.llama_server_flags import Rules, canonical

VARIABLES: dict[str, Any] = {
    "__llama_server_flags": {"ctx_size": "--ctx-size", "warmup": ["--warmup", "--no-warmup"], "swa": ["--swa", None]},
    "__llama_server_other_spellings": {"ctx_size": ["-c"], "model": ["-m"]},
    "__llama_server_refused_flags": [{"because": "it ends", "flags": ["--help"]}],
    "__llama_server_tool_flags": ["--tools"],
    "__llama_server_router_options": ["host"],
}
RULES = Rules.of_files(VARIABLES, {"argument_specs": {"instance": {"options": {"ctx_size": {"type": "int"}}}}})


@pytest.mark.parametrize(
    ("option", "flags"),
    [("ctx_size", ["--ctx-size"]), ("warmup", ["--warmup", "--no-warmup"]), ("swa", ["--swa"]), ("model", [])],
)
def test_an_option_has_a_flag_or_that_of_true_and_that_of_false(option: str, flags: list[str]) -> None:
    assert RULES.flags_of(option) == flags


def test_every_spelling_leads_to_its_option() -> None:
    assert RULES.spellings() == {
        "--ctx-size": "ctx_size", "-c": "ctx_size", "--warmup": "warmup", "--no-warmup": "warmup", "--swa": "swa",
        "-m": "model",
    }  # fmt: skip


def test_options_are_read_by_the_entry_point_that_they_are_of() -> None:
    assert RULES.specs == {"instance": {"ctx_size": {"type": "int"}}}


@pytest.mark.parametrize(
    ("word", "flag"),
    [("--ctx_size=4096", "--ctx-size"), ("--seed", "--seed"), ("-c", "-c"), ("-n_1=2", "-n_1")],
)
def test_a_flag_is_compared_as_llama_server_does_it(word: str, flag: str) -> None:
    assert canonical(word) == flag
