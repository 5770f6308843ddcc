"""The tiny model in a real llama-server: what a benchmark relies on."""

from __future__ import annotations

import json
import string
from typing import Any

import httpx

from nexus_tasks.model_store import tiny_model
from tests.conftest import RunningServer


def stream(server: RunningServer, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of a streamed answer, without the closing [DONE]."""
    with httpx.stream("POST", server.base_url + path, json={**body, "stream": True}, timeout=60) as response:
        response.raise_for_status()
        return [
            json.loads(line.removeprefix("data: "))
            for line in response.iter_lines()
            if line.startswith("data: ") and line != "data: [DONE]"
        ]


def post(server: RunningServer, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The JSON answer to a request."""
    response = httpx.post(server.base_url + path, json=body, timeout=60)
    response.raise_for_status()
    answer: dict[str, Any] = response.json()
    return answer


def contents(events: list[dict[str, Any]]) -> list[str]:
    """The pieces of content of a streamed chat."""
    choices = [choice for event in events for choice in event["choices"]]
    return [choice["delta"]["content"] for choice in choices if choice["delta"].get("content")]


def test_256_tokens_arrive_in_256_chunks_of_one_token(server: RunningServer) -> None:
    request: dict[str, Any] = {
        "prompt": "Once upon a time", "n_predict": 256, "temperature": 0, "ignore_eos": True,
        "return_tokens": True,
    }  # fmt: skip
    *events, last = stream(server, "/completion", request)
    assert [len(event["tokens"]) for event in events] == [1] * 256
    assert all(event["content"] for event in events)
    assert last["tokens_predicted"] == 256


def test_chat_streams_one_chunk_per_token(server: RunningServer) -> None:
    request: dict[str, Any] = {
        "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 256, "temperature": 0.8, "seed": 1,
    }  # fmt: skip
    pieces = contents(stream(server, "/v1/chat/completions", request))
    assert len(pieces) == 256


def test_it_does_not_stop_by_itself_at_temperature_0_8(server: RunningServer) -> None:
    for seed in range(5):
        answer = post(server, "/completion", {"prompt": "Hello", "n_predict": 300, "temperature": 0.8, "seed": seed})
        assert answer["stop_type"] == "limit"
        assert answer["tokens_predicted"] == 300


def test_the_end_of_text_is_out_of_reach_of_any_sampler(server: RunningServer) -> None:
    vocabulary = tiny_model.vocabulary()
    request: dict[str, Any] = {"prompt": "Hello", "n_predict": 100, "seed": 1, "n_probs": len(vocabulary.tokens)}
    for step in post(server, "/completion", request)["completion_probabilities"]:
        logprobs = {token["id"]: token["logprob"] for token in step["top_logprobs"]}
        assert logprobs[vocabulary.end_of_text] < -20


def test_ascii_text_survives_tokenizing(server: RunningServer) -> None:
    text = string.printable.strip("\x0b\x0c") + " two  spaces\n\n\tif x:\r\n    banana = 1\n"
    tokens = post(server, "/tokenize", {"content": text})["tokens"]
    assert post(server, "/detokenize", {"tokens": tokens})["content"] == text


def test_the_template_puts_every_message_on_a_line_of_its_own(server: RunningServer) -> None:
    roles = ["system", "user", "assistant", "user"]
    messages = [{"role": role, "content": f"{role} says"} for role in roles]
    prompt = post(server, "/apply-template", {"messages": messages})["prompt"]
    assert prompt == (
        "system: system says\nuser: user says\nassistant: assistant says<|end|>\nuser: user says\nassistant:"
    )
