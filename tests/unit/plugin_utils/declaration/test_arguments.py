"""Words of the command line that options become."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError

from plugins.plugin_utils.declaration.arguments import arguments, section, with_preset

FILES = {name: {"path": f"/models/{name}.gguf", "size_bytes": 1, "sha256": "0"} for name in ("tiny", "adapter")}


def test_nothing_but_what_is_set_becomes_a_word() -> None:
    assert arguments({"model": "tiny"}, FILES) == ["--model", "/models/tiny.gguf", "--alias", "tiny"]


def test_a_boolean_has_a_flag_for_true_and_may_have_one_for_false() -> None:
    assert arguments({"warmup": False, "metrics": False, "slots": True}, FILES) == ["--slots", "--no-warmup"]


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
