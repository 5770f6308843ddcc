"""The JSON of requests, written without a detour: what is asked is JSON already, and the rest is the same each time.

    form = Form(server, "completion", temperature=0.0, ignore_eos=True, cache=False)
    form.request(form.body(b"[17,4,1025]", 64), prompt=3, output=64)        # a Request

``server`` is what :func:`endpoint.probe` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from nexus_tasks.load.requests import Body, Request
from nexus_tasks.servers import endpoint
from nexus_tasks.servers.endpoint import Endpoint


@dataclass(frozen=True)
class Turn:
    """The body of a later turn: a JSON text with holes for the answers that came before."""

    pieces: tuple[bytes, ...]

    def __call__(self, answers: Sequence[str]) -> bytes:
        """The body, once the answers are known; there is one for each hole.

        Raises:
            ValueError: there are more answers, or fewer.
        """
        filled = [
            part for piece, answer in zip(self.pieces[:-1], answers, strict=True) for part in (piece, encode(answer))
        ]
        return b"".join([*filled, self.pieces[-1]])


def encode(value: object) -> bytes:
    """A value as JSON."""
    return msgspec.json.encode(value)


def message(role: str, content: bytes) -> bytes:
    """A message of a chat; ``content`` is JSON already."""
    return b'{"role":"%s","content":%s}' % (role.encode(), content)


class Form:
    """Form of the requests of one workload to one server.

    Args:
        api: ``completion``, ``chat``, ``embeddings`` or ``rerank``.
        ignore_eos: answers go on until they are as long as asked; llama-server only.
        cache: whether the server may answer from its prefix cache. llama-server is told not to where it may not: new
            prompts alone do not keep the cache out, for all chats begin with the template's tokens.
    """

    def __init__(self, server: Endpoint, api: str, *, temperature: float, ignore_eos: bool, cache: bool) -> None:
        llama_cpp = server.engine == endpoint.LLAMA_CPP
        native = llama_cpp and api == "completion"
        below = {"completion": "completions", "chat": "chat/completions"}.get(api, api)
        self.path = "/completion" if native else f"{server.api_path}/{below}"
        self._key = {"completion": b"prompt", "chat": b"messages", "embeddings": b"input", "rerank": b"query"}[api]
        self._limit = b"n_predict" if native else b"max_tokens"
        self._stream = api in ("completion", "chat")
        self._exact = ignore_eos
        settings: dict[str, Any] = {} if native else {"model": server.model}
        if self._stream:
            settings |= {"stream": True, "temperature": temperature}
            if not native:
                settings["stream_options"] = {"include_usage": True}
            if ignore_eos:
                settings["ignore_eos"] = True
            if llama_cpp and not cache:
                settings["cache_prompt"] = False
        self._settings = encode(settings)[1:]

    def body(self, value: bytes, output: int | None = None) -> bytes:
        """The body around what is asked, which is JSON already. ``output`` limits the answer's tokens."""
        return b'{"%s":' % self._key + value + self._end(output)

    def _end(self, output: int | None) -> bytes:
        limit = b"" if output is None else b'"%s":%d,' % (self._limit, output)
        return b"," + limit + self._settings

    def request(self, body: Body, *, prompt: int | None = None, output: int | None = None) -> Request:
        """The request with this body; the tokens as :class:`Request` takes them."""
        return Request(
            self.path,
            body,
            prompt_tokens=prompt,
            output_tokens=output,
            exact_output=self._exact,
            stream=self._stream,
        )

    def conversation(
        self, turns: Sequence[Sequence[bytes]], outputs: Sequence[int | None], *, first: int | None = None
    ) -> tuple[Request, ...]:
        """The requests of a conversation.

        Args:
            turns: the messages that each turn adds.
            outputs: the limit of each answer.
            first: the tokens of the first prompt. How many later ones have is known to the server alone: answers
                need not become the tokens again that they were made of.
        """
        requests: list[Request] = []
        before: tuple[bytes, ...] = ()
        piece = b'{"%s":[' % self._key
        for turn, output in zip(turns, outputs, strict=True):
            piece += b",".join(turn)
            last = piece + b"]" + self._end(output)
            body = Turn((*before, last)) if before else last
            requests.append(self.request(body, prompt=None if before else first, output=output))
            before = (*before, piece + b',{"role":"assistant","content":')
            piece = b"},"
        return tuple(requests)
