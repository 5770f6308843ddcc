"""The messages of llama-server's ``/completion`` and of the OpenAI API: which token arrived when.

A million tokens are read in a few seconds: messages that only bring tokens are decoded many at once (``bulk``), and
whatever is anything else one by one (``read``). Both give the same reading.
"""

from __future__ import annotations

from typing import Any, cast

import msgspec

from nexus_tasks.load.event_stream import Event
from nexus_tasks.load.reading import Reading, StreamError

ANSWER_EXCERPT = 300
"""The most of an unexpected answer that goes into an error message, in characters."""


class Messages:
    """The messages of one answer. Nothing counts after the one that ends it or tells of a failure."""

    def __init__(self, *, keep_text: bool = False) -> None:
        self.reading = Reading()
        self._keep_text = keep_text
        self._texts: list[str] = []

    def text(self) -> str:
        """The text so far, without reasoning."""
        return "".join(self._texts)

    def bulk(self, lines: list[bytes], times: list[float]) -> bool:
        """Read messages that only bring tokens; False, and nothing done, where one of them is anything else."""
        raise NotImplementedError

    def read(self, event: Event) -> None:
        """Read any message."""
        reading = self.reading
        if reading.failure or reading.end is not None or self._ended():
            return
        if event.data == "[DONE]":
            self.done(event.time)
            return
        try:
            message = msgspec.json.decode(event.data)
        except (msgspec.DecodeError, UnicodeError):
            message = None
        if not isinstance(message, dict) or not message:
            shown = excerpt(event.data.encode("utf-8", errors="replace"))
            reading.failure = StreamError("protocol", f"not a JSON object: {shown}")
        elif message.get("error"):
            reading.failure = StreamError("in_stream", error_text(message["error"]))
        else:
            reading.backend = reading.backend or _text(message.get("system_fingerprint"))
            self.message(event.time, message)

    def _ended(self) -> bool:
        return False

    def done(self, moment: float) -> None:
        raise NotImplementedError

    def message(self, moment: float, message: dict[str, Any]) -> None:
        raise NotImplementedError


class _CompletionToken(msgspec.Struct, gc=False):
    """A message that brings one token. What says more has fields that must be null here, and is read exactly."""

    tokens_predicted: int
    stop: bool = False
    content: str = ""
    error: None = None


class CompletionMessages(Messages):
    """llama-server's own ``/completion``: it ends with a message whose ``stop`` is true."""

    _decoder = msgspec.json.Decoder(_CompletionToken)
    _done = False

    def bulk(self, lines: list[bytes], times: list[float]) -> bool:
        if not lines or self._done or self.reading.failure or self.reading.end is not None:
            return True
        try:
            tokens = self._decoder.decode_lines(b"\n".join(lines))
        except (msgspec.DecodeError, UnicodeDecodeError):
            return False
        known = len(self.reading.tokens)
        predicted = [token.tokens_predicted for token in tokens]
        if predicted != list(range(known + 1, known + 1 + len(lines))):
            return False
        if any([token.stop for token in tokens]):  # noqa: C419 - a list is twice as fast
            return False
        self.reading.tokens.extend(times)
        if self.reading.visible is None:
            self.reading.visible = times[0]
        if self._keep_text:
            self._texts.extend([token.content for token in tokens])
        return True

    def _ended(self) -> bool:
        return self._done

    def done(self, moment: float) -> None:
        self._done = True  # without the last message it is no end

    def message(self, moment: float, message: dict[str, Any]) -> None:
        reading = self.reading
        if self._keep_text:
            self._texts.append(_text(message.get("content")) or "")
        if message.get("stop") is True:
            reading.end = moment
            reading.finish_reason = _text(message.get("stop_type"))
            reading.timings = _numbers(message.get("timings"))
            reading.prompt_tokens = _count(message.get("tokens_evaluated"))
            reading.output_tokens = _count(message.get("tokens_predicted"))
            reading.cached_tokens = _count((reading.timings or {}).get("cache_n"))
            return
        # tokens_predicted counts tokens that were held back as well (half a character, a possible stop word):
        # they arrive with this event. Events before the first token carry none (prompt progress).
        predicted = _count(message.get("tokens_predicted"))
        new = 1 if predicted is None else predicted - len(reading.tokens)
        if new > 0:
            reading.tokens.extend([moment] * new)
            if reading.visible is None:
                reading.visible = moment


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: None = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta
    index: int = 0
    finish_reason: None = None
    text: None = None


