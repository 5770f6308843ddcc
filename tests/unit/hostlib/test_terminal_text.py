"""Text for a terminal: shortened, wrapped and in columns."""

from __future__ import annotations

import pytest

from nexus_tasks.hostlib.terminal_text import columns, first_line, listed, shortened, wrapped


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
