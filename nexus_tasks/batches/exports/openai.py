"""Exports as OpenAI's Batch API gives them: an output file of responses, and an error file.

    {"id": "batch_req_...", "custom_id": "q-3", "response": {"status_code": 200, "request_id": "...", "body": {...}},
     "error": null}

The body is rebuilt from the answer: a ``chat.completion``, a ``text_completion`` or a ``list`` of embeddings. Samples
of a row are the choices of one response.
"""

from __future__ import annotations

import hashlib
from typing import Any, BinaryIO

from nexus_tasks.batches.asking import PATHS
from nexus_tasks.batches.exports.rows import ExportRow
from nexus_tasks.core import json_text

_ID_LETTERS = 24


class Sink:
    """Responses to one stream and errors to another, which may be the same."""

    def __init__(self, output: BinaryIO, errors: BinaryIO, job: str) -> None:
        self._output, self._errors, self._job = output, errors, job
        self._row: list[ExportRow] = []

    def write(self, row: ExportRow) -> None:
        """Take a row; those of samples come one after the other."""
        if self._row and self._row[0].row != row.row:
            self._flush()
        self._row.append(row)

    def close(self) -> None:
        """Write what is held."""
        self._flush()

    def _flush(self) -> None:
        answered = [row for row in self._row if row.answer]
        if answered:
            self._output.write(json_text.encoded(self._line(answered[0], response=_body(answered))) + b"\n")
        for row in self._row:
            if row.error:
                error = {"code": row.error.kind, "message": row.error.message}
                self._errors.write(json_text.encoded(self._line(row, error=error)) + b"\n")
        self._row = []

    def _line(
        self, row: ExportRow, *, response: dict[str, Any] | None = None, error: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        request = _id(self._job, row)
        wrapped = {"status_code": 200, "request_id": request, "body": response} if response else None
        return {"id": f"batch_req_{request}", "custom_id": row.id, "response": wrapped, "error": error}


def _id(job: str, row: ExportRow) -> str:
    """An id that a row of a job has in each export."""
    return hashlib.blake2b(f"{job}\0{row.row}\0{row.id}".encode(errors="replace")).hexdigest()[:_ID_LETTERS]


def _body(rows: list[ExportRow]) -> dict[str, Any]:
    """The response to a request, from the samples that were answered; there is one at least."""
    first = rows[0]
    created, usage = int(first.at or 0), _usage(rows)
    if first.path == PATHS["embeddings"]:
        data = [
            {"object": "embedding", "index": place, "embedding": row.answer.embedding if row.answer else None}
            for place, row in enumerate(rows)
        ]
        return {"object": "list", "data": data, "model": first.model, "usage": usage}
    chat = first.path == PATHS["chat"]
    return {
        "id": f"{'chatcmpl' if chat else 'cmpl'}-{first.row}",
        "object": "chat.completion" if chat else "text_completion",
        "created": created,
        "model": first.model,
        "system_fingerprint": first.build,
        "choices": [_chat_choice(row) if chat else _text_choice(row) for row in rows],
        "usage": usage,
    }


def _chat_choice(row: ExportRow) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": row.answer.text if row.answer else None}
    if row.answer and row.answer.reasoning is not None:
        message["reasoning_content"] = row.answer.reasoning
    if row.answer and row.answer.tool_calls is not None:
        message["tool_calls"] = row.answer.tool_calls
    return {**_choice(row), "message": message}


def _text_choice(row: ExportRow) -> dict[str, Any]:
    return {**_choice(row), "text": row.answer.text if row.answer else None}


def _choice(row: ExportRow) -> dict[str, Any]:
    return {"index": row.sample, "logprobs": None, "finish_reason": row.answer.finish_reason if row.answer else None}


def _usage(rows: list[ExportRow]) -> dict[str, Any]:
    prompt = sum(row.usage.prompt_tokens or 0 for row in rows)
    output = sum(row.usage.output_tokens or 0 for row in rows)
    counted: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}
    cached = [row.usage.cached_tokens for row in rows if row.usage.cached_tokens is not None]
    return counted | ({"prompt_tokens_details": {"cached_tokens": sum(cached)}} if cached else {})
