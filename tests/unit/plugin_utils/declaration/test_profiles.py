"""Files of profiles that instances name."""

from __future__ import annotations

from typing import Any

from plugins.plugin_utils.declaration.profiles import beside, chat_template_names, chosen_chat_templates


def file(path: str, *parts: str) -> dict[str, Any]:
    """A profile's fact of role gguf_model."""
    return {"path": path, "size_bytes": 1, "sha256": "0", **({"parts": list(map(file, parts))} if parts else {})}


def test_what_a_model_needs_beside_its_first_file_is_all_the_rest() -> None:
    files = {"big": file("/b1", "/b2", "/b3"), "draft": file("/d1", "/d2"), "eye": file("/e")}
    found = beside({"model": "big", "mmproj": "eye", "model_draft": "draft"}, files)
    assert sorted((one["name"], one["path"]) for one in found) == [
        ("big", "/b2"), ("big", "/b3"), ("draft", "/d1"), ("draft", "/d2"), ("eye", "/e"),
    ]  # fmt: skip
    assert [one["path"] for one in beside({"model": "eye", "mmproj": "eye"}, files)] == []


def test_templates_are_chosen_once_for_each_set_of_kwargs() -> None:
    low = {"chat_template": "harmony", "chat_template_kwargs": {"effort": "low"}}
    instances = {
        "a": low,
        "b": dict(low),
        "c": {"chat_template": "harmony"},
        "d": {},
        "e": {**low, "chat_template_kwargs": 3},
    }
    assert chosen_chat_templates(instances) == [
        {"name": "harmony", "kwargs": {"effort": "low"}}, {"name": "harmony", "kwargs": {}},
    ]  # fmt: skip
    assert chat_template_names(instances) == ["harmony"]
    assert chosen_chat_templates(["a"]) == []
