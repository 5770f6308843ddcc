"""The messages of llama-server's ``/completion`` and of the OpenAI API: which token arrived when.

A million tokens are read in a few seconds: messages that only bring tokens are decoded many at once (``bulk``), and
whatever is anything else one by one (``read``). Both give the same reading.
"""

from __future__ import annotations

import itertools
from typing import Any

import msgspec

from nexus_tasks.load.event_stream import Event
from nexus_tasks.load.reading import Reading, StreamError
from nexus_tasks.servers.answers import count_of, error_in, json_of, name_of, numbers_in, object_of, text_of, words

BROKEN_OFF = (
    "error", "abort", "aborted", "cancel", "cancelled", "canceled", "timeout", "insufficient_system_resource",
    "network_error", "model_error", "server_error", "other_error",
)  # fmt: skip
"""Finish reasons by which servers say that an answer failed."""
MAX_TOKENS_AT_ONCE = 1_000_000


class Messages:
    """The messages of one answer. Nothing counts after the one that ends it or tells of a failure."""

    def __init__(self, *, keep_text: bool = False) -> None:
        self.reading = Reading()
        self._keep_text = keep_text
        self._texts: list[str] = []
        self._idle_message: dict[str, Any] | None = None
        """The last message that brought nothing, for the case that none does."""

    def text(self) -> str:
        """The text so far, without reasoning."""
        return text_of("".join(self._texts)) or ""

    def bulk(self, lines: list[bytes], times: list[float]) -> bool:
        """Read messages that only bring tokens; False, and nothing done, where one of them is anything else."""
        raise NotImplementedError

    def read(self, event: Event) -> None:
        """Read any message."""
        reading = self.reading
        if reading.failure or reading.end is not None or self._ended() or not event.data.strip():
            return  # servers keep connections alive by events without data
        if event.data.strip() == "[DONE]":
            self.done(event.time)
            return
        try:
            message = json_of(event.data)
        except ValueError:
            message = None
        told = error_in(message)
        if told is None and event.type == "error":
            told = words(event.data if message is None else message)
        if told is not None:
            reading.failure = StreamError("in_stream", told)
        elif not isinstance(message, dict) or not message:
            reading.failure = StreamError("protocol", f"not a JSON object: {words(event.data)}")
        else:
            reading.backend = reading.backend or name_of(message.get("system_fingerprint"))
            self.message(event.time, message)

    def finish(self, *, complete: bool) -> None:
        """Take the end of the stream; ``complete`` where it was the answer's own."""

    def _tokens(self, moment: float, number: int) -> bool:
        """Note that so many tokens arrived; False where there can't be as many."""
        if number > MAX_TOKENS_AT_ONCE:
            self.reading.failure = StreamError("protocol", f"{number} tokens are said to have come at once")
            return False
        self.reading.tokens.extend([moment] * number)
        return True

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
            self._texts.append(text_of(message.get("content")) or "")
        if message.get("stop") is True:
            reading.end = moment
            reading.finish_reason = name_of(message.get("stop_type"))
            reading.timings = numbers_in(message.get("timings"))
            reading.prompt_tokens = count_of(message.get("tokens_evaluated"))
            reading.output_tokens = count_of(message.get("tokens_predicted"))
            reading.cached_tokens = count_of((reading.timings or {}).get("cache_n"))
            return
        # tokens_predicted counts tokens that were held back as well (half a character, a possible stop word):
        # they arrive with this event. Events before the first token carry none (prompt progress).
        predicted = count_of(message.get("tokens_predicted"))
        new = 1 if predicted is None else predicted - len(reading.tokens)
        if new > 0 and self._tokens(moment, new) and reading.visible is None:
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
    _last = 0.0
    """The arrival of the last message."""

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
        deltas = [chunk.choices[0].delta for chunk in chunks]
        texts = [delta.content for delta in deltas]
        visible = list(itertools.compress(times, texts))
        said = [delta.content or delta.reasoning_content or delta.reasoning for delta in deltas]
        known = len(reading.tokens)
        reading.tokens.extend(itertools.compress(times, said))
        reading.reasoning_tokens += len(reading.tokens) - known - len(visible)
        if visible and reading.visible is None:
            reading.visible = visible[0]
        if self._keep_text:
            self._texts.extend(filter(None, texts))
        if self._first:
            self._first = False
            if b'"system_fingerprint"' in lines[0]:
                reading.backend = name_of(object_of(json_of(lines[0])).get("system_fingerprint"))
        return True

    def done(self, moment: float) -> None:
        self._last = moment
        self._end()

    def finish(self, *, complete: bool) -> None:
        # Not every server says [DONE]; with the reason and the number of tokens, nothing is missing.
        reading = self.reading
        whole = reading.finish_reason is not None and reading.output_tokens is not None
        if complete and reading.end is None and reading.failure is None and (whole or self._is_empty()):
            self._end()

    def _end(self) -> None:
        reading = self.reading
        visible, reasoned = len(reading.tokens) - reading.reasoning_tokens, reading.reasoning_tokens
        if reasoned and reading.output_tokens is not None and reading.output_tokens <= 1.1 * visible + 1:
            reading.output_tokens += reasoned  # the server counts what can be read only
        if self._is_empty():
            told = f": {words(self._idle_message)}" if self._idle_message else ""
            message = f"the stream ended without a token, a finish reason or usage{told}"
            self.reading.failure = StreamError("protocol", message)
        else:
            self.reading.end = self._last

    def _is_empty(self) -> bool:
        reading = self.reading
        return not reading.tokens and reading.finish_reason is None and not reading.output_tokens

    def message(self, moment: float, message: dict[str, Any]) -> None:
        reading = self.reading
        self._last = moment
        choices = message.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, dict):
                continue
            delta = object_of(choice.get("delta")) or choice
            # Reasoning and tool calls are tokens as well; the first chunk of a chat only names the role.
            visible = delta.get("content") or delta.get("tool_calls") or delta.get("text")
            reasoned = delta.get("reasoning_content") or delta.get("reasoning")
            if visible or reasoned:
                # Servers that count with every chunk say how many tokens it brings.
                counted = count_of(object_of(message.get("usage")).get("completion_tokens"))
                self._tokens(moment, max((counted or 0) - len(reading.tokens), 1))
            if visible:
                reading.visible = moment if reading.visible is None else reading.visible
                if self._keep_text:
                    self._texts.append(_str(delta.get("content")) or _str(delta.get("text")))
            elif reasoned:
                reading.reasoning_tokens += 1
            reason = name_of(choice.get("finish_reason"))
            if reason and reason.casefold() in BROKEN_OFF:
                reading.failure = StreamError("in_stream", f"the server broke the answer off: {reason}")
            reading.finish_reason = reason or reading.finish_reason
        read_usage(message, reading)
        if self._is_empty():
            self._idle_message = message


