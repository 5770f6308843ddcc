"""Keys of servers, masked in what goes into records.

masking.argv(["llama-server", "--api-key", "sesame"], None)         # [..., "--api-key", "***"]
masking.text("no such key: sesame", "sesame")                       # "no such key: ***"
"""

from __future__ import annotations

import re
from collections.abc import Sequence

MASK = "***"


def text(words: str, api_key: str | None) -> str:
    """A text without the key: some servers repeat it in their errors."""
    return words.replace(api_key, MASK) if api_key else words


def argv(words: Sequence[str], api_key: str | None) -> list[str]:
    """A command line fit for a record: a key that somebody put there in spite of --api-key-file is masked."""
    return [
        text(MASK if before == "--api-key" else re.sub(r"(?<=^--api-key=).*", MASK, word), api_key)
        for before, word in zip(["", *words], words, strict=False)
    ]
