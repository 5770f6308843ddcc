"""Requests that rows become."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from nexus_tasks.batches.asking import Asking
from nexus_tasks.batches.columns import Columns
from nexus_tasks.batches.items import KEY_BYTES, CannotAsk, Request, Row

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
TOOL = {"type": "function", "function": {"name": "weather"}}


def ask(fields: dict[str, Any], sample: int = 0, **asking: Any) -> Request:
    return Asking(**asking).request(Row(1, 1, "1", fields), sample)


def body(fields: dict[str, Any], sample: int = 0, **asking: Any) -> dict[str, Any]:
    decoded: dict[str, Any] = msgspec.json.decode(ask(fields, sample, **asking).body)
    return decoded


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


def test_a_chat_is_a_stream_that_tells_its_usage_and_names_no_model() -> None:
    request = ask({"prompt": "Why?"})
    assert (request.path, request.stream, len(request.key)) == ("/v1/chat/completions", True, KEY_BYTES)
    assert msgspec.json.decode(request.body) == {
        "messages": [user("Why?")],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_completions_and_embeddings_take_the_prompt_as_it_is() -> None:
    assert body({"prompt": "a\0 "}, api="completion")["prompt"] == "a\0 "
    request = ask({"prompt": "a"}, api="embeddings")
    assert (request.path, request.stream, request.body) == ("/v1/embeddings", False, b'{"input":"a"}')


@pytest.mark.parametrize(
    ("fields", "messages"),
    [
        ({"prompt": "a"}, [system("run"), user("a")]),
        ({"prompt": "a", "system": "row"}, [system("row"), user("a")]),
        ({"messages": [user("a")]}, [system("run"), user("a")]),
        ({"messages": [system("own"), user("a")], "system": "row"}, [system("own"), user("a")]),
        ({"messages": '[{"role": "user", "content": "a"}]', "prompt": ""}, [system("run"), user("a")]),
        ({"messages": [{**user("a"), "name": None}]}, [system("run"), user("a")]),
        (
            {"messages": [{"role": "assistant", "content": None, "tool_calls": [1]}]},
            [system("run"), {"role": "assistant", "content": None, "tool_calls": [1]}],
        ),
    ],
    ids=["run", "row", "messages", "own", "json", "nulls of a table", "calls"],
)
def test_the_system_prompt_is_the_nearest(fields: dict[str, Any], messages: list[dict[str, Any]]) -> None:
    assert body(fields, system="run")["messages"] == messages


def test_a_template_makes_the_prompt_of_columns() -> None:
    fields = {"prompt": "Hi", "to": "Danish", "messages": [user("b")]}
    assert body(fields, template="{{ prompt }} in {{ to }}")["messages"] == [user("Hi in Danish")]


def test_parameters_of_a_row_count_more_than_those_of_the_run() -> None:
    made = body({"prompt": "a", "parameters": {"max_tokens": 5}}, parameters={"max_tokens": 9, "top_k": 3})
    assert (made["max_tokens"], made["top_k"]) == (5, 3)


def test_samples_have_seeds_one_after_another() -> None:
    assert [body({"prompt": "a"}, sample, samples=2)["seed"] for sample in (0, 1)] == [0, 1]
    assert body({"prompt": "a"}, 1, samples=2, parameters={"seed": 7})["seed"] == 8
    assert body({"prompt": "a"}, 1, samples=2, parameters={"seed": 2**32 - 2})["seed"] == 0
    assert "seed" not in body({"prompt": "a"})


def test_a_schema_is_sent_as_each_api_has_it_and_kept_with_the_request() -> None:
    request = ask({"prompt": "a"}, parameters={"json_schema": SCHEMA})
    assert request.schema == SCHEMA
    assert msgspec.json.decode(request.body)["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
    }
    assert body({"prompt": "a"}, api="completion", parameters={"json_schema": SCHEMA})["json_schema"] == SCHEMA


@pytest.mark.parametrize(
    ("fields", "asking", "kind", "message"),
    [
        ({}, {}, "no_prompt", "it has no prompt and no messages"),
        ({"prompt": ""}, {"api": "completion"}, "no_prompt", "it has no prompt"),
        ({"prompt": None}, {"columns": Columns(prompt="q", messages=None)}, "no_prompt", "it has no q"),
        ({"messages": []}, {}, "no_prompt", "its messages is empty"),
        ({"prompt": 5}, {}, "malformed", "its prompt must be a text, not 5"),
        ({"prompt": "\ud800"}, {}, "malformed", "half a surrogate pair"),
        ({"prompt": "a", "system": 5}, {}, "malformed", "its system must be a text, not 5"),
        ({"messages": [{"content": "a"}]}, {}, "malformed", "a message must be an object with a role"),
        ({"messages": "{"}, {}, "malformed", "its messages is not JSON"),
        ({"prompt": "a", "messages": [user("b")]}, {}, "malformed", "it has both prompt and messages"),
        ({"a": "x"}, {"template": "{{ b }}"}, "template", "{{ b }} has no value"),
        ({"prompt": "a", "parameters": {"n": 5}}, {}, "parameter", "there is no parameter n"),
        ({"prompt": "a", "parameters": {"json_schema": {"type": "x"}}}, {}, "schema", "no JSON Schema: at $.type"),
        ({"prompt": "a"}, {"parameters": {"json_schema": {}, "grammar": "x"}}, "parameter", "exclude each other"),
        ({"prompt": "a"}, {"parameters": {"tools": [TOOL], "grammar": "x"}}, "parameter", "exclude each other"),
        ({"prompt": "a"}, {"api": "completion", "parameters": {"tools": [TOOL]}}, "parameter", "tools need --api chat"),
        ({"prompt": "a"}, {"api": "embeddings", "parameters": {"seed": 1}}, "parameter", "embeddings have no seed"),
    ],
    ids=str,
)
def test_a_row_that_cannot_be_asked_is_told_with_its_reason(
    fields: dict[str, Any], asking: dict[str, Any], kind: str, message: str
) -> None:
    with pytest.raises(CannotAsk) as unfit:
        ask(fields, **asking)
    assert unfit.value.misfit.kind == kind
    assert message in unfit.value.misfit.message


def test_requests_have_one_key_where_they_ask_the_same() -> None:
    key = ask({"prompt": "a", "topic": "x"}).key
    assert key == ask({"messages": [user("a")], "topic": "y"}).key
    assert key != ask({"prompt": "a"}, parameters={"seed": 1}).key
    assert ask({"prompt": "a"}, api="completion").key != ask({"prompt": "a"}, api="embeddings").key


def test_requests_share_a_prefix_where_they_begin_alike() -> None:
    assert ask({"prompt": "a"}).prefix is None
    shared = ask({"prompt": "a"}, system="S").prefix
    assert shared
    assert shared == ask({"messages": [system("S"), user("b")]}).prefix
    assert shared != ask({"prompt": "a", "system": "T"}, system="S").prefix
    first, second = ask({"x": "1"}, template="Long head {{ x }}"), ask({"x": "2"}, template="Long head {{ x }}")
    assert first.prefix == second.prefix != shared
    assert ask({"x": "1"}, template="{{ x }} tail").prefix is None


def test_a_request_of_more_than_64_mib_is_none_that_a_server_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nexus_tasks.batches.asking.MAX_ROW_BYTES", 1 << 20)
    ask({"prompt": "x" * 1_000_000})
    with pytest.raises(CannotAsk) as unfit:
        ask({"prompt": "x" * (1 << 20)})
    assert unfit.value.misfit.kind == "too_large"
