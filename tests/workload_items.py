"""Workloads for tests, the requests that they come to, and what those say."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from nexus_tasks.load.requests import Item, Request
from nexus_tasks.servers.endpoint import Endpoint
from nexus_tasks.workloads import prompt_file, sizes, sources, workload
from nexus_tasks.workloads.workload import Spec

LLAMA = Endpoint("http://gpu1:8600", "llama.cpp", "tiny", n_ctx=4096)
OTHER = Endpoint("http://cloud", "openai", "big", api_path="/api/v3")
SMALL = Spec(prompt_tokens=sizes.fixed(64), output_tokens=sizes.fixed(8))


def nobody(request: httpx.Request) -> httpx.Response:
    raise AssertionError(f"{request.url} was asked")


def items(
    spec: Spec, found: Endpoint = OTHER, *, count: int = 3, stage: int = 0, length: int | None = None
) -> list[Item]:
    with httpx.Client(transport=httpx.MockTransport(nobody), base_url=found.base_url) as client:
        source = sources.prepare(client, found, workload.settle(spec, found))
        return list(itertools.islice(source.items(stage=stage, length=length), count))


def said(request: Request, answers: Sequence[str] = ()) -> dict[str, Any]:
    body = request.body if isinstance(request.body, bytes) else request.body(answers)
    return dict(json.loads(body))


def content(item: Item) -> str:
    return str(said(item.requests[0])["messages"][0]["content"])


def from_file(folder: Path, name: str, text: str, **spec: Any) -> Spec:
    path = folder / name
    path.write_text(text)
    return Spec(**{"kind": "file", "ignore_eos": False, "file": prompt_file.read(path), **spec})
