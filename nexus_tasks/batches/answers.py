"""Answers of servers to a batch's requests: bytes off the wire become text, tool calls, usage, or a problem.

    reader = Reader(stream=True)
    reader.feed(times, parts)              # as often as something came; what was read is not kept as bytes
    reading = reader.finish(failure=None)
    reading.answer.text, reading.usage.output_tokens, reading.problem

Of the moments at which pieces came, only that of the first token counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from nexus_tasks.batches.entries import Answer, Usage
from nexus_tasks.batches.failures import Problem, of_http, of_stream
from nexus_tasks.load.event_stream import Event, Events, EventTooLongError
from nexus_tasks.load.messages import BROKEN_OFF, read_usage
from nexus_tasks.load.reading import Reading as Counts
from nexus_tasks.load.sender.connection import Failure
from nexus_tasks.load.sender.http_answer import HttpAnswer, NotHttpError, retry_after_s
from nexus_tasks.servers import answers
from nexus_tasks.servers.answers import name_of, object_of, text_of

_OK = 200


@dataclass
class Reading:
    """An answer, or the ``problem`` that came instead of it.

    ``first`` is the moment of the first token (seconds of ``perf_counter``), None where there was none. ``model`` and
    ``build`` are those that the answer itself names.
    """

    answer: Answer = field(default_factory=Answer)
    usage: Usage = field(default_factory=Usage)
    first: float | None = None
    decode_tps: float | None = None
    model: str | None = None
    build: str | None = None
    problem: Problem | None = None


class Reader:
    """Reads one HTTP answer.

    Args:
        stream: whether a stream of events was asked for; without it, one JSON document.
    """

    def __init__(self, *, stream: bool) -> None:
        self._stream = stream
        self._http = HttpAnswer(self._take)
        self._pieces: list[bytes] = []  # of the body, not read yet
        self._events = Events()
        self._messages = _Messages()
        self._broken: Problem | None = None

    def feed(self, times: Sequence[float], parts: Sequence[bytes]) -> None:
        """Read pieces, and the moments at which they came."""
        at = 0
        while self._messages.first is None and at < len(parts):
            self._feed(times[at], parts[at])
            at += 1
        if at < len(parts):
            self._feed(times[-1], b"".join(parts[at:]))

    def finish(self, failure: Failure | None) -> Reading:
        """The reading; ``failure`` is what ended the transport, where that was no ordinary end."""
        http = self._http
        broken = self._broken or (Problem(failure.kind, failure.message) if failure else None)
        if not http.status:
            broken = broken or Problem("disconnected", "the connection was closed before any answer")
        elif http.status != _OK:
            body = b"".join(self._pieces)
            broken = of_http(http.status, body, retry_after_s(http.headers), coding=http.coding)
        elif http.coding:
            broken = Problem("protocol", f"the answer is in {http.coding}, which nobody asked for")
        complete = broken is None and (http.complete or http.until_closed)
        if self._is_stream and http.status == _OK:
            self._messages.finish(complete=complete, broken=broken)
        elif broken or not complete:
            self._messages.problem = broken or Problem("disconnected", "the answer stopped before its end")
        else:
            self._messages.document(b"".join(self._pieces), http.content_type)
        http.close()
        return self._messages.reading()

    @property
    def _is_stream(self) -> bool:
        return self._stream and self._http.is_stream

    def _take(self, body: bytes) -> None:
        self._pieces.append(body)

    def _feed(self, arrival: float, data: bytes) -> None:
        if self._broken:
            return
        try:
            self._http.feed(data)
            if self._is_stream and self._pieces:
                body = b"".join(self._pieces)
                self._pieces.clear()
                for event in self._events.feed(arrival, body):
                    self._messages.read(event)
        except NotHttpError as error:
            self._broken = Problem("protocol", str(error))
        except EventTooLongError:
            self._broken = Problem("protocol", "an event of the stream has no end within 16 MiB")


class _Messages:
    """Messages of the OpenAI API put together; nothing counts after the end."""

    def __init__(self) -> None:
        self.first: float | None = None
        self.problem: Problem | None = None
        self._texts: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, dict[str, Any]] = {}
        self._embedding: list[float] | None = None
        self._finish_reason: str | None = None
        self._counts = Counts()
        self._model: str | None = None
        self._build: str | None = None
        self._done = False

    def read(self, event: Event) -> None:
        """Read a message of a stream."""
        data = event.data.strip()
        if not data or self._done or self.problem:
            return
        if data == "[DONE]":
            self._done = True
            return
        try:
            message = answers.json_of(data)
        except ValueError:
            message = None
        told = answers.error_in(message)
        if told is None and event.type == "error":
            told = answers.words(data if message is None else message)
        if told is not None:
            self.problem = of_stream(message, told)
        elif not isinstance(message, dict):
            self.problem = Problem("protocol", f"not a JSON object: {answers.words(data)}")
        else:
            self._message(event.time, message, "delta")

    def finish(self, *, complete: bool, broken: Problem | None) -> None:
        """Take the end of a stream. One that said its last words is whole, whatever became of its connection."""
        if self.problem:
            return
        if not self._done and not (complete and self._finish_reason):
            self.problem = broken or Problem("disconnected", "the stream stopped without its end")
        elif not (self._finish_reason or any(self._texts) or self._reasoning or self._calls):
            self.problem = Problem("protocol", "the stream ended without an answer in it")

    def document(self, body: bytes, content_type: str | None) -> None:
        """Read an answer that is one JSON document."""
        shown = answers.excerpt(body)
        try:
            document = answers.json_of(body)
        except ValueError:
            document = None
        if (told := answers.error_in(document)) is not None:
            self.problem = of_stream(document, told)
            return
        if not isinstance(document, dict):
            self.problem = Problem("protocol", f"{content_type or 'something'} came instead of JSON: {shown}")
            return
        self._message(None, document, "message")
        if self._finish_reason is None and not self._embed(document):
            self.problem = self.problem or Problem("protocol", f"neither an answer nor an embedding came: {shown}")

    def reading(self) -> Reading:
        """All that was read."""
        counts, timings = self._counts, self._counts.timings or {}
        calls = [self._calls[place] for place in sorted(self._calls)]
        is_text = self._texts or (self._finish_reason and not calls)
        return Reading(
            answer=Answer(
                text=_joined(self._texts) if is_text else None,
                reasoning=_joined(self._reasoning) if self._reasoning else None,
                tool_calls=calls or None,
                embedding=self._embedding,
                finish_reason=self._finish_reason,
            ),
            usage=Usage(counts.prompt_tokens, counts.output_tokens, counts.cached_tokens),
            first=self.first,
            decode_tps=timings.get("predicted_per_second"),
            model=self._model,
            build=self._build,
            problem=self.problem,
        )

    def _message(self, moment: float | None, message: dict[str, Any], part: str) -> None:
        self._model = self._model or name_of(message.get("model"))
        self._build = self._build or name_of(message.get("system_fingerprint"))
        choices = message.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                self._choice(moment, choice, part)
        read_usage(message, self._counts)

    def _choice(self, moment: float | None, choice: dict[str, Any], part: str) -> None:
        if choice.get("index"):
            self.problem = Problem("refused", "several answers came: one can be kept")
            return
        inner = choice.get(part)
        if part == "message" and not isinstance(inner, dict) and not isinstance(choice.get("text"), str):
            self.problem = Problem("protocol", f"an answer without a message came: {answers.words(choice)}")
            return
        delta = object_of(inner) or choice
        content, calls = delta.get("content") or delta.get("text"), delta.get("tool_calls")
        reasoning = delta.get("reasoning_content") or delta.get("reasoning")
        if self.first is None and (content or reasoning or calls):
            self.first = moment
        text = _text_in(content)
        if content and text is None:
            self.problem = Problem("protocol", f"the content of the answer is no text: {answers.words(content)}")
            return
        if text:
            self._texts.append(text)
        if isinstance(reasoning, str):
            self._reasoning.append(reasoning)
        for place, call in enumerate(calls if isinstance(calls, list) else ()):
            self._call(object_of(call), place)
        reason = name_of(choice.get("finish_reason"))
        if reason and reason.casefold() in BROKEN_OFF:
            self.problem = Problem("in_stream", f"the server broke the answer off: {reason}")
        self._finish_reason = reason or self._finish_reason

    def _call(self, call: dict[str, Any], place: int) -> None:
        """Add a part of a tool call: the first has its name, all have some of its arguments."""
        index = call.get("index")
        whole = self._calls.setdefault(
            index if isinstance(index, int) else place,
            {"id": None, "type": "function", "function": {"name": "", "arguments": ""}},
        )
        function, part = whole["function"], object_of(call.get("function"))
        whole["id"] = whole["id"] or text_of(call.get("id"))
        function["name"] += text_of(part.get("name")) or ""
        function["arguments"] += text_of(part.get("arguments")) or ""

    def _embed(self, document: dict[str, Any]) -> bool:
        """Take the embedding of a document; False where it holds none."""
        data = document.get("data")
        if not isinstance(data, list) or not data:
            return False
        if len(data) > 1:
            message = f"{len(data)} embeddings came: give each text a row of its own"
            self.problem = Problem("refused", message)
            return False
        self._embedding = _vector(object_of(data[0]).get("embedding"))
        return self._embedding is not None


def _text_in(content: object) -> str | None:
    """The text of a content, which may be a list of parts; None where it is anything else."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [None]
    texts = [text for part in parts if isinstance(text := object_of(part).get("text"), str)]
    return "".join(texts) if len(texts) == len(parts) else None


def _vector(value: object) -> list[float] | None:
    """The value where it is a list of numbers; True and False are none."""
    if not isinstance(value, list) or not all(type(number) in (int, float) for number in value):
        return None
    try:
        return [float(number) for number in value]
    except OverflowError:  # a whole number of hundreds of digits
        return None


def _joined(texts: list[str]) -> str | None:
    return text_of("".join(texts))