def read_usage(message: dict[str, Any], reading: Reading) -> None:
    """Take the numbers of tokens, and the timings of llama-server, where a message has them."""
    usage = message.get("usage")
    if isinstance(usage, dict):
        reading.prompt_tokens = count_of(usage.get("prompt_tokens"))
        reading.output_tokens = _generated(usage, reading.prompt_tokens)
        cached = count_of(object_of(usage.get("prompt_tokens_details")).get("cached_tokens"))
        reading.cached_tokens = cached if cached is not None else reading.cached_tokens
    timings = numbers_in(message.get("timings"))
    if timings is not None:
        reading.timings = timings
        cached = count_of(timings.get("cache_n"))
        reading.cached_tokens = cached if cached is not None else reading.cached_tokens


def _generated(usage: dict[str, Any], prompt: int | None) -> int | None:
    """The tokens that were generated. Some servers count those of reasoning beside ``completion_tokens``."""
    tokens = count_of(usage.get("completion_tokens"))
    if tokens is None:
        return None
    reasoning = count_of(object_of(usage.get("completion_tokens_details")).get("reasoning_tokens")) or 0
    total = count_of(usage.get("total_tokens"))
    if reasoning > tokens:
        return tokens + reasoning
    return tokens if total is None or prompt is None else max(tokens, total - prompt)


def _str(value: object) -> str:
    """The text of a message, whose halves of letters are put together at the end."""
    return value if isinstance(value, str) else ""
