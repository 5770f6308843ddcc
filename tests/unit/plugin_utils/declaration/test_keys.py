"""Keys of an instance's clients."""

from __future__ import annotations

from plugins.plugin_utils.declaration.keys import key_problems, keys_by_instance

KEY = "sesame-0b9f2c-4417"


def test_a_problem_names_the_key_and_never_holds_it() -> None:
    (line,) = key_problems({"alice": "hunter2"})
    assert line.startswith("key alice has fewer than 16 characters")
    assert "hunter2" not in line


def test_two_clients_have_keys_of_their_own() -> None:
    assert list(key_problems({"alice": KEY, "ci": KEY})) == [
        "keys alice and ci are the same: draw another for one of them"
    ]
    assert list(key_problems({"alice": KEY, "ci": KEY[::-1]})) == []


def test_keys_go_by_instance_and_name_and_instances_without_any_are_left_out() -> None:
    assert keys_by_instance({"main": {"api_keys": {"alice": KEY}}, "chat": {"api_keys": None}}) == {
        "main": {"alice": KEY}
    }
