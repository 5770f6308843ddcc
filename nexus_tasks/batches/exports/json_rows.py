"""Exports as JSON: an object a row, with the columns of the input in ``metadata`` and the tokens in ``usage``.

    {"id": "q-3", "line": 4, "metadata": {"topic": "sky"}, "answer": "...", "finish_reason": "stop", "usage": {...},
     "model": "qwen", "build": "b11434", "error": null}

``reasoning``, ``tool_calls``, ``embedding``, ``sample`` and ``valid`` are there where there is something to say.
"""

from __future__ import annotations

from typing import Any, BinaryIO

import msgspec

from nexus_tasks.batches.exports.rows import ExportRow
from nexus_tasks.batches.inputs import Input
from nexus_tasks.core import json_text

OPTIONAL = ("reasoning", "tool_calls", "embedding")


def as_object(row: ExportRow, samples: int = 1) -> dict[str, Any]:
    """A row as an object."""
    found: dict[str, Any] = {"id": row.id, "line": row.line}
    if samples > 1:
        found["sample"] = row.sample
    answer = row.answer
    found |= {"metadata": row.metadata, "answer": answer.text if answer else None}
    found |= {name: value for name in OPTIONAL if (value := getattr(answer, name, None)) is not None}
    found["finish_reason"] = answer.finish_reason if answer else None
    usage = row.usage
    counted = {
        "prompt_tokens": usage.prompt_tokens, "output_tokens": usage.output_tokens, "cached_tokens": usage.cached_tokens
    }  # fmt: skip
    found["usage"] = counted if answer else None
    if row.valid is not None:
        found |= {"valid": row.valid, "invalid_reason": row.invalid_reason}
    error = msgspec.to_builtins(row.error) if row.error else None
    return {**found, "model": row.model, "build": row.build, "error": error}


class JsonlSink:
    """An object a line."""

    def __init__(self, stream: BinaryIO, given: Input) -> None:
        self._stream, self._samples = stream, given.asking.samples

    def write(self, row: ExportRow) -> None:
        self._stream.write(json_text.encoded(as_object(row, self._samples)) + b"\n")

    def close(self) -> None:
        pass


class JsonSink:
    """One array of objects, a row a line."""

    def __init__(self, stream: BinaryIO, given: Input) -> None:
        self._stream, self._samples = stream, given.asking.samples
        self._between = b"[\n"

    def write(self, row: ExportRow) -> None:
        self._stream.write(self._between + json_text.encoded(as_object(row, self._samples)))
        self._between = b",\n"

    def close(self) -> None:
        self._stream.write(b"\n]\n")  # an input has a row at least
