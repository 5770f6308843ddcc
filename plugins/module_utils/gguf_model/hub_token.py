"""Tokens of the Hugging Face hub: those that can't be sent are refused unseen. Python 3.9's standard library only."""

from __future__ import annotations


def token_problem(token: str | None) -> str | None:
    """The problem with a token, without a letter of it; None where it can be sent.

    One that can't be sent would stand in the errors of those who try, escaped, where nothing masks it.
    """
    if not token or (token.isascii() and token.isprintable() and " " not in token):
        return None
    return (
        "HF_TOKEN in the controller's environment has a line end, a space or another character that no token has "
        "(it is not shown here): set it again"
    )
