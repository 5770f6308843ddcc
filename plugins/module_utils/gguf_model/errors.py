"""Errors of models that can't be had. Python 3.9's standard library only."""

from __future__ import annotations

import shutil

from ..hostlib import masking

MIB = 1 << 20


class ModelError(Exception):
    """A model that can't be had: what is wrong and how to mend it, in one line."""


def no_space(folder: str, needed: int | None = None) -> ModelError:
    """The error of a full file system.

    Args:
        folder: on that file system.
        needed: bytes; None where nobody knows how many.
    """
    free = shutil.disk_usage(folder).free / MIB
    wanted = "more" if needed is None else f"{needed / MIB:.0f} MiB"
    return ModelError(
        f"no space: {wanted} needed in {folder}, {free:.0f} MiB are free on its file system; "
        "free some, or set gguf_model_dir to a folder on a larger one"
    )


def check_space(folder: str, needed: int) -> None:
    """Raise ModelError where fewer than so many bytes are free."""
    if needed > shutil.disk_usage(folder).free:
        raise no_space(folder, needed)


def one_line(error: Exception | str, *secrets: str | None) -> str:
    """An error, or what a job says, in one line that a terminal, a log and a file of everybody may have.

    What it quotes of servers and libraries can hold line ends, control sequences, and addresses with passwords or
    signatures.
    """
    words = masking.addresses(masking.text(" ".join(str(error).split()), *secrets))
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in words) or type(error).__name__
