"""GGUF headers as damage and malice make them, from a seed, so that what is found once is found again."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

NUMBERS = (0, 1, 1 << 31, 1 << 32, 1 << 62, 1 << 63, (1 << 64) - 1)


def damaged(content: bytes, header_bytes: int, count: int, seed: int = 7) -> Iterator[bytes]:
    """So many files with a few faults each in their first ``header_bytes``."""
    dice = random.Random(seed)  # noqa: S311 - no secret
    for _ in range(count):
        changed = bytearray(content)
        for _ in range(dice.choice((1, 1, 2, 8))):
            # Most bytes are those of a vocabulary, most faults before and behind it.
            at = dice.choice(
                (dice.randrange(400), dice.randrange(header_bytes), header_bytes - dice.randrange(1, 1500))
            )
            kind = dice.randrange(4)
            if kind == 0:
                changed[at] = dice.randrange(256)
            elif kind == 1:
                changed[at : at + 8] = struct.pack("<Q", dice.choice(NUMBERS))
            elif kind == 2:
                del changed[at : at + dice.randrange(1, 40)]
            else:
                changed[at:at] = dice.randbytes(dice.randrange(1, 40))
        yield bytes(changed)
