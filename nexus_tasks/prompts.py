"""Prompts of a wanted length that no prefix cache has seen.

    prompts.completions(client, 512, 6)   # lists of token ids for llama-server's /completion
    prompts.chats(client, 512, 6)         # messages that are 512 tokens with the chat template around them
    prompts.of_about(512, 6)              # text for servers that don't count beforehand

They are drawn anew each time: a server remembers the prompts of earlier runs as well.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence

import httpx

from nexus_tasks import endpoint
from nexus_tasks.errors import EndpointError, UsageError

Prompt = list[int] | str

POOL_WORDS = 2000
"""Words that token ids are drawn from: hundreds of different tokens in a usual vocabulary."""
WORDS_PER_TOKEN = 0.4
"""Roughly, for the words made here and the vocabularies in use."""
ATTEMPTS = 200
"""Endings that are tried for a chat's last few tokens."""


def completions(client: httpx.Client, length: int, count: int, rng: random.Random | None = None) -> list[Prompt]:
    """Prompts of ``length`` ordinary tokens, never special ones. llama-server adds no BOS to token ids.

    Raises:
        EndpointError: the server has no tokens for English letters.
    """
    rng = rng or random.SystemRandom()
    pool = sorted(set(endpoint.tokenize(client, " ".join(words(rng, POOL_WORDS)))))
    if not pool:
        raise EndpointError(f"{client.base_url} makes no tokens of English letters", hint="measure with --api chat")
    return list(draw(pool, length, count, rng))


def draw(pool: Sequence[int], length: int, count: int, rng: random.Random) -> list[list[int]]:
    """Random token ids. No two prompts begin alike as long as the pool has a first token for each."""
    firsts = itertools.islice(itertools.cycle(rng.sample(pool, len(pool))), count)
    return [[first, *rng.choices(pool, k=length - 1)] for first in firsts]


def chats(client: httpx.Client, length: int, count: int, rng: random.Random | None = None) -> list[Prompt]:
    """A user's messages that become exactly ``length`` tokens with the chat template around them.

    Raises:
        UsageError: the template alone is longer, or no message hits the length.
    """
    rng = rng or random.SystemRandom()

    def tokens(content: str) -> int:
        prompt = endpoint.apply_template(client, [{"role": "user", "content": content}])
        # Counted as the server does: the template's special tokens, and BOS where the model wants it.
        return len(endpoint.tokenize(client, prompt, special=True))

    return [fit(length, tokens, rng) for _ in range(count)]


def of_about(length: int, count: int, rng: random.Random | None = None) -> list[Prompt]:
    """Texts of about ``length`` tokens; the server's ``usage`` tells the number afterwards."""
    rng = rng or random.SystemRandom()
    return [" ".join(words(rng, max(1, round(length * WORDS_PER_TOKEN)))) for _ in range(count)]


def fit(length: int, tokens: Callable[[str], int], rng: random.Random) -> str:
    """A random text for which ``tokens`` counts exactly ``length``.

    Raises:
        UsageError: there is none, or none was found.
    """
    least = tokens("")
    if least > length:
        raise UsageError(
            f"no chat has {length} prompt tokens here: the chat template alone takes {least}",
            hint="ask for more with --prompt-tokens, or measure without a template: --api completion",
        )
    stock = words(rng, length - least)  # a word is one token or more
    some = most(len(stock), lambda number: tokens(" ".join(stock[:number])) <= length)
    text = " ".join(stock[:some])
    missing = length - tokens(text)
    # What is left is less than a word. Letters and signs are mostly a token each, unless they merge.
    for _ in range(ATTEMPTS):
        if missing == 0:
            return text
        ending = "".join(rng.choices(" abcdefghijklmnopqrstuvwxyz.,;", k=rng.randint(1, 2 * missing)))
        left = length - tokens(text + ending)
        if 0 <= left < missing:
            text, missing = text + ending, left
    raise UsageError(
        f"found no chat of exactly {length} prompt tokens ({missing} are missing)",
        hint="ask for another number with --prompt-tokens, or measure without a template: --api completion",
    )


def most(upper: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to ``upper`` that fits, where all below one that fits do too."""
    low, high = 0, upper
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def words(rng: random.Random, count: int) -> list[str]:
    """Lower-case words that sound like words, so that they split into a vocabulary's everyday tokens."""

    def word() -> str:
        syllables = (rng.choice("bcdfghjklmnprstvwz") + rng.choice("aeiou") for _ in range(rng.randint(1, 4)))
        return "".join(syllables) + rng.choice(["", "", "n", "r", "s", "t"])

    return [word() for _ in range(count)]
