"""Tokens for the hub that can't be sent."""

from __future__ import annotations

import pytest

from plugins.module_utils.gguf_model.hub_token import token_problem


@pytest.mark.parametrize("token", [None, "", "hf_abcDEF0123", "a.b-c_d=="])
def test_a_token_of_usual_letters_is_right(token: str | None) -> None:
    assert token_problem(token) is None


@pytest.mark.parametrize(
    "token", ["hf_sesame\n", "hf_sesame\r", "hf_ses\x1bame", " hf_sesame", "hf_sesamé", "hf_\u200bsesame"]
)
def test_a_token_that_cannot_be_sent_is_refused_without_a_letter_of_it(token: str) -> None:
    problem = token_problem(token)
    assert problem is not None
    assert "HF_TOKEN in the controller's environment" in problem
    assert "ses" not in problem
