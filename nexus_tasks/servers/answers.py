"""Answers of servers in JSON, read by these functions alone, whatever a server wrote.

document = answers.json_of(body)
answers.error_in(document)          # the server's words, where it is no answer but an error
"""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec

from nexus_tasks.hostlib import masking
from nexus_tasks.hostlib.terminal_text import plain

EXCERPT = 300
"""The most of an unexpected answer that goes into a message, in characters."""
_KEPT = 16 * EXCERPT
"""The most that is taken of one: keys in it are masked before the rest is cut off, by :func:`shown`."""
MAX_ERROR_BYTES = 1 << 20
MAX_DOCUMENT_BYTES = 64 << 20
"""The largest body of an error, and of any other answer that is no stream."""
_NUMBERS = (int, float)
_LARGEST = 2**53
_SMALLEST = 1e-9
_ANSWERS = ("choices", "content", "delta", "data", "results", "usage", "id_slot", "tokens_predicted")
"""A message that has one of these is an answer, whatever else it has, but for an ``error``."""


def json_of(text: bytes | str) -> Any:
    """The value that a JSON text is. Numbers are finite: what is none, such as ``NaN`` and ``1e999``, is None.

    Texts may hold half a surrogate pair, as some servers cut a letter in two: :func:`text_of` mends it.

    Raises:
        ValueError: it is no JSON.
    """
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        pass  # msgspec is strict and fast; below is what Python's own servers write
    if isinstance(text, bytes):
        text = text.decode("utf-8-sig", errors="replace")
    try:
        return json.loads(text, parse_float=_finite, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def object_of(value: object) -> dict[str, Any]:
    """The value where it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def text_of(value: object) -> str | None:
    """The value where it is a text; halves of surrogate pairs are put together, and replaced where they are alone."""
    if not isinstance(value, str):
        return None
    return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def name_of(value: object) -> str | None:
    """The value where it is a text, in one line that a terminal shows as it is: names of models, builds, reasons."""
    text = text_of(value)
    return None if text is None else " ".join(plain(text).split())


def count_of(value: object) -> int | None:
    """The value where it is a number of things: whole, not negative, and such as a machine can count."""
    number = number_of(value)
    return None if number is None or number > _LARGEST or number != int(number) else int(number)


def number_of(value: object) -> float | None:
    """The value where it is a quantity: finite, not negative, and of a size that can be reckoned with."""
    if isinstance(value, bool) or not isinstance(value, _NUMBERS) or not 0 <= value <= _LARGEST:
        return None
    return value if value >= _SMALLEST else 0


def numbers_in(value: object) -> dict[str, float] | None:
    """The quantities in an object; None where it holds none."""
    if not isinstance(value, dict):
        return None
    return {key: number for key, entry in value.items() if (number := number_of(entry)) is not None} or None


def error_in(value: object) -> str | None:
    """The server's words where a document or a message tells of an error instead of answering, else None.

    Servers have many forms of it: ``error`` (OpenAI), ``object: error`` (vLLM), ``detail`` (FastAPI), ``error_code``
    (FastChat), ``errors``, ``type: error``, and a ``message`` beside a ``code`` or ``status``.
    """
    if not isinstance(value, dict):
        return None
    if value.get("error"):
        return words(value["error"])
    if "error" in (value.get("object"), value.get("type")) or value.get("error_code") or value.get("errors"):
        return words(value)
    told = value.get("detail")
    if not told and any(key in value for key in ("code", "status", "statusCode")):
        told = value.get("message")
    if told and all(value.get(key) is None for key in _ANSWERS):
        return words(value)
    return None


def words(error: object) -> str:
    """The text in an error, or the beginning of whatever it is, in one line."""
    text: object = error
    while isinstance(text, (dict, list)) and text:
        inner = text[0] if isinstance(text, list) else None
        if isinstance(text, dict):
            keys = ("message", "detail", "msg", "error", "errors", "text", "reason")
            inner = next((text[key] for key in keys if text.get(key)), None)
        if not isinstance(inner, (str, dict, list)) or not inner:
            break
        text = inner
    shown = text if isinstance(text, str) else json.dumps(text, ensure_ascii=False, default=str)
    return _line(text_of(shown) or "")


def excerpt(answer: bytes) -> str:
    """The message in an error answer, or the beginning of whatever else it is."""
    try:
        document = json_of(answer)
    except ValueError:
        document = None
    text = error_in(document)
    if text is None and isinstance(document, dict) and not any(key in document for key in _ANSWERS):
        text = words(document)
    if text is None:
        text = _line(answer[: 4 * _KEPT].decode("utf-8", errors="replace"))
    return text or "an empty answer"


def _line(text: str) -> str:
    return " ".join(plain(text).split())[:_KEPT]


def shown(message: str, api_key: str | None) -> str:
    """A message with words of a server's, as people and records get it: without the key, which some servers repeat."""
    return masking.excerpt(message, EXCERPT, api_key)
