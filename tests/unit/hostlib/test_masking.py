"""Secrets are masked in what is told and in what goes into records."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest

from nexus_tasks.hostlib import masking

KEY = "sk-7d/9+&x=1'a\"<b\\c%d"


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


@pytest.mark.parametrize(
    "spelling", [KEY, json.dumps(KEY)[1:-1], quote(KEY), quote(KEY, safe=""), repr(KEY)[1:-1]]
)  # fmt: skip
def test_a_key_is_found_as_it_is_written_elsewhere(spelling: str) -> None:
    assert masking.text(f"refused: {spelling}, sorry", KEY) == "refused: ***, sorry"


@pytest.mark.parametrize("before", range(250, 330, 7))
def test_no_part_of_a_key_is_left_where_a_text_is_cut(before: int) -> None:
    key = "sk-0123456789abcdefghijklmnopqrstuvwxyz"
    answer = "x" * before + key + "y" * 50
    assert masking.excerpt(answer, 300, key).strip("xy*") == ""
    assert masking.text(answer[:300], key).strip("xy*") in key[:7]  # cut by somebody who did not know the key


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see https://ada:tok@host/x?sig=tok now", "see https://host/x?… now"),
        ("http://host/x", "http://host/x"),
        ("git+ssh://git@host/x", "git+ssh://host/x"),
        ("https://host/page#keys says more", "https://host/page#keys says more"),
        ("https://host/page#access_token=tok", "https://host/page#…"),
        (
            "GET /m.gguf?X-Amz-Credential=a%2Fb&X-Amz-Signature=9f",
            "GET /m.gguf?X-Amz-Credential=***&X-Amz-Signature=***",
        ),
        ("sig=9f&se=2026", "sig=***&se=2026"),
        ("{'url': 'https://host/x?token=tok', 'n': 1}", "{'url': 'https://host/x?…', 'n': 1}"),
    ],
)
def test_addresses_keep_no_password_and_no_signature(text: str, expected: str) -> None:
    assert masking.addresses(text) == expected
