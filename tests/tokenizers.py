"""Tokenizers behind the part of llama-server's interface that prompts ask."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import httpx


def by_words(text: str) -> list[int]:
    """Splits as vocabularies do: words with the space before them, and what is no word by itself."""
    return [sum(part.encode()) for part in re.findall(r" ?[a-z]+|[^a-z]", text)]


def by_pairs_of_words(text: str) -> list[int]:
    """Makes one token of two neighbouring words, as none should."""
    return [sum(part.encode()) for part in re.findall(r"(?: ?[a-z]+){1,2}|[^a-z]", text)]


def by_letters(text: str) -> list[int]:
    return list(text.encode())


def server(tokens: Callable[[str], list[int]], template: str = "<user>{}</user><answer>") -> httpx.Client:
    def answer(request: httpx.Request) -> httpx.Response:
        asked = json.loads(request.content)
        if request.url.path == "/tokenize":
            return httpx.Response(200, json={"tokens": tokens(asked["content"])})
        messages = asked["messages"]
        return httpx.Response(200, json={"prompt": "".join(template.format(each["content"]) for each in messages)})

    return httpx.Client(transport=httpx.MockTransport(answer), base_url="http://tokens")
