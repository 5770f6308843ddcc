"""Tally of a batch: what its journal comes to, counted in one pass over its entries, in bounded memory.

    tally = Tally(state, secrets=["sesame"])
    for offset, entry in journal.entries(path):
        tally.add(offset, entry)
    tally.answered, tally.endpoints["rig/main"].busy_share, tally.intervals.rows()

How an item stands is told by the entry that the state points to (:class:`nexus_tasks.batches.state.State`), which is
known beforehand; other entries of the item tell of work that was done and of attempts that failed. Of single requests a
sample is kept, in which each has the same chance.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from nexus_tasks.batches.counts import Answerer, Cause, Checked, Endpoint, Reservoir, ServerKey
from nexus_tasks.batches.entries import (
    Answer,
    Answered,
    Begun,
    Entry,
    Failed,
    Reopened,
    Server,
    Session,
    SetAside,
)
from nexus_tasks.batches.intervals import Intervals, WorkClock
from nexus_tasks.batches.state import State
from nexus_tasks.hostlib import masking
from nexus_tasks.records.batch_rows import CANCELLED, RequestRow, SessionRow

SAMPLED_REQUESTS = 2000
SAMPLED_ANSWERS = 12
MAX_REASONS = 20  # of one schema; others are counted together
MAX_NAMES = 200  # of servers, schemas and ends of answers, which servers may make up
MAX_SESSIONS = 500
ANSWER_LETTERS, MESSAGE_LETTERS = 2000, 300
OTHERS = "others"

_K = TypeVar("_K")


class Tally:
    """Counts of a batch; feed it each entry of the journal by :meth:`add`, in order.

    Args:
        state: what the whole journal amounts to.
        secrets: keys of servers, which stand in no text that is kept.
    """

    def __init__(self, state: State, secrets: Sequence[str] = ()) -> None:
        self.clock, self.intervals = WorkClock(), Intervals()
        self.endpoints: dict[str, Endpoint] = {}
        self.servers: dict[ServerKey, Answerer] = {}
        self.failures: dict[str, Cause] = {}
        self.schemas: dict[str, Checked] = {}
        self.sessions: deque[SessionRow] = deque(maxlen=MAX_SESSIONS)
        self.requests: Reservoir[RequestRow] = Reservoir(SAMPLED_REQUESTS)
        self.answers: Reservoir[Answered] = Reservoir(SAMPLED_ANSWERS, seed=1)
        self.finish_reasons: Counter[str] = Counter()
        self.answered = self.twins = self.set_aside = self.sent = self.repeated = 0
        self._state, self._secrets = state, secrets
        self._sent = bytearray(state.total)
        self._under_way: dict[int, str] = {}

    def add(self, offset: int, entry: Entry) -> None:
        """Count an entry that begins there in the journal."""
        match entry:
            case Answered():
                self._answered(offset, entry)
            case Begun(items, endpoint, at):
                self._begun(items, endpoint, self.clock.moment(at))
            case Failed(item, endpoint, at, kind, message):
                self._attempt_failed(item, endpoint, self.clock.moment(at))
                self._cause(kind).try_again(item, self._told(message))
            case SetAside():
                self._set_aside(offset, entry)
            case Server():
                self._server(entry)
            case Session(at, ended, _):
                self._session(at, ended)
            case Reopened():
                pass  # the state knows

    def text(self, words: str, letters: int) -> str:
        """A text as it is kept: without secrets, and at most so many letters."""
        return masking.excerpt(words, letters, *self._secrets)

    def _told(self, message: str) -> str:
        return self.text(masking.addresses(" ".join(message.split())), MESSAGE_LETTERS)

    def _final(self, item: int, offset: int) -> bool:
        return item < self._state.total and self._state.offsets[item] == offset

    def _endpoint(self, name: str) -> Endpoint:
        endpoint = self.endpoints.get(name)
        if endpoint is None:
            endpoint = self.endpoints[name] = Endpoint()
        return endpoint

    def _cause(self, kind: str) -> Cause:
        return self.failures.setdefault(kind, Cause())

    def _begun(self, items: Sequence[int], endpoint: str, t_s: float) -> None:
        self._endpoint(endpoint).begin(t_s, len(items))
        self.sent += len(items)
        for item in items:
            self._under_way[item] = endpoint
            if item < len(self._sent):
                self.repeated += self._sent[item]
                self._sent[item] = 1

    def _answered(self, offset: int, entry: Answered) -> None:
        t_s = self.clock.moment(entry.at)
        if entry.same_as is None:
            self._work(entry, t_s)
        if not self._final(entry.item, offset):
            return
        self.answered += 1
        self.twins += entry.same_as is not None
        self._count_server(entry)
        self._check(entry)
        reason = entry.answer.finish_reason
        if reason is not None:
            self.finish_reasons[reason if _room(self.finish_reasons, reason) else OTHERS] += 1
        if entry.same_as is None and (place := self.answers.place()) is not None:
            self.answers.put(place, entry)

    def _work(self, entry: Answered, t_s: float) -> None:
        """The request that was answered, whether or not the item was reopened afterwards."""
        self._under_way.pop(entry.item, None)
        endpoint, usage = self._endpoint(entry.endpoint), entry.usage
        endpoint.end(t_s)
        endpoint.answered += 1
        endpoint.model, endpoint.build = entry.model, entry.build
        endpoint.tokens.add(usage)
        self.intervals.count(entry.endpoint, t_s, answered=1)
        if usage.output_tokens:
            took_s = (entry.latency_ms - (entry.ttft_ms or 0.0)) / 1000
            self.intervals.spread(entry.endpoint, t_s - took_s, t_s, usage.output_tokens)
        place = self.requests.place()
        if place is not None:
            self.requests.put(place, _request(entry))

    def _attempt_failed(self, item: int, endpoint: str, t_s: float) -> None:
        if self._under_way.pop(item, None) is not None:
            self._endpoint(endpoint).end(t_s)
        self._endpoint(endpoint).failed += 1
        self.intervals.count(endpoint, t_s, failed=1)

    def _set_aside(self, offset: int, entry: SetAside) -> None:
        t_s = self.clock.moment(entry.at)
        endpoint = self._under_way.get(entry.item)
        if endpoint is not None:
            self._attempt_failed(entry.item, endpoint, t_s)
        if self._final(entry.item, offset):
            self.set_aside += 1
            self._cause(entry.kind).meet(entry.item, self._told(entry.message))
        else:  # it was reopened
            self._cause(entry.kind).try_again(entry.item, self._told(entry.message))

    def _check(self, entry: Answered) -> None:
        if entry.valid is None:
            return
        name = entry.schema or "schema"
        checked = self.schemas.setdefault(name if _room(self.schemas, name) else OTHERS, Checked())
        checked.checked += 1
        checked.valid += entry.valid
        if not entry.valid:
            reason = self._told(entry.invalid_reason or "no reason was given")
            kept = reason if _room(checked.reasons, reason, MAX_REASONS) else OTHERS
            shown = self.text(" ".join(answer_text(entry.answer).split()), MESSAGE_LETTERS)
            checked.reasons.setdefault(kept, Cause()).meet(entry.item, shown)

    def _server(self, entry: Server) -> None:
        self.clock.moment(entry.at)
        endpoint = self._endpoint(entry.endpoint)
        endpoint.model, endpoint.build, endpoint.slots = entry.model, entry.build, entry.slots
        answerer = self._answerer(ServerKey(entry.endpoint, entry.model, entry.build))
        answerer.slots, answerer.n_ctx = entry.slots, entry.n_ctx

    def _count_server(self, entry: Answered) -> None:
        answerer = self._answerer(ServerKey(entry.endpoint, entry.model, entry.build))
        answerer.answered += 1
        answerer.first = entry.item if answerer.first is None else min(answerer.first, entry.item)
        answerer.last = entry.item if answerer.last is None else max(answerer.last, entry.item)

    def _answerer(self, key: ServerKey) -> Answerer:
        key = key if _room(self.servers, key) else ServerKey(OTHERS, OTHERS, None)
        return self.servers.setdefault(key, Answerer())

    def _session(self, at: float, ended: str | None) -> None:
        if ended is None:
            t_s = self.clock.session(at)
            self._under_way.clear()
            for endpoint in self.endpoints.values():
                endpoint.session()
            self._close_session(t_s)
            self.sessions.append(SessionRow(t_s=t_s, started_at=_utc(at), seconds=0.0, ended=None))
        elif ended == CANCELLED:  # by a process that does not work: the time until then is nobody's
            self._close_session(self.clock.session(at), ended)
        else:
            self._close_session(self.clock.moment(at), self._told(ended))

    def _close_session(self, t_s: float, ended: str | None = None) -> None:
        """The last session's length, unless it was known already: one that was killed lasted to its last entry."""
        if self.sessions and self.sessions[-1].ended is None:
            last = self.sessions[-1]
            last.seconds, last.ended = t_s - last.t_s, ended

    def close(self) -> None:
        """Count the session that has not ended, as far as it came."""
        self._close_session(self.clock.seconds)


def answer_text(answer: Answer) -> str:
    """An answer as a text, whatever it is: its tool calls as JSON, and of an embedding how long it is."""
    if answer.embedding is not None:
        return f"an embedding of {len(answer.embedding):,} numbers"
    calls = json.dumps(answer.tool_calls, ensure_ascii=False) if answer.tool_calls else ""
    return "\n".join(filter(None, [answer.text, calls]))


def _request(entry: Answered) -> RequestRow:
    usage = entry.usage
    return RequestRow(
        item=entry.item,
        endpoint=entry.endpoint,
        latency_ms=round(entry.latency_ms, 2),
        ttft_ms=_rounded(entry.ttft_ms),
        decode_tps=_rounded(entry.decode_tps),
        prompt_tokens=usage.prompt_tokens,
        output_tokens=usage.output_tokens,
        cached_tokens=usage.cached_tokens,
        finish_reason=entry.answer.finish_reason,
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _room(names: Mapping[_K, object], name: _K, most: int = MAX_NAMES) -> bool:
    """True where a name is counted by itself: it is known already, or there are few so far."""
    return name in names or len(names) < most


def _utc(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
