"""Keys of servers are masked in what goes into records."""

from __future__ import annotations

import pytest

from nexus_tasks.core import masking


@pytest.mark.parametrize(
    ("words", "api_key", "masked"),
    [
        (["s", "--api-key", "sesame", "--port", "1"], None, ["s", "--api-key", "***", "--port", "1"]),
        (["s", "--api-key=sesame"], None, ["s", "--api-key=***"]),
        (["s", "--x", "a-sesame-b"], "sesame", ["s", "--x", "a-***-b"]),
        (["s", "--api-key-file", "/keys"], None, ["s", "--api-key-file", "/keys"]),
    ],
)
def test_a_key_in_a_command_line_is_masked(words: list[str], api_key: str | None, masked: list[str]) -> None:
    assert masking.argv(words, api_key) == masked


def test_a_text_without_a_key_is_left_as_it_is() -> None:
    assert masking.text("no such key: sesame", "sesame") == "no such key: ***"
    assert masking.text("no such key: sesame", None) == "no such key: sesame"
