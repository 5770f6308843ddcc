"""What is asked of servers: what is refused beforehand, and what is chosen."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nexus_tasks.core.errors import UsageError
from nexus_tasks.workloads import sizes, workload
from nexus_tasks.workloads.workload import Spec
from tests.support.known import known
from tests.workload_items import LLAMA, OTHER, SMALL, from_file


def test_each_server_gets_the_api_that_measures_it_best() -> None:
    assert workload.settle(SMALL, LLAMA).api == "completion"
    assert workload.settle(SMALL, OTHER).api == "chat"
    assert workload.settle(dataclasses.replace(SMALL, api="chat"), LLAMA).api == "chat"
    assert workload.settle(dataclasses.replace(SMALL, kind="conversations", turns=2), LLAMA).api == "chat"
    settled = workload.settle(dataclasses.replace(SMALL, kind="rerank"), LLAMA)
    assert (settled.api, settled.documents, settled.output_tokens) == ("rerank", workload.DOCUMENTS, None)


def test_only_llama_server_is_told_to_go_on_after_the_end() -> None:
    assert workload.settle(SMALL, LLAMA).ignore_eos is True
    assert workload.settle(SMALL, OTHER).ignore_eos is False


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "poetry"}, "there is no workload 'poetry'"),
        ({"kind": "conversations"}, "--turns of the workload conversations must be 2 or more, not 1"),
        ({"turns": 2}, "--turns of the workload synthetic must be 1, not 2"),
        (
            {"kind": "conversations", "turns": 2, "api": "completion"},
            "the workload conversations needs --api chat, not completion",
        ),
        ({"kind": "embeddings", "api": "chat"}, "the workload embeddings needs --api embeddings, not chat"),
        ({"kind": "file"}, "needs a file"),
        ({"kind": "context"}, "needs lengths"),
        ({"prompt_tokens": None}, "needs a length of prompts"),
        ({"output_tokens": None}, "needs a length of answers"),
        ({"kind": "shared-prefix"}, "--prefix-tokens must be 1 or more, not 0"),
        ({"prefix_tokens": 5}, "--prefix-tokens needs the workload shared-prefix or conversations, not synthetic"),
        (
            {"kind": "shared-prefix", "prefix_tokens": 5, "prompts": "same"},
            "--same-prompt needs the workload synthetic or context",
        ),
        ({"prompts": "other"}, "unique or same, not 'other'"),
        ({"kind": "rerank", "documents": 0}, "--rerank must be 1 or more, not 0"),
        ({"seed": -1}, "--seed must be 0 or more, not -1"),
        ({"documents": 3}, "documents need the workload rerank, not synthetic"),
    ],
)
def test_a_workload_that_makes_no_sense_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        workload.settle(dataclasses.replace(SMALL, **change), LLAMA)
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (
            Spec(prompt_tokens=sizes.fixed(4000), output_tokens=sizes.fixed(97)),
            "4000 prompt and 97 output tokens are 4097, more than the 4096 of one slot of http://gpu1:8600",
        ),
        (
            Spec(prompt_tokens=sizes.uniform(1, 4000), output_tokens=sizes.lognormal(50, 0.5, 97)),
            "4000 prompt and 97 output tokens are 4097",
        ),
        (
            dataclasses.replace(SMALL, kind="shared-prefix", prefix_tokens=4025),
            "a prefix of 4025 and 64 prompt and 8 output tokens are 4097",
        ),
        (
            dataclasses.replace(SMALL, kind="conversations", turns=57),
            "57 turns of 64 prompt and 8 output tokens are 4104",
        ),
        (Spec(kind="embeddings", prompt_tokens=sizes.fixed(4097)), "4097 prompt tokens are 4097"),
        (Spec(kind="rerank", prompt_tokens=sizes.fixed(4097)), "4097 prompt tokens are 4097"),
    ],
)
def test_what_does_not_fit_into_the_context_is_refused_with_the_numbers(spec: Spec, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        workload.settle(spec, LLAMA)
    assert said in caught.value.message
    assert workload.settle(spec, dataclasses.replace(LLAMA, n_ctx=4104))
    assert workload.settle(spec, dataclasses.replace(LLAMA, n_ctx=None))


def test_lengths_beyond_the_context_are_refused_and_those_that_fit_are_named() -> None:
    spec = Spec(kind="context", lengths=sizes.parse_ladder("1k..32k"), output_tokens=sizes.fixed(8))
    with pytest.raises(UsageError, match="4096 prompt and 8 output tokens are 4104, more than the 4096") as caught:
        workload.settle(spec, LLAMA)
    assert "1024,2048;" in caught.value.hint


def test_a_record_says_all_that_was_asked(tmp_path: Path) -> None:
    row = workload.settle(dataclasses.replace(SMALL, preset="quick"), LLAMA).as_row()
    assert json.loads(msgspec.json.encode(row)) == {
        "preset": "quick",
        "kind": "synthetic",
        "api": "completion",
        "prompt_tokens": {"kind": "fixed", "mean": 64},
        "output_tokens": {"kind": "fixed", "mean": 8},
        "prompts": "unique",
        "turns": 1,
        "prefix_tokens": 0,
        "lengths": None,
        "file": None,
        "documents": None,
        "temperature": 0.0,
        "ignore_eos": True,
        "seed": None,
    }
    row = workload.settle(from_file(tmp_path, "a.txt", "A\n"), LLAMA).as_row()
    assert (known(row.file).name, row.prompt_tokens, row.output_tokens) == ("a.txt", None, None)
    spec = Spec(kind="context", lengths=(10, 20), output_tokens=sizes.fixed(8))
    assert workload.settle(spec, LLAMA).as_row().lengths == [10, 20]
