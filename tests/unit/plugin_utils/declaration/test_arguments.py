"""Words of the command line that options become."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from plugins.plugin_utils.declaration.arguments import arguments, section, with_preset

FILES = {name: {"path": f"/models/{name}.gguf", "size_bytes": 1, "sha256": "0"} for name in ("tiny", "adapter")}


KEYS = {"api_keys": {"alice": "x"}}
KEY_FILE = ["--api-key-file", "@keys"]
LOCAL_PAGES = ["--cors-origins", "localhost"]
KNOWN = {"--cors-origins": "ORIGINS", "--host": "HOST"}


def test_nothing_but_what_is_set_becomes_a_word() -> None:
    words = ["--model", "/models/tiny.gguf", "--alias", "tiny"]
    assert arguments({"model": "tiny", **KEYS}, FILES) == [*words, *KEY_FILE]


def test_a_boolean_has_a_flag_for_true_and_may_have_one_for_false() -> None:
    values = {"warmup": False, "metrics": False, "slots": True, **KEYS}
    assert arguments(values, FILES) == [*KEY_FILE, "--slots", "--no-warmup"]


@pytest.mark.parametrize(
    ("values", "known", "added"),
    [
        ({}, KNOWN, LOCAL_PAGES),
        ({}, {}, LOCAL_PAGES),  # there is no release yet
        ({"api_keys": {}}, KNOWN, LOCAL_PAGES),
        ({"models": {"chat": {"model": "tiny"}}}, KNOWN, LOCAL_PAGES),
        ({"extra_args": ["--seed", "7"]}, KNOWN, LOCAL_PAGES),
        (KEYS, KNOWN, []),
        ({"extra_args": ["--cors-origins", "https://chat.example"]}, KNOWN, []),
        ({"extra_args": ["--cors_origins", "https://chat.example"]}, KNOWN, []),
        ({}, {"--host": "HOST"}, []),  # a release that does not know it
    ],
)
def test_without_keys_pages_of_other_origins_can_not_read_the_answers(
    values: dict[str, Any], known: dict[str, str], added: list[str]
) -> None:
    extra = values.get("extra_args", [])
    words = arguments(values, FILES, known)
    assert words[len(words) - len(extra) :] == extra
    assert [word for word in words[: len(words) - len(extra)] if word in LOCAL_PAGES] == added


def test_files_stand_as_words_that_the_host_replaces_and_extra_args_come_last() -> None:
    values = {"extra_args": ["--seed", "7"], "api_keys": {"alice": "x"}, "lora": [{"profile": "adapter", "scale": 0.5}]}
    assert arguments(values, FILES) == [
        "--api-key-file", "@keys", "--lora-scaled", "/models/adapter.gguf:0.5", "--seed", "7",
    ]  # fmt: skip


def test_a_routers_model_is_a_section_of_flags_without_dashes() -> None:
    values = {"model": "tiny", "load_on_startup": True, "ctx_size": 512, "warmup": False}
    assert section("chat", values, FILES).splitlines() == [
        "[chat]", "model = /models/tiny.gguf", "load-on-startup = true", "ctx-size = 512", "warmup = false",
    ]  # fmt: skip


def test_what_is_set_beside_a_preset_counts_more() -> None:
    settings = {"sampling_presets": {"coding": {"temperature": 0.1, "top_k": 40, "top_p": None}}}
    values = {"sampling_preset": "coding", "temperature": 0.5}
    assert with_preset(values, settings) == {"temperature": 0.5, "top_k": 40, "sampling_preset": "coding"}


def test_a_model_without_a_file_is_named_with_the_remedy() -> None:
    with pytest.raises(
        AnsibleFilterError, match=r"model big is not among the facts of role gguf_model: run playbooks/"
    ):
        arguments({"model": "big"}, FILES)
