"""Runs of batches against the tests' own servers, and what they left in their journals."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from nexus_tasks.batches import endpoint, runner
from nexus_tasks.batches.entries import Answered, Entry, Session, SetAside
from nexus_tasks.batches.items import KEY_BYTES, Item, Request, Row
from nexus_tasks.batches.options import Options, Outcome
from nexus_tasks.fleet.targets import Target

CHAT = "/v1/chat/completions"
QUICK = Options(connect_s=5.0, token_s=30.0, wait_s=20.0)


class Kept:
    """A journal in memory."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.writes = 0

    def write(self, entries: Sequence[Entry]) -> None:
        self.entries += entries
        self.writes += 1

    def of(self, *kinds: type[Entry]) -> list[Any]:
        """The entries of some kinds, in order."""
        return [entry for entry in self.entries if isinstance(entry, kinds)]

    @property
    def ended(self) -> str | None:
        """The end of the session."""
        ended: str | None = self.of(Session)[-1].ended
        return ended

    @property
    def texts(self) -> dict[int, str | None]:
        """The answers by item; an item that has two results is an error."""
        done = self.of(Answered, SetAside)
        assert len({entry.item for entry in done}) == len(done), "an item has two results"
        return {entry.item: entry.answer.text for entry in done if isinstance(entry, Answered)}

    @property
    def reasons(self) -> dict[int, tuple[str, str]]:
        """Kind and message of the items that were set aside."""
        return {entry.item: (entry.kind, entry.message) for entry in self.of(SetAside)}


def request(prompt: str, **more: Any) -> Request:
    """The request of a chat."""
    body = {"messages": [{"role": "user", "content": prompt}], "stream": True, **more}
    body["stream_options"] = {"include_usage": True}
    encoded = json.dumps(body).encode()
    return Request(CHAT, encoded, hashlib.blake2b(encoded, digest_size=KEY_BYTES).digest())


def items(prompts: Iterable[str | Request]) -> Iterator[Item]:
    """Items, one for each prompt."""
    for index, prompt in enumerate(prompts):
        asked = prompt if isinstance(prompt, Request) else request(prompt)
        yield Item(index, Row(index + 1, index + 1, str(index + 1), {}), 0, asked)


def run(
    prompts: Sequence[str | Request] | Sequence[Item],
    *urls: str,
    options: Options = QUICK,
    journal: Kept | None = None,
    **more: Any,
) -> tuple[Outcome, Kept]:
    """Run a batch of prompts, or of items, at servers; its outcome and its journal."""
    kept = Kept() if journal is None else journal
    given = [one for one in prompts if isinstance(one, Item)]
    asked = iter(given) if given else items(one for one in prompts if not isinstance(one, Item))
    with endpoint.reached([Target(url, url) for url in urls], model=None) as endpoints:
        outcome = runner.run(asked, endpoints, kept, options, total=len(prompts), **more)
    return outcome, kept
