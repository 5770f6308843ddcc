"""What the requests of made-up prompts say."""

from __future__ import annotations

import dataclasses
import itertools
import json
import pickle
import re

import httpx
import pytest

from nexus_tasks.workloads import sizes, sources, stock, workload
from nexus_tasks.workloads.workload import Spec
from tests.workload_items import LLAMA, OTHER, SMALL, content, items, nobody, said


def test_other_servers_are_asked_by_the_openai_api_with_text_of_about_the_length() -> None:
    (item,) = items(dataclasses.replace(SMALL, temperature=0.5), count=1)
    (request,) = item.requests
    assert (request.path, request.stream) == ("/api/v3/chat/completions", True)
    assert (request.prompt_tokens, request.output_tokens, request.exact_output) == (None, 8, False)
    body = said(request)
    (message,) = body.pop("messages")
    assert message["role"] == "user"
    assert len(message["content"].split()) == stock.words_of_about(64)
    assert body == {
        "model": "big",
        "max_tokens": 8,
        "temperature": 0.5,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_text_completions_of_other_servers_take_a_text() -> None:
    (item,) = items(dataclasses.replace(SMALL, api="completion"), count=1)
    assert item.requests[0].path == "/api/v3/completions"
    assert len(said(item.requests[0])["prompt"].split()) == stock.words_of_about(64)


def limits(spec: Spec, *, stage: int = 0) -> list[tuple[int, int | None]]:
    return [(len(content(item).split()), item.requests[0].output_tokens) for item in items(spec, count=50, stage=stage)]


def test_lengths_are_the_same_in_each_run_and_stage_and_contents_are_not() -> None:
    spec = Spec(prompt_tokens=sizes.uniform(20, 2000), output_tokens=sizes.uniform(1, 99))
    assert limits(spec) == limits(spec) == limits(spec, stage=1)
    assert len(set(limits(spec))) > 40
    assert limits(spec) != limits(dataclasses.replace(spec, seed=1))
    assert [content(item) for item in items(spec)] != [content(item) for item in items(spec)]


def test_a_seed_makes_contents_the_same_in_each_run_but_not_in_each_stage() -> None:
    spec = dataclasses.replace(SMALL, seed=5)
    assert items(spec) == items(spec)
    assert [item.key for item in items(spec)] == ["0", "1", "2"]
    assert items(spec) != items(spec, stage=1)
    assert items(spec) != items(dataclasses.replace(spec, seed=6))
    assert [item.key for item in items(SMALL)] == [None, None, None]


def test_all_prompts_differ_unless_the_same_is_asked_for() -> None:
    assert len({content(item) for item in items(SMALL, count=500)}) == 500
    assert len({content(item) for item in items(dataclasses.replace(SMALL, prompts="same"), count=500)}) == 1


def test_a_shared_prefix_is_the_same_in_all_stages_and_what_follows_is_not() -> None:
    spec = dataclasses.replace(SMALL, kind="shared-prefix", prefix_tokens=1000)
    with httpx.Client(transport=httpx.MockTransport(nobody)) as client:
        source = sources.prepare(client, OTHER, workload.settle(spec, OTHER))
    texts = [content(item).split() for stage in (0, 1) for item in itertools.islice(source.items(stage=stage), 50)]
    shared = stock.words_of_about(1000)
    assert len({tuple(text[:shared]) for text in texts}) == 1
    assert len({tuple(text[shared:]) for text in texts}) == 100
    assert {len(text) - shared for text in texts} == {stock.words_of_about(64)}


def test_a_shared_prefix_is_new_in_each_run_unless_a_seed_is_given() -> None:
    def first_words(spec: Spec) -> str:
        return " ".join(content(items(spec, count=1)[0]).split()[:100])

    spec = dataclasses.replace(SMALL, kind="shared-prefix", prefix_tokens=1000)
    assert first_words(spec) != first_words(spec)
    assert first_words(dataclasses.replace(spec, seed=3)) == first_words(dataclasses.replace(spec, seed=3))


def test_a_stage_of_context_scaling_has_the_length_it_is_given() -> None:
    spec = Spec(kind="context", lengths=(100, 1000), output_tokens=sizes.fixed(8))
    assert {len(content(item).split()) for item in items(spec, length=1000)} == {stock.words_of_about(1000)}
    with pytest.raises(ValueError, match="has a length"):
        items(spec)


def test_a_conversation_grows_by_the_answers_that_came() -> None:
    (item,) = items(dataclasses.replace(SMALL, kind="conversations", turns=3), count=1)
    first, second, third = pickle.loads(pickle.dumps(item.requests))  # noqa: S301 - what was just written
    hard = 'line\n"quoted" \\ é \x00'
    assert [message["role"] for message in said(first)["messages"]] == ["user"]
    two = said(second, [hard])["messages"]
    assert [message["role"] for message in two] == ["user", "assistant", "user"]
    assert two[0] == said(first)["messages"][0]
    assert two[1]["content"] == hard
    three = said(third, [hard, "B"])
    assert three["messages"][:3] == two
    assert [message["content"] for message in three["messages"][3::2]] == ["B"]
    assert {key: three[key] for key in three if key != "messages"} == {
        key: value for key, value in said(first).items() if key != "messages"
    }


def test_further_messages_make_room_for_what_the_template_adds_to_a_turn() -> None:
    def llama_server(request: httpx.Request) -> httpx.Response:
        asked = json.loads(request.content)
        if request.url.path == "/tokenize":
            words = re.findall(r" ?[a-z]+|[^a-z]", asked["content"])
            return httpx.Response(200, json={"tokens": [sum(word.encode()) for word in words]})
        turns = "".join(f"<{each['content']}>" for each in asked["messages"])
        return httpx.Response(200, json={"prompt": "be kind and brief" + turns})

    spec = dataclasses.replace(SMALL, kind="conversations", turns=3)
    with httpx.Client(transport=httpx.MockTransport(llama_server), base_url=LLAMA.base_url) as client:
        item = next(sources.prepare(client, LLAMA, workload.settle(spec, LLAMA)).items())
    messages = said(item.requests[2], ["A", "B"])["messages"]
    # Four words and two signs come with the first message, four signs with each further answer and question.
    assert [len(message["content"].split()) for message in messages[::2]] == [64 - 6, 64 - 4, 64 - 4]
    assert [request.prompt_tokens for request in item.requests] == [64, None, None]


def test_a_turn_with_an_answer_too_few_is_not_written() -> None:
    (item,) = items(dataclasses.replace(SMALL, kind="conversations", turns=3), count=1)
    with pytest.raises(ValueError, match="shorter"):
        said(item.requests[2], ["A"])


def test_documents_and_their_query_are_written_for_each_ranking() -> None:
    spec = Spec(kind="rerank", prompt_tokens=sizes.uniform(100, 900), documents=4)
    one, two, _ = items(spec)
    (request,) = one.requests
    assert (request.path, request.stream, request.output_tokens) == ("/api/v3/rerank", False, None)
    body = said(request)
    assert set(body) == {"model", "query", "documents"}
    assert len({len(text.split()) for text in body["documents"]}) == 4
    assert said(two.requests[0])["query"] != body["query"]
