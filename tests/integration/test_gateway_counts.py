"""The filter that reads usage, in a real HAProxy before real llama-servers: its log against the servers' own counters.

The servers work on one request at a time, so that what their counters add is that request's.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import ROOT, RunningServer, run_server, wait_for
from tests.support.haproxy import Haproxy, needs_haproxy, running_haproxy

pytestmark = needs_haproxy

FIELDS = ("prompt_tokens", "cached_tokens", "completion_tokens")
COUNTERS = ("prompt_tokens_total", "prompt_tokens_cached_total", "tokens_predicted_total")
LINE = (
    '{"status":%ST,"termination":"%ts","usage":"%[var(txn.usage)]","events":%[var(txn.events,0)],'
    '"ttft_ms":%[var(txn.ttft_ms,-1)],' + ",".join(f'"{name}":%[var(txn.{name},0)]' for name in FIELDS) + ',"bytes":%B}'
)
SECTIONS = """\
  option http-no-delay
  option http-buffer-request
  filter lua.usage
  log stdout len 8192 format raw local0
  log-format '{line}'
  http-request set-var(txn.choices) req.body,json_query('$.n','int')
  use_backend embedding if {{ path_sub embedding }}
  default_backend chat
backend chat
  server one {chat}
backend embedding
  server one {embedding}
"""
WORD = "xylophone"
SAYS = f'{WORD} "usage":{{"prompt_tokens":77}},"timings":{{"cache_n":1,"prompt_n":2,"predicted_n":9999}}}}\n\ndata: {{'
MESSAGES = [{"role": "user", "content": SAYS}]
CHAT, COMPLETIONS, OWN = "/v1/chat/completions", "/v1/completions", "/completion"
RESPONSES, ANTHROPIC, EMBEDDINGS = "/v1/responses", "/v1/messages", "/v1/embeddings"
TOOLS = {
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {
        "type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}}}], "tool_choice": "required",
}  # fmt: skip
STREAM = {"stream": True}

COUNTED: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (CHAT, {"messages": MESSAGES}),
    "chat stream": (CHAT, {"messages": MESSAGES, **STREAM}),
    "chat stream with usage": (CHAT, {"messages": MESSAGES, **STREAM, "stream_options": {"include_usage": True}}),
    "chat stream with timings": (CHAT, {"messages": MESSAGES, **STREAM, "timings_per_token": True}),
    "chat stream with progress": (CHAT, {"messages": MESSAGES, **STREAM, "return_progress": True}),
    "chat stream, three choices": (CHAT, {"messages": MESSAGES, **STREAM, "n": 3, "timings_per_token": True}),
    "chat stream with a tool": (CHAT, {"messages": MESSAGES, **STREAM, **TOOLS}),
    "chat, one token": (CHAT, {"messages": MESSAGES, **STREAM, "max_tokens": 1}),
    "completion": (COMPLETIONS, {"prompt": "once upon"}),
    "completion stream": (COMPLETIONS, {"prompt": "once upon a", **STREAM, "logprobs": 3}),
    "completion stream of prompts": (COMPLETIONS, {"prompt": ["a b", "c d e e"], **STREAM}),
    "completion stream of prompts and choices": (COMPLETIONS, {"prompt": ["a b", "c d e e"], **STREAM, "n": 2}),
    "own": (OWN, {"prompt": SAYS, "n_predict": 7}),
    "own stream": (OWN, {"prompt": SAYS, "n_predict": 7, **STREAM}),
    "own of prompts": (OWN, {"prompt": ["a b", "c d e e"], "n_predict": 7}),
    "own stream of prompts": (OWN, {"prompt": ["a b", "c d e e"], "n_predict": 7, **STREAM}),
    "responses": (RESPONSES, {"input": SAYS, "max_output_tokens": 7}),
    "responses stream": (RESPONSES, {"input": SAYS, "max_output_tokens": 7, **STREAM}),
    "anthropic": (ANTHROPIC, {"messages": MESSAGES}),
    "anthropic stream": (ANTHROPIC, {"messages": MESSAGES, **STREAM}),
    "embedding": (EMBEDDINGS, {"input": "once upon"}),
    "embeddings": (EMBEDDINGS, {"input": ["once upon"] * 40}),
    "embeddings in base64": (EMBEDDINGS, {"input": ["once upon"] * 5, "encoding_format": "base64"}),
    "refused": (CHAT, {"messages": 3}),
    "too long": (CHAT, {"messages": [{"role": "user", "content": "x " * 9000}]}),
}  # fmt: skip
UNCOUNTED: dict[str, tuple[str, dict[str, Any], str]] = {
    "own with chosen fields": (OWN, {"prompt": "a", "n_predict": 5, "response_fields": ["content"]}, "-"),
    "own embedding": ("/embedding", {"content": "once upon"}, "-"),
    "choices in one answer": (CHAT, {"messages": MESSAGES, "n": 3}, "part"),
    "prompts in one answer": (COMPLETIONS, {"prompt": ["a b", "c d e"]}, "part"),
}
CUT: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (CHAT, {"messages": MESSAGES}),
    "chat, two choices": (CHAT, {"messages": MESSAGES, "n": 2}),
    "chat with timings": (CHAT, {"messages": MESSAGES, "timings_per_token": True}),
    "completion": (COMPLETIONS, {"prompt": "a"}),
    "own": (OWN, {"prompt": "a", "n_predict": 3000}),
    "responses": (RESPONSES, {"input": "a", "max_output_tokens": 3000}),
    "anthropic": (ANTHROPIC, {"messages": MESSAGES}),
}  # fmt: skip


@dataclass
class Way:
    """A gateway before two servers, and what its log has said so far."""

    haproxy: Haproxy
    log: Path
    chat: RunningServer
    embedding: RunningServer
    seen: int = field(default=0)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Ask, and return the line that the log has of it."""
        httpx.post(self.haproxy.url + path, json={"max_tokens": 7, **body}, timeout=100)
        return self.line()

    def line(self) -> dict[str, Any]:
        (line,) = wait_for(lambda: self.lines()[self.seen :], "a line of the log")
        self.seen += 1
        return line

    def counters(self) -> list[int]:
        """The sums of both servers, when neither works: of prompts what was computed, from the cache, of answers."""
        sums = [0, 0, 0]
        for server in (self.chat, self.embedding):
            idle = f"{server.base_url}/slots"
            wait_for(lambda: not any(slot["is_processing"] for slot in httpx.get(idle).json()), "idle slots")  # noqa: B023
            text = httpx.get(f"{server.base_url}/metrics").text
            found = dict(re.findall(r"^llamacpp:(\w+) (\S+)$", text, re.MULTILINE))
            sums = [known + int(float(found[name])) for known, name in zip(sums, COUNTERS, strict=True)]
        return sums


