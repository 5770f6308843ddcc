"""Text for a terminal: shortened, wrapped and in columns."""

from __future__ import annotations

import pytest

from nexus_tasks.hostlib.terminal_text import all_plain, columns, first_line, listed, plain, shortened, wrapped


@pytest.mark.parametrize(
    ("text", "expected"),
    [("short", "short"), ("a long sentence", "a long s…"), ("/models/file.gguf", "…ile.gguf")],
)
def test_what_is_too_long_loses_its_end_and_a_path_its_beginning(text: str, expected: str) -> None:
    assert shortened(text, 9) == expected


@pytest.mark.parametrize(("text", "expected"), [("why\nlog", "why"), ("\n why\nlog", "why"), (None, ""), ("", "")])
def test_of_a_message_with_a_log_the_message_is_kept(text: str | None, expected: str) -> None:
    assert first_line(text) == expected


def test_a_word_that_is_too_long_is_not_cut() -> None:
    lines = ["  see", "    /opt/llama-nexus/models", "    now"]
    assert wrapped("see /opt/llama-nexus/models now", 2, 12, hang=2) == lines


def test_lines_of_a_list_end_between_its_parts() -> None:
    assert listed(["one two", None, "three four"], 2, 14) == ["  one two,", "  three four"]


def test_columns_are_aligned_and_numbers_to_the_right() -> None:
    assert columns([["name", "n"], ["a", "10"]], right=(1,), indent=1) == [" name   n", " a     10"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;a title\x07after", "after"),
        ("\x1b]52;c;Y2xpcGJvYXJk\x1b\\after", "after"),
        ("\x1b]8;;http://evil\x1b\\here\x1b]8;;\x1b\\", "here"),
        ("\x9b31mred\x9d0;a title\x9cafter", "redafter"),
        ("\x1bPq#0\x1b\\sixel", "sixel"),
        ("\x1bc\x1b(0reset", "reset"),
        ("\x1b]0;without an end\nthe next line", "\nthe next line"),
        ("a\x1b", "a"),
        ("fine\rhidden\b\b\x00\x7f", "finehidden"),
        ("user\u202egnp.exe\u2066x\u2069\u200f", "usergnp.exex"),
        ("a\u2028b\u200bc\ufeffd\U000e0041", "abcd"),
        ("half \ud83e", "half "),
        ("größer\t日本 🦙👩‍🚀\nللغة", "größer\t日本 🦙👩‍🚀\nللغة"),
    ],
)
def test_a_terminal_shows_of_others_texts_what_they_say(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_of_a_value_all_texts_are_plain() -> None:
    assert all_plain({"a": ["\x1b[1mx", 1, None], "b": ({"c": "\x07y"},)}) == {"a": ["x", 1, None], "b": [{"c": "y"}]}
