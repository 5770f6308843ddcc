"""What is asked of servers: lengths, what is refused beforehand, and what the requests say."""

from __future__ import annotations

import dataclasses
import itertools
import json
import pickle
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from nexus_tasks.core.errors import UsageError
from nexus_tasks.load.requests import Item, Request
from nexus_tasks.servers.endpoint import Endpoint
from nexus_tasks.workloads import prompt_file, synthetic, workload
from nexus_tasks.workloads.workload import Size, Spec

LLAMA = Endpoint("http://gpu1:8600", "llama.cpp", "tiny", n_ctx=4096)
OTHER = Endpoint("http://cloud", "openai", "big", api_path="/api/v3")
SMALL = Spec(prompt_tokens=workload.fixed(64), output_tokens=workload.fixed(8))


# --- lengths


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512", workload.fixed(512)),
        ("2k", workload.fixed(2048)),
        ("uniform:100-900", workload.uniform(100, 900)),
        ("uniform:7-7", workload.uniform(7, 7)),
        ("lognormal:512,0.5,4k", workload.lognormal(512, 0.5, 4096)),
        (" lognormal:512 , 0.5 ", workload.lognormal(512, 0.5)),
    ],
)
def test_a_size_is_read_and_written_alike(text: str, size: Size) -> None:
    assert workload.size(text) == size
    assert workload.size(str(size)) == size


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'' is no number of tokens"),
        ("0", "'0' is no number of tokens"),
        ("-5", "'-5' is no number of tokens"),
        ("5.5", "'5.5' is no number of tokens"),
        ("many", "'many' is no number of tokens"),
        ("normal:5,1", "'normal' is no distribution"),
        ("uniform:5", "a range is missing"),
        ("uniform:9-5", "9 is more than 5"),
        ("uniform:-5-9", "'' is no number of tokens"),
        ("lognormal:512", "mean and sigma are wanted"),
        ("lognormal:512,0", "sigma is 0"),
        ("lognormal:512,nan", "sigma is nan"),
        ("lognormal:512,half", "sigma is half"),
        ("lognormal:512,9", "sigma is 9"),
        ("lognormal:512,0.5,100", "the longest is less than the mean"),
        ("lognormal:512,0.5,9,9", "mean and sigma are wanted"),
    ],
)
def test_what_is_no_size_is_refused_with_the_option_and_an_example(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        workload.size(text, "--output-tokens")
    assert caught.value.message.startswith("--output-tokens")
    assert said in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        ("100", (100,)),
        ("4k,100", (4096, 100)),
        ("100..32k", (100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 32768)),
        ("1k..4k", (1024, 2048, 4096)),
    ],
)
def test_a_ladder_names_its_lengths_or_doubles(text: str, lengths: tuple[int, ...]) -> None:
    assert workload.ladder(text) == lengths


@pytest.mark.parametrize("text", ["", "100,", "100,100", "4k..1k", "1..x", "..5", "0,5"])
def test_what_is_no_ladder_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--lengths"):
        workload.ladder(text)


def drawn(size: Size, count: int = 20_000) -> list[int]:
    return size.draw(np.random.default_rng(1), count)


def test_drawn_sizes_follow_their_distributions() -> None:
    assert set(drawn(workload.fixed(5))) == {5}
    uniform = drawn(workload.uniform(10, 20))
    assert (min(uniform), max(uniform)) == (10, 20)
    assert statistics.fmean(uniform) == pytest.approx(15, rel=0.02)
    lognormal = drawn(workload.lognormal(512, 0.5, 100_000))
    assert statistics.fmean(lognormal) == pytest.approx(512, rel=0.02)
    assert statistics.stdev(np.log(lognormal)) == pytest.approx(0.5, rel=0.02)


def test_no_log_normal_size_is_beyond_the_longest_or_below_one() -> None:
    assert max(drawn(workload.lognormal(100, 1.0, 150))) == 150
    assert min(drawn(workload.lognormal(2, 2.0))) == 1
    without = workload.lognormal(512, 0.5)
    assert 0.9985 < statistics.fmean(size < without.max for size in drawn(without, 100_000)) < 0.9995


def test_a_record_says_what_applies_to_a_size() -> None:
    assert workload.fixed(5).as_row() == {"kind": "fixed", "mean": 5}
    assert workload.uniform(5, 10).as_row() == {"kind": "uniform", "mean": 7.5, "min": 5, "max": 10}
    row = {"kind": "lognormal", "mean": 512, "sigma": 0.5, "max": 900}
    assert workload.lognormal(512, 0.5, 900).as_row() == row


