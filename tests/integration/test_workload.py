"""What a real llama-server makes of each workload: its own counts of tokens, and what came from its cache."""

from __future__ import annotations

import dataclasses
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from nexus_tasks.core.errors import EndpointError, UsageError
from nexus_tasks.load import generator
from nexus_tasks.load.requests import Item, Limits, Stage
from nexus_tasks.records.benchmark_rows import RequestRow
from nexus_tasks.servers import client as clients
from nexus_tasks.servers import endpoint, route
from nexus_tasks.workloads import prompt_file, sizes, sources, workload
from nexus_tasks.workloads.workload import Spec
from tests.conftest import RunningServer, run_server
from tests.support.known import known

BY_CHANCE = 2
"""Tokens: of the model's few words, a prompt may begin with the same as one that was asked before."""
SHORT = Spec(prompt_tokens=sizes.fixed(64), output_tokens=sizes.fixed(4))


def asked(base_url: str, spec: Spec, requests: int, *, stages: int = 1, length: int | None = None) -> list[RequestRow]:
    """The rows of the first so many requests of each stage, one after another."""
    with clients.connect(base_url, None) as client:
        found = endpoint.probe(client)
        source = sources.prepare(client, found, workload.settle(spec, found))
    rows = []
    for number in range(stages):
        rows += measured(base_url, source.items(stage=number, length=length), requests, number)
    assert [row.error for row in rows] == [None] * requests * stages
    return rows


def measured(base_url: str, items: Iterator[Item], requests: int, number: int) -> list[RequestRow]:
    """The rows of a stage's first so many requests. It goes on until they are seen, so that it cuts no conversation."""
    rows: list[RequestRow] = []
    generator.run(
        route.to(base_url).resolved(),
        None,
        items,
        Stage("closed", concurrency=1, duration_s=300.0),
        Limits(keep_answers=True),
        index=0,
        number=number,
        origin=time.perf_counter(),
        on_rows=rows.extend,
        enough=lambda: len(rows) >= requests,
    )
    return rows[:requests]


def seen(rows: list[RequestRow], key: str) -> list[int]:
    """What the server says about each request; ``prompt`` is all of the prompt, cached or not."""
    if key == "prompt":
        return [read + cached for read, cached in zip(seen(rows, "prompt_n"), seen(rows, "cache_n"), strict=True)]
    return [known(getattr(row.server, key)) for row in rows]


@pytest.mark.parametrize("api", ["completion", "chat"])
def test_prompts_and_answers_have_exactly_the_lengths_that_were_drawn(server: RunningServer, api: str) -> None:
    spec = Spec(prompt_tokens=sizes.uniform(40, 400), output_tokens=sizes.lognormal(6, 0.5, 20), api=api)
    rows = asked(server.base_url, spec, 8)
    with clients.connect(server.base_url, None) as client:
        found = endpoint.probe(client)
        source = sources.prepare(client, found, workload.settle(spec, found))
    planned = [item.requests[0] for item in itertools.islice(source.items(), 8)]
    assert seen(rows, "prompt") == [request.prompt_tokens for request in planned]
    assert seen(rows, "predicted_n") == [request.output_tokens for request in planned]
    assert len(set(seen(rows, "prompt"))) > 4


@pytest.mark.parametrize(("api", "least"), [("completion", 1), ("chat", 30)])
def test_no_length_is_missed_by_a_token(server: RunningServer, api: str, least: int) -> None:
    for length in (least, least + 1, least + 2, least + 7, 1000):
        (row,) = asked(server.base_url, dataclasses.replace(SHORT, prompt_tokens=sizes.fixed(length), api=api), 1)
        assert seen([row], "prompt") == [length]


@pytest.mark.parametrize("api", ["completion", "chat"])
def test_no_prompt_comes_from_the_cache_even_when_a_seed_repeats_it(server: RunningServer, api: str) -> None:
    spec = dataclasses.replace(SHORT, api=api, seed=11)
    first, again = (asked(server.base_url, spec, 2, stages=2) for _ in range(2))
    assert seen([*first, *again], "cache_n") == [0] * 8
    assert [row.answer for row in first] == [row.answer for row in again]
    assert [row.key for row in first] == ["0", "1", "0", "1"]


def test_the_same_prompt_comes_from_the_cache_when_that_is_asked_for(server: RunningServer) -> None:
    first, *later = seen(asked(server.base_url, dataclasses.replace(SHORT, prompts="same"), 3), "cache_n")
    assert first <= BY_CHANCE
    assert later == [63, 63]


@pytest.mark.parametrize("api", ["completion", "chat"])
def test_a_shared_prefix_comes_from_the_cache_and_nothing_else_does(server: RunningServer, api: str) -> None:
    spec = dataclasses.replace(SHORT, kind="shared-prefix", prefix_tokens=200, api=api)
    rows = asked(server.base_url, spec, 2, stages=2)
    assert seen(rows, "prompt") == [264] * 4
    # A chat's template has a few tokens before the prefix.
    template = 4 if api == "chat" else 0
    assert seen(rows, "cache_n")[1:] == [200 + template] * 3
    assert seen(rows, "cache_n")[0] <= template + BY_CHANCE


