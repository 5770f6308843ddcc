"""Tokens that a llama-server adds to what it is asked: those of its chat template, and around query and document.

    overhead.chat(client, words)                # Overhead(first=10, further=20)
    overhead.pair(client, form, words)

They are counted by the server itself, so that prompts have exactly the length that is asked for.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from nexus_tasks.core.errors import EndpointError
from nexus_tasks.servers import answers, endpoint
from nexus_tasks.servers.client import ask as ask_once
from nexus_tasks.workloads.bodies import Form
from nexus_tasks.workloads.stock import USE_COMPLETION

LENGTHS_PROVEN = (1, 2, 3, 17, 256)
"""Words of the chats that are counted by the server before all others are taken to be of their length."""
QUERY_WORDS = 8


@dataclass(frozen=True)
class Overhead:
    """The tokens that a chat template adds: to the first message, and for each further turn to question and answer."""

    first: int
    further: int


def chat(client: httpx.Client, pieces: Sequence[bytes]) -> Overhead:
    """Measure what the chat template of a llama-server adds to messages of :func:`stock.single_words`.

    Raises:
        EndpointError: messages of different lengths get different additions, so no length could be promised.
    """

    def tokens(*roles: str, count: int) -> int:
        text = b"".join(itertools.islice(itertools.cycle(pieces), count))[1:].decode()
        prompt = endpoint.apply_template(client, [{"role": role, "content": text} for role in roles])
        # Counted as the server does: the template's special tokens, and BOS where the model wants it.
        return len(endpoint.tokenize(client, prompt, special=True))

    added = {tokens("user", count=count) - count for count in LENGTHS_PROVEN}
    if len(added) > 1:
        raise EndpointError(
            f"{client.base_url} joins words of a chat to common tokens, so that their number can't be known",
            hint=USE_COMPLETION,
        )
    first = added.pop()
    count = LENGTHS_PROVEN[-1]
    further = tokens("user", "assistant", "user", count=count) - 3 * count - first
    return Overhead(first, further)


def pair(client: httpx.Client, form: Form, pieces: Sequence[bytes]) -> Overhead:
    """The tokens that llama-server adds to the words of a query and a document.

    Raises:
        EndpointError: it ranks nothing, or pairs of different lengths get different additions.
    """

    def added(query: int, document: int) -> int:
        texts = [b'"' + b"".join(itertools.islice(itertools.cycle(pieces), n))[1:] + b'"' for n in (query, document)]
        answer = ask(client, form, form.body(texts[0] + b',"documents":[' + texts[1] + b"]"))
        return int(answer["usage"]["prompt_tokens"]) - query - document

    first = added(1, 1)
    if added(QUERY_WORDS, 2 * QUERY_WORDS) != first:
        raise EndpointError(
            f"{client.base_url} joins words to common tokens, so that their number can't be known",
            hint="rank with another model",
        )
    return Overhead(first, 0)


def ask(client: httpx.Client, form: Form, body: bytes) -> dict[str, Any]:
    """One request beforehand, where it shows what the server can't do.

    Raises:
        EndpointError: it answered with an error.
        EndpointDown: it did not answer.
    """
    response = ask_once(client, "POST", form.path, body)
    answer = endpoint.document(response)
    if response.status_code == httpx.codes.OK and isinstance(answer, dict) and not answers.error_in(answer):
        return answer
    reason = endpoint.message(client, response)
    raise EndpointError(
        f"{client.base_url} answers HTTP {response.status_code} at {form.path}: {reason}",
        hint="deploy a model for it, with the options that the server asks for",
    )