# --- what is refused, and what is chosen


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
        ({"kind": "conversations"}, "1 turns make no conversations"),
        ({"turns": 2}, "2 turns make no synthetic"),
        ({"kind": "conversations", "turns": 2, "api": "completion"}, "can't be asked for with --api completion"),
        ({"kind": "embeddings", "api": "chat"}, "can't be asked for with --api chat"),
        ({"kind": "file"}, "needs a file"),
        ({"kind": "context"}, "needs lengths"),
        ({"prompt_tokens": None}, "no length of prompts"),
        ({"output_tokens": None}, "no length of answers"),
        ({"kind": "shared-prefix"}, "a shared prefix of 0 tokens is none"),
        ({"prefix_tokens": 5}, "the workload synthetic has no shared prefix"),
        ({"kind": "shared-prefix", "prefix_tokens": 5, "prompts": "same"}, "can't be one prompt again and again"),
        ({"prompts": "other"}, "unique or the same"),
        ({"kind": "rerank", "documents": 0}, "0 documents"),
        ({"seed": -1}, "the seed -1 is negative"),
        ({"documents": 3}, "3 documents can't be ranked by synthetic"),
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
            Spec(prompt_tokens=workload.fixed(4000), output_tokens=workload.fixed(97)),
            "4000 prompt and 97 output tokens are 4097, more than the 4096 of one slot of http://gpu1:8600",
        ),
        (
            Spec(prompt_tokens=workload.uniform(1, 4000), output_tokens=workload.lognormal(50, 0.5, 97)),
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
        (Spec(kind="embeddings", prompt_tokens=workload.fixed(4097)), "4097 prompt tokens are 4097"),
        (Spec(kind="rerank", prompt_tokens=workload.fixed(4097)), "4097 prompt tokens are 4097"),
    ],
)
def test_what_does_not_fit_into_the_context_is_refused_with_the_numbers(spec: Spec, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        workload.settle(spec, LLAMA)
    assert said in caught.value.message
    assert workload.settle(spec, dataclasses.replace(LLAMA, n_ctx=4104))
    assert workload.settle(spec, dataclasses.replace(LLAMA, n_ctx=None))


def test_lengths_beyond_the_context_are_refused_and_those_that_fit_are_named() -> None:
    spec = Spec(kind="context", lengths=workload.ladder("1k..32k"), output_tokens=workload.fixed(8))
    with pytest.raises(UsageError, match="4096 prompt and 8 output tokens are 4104, more than the 4096") as caught:
        workload.settle(spec, LLAMA)
    assert "1024,2048;" in caught.value.hint


# --- what requests say


def nobody(request: httpx.Request) -> httpx.Response:
    raise AssertionError(f"{request.url} was asked")


def items(
    spec: Spec, found: Endpoint = OTHER, *, count: int = 3, stage: int = 0, length: int | None = None
) -> list[Item]:
    with httpx.Client(transport=httpx.MockTransport(nobody), base_url=found.base_url) as client:
        source = workload.prepare(client, found, workload.settle(spec, found))
        return list(itertools.islice(source.items(stage=stage, length=length), count))


def said(request: Request, answers: Sequence[str] = ()) -> dict[str, Any]:
    body = request.body if isinstance(request.body, bytes) else request.body(answers)
    return dict(json.loads(body))


def content(item: Item) -> str:
    return str(said(item.requests[0])["messages"][0]["content"])


def test_other_servers_are_asked_by_the_openai_api_with_text_of_about_the_length() -> None:
    (item,) = items(dataclasses.replace(SMALL, temperature=0.5), count=1)
    (request,) = item.requests
    assert (request.path, request.stream) == ("/api/v3/chat/completions", True)
    assert (request.prompt_tokens, request.output_tokens, request.exact_output) == (None, 8, False)
    body = said(request)
    (message,) = body.pop("messages")
    assert message["role"] == "user"
    assert len(message["content"].split()) == synthetic.words_of_about(64)
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
    assert len(said(item.requests[0])["prompt"].split()) == synthetic.words_of_about(64)


def limits(spec: Spec, *, stage: int = 0) -> list[tuple[int, int | None]]:
    return [(len(content(item).split()), item.requests[0].output_tokens) for item in items(spec, count=50, stage=stage)]


def test_lengths_are_the_same_in_each_run_and_stage_and_contents_are_not() -> None:
    spec = Spec(prompt_tokens=workload.uniform(20, 2000), output_tokens=workload.uniform(1, 99))
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
        source = workload.prepare(client, OTHER, workload.settle(spec, OTHER))
    texts = [content(item).split() for stage in (0, 1) for item in itertools.islice(source.items(stage=stage), 50)]
    shared = synthetic.words_of_about(1000)
    assert len({tuple(text[:shared]) for text in texts}) == 1
    assert len({tuple(text[shared:]) for text in texts}) == 100
    assert {len(text) - shared for text in texts} == {synthetic.words_of_about(64)}


def test_a_shared_prefix_is_new_in_each_run_unless_a_seed_is_given() -> None:
    def first_words(spec: Spec) -> str:
        return " ".join(content(items(spec, count=1)[0]).split()[:100])

    spec = dataclasses.replace(SMALL, kind="shared-prefix", prefix_tokens=1000)
    assert first_words(spec) != first_words(spec)
    assert first_words(dataclasses.replace(spec, seed=3)) == first_words(dataclasses.replace(spec, seed=3))


def test_a_stage_of_context_scaling_has_the_length_it_is_given() -> None:
    spec = Spec(kind="context", lengths=(100, 1000), output_tokens=workload.fixed(8))
    assert {len(content(item).split()) for item in items(spec, length=1000)} == {synthetic.words_of_about(1000)}
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
        item = next(workload.prepare(client, LLAMA, workload.settle(spec, LLAMA)).items())
    messages = said(item.requests[2], ["A", "B"])["messages"]
    # Four words and two signs come with the first message, four signs with each further answer and question.
    assert [len(message["content"].split()) for message in messages[::2]] == [64 - 6, 64 - 4, 64 - 4]
    assert [request.prompt_tokens for request in item.requests] == [64, None, None]


def test_a_turn_with_an_answer_too_few_is_not_written() -> None:
    (item,) = items(dataclasses.replace(SMALL, kind="conversations", turns=3), count=1)
    with pytest.raises(ValueError, match="shorter"):
        said(item.requests[2], ["A"])


def test_documents_and_their_query_are_written_for_each_ranking() -> None:
    spec = Spec(kind="rerank", prompt_tokens=workload.uniform(100, 900), documents=4)
    one, two, _ = items(spec)
    (request,) = one.requests
    assert (request.path, request.stream, request.output_tokens) == ("/api/v3/rerank", False, None)
    body = said(request)
    assert set(body) == {"model", "query", "documents"}
    assert len({len(text.split()) for text in body["documents"]}) == 4
    assert said(two.requests[0])["query"] != body["query"]


# --- files


def from_file(folder: Path, name: str, text: str, **spec: Any) -> Spec:
    path = folder / name
    path.write_text(text)
    return Spec(**{"kind": "file", "ignore_eos": False, "file": prompt_file.read(path), **spec})


def test_a_files_prompts_are_asked_in_its_order_again_and_again(tmp_path: Path) -> None:
    spec = from_file(tmp_path, "a.jsonl", '{"prompt": "A \\"é\\"", "id": "x"}\n{"prompt": "B", "output_tokens": 5}\n')
    made = items(spec, count=5)
    assert [(content(item), item.key) for item in made] == [('A "é"', "x"), ("B", "2")] * 2 + [('A "é"', "x")]
    assert ["max_tokens" in said(item.requests[0]) for item in made] == [False, True, False, True, False]
    assert [item.requests[0].output_tokens for item in made[:2]] == [None, 5]


def test_entries_own_lengths_come_before_the_workloads(tmp_path: Path) -> None:
    text = "prompt,output_tokens\nA,\nB,5\n"
    made = items(from_file(tmp_path, "a.csv", text, output_tokens=workload.fixed(9)), count=2)
    assert [said(item.requests[0])["max_tokens"] for item in made] == [9, 5]


def test_recorded_answers_are_sent_as_they_are_unless_the_conversation_is_held_anew(tmp_path: Path) -> None:
    talk = [("human", "A"), ("gpt", "recorded"), ("human", "C"), ("gpt", "unused")]
    text = json.dumps([{"conversations": [{"from": who, "value": value} for who, value in talk]}])
    (item,) = items(from_file(tmp_path, "a.json", text), count=1)
    assert [message["content"] for message in said(item.requests[0])["messages"]] == ["A", "recorded", "C"]
    spec = from_file(tmp_path, "a.json", text, kind="conversations")
    assert workload.settle(spec, OTHER).turns == 2
    (item,) = items(spec, count=1)
    assert [len(item.requests), content(item)] == [2, "A"]
    assert [m["content"] for m in said(item.requests[1], ["new"])["messages"]] == ["A", "new", "C"]


def test_a_conversation_is_no_text_for_completions(tmp_path: Path) -> None:
    text = '{"prompt": "A"}\n{"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]}\n'
    with pytest.raises(UsageError, match=r"a\.jsonl, line 2: --api completion takes a text"):
        items(from_file(tmp_path, "a.jsonl", text, api="completion"))


def test_a_record_says_all_that_was_asked(tmp_path: Path) -> None:
    row = workload.settle(dataclasses.replace(SMALL, preset="quick"), LLAMA).as_row()
    assert json.loads(json.dumps(row)) == {
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
    assert (row["file"]["name"], row["prompt_tokens"], row["output_tokens"]) == ("a.txt", None, None)
    spec = Spec(kind="context", lengths=(10, 20), output_tokens=workload.fixed(8))
    assert workload.settle(spec, LLAMA).as_row()["lengths"] == [10, 20]
