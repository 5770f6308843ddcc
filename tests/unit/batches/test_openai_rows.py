"""Rows of OpenAI's Batch API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from nexus_tasks.batches import inputs, openai_rows, sources
from nexus_tasks.batches.inputs import Input
from nexus_tasks.batches.items import CannotAsk

CHAT, SCHEMA = "/v1/chat/completions", {"type": "object"}
MESSAGES = [{"role": "system", "content": "S"}, {"role": "user", "content": "Why?"}]


def row(body: Any = None, **fields: Any) -> dict[str, Any]:
    return {"custom_id": "q-1", "method": "POST", "url": CHAT, "body": body or {"messages": MESSAGES}, **fields}


def form(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}


def test_the_body_is_taken_as_it_is_but_for_the_stream_and_the_model() -> None:
    answer = form(SCHEMA)
    body = {"messages": MESSAGES, "model": "m", "logit_bias": {"1": 2}, "stream": False, "response_format": answer}
    request = openai_rows.request_of(row(body))
    assert msgspec.json.decode(request.body) == {
        "messages": MESSAGES, "logit_bias": {"1": 2}, "response_format": answer, "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    assert (request.path, request.schema, request.stream) == (CHAT, SCHEMA, True)
    assert request.prefix
    # Whatever model a row names, the target's answers.
    assert openai_rows.request_of(row({**body, "model": "n"})).key == request.key


def test_the_address_says_what_is_asked() -> None:
    embeddings = openai_rows.request_of(row({"input": ["a"], "stream": True}, url="/v1/embeddings"))
    assert (embeddings.path, embeddings.body, embeddings.stream) == ("/v1/embeddings", b'{"input":["a"]}', False)
    as_numbers = row({"input": "a", "encoding_format": "float"}, url="/v1/embeddings")
    assert openai_rows.request_of(as_numbers).path == "/v1/embeddings"
    assert (
        openai_rows.request_of(row({"prompt": "a", "logprobs": None}, url="/v1/completions")).path == "/v1/completions"
    )
    assert openai_rows.request_of(row({"prompt": [1, 2]}, url="/v1/completions")).stream


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        (row(url="/v1/images"), "parameter", "it asks for POST /v1/images"),
        (row(method="GET"), "parameter", "it asks for GET /v1/chat"),
        (row(url=["x"]), "parameter", "it asks for POST ['x']"),
        (row(custom_id=5), "malformed", "a text as custom_id"),
        (row(body=[1]), "malformed", "an object as body"),
        (row({"messages": []}), "no_prompt", "its body has no messages"),
        (row({"messages": "hi"}), "malformed", "its messages must be a list of objects"),
        (row({"messages": MESSAGES, "n": 3}), "parameter", "it asks for n = 3 answers"),
        (row({"messages": MESSAGES, "logprobs": True}), "parameter", "it asks for logprobs"),
        (row({"prompt": "a", "n_probs": 2}, url="/v1/completions"), "parameter", "it asks for n_probs"),
        (row({"input": ["a", "b"]}, url="/v1/embeddings"), "parameter", "its input has 2 entries"),
        (row({"prompt": [{"prompt_string": "a"}] * 2}, url="/v1/completions"), "parameter", "its prompt has 2 entries"),
        (
            row({"input": "a", "encoding_format": "base64"}, url="/v1/embeddings"),
            "parameter",
            "encoding_format 'base64'",
        ),
        (row({"messages": MESSAGES, "response_format": form(5)}), "schema", "it must be an object"),
        (row({"messages": MESSAGES, "response_format": form({"type": 1})}), "schema", "at $.type"),
    ],
    ids=lambda value: value if isinstance(value, str) else "row",
)
def test_a_row_that_cannot_be_asked_is_told_with_its_reason(fields: dict[str, Any], kind: str, message: str) -> None:
    with pytest.raises(CannotAsk) as unfit:
        openai_rows.request_of(fields)
    assert unfit.value.misfit.kind == kind
    assert message in unfit.value.misfit.message


def test_rows_of_a_file_are_known_by_their_custom_ids_and_what_else_they_have_is_metadata(tmp_path: Path) -> None:
    path = tmp_path / "batch.jsonl"
    rows = [row(topic="sky"), row(custom_id="q-2", url="/v1/images"), {"prompt": "a"}]
    path.write_bytes(b"\n".join(map(msgspec.json.encode, rows)))
    given = Input(sources.find(path))
    first, second, third = inputs.items(given)
    assert (first.row.id, second.row.id, third.row.id) == ("q-1", "q-2", "3")
    assert given.columns.metadata(first.row.fields) == {"topic": "sky"}
    assert first.request
    assert second.misfit
    assert third.misfit