class _Chunk(msgspec.Struct, gc=False):
    choices: tuple[_Choice]
    error: None = None
    usage: None = None
    timings: None = None


class OpenAIMessages(Messages):
    """``/v1/completions`` and ``/v1/chat/completions``: they end with ``[DONE]``.

    The protocol does not say how many tokens a chunk holds: each chunk with text counts as one here, and
    ``output_tokens`` comes from ``usage``. llama-server adds its ``timings``.
    """

    _decoder = msgspec.json.Decoder(_Chunk)
    _first = True

    def bulk(self, lines: list[bytes], times: list[float]) -> bool:
        reading = self.reading
        if not lines or reading.failure or reading.end is not None:
            return True
        try:
            chunks = self._decoder.decode_lines(b"\n".join(lines))
        except (msgspec.DecodeError, UnicodeDecodeError):
            return False
        if len(chunks) != len(lines):
            return False
        visible: list[float] = []
        arrivals: list[float] = []
        texts: list[str] = []
        reasoning = 0
        for moment, chunk in zip(times, chunks, strict=True):
            delta = chunk.choices[0].delta
            if delta.content:
                visible.append(moment)
                arrivals.append(moment)
                texts.append(delta.content)
            elif delta.reasoning_content or delta.reasoning:
                arrivals.append(moment)
                reasoning += 1
        reading.tokens.extend(arrivals)
        reading.reasoning_tokens += reasoning
        if visible and reading.visible is None:
            reading.visible = visible[0]
        if self._keep_text:
            self._texts.extend(texts)
        if self._first:
            self._first = False
            reading.backend = _text(msgspec.json.decode(lines[0]).get("system_fingerprint"))
        return True

    def done(self, moment: float) -> None:
        self.reading.end = moment

    def message(self, moment: float, message: dict[str, Any]) -> None:
        reading = self.reading
        choices = message.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, dict):
                continue
            delta = _object(choice.get("delta")) or choice
            # Reasoning and tool calls are tokens as well; the first chunk of a chat only names the role.
            visible = any(delta.get(key) for key in ("content", "tool_calls", "text"))
            reasoned = any(delta.get(key) for key in ("reasoning_content", "reasoning"))
            if visible or reasoned:
                reading.tokens.append(moment)
            if visible:
                reading.visible = moment if reading.visible is None else reading.visible
                if self._keep_text:
                    self._texts.append(_text(delta.get("content")) or _text(delta.get("text")) or "")
            elif reasoned:
                reading.reasoning_tokens += 1
            reading.finish_reason = _text(choice.get("finish_reason")) or reading.finish_reason
        read_usage(message, reading)


def read_usage(message: dict[str, Any], reading: Reading) -> None:
    """Take the numbers of tokens, and the timings of llama-server, where a message has them."""
    usage = _object(message.get("usage"))
    if usage is not None:
        reading.prompt_tokens = _count(usage.get("prompt_tokens"))
        reading.output_tokens = _count(usage.get("completion_tokens"))
        cached = _count((_object(usage.get("prompt_tokens_details")) or {}).get("cached_tokens"))
        reading.cached_tokens = cached if cached is not None else reading.cached_tokens
    timings = _numbers(message.get("timings"))
    if timings is not None:
        reading.timings = timings
        cached = _count(timings.get("cache_n"))
        reading.cached_tokens = cached if cached is not None else reading.cached_tokens


def error_text(error: object) -> str:
    """The text of an ``error`` object, or what came in place of one."""
    text = error.get("message") if isinstance(error, dict) else error
    return str(text or error)[:ANSWER_EXCERPT]


def excerpt(answer: bytes) -> str:
    """The message in an error answer, or the beginning of whatever else it is."""
    text = answer.decode("utf-8", errors="replace")
    try:
        error = msgspec.json.decode(text)["error"]
        text = error["message"] if isinstance(error, dict) else str(error)
    except (ValueError, KeyError, TypeError):
        pass
    text = " ".join(str(text).split())
    return text[:ANSWER_EXCERPT] or "an empty answer"


def _object(value: object) -> dict[str, Any] | None:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def _numbers(value: object) -> dict[str, float] | None:
    """The numbers in an object; None where it holds none."""
    numbers = {key: number for key, number in (_object(value) or {}).items() if type(number) in (int, float)}
    return numbers or None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