def test_a_conversation_grows_by_exactly_what_is_asked_and_finds_its_past_in_the_cache(server: RunningServer) -> None:
    spec = Spec(kind="conversations", turns=4, prompt_tokens=sizes.fixed(50), output_tokens=sizes.fixed(10))
    rows = asked(server.base_url, spec, 8)
    assert [row.turn for row in rows] == [0, 1, 2, 3] * 2
    for talk in (rows[:4], rows[4:]):
        lengths = seen(talk, "prompt")
        assert lengths[0] == 50
        for before, after in itertools.pairwise(lengths):
            # The answer is the server's: read again, its ten tokens may be some more or fewer.
            assert 50 + 6 <= after - before <= 50 + 14
        # All that was asked before is there; the answer only as far as it is read as it was written.
        for cached, before in zip(seen(talk[1:], "cache_n"), lengths, strict=False):
            assert before <= cached + 1 <= before + 11


@pytest.mark.parametrize("length", [100, 2000])
def test_context_scaling_asks_for_the_length_of_its_stage(server: RunningServer, length: int) -> None:
    spec = Spec(kind="context", lengths=(100, 2000), output_tokens=sizes.fixed(4))
    assert seen(asked(server.base_url, spec, 1, length=length), "prompt") == [length]


def test_a_length_that_the_template_leaves_no_room_for_is_refused(server: RunningServer) -> None:
    spec = dataclasses.replace(SHORT, api="chat")
    with pytest.raises(UsageError, match=r"no chat has 5 prompt tokens here: the chat template alone takes \d+"):
        asked(server.base_url, dataclasses.replace(spec, prompt_tokens=sizes.fixed(5)), 1)
    drawn = dataclasses.replace(spec, prompt_tokens=sizes.lognormal(30, 1.0, 90))
    lengths = seen(asked(server.base_url, drawn, 12), "prompt")
    assert min(lengths) > 5


def test_files_are_asked_as_they_are(server: RunningServer, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "ba mi ro", "output_tokens": 3}\n{"prompt": "ka \\"lu\\"", "id": "second"}\n')
    spec = Spec(kind="file", file=prompt_file.read(path), output_tokens=sizes.fixed(5))
    rows = asked(server.base_url, spec, 3)
    assert seen(rows, "predicted_n") == [3, 5, 3]
    assert [row.key for row in rows] == ["1", "second", "1"]
    assert [row.prompt for row in rows] == ["ba mi ro", 'ka "lu"', "ba mi ro"]
    assert seen(rows, "cache_n") == [0, 0, 0]
    texts = dataclasses.replace(spec, api="completion")
    assert seen(asked(server.base_url, texts, 1), "prompt") == [3]


def test_an_entry_that_does_not_fit_into_the_context_is_refused_by_its_line(
    server: RunningServer, tmp_path: Path
) -> None:
    path = tmp_path / "a.jsonl"
    # Single tokens as long as a word, so that its bytes alone don't tell.
    fits, not_ = (json.dumps({"prompt": " ba" * words}) for words in (4000, 4100))
    path.write_text(f"{fits}\n{not_}\n")
    spec = Spec(kind="file", file=prompt_file.read(path), output_tokens=sizes.fixed(8))
    with pytest.raises(UsageError, match=r"a\.jsonl, line 2: prompt and answer are 41\d\d tokens, more than the 4096"):
        asked(server.base_url, spec, 1)


@pytest.fixture(scope="module")
def embedder(
    llama_server_bin: Path, small_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    log = tmp_path_factory.mktemp("embedder") / "server.log"
    with run_server(llama_server_bin, small_model, log, "--embeddings", "--pooling", "mean") as running:
        yield running


@pytest.fixture(scope="module")
def reranker(
    llama_server_bin: Path, small_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    log = tmp_path_factory.mktemp("reranker") / "server.log"
    with run_server(llama_server_bin, small_model, log, "--reranking") as running:
        yield running


def test_texts_to_embed_have_exactly_the_lengths_that_were_drawn(embedder: RunningServer) -> None:
    spec = Spec(kind="embeddings", prompt_tokens=sizes.uniform(10, 300))
    rows = asked(embedder.base_url, spec, 6)
    drawn = sizes.uniform(10, 300).draws(np.random.default_rng([0, 0]))
    assert [row.prompt_tokens for row in rows] == list(itertools.islice(drawn, 6))


def test_queries_and_documents_have_exactly_the_lengths_that_were_drawn(reranker: RunningServer) -> None:
    spec = Spec(kind="rerank", prompt_tokens=sizes.fixed(60), documents=5)
    assert [row.prompt_tokens for row in asked(reranker.base_url, spec, 3)] == [5 * 60] * 3


def test_a_document_that_leaves_no_room_for_its_query_is_refused(reranker: RunningServer) -> None:
    with pytest.raises(UsageError, match="no pair of query and document has 8 prompt tokens here"):
        asked(reranker.base_url, Spec(kind="rerank", prompt_tokens=sizes.fixed(8)), 1)


def test_a_server_that_embeds_or_ranks_nothing_is_told_before_anything_is_measured(
    server: RunningServer, embedder: RunningServer
) -> None:
    with pytest.raises(EndpointError, match="HTTP 501 at /v1/embeddings: This server does not support embeddings"):
        asked(server.base_url, Spec(kind="embeddings", prompt_tokens=sizes.fixed(60)), 1)
    with pytest.raises(EndpointError, match="HTTP 501 at /v1/rerank: This server does not support reranking"):
        asked(embedder.base_url, Spec(kind="rerank", prompt_tokens=sizes.fixed(60)), 1)
