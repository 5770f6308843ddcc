"""Errors as a terminal, a log and a file of everybody may have them."""

from __future__ import annotations

import pytest

from plugins.module_utils.gguf_model.errors import one_line


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("no\nfile  there", "no file there"),
        ("", "ValueError"),
        ("\x1b]0;owned\x07 it", r"\x1b]0;owned\x07 it"),
        ("a \u202e name", r"a \u202e name"),
        ("ü 模", "ü 模"),
        ("https://me:pw@host/m.gguf?X-Amz-Signature=9f: 404", "https://host/m.gguf?… 404"),
        ("Bearer hf_secret\\n was refused", "Bearer ***\\n was refused"),
    ],
)
def test_it_is_one_printable_line_without_secrets(said: str, told: str) -> None:
    assert one_line(ValueError(said), "hf_secret", None) == told
