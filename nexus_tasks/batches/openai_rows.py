"""Rows of OpenAI's Batch API: each has its whole request.

    {"custom_id": "q-1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m", "messages": [...]}}

The body is taken as it is, but for ``stream`` and ``model``: answers come as streams, and a batch is answered by one
model. As in that API, all rows of a file are to name the same one. What can't be kept as one answer (``n``, several
inputs, probabilities of tokens, embeddings in base64) is set aside.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nexus_tasks.batches.asking import PATHS, check_schema, prefix_of, request
from nexus_tasks.batches.columns import Columns
from nexus_tasks.batches.formats import Fields, RawRow
from nexus_tasks.batches.items import CannotAsk, Request

COLUMNS = Columns(id="custom_id", prompt="body", messages="url", system="method", parameters=None)
"""What is no metadata."""
_FIRST_ROWS = 1000
_PROBABILITIES = ("logprobs", "top_logprobs", "n_probs")  # the last is llama-server's own
_ASKED = {PATHS["chat"]: "messages", PATHS["completion"]: "prompt", PATHS["embeddings"]: "input"}


def model_of(rows: Iterable[RawRow]) -> str | None:
    """The model that the first row asks for of which that can be told; None where none of the first does."""
    for _, (_, fields) in zip(range(_FIRST_ROWS), rows, strict=False):
        try:
            body = fields().get("body")
        except CannotAsk:
            continue
        if isinstance(body, dict) and isinstance(body.get("model"), str) and body["model"]:
            return str(body["model"])
    return None


def request_of(fields: Fields, model: str | None = None) -> Request:
    """The request of a row.

    Args:
        model: the one that all rows are to name; None lets them name any.

    Raises:
        CannotAsk: it lacks something, or asks for what can't be done.
    """
    body, path = fields.get("body"), fields.get("url")
    if not isinstance(fields.get("custom_id"), str) or not isinstance(body, dict):
        raise CannotAsk("malformed", "it must have a text as custom_id and an object as body")
    if fields.get("method") != "POST" or not isinstance(path, str) or path not in _ASKED:
        raise CannotAsk(
            "parameter", f"it asks for {fields.get('method')} {path}: POST {', '.join(_ASKED)} can be asked"
        )
    if model is not None and body.get("model", model) not in (model, None):
        other = f"{body['model']!r:.60}"
        message = f"it asks for the model {other}, and others for {model!r:.60}: make a file of each, or say --model"
        raise CannotAsk("parameter", message)
    _check(path, body)
    schema = _schema_of(body)
    rest = {name: value for name, value in body.items() if name not in ("model", "stream", "stream_options")}
    messages = body["messages"] if path == PATHS["chat"] else []
    return request(path, rest, schema=schema, prefix=prefix_of(messages))


def _check(path: str, body: dict[str, Any]) -> None:
    asked = body.get(_ASKED[path])
    if asked in (None, "", []):
        raise CannotAsk("no_prompt", f"its body has no {_ASKED[path]}")
    if path == PATHS["chat"] and not (isinstance(asked, list) and all(isinstance(each, dict) for each in asked)):
        raise CannotAsk("malformed", "its messages must be a list of objects")
    if path != PATHS["chat"] and isinstance(asked, list) and len(asked) > 1 and not isinstance(asked[0], int):
        raise CannotAsk("parameter", f"its {_ASKED[path]} has {len(asked)} entries: make a row of each")
    if body.get("n", 1) not in (1, None):
        raise CannotAsk("parameter", f"it asks for n = {body['n']!r:.20} answers: make a row of each")
    if unkept := next((name for name in _PROBABILITIES if body.get(name)), None):
        raise CannotAsk("parameter", f"it asks for {unkept}, and answers are kept without them: leave it out")
    form = body.get("encoding_format")
    if form not in ("float", None):
        raise CannotAsk("parameter", f"it asks for encoding_format {form!r:.20}, and numbers are kept: leave it out")


def _schema_of(body: dict[str, Any]) -> dict[str, Any] | bool | None:
    form = body.get("response_format")
    inner = form.get("json_schema") if isinstance(form, dict) and form.get("type") == "json_schema" else None
    schema = inner.get("schema") if isinstance(inner, dict) else None
    if schema is not None:
        if not isinstance(schema, dict | bool):
            raise CannotAsk("schema", "no JSON Schema: it must be an object")
        check_schema(schema)
    return schema