@pytest.fixture(scope="module")
def way(llama_server_bin: Path, small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    folder = tmp_path_factory.mktemp("way")
    flags = ("--metrics", "--slots")
    with (
        run_server(llama_server_bin, small_model, folder / "chat.log", "--parallel", "4", *flags) as chat,
        run_server(
            llama_server_bin, small_model, folder / "embedding.log", "--embeddings", "--pooling", "mean", *flags
        ) as embedding,
    ):
        hosts = {"chat": chat, "embedding": embedding}
        sections = SECTIONS.format(
            line=LINE, **{name: server.base_url.removeprefix("http://") for name, server in hosts.items()}
        )
        program = f'lua-load-per-thread "{ROOT}/roles/gateway/files/usage.lua"'
        with running_haproxy(folder, sections, program) as haproxy:
            yield Way(haproxy, folder / "haproxy.log", chat, embedding)


def told(line: dict[str, Any]) -> list[int]:
    """A line as the servers count: of the prompt what was computed, from the cache, of the answer."""
    return [line["prompt_tokens"] - line["cached_tokens"], line["cached_tokens"], line["completion_tokens"]]


def added(before: list[int], after: list[int]) -> list[int]:
    return [now - then for then, now in zip(before, after, strict=True)]


@pytest.mark.parametrize("name", COUNTED)
def test_usage_is_that_of_the_servers_own_counters(way: Way, name: str) -> None:
    before = way.counters()
    line = way.ask(*COUNTED[name])
    assert told(line) == added(before, way.counters())
    if line["status"] == httpx.codes.OK:
        assert line["usage"] == "whole"
        assert line["ttft_ms"] >= 0
        assert (line["events"] > 0) == ("stream" in COUNTED[name][1])


@pytest.mark.parametrize("name", UNCOUNTED)
def test_answers_without_a_whole_count_are_marked(way: Way, name: str) -> None:
    path, body, usage = UNCOUNTED[name]
    before = way.counters()
    line = way.ask(path, body)
    assert line["usage"] == usage
    assert all(low <= high for low, high in zip(told(line), added(before, way.counters()), strict=True))


@pytest.mark.parametrize("name", CUT)
def test_a_stream_that_its_client_cut_is_a_lower_bound(way: Way, name: str) -> None:
    path, body = CUT[name]
    before = way.counters()
    asked = {"max_tokens": 3000, "ignore_eos": True, **body, "stream": True}
    with httpx.stream("POST", way.haproxy.url + path, json=asked, timeout=100) as answer:
        events = 0
        for text in answer.iter_lines():
            events += text.startswith("data:")
            if events == 20:
                break
    line = way.line()
    assert line["usage"] == "part"
    counted = told(line)
    assert all(low <= high for low, high in zip(counted, added(before, way.counters()), strict=True))
    assert counted[2] >= 15 or name == "chat, two choices"


def test_nothing_of_prompts_or_answers_is_in_the_log(way: Way) -> None:
    way.ask(CHAT, {"messages": MESSAGES})
    assert WORD not in way.log.read_text()
    assert {type(value) for line in way.lines() for value in line.values()} <= {int, str}
    assert {key for line in way.lines() for key in line} == {
        "status", "termination", "usage", "events", "ttft_ms", *FIELDS, "bytes",
    }  # fmt: skip


@pytest.mark.parametrize("requests", [20, pytest.param(1000, marks=pytest.mark.soak)])
def test_usage_of_mixed_requests_is_exact(way: Way, requests: int) -> None:
    draw = random.Random(17)  # noqa: S311 - the same mix each time
    kinds = [one for name, one in COUNTED.items() if name != "too long"]
    before, sums = way.counters(), [0, 0, 0]
    for _ in range(requests):
        path, body = draw.choice(kinds)
        line = way.ask(path, {**body, "max_tokens": draw.randint(1, 20)})
        sums = [known + more for known, more in zip(sums, told(line), strict=True)]
    assert sums == added(before, way.counters())
