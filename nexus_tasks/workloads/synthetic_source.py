"""Requests of made-up prompts: single ones, conversations and rankings.

    source = synthetic_source.prepare(client, server, spec, form)
    next(source.items(stage=0))

Lengths are exact where the server tells its tokens, and about right elsewhere.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import numpy as np

from nexus_tasks.core.errors import UsageError
from nexus_tasks.load.requests import Item, Request
from nexus_tasks.servers import endpoint
from nexus_tasks.servers.endpoint import Endpoint
from nexus_tasks.workloads import bodies, overhead, sizes, stock
from nexus_tasks.workloads.bodies import Form
from nexus_tasks.workloads.overhead import QUERY_WORDS, Overhead
from nexus_tasks.workloads.stock import Cut, Stock
from nexus_tasks.workloads.workload import Spec, output_limits, prompt_lengths


@dataclass(frozen=True)
class SyntheticSource:
    """Prompts that are cut from a stock. ``exact``: the server's tokens are known, so that lengths can be promised."""

    spec: Spec
    form: Form
    stock: Stock
    exact: bool
    overhead: Overhead
    prefix: bytes

    def items(self, *, stage: int = 0, length: int | None = None) -> Iterator[Item]:
        spec = self.spec
        asked = spec.prompt_tokens if length is None else sizes.fixed(length)
        if asked is None:
            raise ValueError("a stage of context scaling has a length")
        lengths = asked.draws(np.random.default_rng([spec.seed or 0, 0]))
        outputs = output_limits(spec)
        cut = self.stock.cutter(np.random.default_rng(None if spec.seed is None else [spec.seed, 2, stage]))
        match spec.kind:
            case "conversations":
                made = self._conversations(lengths, outputs, cut)
            case "rerank":
                made = self._rankings(lengths, cut)
            case _:
                made = self._single(lengths, outputs, cut)
        # A key says that another run asks the same again.
        return (Item(requests, None if spec.seed is None else str(index)) for index, requests in enumerate(made))

    def _single(self, lengths: Iterator[int], outputs: Iterator[int | None], cut: Cut) -> Iterator[tuple[Request, ...]]:
        texts: Iterator[tuple[int, bytes]] = ((length, cut(self._pieces(length))) for length in lengths)
        if self.spec.prompts == "same":
            texts = itertools.repeat(next(texts))
        for (length, text), output in zip(texts, outputs, strict=False):
            value = self._value(self.prefix + text)
            prompt = self.spec.prefix_tokens + length if self.exact else None
            yield (self.form.request(self.form.body(value, output), prompt=prompt, output=output),)

    def _conversations(
        self, lengths: Iterator[int], outputs: Iterator[int | None], cut: Cut
    ) -> Iterator[tuple[Request, ...]]:
        while True:
            asked = list(itertools.islice(lengths, self.spec.turns))
            texts = [self.prefix + cut(self._pieces(asked[0]))]
            texts += [cut(self._pieces(length, further=True)) for length in asked[1:]]
            turns = [[bodies.message("user", b'"' + text + b'"')] for text in texts]
            first = self.spec.prefix_tokens + asked[0] if self.exact else None
            yield self.form.conversation(turns, list(itertools.islice(outputs, self.spec.turns)), first=first)

    def _rankings(self, lengths: Iterator[int], cut: Cut) -> Iterator[tuple[Request, ...]]:
        while pairs := list(itertools.islice(lengths, self.spec.documents)):
            query = b'"' + cut(QUERY_WORDS) + b'"'
            texts = [b'"' + cut(max(1, self._pieces(length) - QUERY_WORDS)) + b'"' for length in pairs]
            body = self.form.body(query + b',"documents":[' + b",".join(texts) + b"]")
            yield (self.form.request(body, prompt=sum(pairs) if self.exact else None),)

    def _pieces(self, length: int, *, further: bool = False) -> int:
        """The pieces of the stock that make a prompt of this length."""
        if not self.exact:
            return stock.words_of_about(length)
        return length - (self.overhead.further if further else self.overhead.first)

    def _value(self, text: bytes) -> bytes:
        """A cut text as the JSON that is asked."""
        if self.spec.api == "chat":
            return b"[" + bodies.message("user", b'"' + text + b'"') + b"]"
        return b"[" + text + b"]" if self.stock.separator == b"," else b'"' + text + b'"'


def prepare(client: httpx.Client, server: Endpoint, spec: Spec, form: Form) -> SyntheticSource:
    """Write out a stock of what the server's tokenizer says is one token each.

    Raises:
        UsageError: a length that the chat template leaves no room for.
        EndpointError: the server can't do what the workload is about, or its tokens can't be known.
    """
    exact = server.engine == endpoint.LLAMA_CPP
    rng = np.random.default_rng(None if spec.seed is None else [spec.seed, 3])
    added = Overhead(0, 0)
    if not exact:
        pieces = stock.plain_words(rng)
    elif spec.api in ("completion", "embeddings"):
        pieces = stock.token_ids(client, rng)
    else:
        pieces = stock.single_words(client, rng)
    if spec.api == "embeddings":
        overhead.ask(client, form, form.body(b'"a"'))
    elif exact and spec.api == "chat":
        added = overhead.chat(client, pieces)
    elif exact and spec.api == "rerank":
        added = overhead.pair(client, form, pieces)
    if exact:
        spec = _with_room(spec, added)
    supply = Stock(pieces, rng, longest=max(*prompt_lengths(spec), spec.prefix_tokens))
    prefix = b""
    if spec.prefix_tokens:
        count = spec.prefix_tokens if exact else stock.words_of_about(spec.prefix_tokens)
        prefix = supply.cutter(rng)(count) + supply.separator
    return SyntheticSource(spec, form, supply, exact, added, prefix)


def _with_room(spec: Spec, beside: Overhead) -> Spec:
    """The workload with no length that leaves nothing to say beside what the server adds.

    Raises:
        UsageError: such a length was asked for. The shortest that a log-normal size draws are made longer instead.
    """
    what, around, added = "chat", "the chat template", max(beside.first, beside.further if spec.turns > 1 else 0)
    if spec.api == "rerank":
        what, around = "pair of query and document", f"a query of {QUERY_WORDS} words with special tokens"
        added += QUERY_WORDS
    asked = spec.prompt_tokens
    if asked and asked.kind == "lognormal":
        asked = dataclasses.replace(asked, min=min(added + 1, asked.max))
        spec = dataclasses.replace(spec, prompt_tokens=asked)
    shortest = min(prompt_lengths(spec))
    if shortest <= added:
        raise UsageError(
            f"no {what} has {shortest} prompt tokens here: {around} alone takes {added}",
            hint=f"ask for more with {'--lengths' if spec.lengths else '--prompt-tokens'}",
        )
    return spec
