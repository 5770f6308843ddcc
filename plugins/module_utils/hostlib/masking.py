"""Secrets masked in texts: keys of servers, and what addresses carry beside the place.

masking.text("no such key: sesame", "sesame")                       # "no such key: ***"
masking.excerpt(answer, 300, "sesame")                              # masked, and only then cut
masking.addresses("GET https://me:pw@host/m.gguf?sig=9f")           # "GET https://host/m.gguf?…"
masking.argv(["llama-server", "--api-key", "sesame"], None)         # [..., "--api-key", "***"]

A text is masked before it is cut: of a key across the cut a part would be left, which nothing finds any more.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from urllib.parse import quote, quote_plus

MASK = "***"
# Before the host of an address: user and password, or a token. Behind it: signatures and tokens.
CREDENTIALS = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)[^\s/'\"<>]*@", re.IGNORECASE)
QUERY = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s?#'\"<>]*(?:\?|#(?=[^\s'\"<>]*=)))[^\s'\"<>]*", re.IGNORECASE)
# The same of an address without its scheme and host, as in the first line of a request.
SIGNATURE = re.compile(
    r"(?P<name>(?<![\w-])(?:x-(?:amz|goog|ms)-[\w-]+|awsaccesskeyid|signature|sig|key-pair-id|"
    r"(?:access|auth|refresh|id)?[_-]?token|password|passwd|secret|api[_-]?key)=)[^\s&'\"<>]+",
    re.IGNORECASE,
)
SHORTEST = 8  # the least of a key's beginning at a text's end that is taken for the key


def text(words: str, *secrets: str | None) -> str:
    """A text without the secrets: some servers repeat them in their errors, as they are or escaped.

    A text that ends within a secret loses that part of it, too: whoever cut it did not know.
    """
    for secret in secrets:
        if not secret:
            continue
        for spelling in _spellings(secret):
            words = words.replace(spelling, MASK)
        for length in range(len(secret) - 1, SHORTEST - 1, -1):
            if words.endswith(secret[:length]):
                words = words[:-length] + MASK
                break
    return words


def addresses(words: str) -> str:
    """A text without what its addresses tell beside the place: passwords, tokens, signatures."""
    words = QUERY.sub(r"\1…", CREDENTIALS.sub(r"\g<scheme>", words))
    return SIGNATURE.sub(rf"\g<name>{MASK}", words)


def excerpt(words: str, length: int, *secrets: str | None) -> str:
    """The beginning of a text without the secrets, at most so many characters."""
    return text(words, *secrets)[:length]


def argv(words: Sequence[str], api_key: str | None) -> list[str]:
    """A command line fit for a record: a key that somebody put there in spite of --api-key-file is masked."""
    return [
        text(MASK if before == "--api-key" else re.sub(r"(?<=^--api-key=).*", MASK, word, flags=re.DOTALL), api_key)
        for before, word in zip(["", *words], words)
    ]


def _spellings(secret: str) -> list[str]:
    """The secret, and as it stands in JSON, in addresses and in HTML; the longest first."""
    escaped = json.dumps(secret)[1:-1], quote(secret, safe=""), quote(secret), quote_plus(secret), html.escape(secret)
    return sorted({secret, repr(secret)[1:-1], *escaped}, key=len, reverse=True)
