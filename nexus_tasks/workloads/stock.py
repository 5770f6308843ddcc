"""Prompts of a wanted length, made of what the server's tokenizer says is one token each.

    rng = np.random.default_rng()
    run = stock.Stock(stock.token_ids(client, rng), rng, longest=2048)
    cut = run.cutter(rng)
    cut(512)                    # b"17,4,1025,..." : 512 token ids for llama-server's /completion
    cut(2048)

    stock.single_words(client, rng)       # the same in words, for chats

A stock is a long run of random tokens that is written out once. A prompt is a few tokens of its own and a piece of
the stock, which costs microseconds whatever its length: prompts can be made while a server is being measured.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Callable, Sequence

import httpx
import numpy as np

from nexus_tasks.core.errors import EndpointError
from nexus_tasks.servers import endpoint

STOCK_TOKENS = 2**17
"""Tokens of a stock: so many different places that a piece of it can begin at."""
HEAD_TOKENS = 4
"""Tokens that a prompt begins with before its piece of the stock: pieces that begin at one place still differ."""
WORDS_TRIED = 4000
"""Words that tokens are looked for in: hundreds of different tokens in a usual vocabulary."""
WORDS_NEEDED = 16
WORDS_PER_TOKEN = 0.4
"""Roughly, for the words made here and the vocabularies in use."""
USE_COMPLETION = "measure without a chat template: --api completion"

Cut = Callable[[int], bytes]
"""Writes a new prompt of so many tokens, without a separator before the first."""

_SYLLABLES = [consonant + vowel for consonant in "bcdfghjklmnprstvwz" for vowel in "aeiou"]
_ENDINGS = ["", "", "n", "r", "s", "t"]


class Stock:
    """A long run of random tokens, written out.

    Args:
        pieces: how each token is written, after a separator of one byte: ``b",17"`` or ``b" ba"``.
        rng: what the run is drawn from.
        longest: the longest prompt that will be cut, in tokens.
    """

    def __init__(self, pieces: Sequence[bytes], rng: np.random.Generator, *, longest: int) -> None:
        self.pieces = tuple(pieces)
        self.separator = self.pieces[0][:1]
        order = rng.integers(len(self.pieces), size=max(STOCK_TOKENS, 2 * longest)).tolist()
        run = [self.pieces[index] for index in order]
        self._text = b"".join(run)
        self._ends = [0, *itertools.accumulate(map(len, run))]

    def cutter(self, rng: np.random.Generator) -> Cut:
        """A writer of prompts. No two begin alike as long as there is a first token for each."""
        firsts = itertools.cycle(rng.permutation(len(self.pieces)).tolist())

        def cut(count: int) -> bytes:
            own = min(count, HEAD_TOKENS)
            head = [next(firsts), *rng.integers(len(self.pieces), size=own - 1).tolist()]
            begin = int(rng.integers(len(self._ends) - (count - own)))
            rest = self._text[self._ends[begin] : self._ends[begin + count - own]]
            return b"".join([*(self.pieces[index] for index in head), rest])[1:]

        return cut


def token_ids(client: httpx.Client, rng: np.random.Generator) -> list[bytes]:
    """Ordinary tokens of llama-server's vocabulary, never special ones, as a :class:`Stock` takes them.

    llama-server adds no BOS to token ids.

    Raises:
        EndpointError: the server has no tokens for English letters.
    """
    ids = sorted(set(endpoint.tokenize(client, " ".join(words(rng, WORDS_TRIED)))))
    if not ids:
        raise EndpointError(f"{client.base_url} makes no tokens of English letters", hint="measure with --api chat")
    return [b",%d" % token for token in ids]


def single_words(client: httpx.Client, rng: np.random.Generator) -> list[bytes]:
    """Words that llama-server's tokenizer makes one token of, together with the space before them.

    Tokenizers split text before such words, so a text of them has as many tokens as words.

    Raises:
        EndpointError: the vocabulary has none, or too few.
    """
    tried = sorted(set(words(rng, WORDS_TRIED)))
    # One call for all: a line end belongs to no word, so it tells where one ends.
    ids = endpoint.tokenize(client, "".join(f"\n {word}" for word in tried))
    line_end = collections.Counter(ids).most_common(1)[0][0] if ids else None
    lengths: list[int] = []
    for token in ids:
        if token == line_end:
            lengths.append(0)
        elif lengths:
            lengths[-1] += 1
    single = [word for word, length in zip(tried, lengths, strict=False) if length == 1]
    if len(lengths) != len(tried) or len(single) < WORDS_NEEDED:
        raise EndpointError(
            f"{client.base_url} has no vocabulary to make chats of exact lengths with: too few words are one token",
            hint=USE_COMPLETION,
        )
    return [b" " + word.encode() for word in single]


def plain_words(rng: np.random.Generator) -> list[bytes]:
    """Words for servers whose tokenizer can't be asked; see WORDS_PER_TOKEN."""
    return [b" " + word.encode() for word in sorted(set(words(rng, WORDS_TRIED)))]


def words_of_about(tokens: int) -> int:
    """The number of plain words that make about so many tokens."""
    return max(1, round(tokens * WORDS_PER_TOKEN))


def words(rng: np.random.Generator, count: int) -> list[str]:
    """Lower-case words that sound like words, so that they split into a vocabulary's everyday tokens."""
    syllables = rng.integers(len(_SYLLABLES), size=(count, 4)).tolist()
    lengths = rng.integers(1, 5, size=count).tolist()
    endings = rng.integers(len(_ENDINGS), size=count).tolist()
    return [
        "".join(_SYLLABLES[index] for index in row[:length]) + _ENDINGS[ending]
        for row, length, ending in zip(syllables, lengths, endings, strict=True)
    ]
