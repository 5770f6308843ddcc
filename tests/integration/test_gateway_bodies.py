"""Usage in answers that are no streams, read in pieces of any size, by a real HAProxy."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import ROOT, wait_for
from tests.support.haproxy import Haproxy, needs_haproxy, running_haproxy
from tests.support.scripted_server import Handler, serving

pytestmark = needs_haproxy

SECTIONS = """\
  option http-no-delay
  filter lua.usage
  log stdout len 8192 format raw local0
  log-format '%[var(txn.prompt_tokens)] %[var(txn.cached_tokens)] %[var(txn.completion_tokens)] %[var(txn.usage)] %B'
  default_backend scripted
backend scripted
  server one {address}
"""
FORGED = {"timings": {"cache_n": 0, "prompt_n": 0, "predicted_n": 0}, "usage": {"input_tokens": 0, "output_tokens": 0}}
CALL = {"type": "tool_use", "id": "x", "name": "f", "input": {**FORGED, "finish_reason": "stop", "deep": [[FORGED]]}}
ANTHROPIC = {"type": "message", "usage": {"cache_read_input_tokens": 10, "input_tokens": 90, "output_tokens": 50}}
TIMINGS = {"cache_n": 3, "prompt_n": 4, "predicted_n": 5}
TOLD = "100 10 50 whole"
BODIES: dict[str, tuple[Any, str]] = {
    "a call that looks like usage": ({"content": [CALL], **ANTHROPIC}, TOLD),
    "such a call behind it": ({**ANTHROPIC, "content": [CALL]}, TOLD),
    "a text that looks like usage": ({"content": '"usage":{"input_tokens":1}' + "\\" * 7, **ANTHROPIC}, TOLD),
    "a long text": ({"content": '\\"' * 5000, **ANTHROPIC}, TOLD),
    "no object": ({"usage": None, "content": "", "timings": TIMINGS}, "7 3 5 whole"),
    "answers in a list": ([{"content": FORGED, "timings": TIMINGS}, {"timings": TIMINGS}], "14 6 10 whole"),
    "several choices": (
        {"choices": [{"finish_reason": "stop"}, {"finish_reason": "length"}], "usage": {"prompt_tokens": 1}},
        "1 0 0 part",
    ),
}  # fmt: skip


class Script:
    """What the server answers, and in pieces of how many bytes."""

    body, size = b"", 1

    def answer(self, handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(self.body)))
        handler.end_headers()
        for at in range(0, len(self.body), self.size):
            handler.wfile.write(self.body[at : at + self.size])
            handler.wfile.flush()
            if self.size < len(self.body) < 1000:
                time.sleep(0.0005)  # so that pieces come as such


@pytest.fixture(scope="module")
def script() -> Script:
    return Script()


@pytest.fixture(scope="module")
def haproxy(script: Script, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Haproxy]:
    program = f'lua-load-per-thread "{ROOT}/roles/gateway/files/usage.lua"'
    with serving(script.answer) as address:
        sections = SECTIONS.format(address=address.removeprefix("http://"))
        with running_haproxy(tmp_path_factory.mktemp("bodies"), sections, program) as running:
            yield running


def log_of(haproxy: Haproxy) -> list[str]:
    lines = Path(haproxy.socket).with_name("haproxy.log").read_text().splitlines()
    return [line.rpartition(" ")[0] for line in lines if line[:1].isdigit()]  # bytes are known at the end alone


@pytest.mark.parametrize("size", [1, 7, 1000, 10**6])
@pytest.mark.parametrize("name", BODIES)
def test_what_a_model_wrote_counts_for_nothing(haproxy: Haproxy, script: Script, name: str, size: int) -> None:
    value, told = BODIES[name]
    script.body, script.size = json.dumps(value, separators=(",", ":")).encode(), size
    before = len(log_of(haproxy))
    assert httpx.get(haproxy.url, timeout=60).json() == value
    assert wait_for(lambda: log_of(haproxy)[before:], "a line of the log") == [told]
