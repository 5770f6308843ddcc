"""What llama.cpp's own tools run for an instance."""

from __future__ import annotations

from typing import Any

import pytest

from nexus_tasks.core.errors import UsageError
from nexus_tasks.fleet.inventory import Instance
from nexus_tasks.measurement.llama_bench import settings, tool_plan
from nexus_tasks.measurement.llama_bench.tool_plan import BATCHED, BENCH
from tests.llama_bench_runs import instance, planned


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--batch-size 512 --ubatch-size 128", "-b 512 -ub 128"),
        ("-b 256 -b 512", "-b 512"),
        ("--n-gpu-layers 99", "-ngl 99"),
        ("--n-gpu-layers all", "-ngl -2"),
        ("-ngl auto", "-ngl -1"),
        ("--tensor-split 3,1 --device CUDA0,CUDA1", "-ts 3/1 -dev CUDA0/CUDA1"),
        ("--split-mode row --main-gpu 1", "-sm row -mg 1"),
        ("--flash-attn on --cache-type-k q8_0 -ctv q8_0", "-fa on -ctk q8_0 -ctv q8_0"),
        ("--no-kv-offload", "-nkvo 1"),
        ("-nkvo --kv-offload", "-nkvo 0"),
        ("--no-op-offload --no-repack --no-host", "-nopo 1 --repack 0 --no-host 1"),
        ("--n-cpu-moe 4", "-ncmoe 4"),
        ("--cpu-moe --override-tensor a=CPU,b=CPU", f"-ot {settings.EXPERTS};a=CPU;b=CPU"),
        ("--load-mode mmap+mlock --numa isolate -lzm on", "-lm mmap+mlock --numa isolate -lzm on"),
        ("--ctx-size 4096 --parallel 4 --temperature 0.5 --seed -1 --metrics --no-slots", ""),
    ],
)
def test_llama_bench_gets_the_settings_of_the_server_in_its_own_words(flags: str, words: str) -> None:
    found = planned(*flags.split())
    assert [" ".join(command).count(f"-m /m/tiny.gguf {words}".strip() + " -r 3") for command in found.commands] == [
        1,
        1,
    ]
    assert found.warnings == ()


def test_llama_bench_measures_the_prompt_alone_and_generation_after_it() -> None:
    prompt, generation = planned("--threads", "4", "--threads-batch", "8").commands
    assert " ".join(prompt).endswith("-o jsonl --progress -t 8 -p 300 -n 0")
    assert " ".join(generation).endswith("-o jsonl --progress -t 4 -p 0 -n 20 -d 300")
    assert prompt[0] == "/r/bin/llama-bench"


def test_as_many_threads_as_there_are_is_the_tools_own_default() -> None:
    assert all("-t" not in command for command in planned("--threads", "-1").commands)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--threads 2 --threads-batch 4 --swa-full", "--threads 2 --threads-batch 4 --swa-full --kv-unified"),
        ("--parallel 4", "--no-kv-unified"),
        ("--parallel 4 --kv-unified", "--kv-unified"),
        ("-no-kvu --override-tensor a=CPU,b=CPU", "-no-kvu --override-tensor a=CPU,b=CPU"),
        ("--rope-scaling yarn --override-kv k=int:1", "--rope-scaling yarn --override-kv k=int:1 --kv-unified"),
    ],
)
def test_llama_batched_bench_gets_the_flags_of_the_server(flags: str, words: str) -> None:
    (command,) = planned(*flags.split(), engine=BATCHED, levels=(1, 4)).commands
    # 320 tokens a sequence are 512 in the cache; each concurrency is measured once more than asked for, and the last
    # line is one that may be lost.
    sizes = "-c 2048 -npp 300 -ntg 20 -npl 1,1,1,1,4,4,4,4,1 --output-format jsonl"
    assert " ".join(command) == f"/r/bin/llama-batched-bench -m /m/tiny.gguf {words} {sizes}"


def test_what_a_tool_has_no_equal_for_is_named() -> None:
    flags = ["--lora-scaled", "/a.gguf:1", "--spec-type", "ngram-mod", "--some-new-flag", "--swa-full", "-ctk", "f32"]
    (bench,) = planned(*flags).warnings
    assert bench == (
        "llama-bench has no equal for --lora-scaled, --spec-type, --some-new-flag, --swa-full, -ctk f32: "
        "it measures rig/main without"
    )
    (batched,) = planned(*flags, engine=BATCHED).warnings
    assert "no equal for --lora-scaled, --spec-type, --some-new-flag: " in batched


def test_a_server_that_fits_itself_to_the_gpu_is_told_of() -> None:
    (warning,) = planned("--fit", "on", backend="cuda").warnings
    assert "may have moved layers to fit the GPU" in warning
    assert planned("--fit", "on", "-ngl", "99", backend="cuda").warnings == ()
    assert planned(backend="cuda").warnings == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "vllm"}, "no engine 'vllm'"),
        ({"engine": BENCH, "concurrencies": [1, 2]}, "--engine llama-bench needs a concurrency of 1"),
        ({"engine": BATCHED, "concurrencies": [0]}, "each concurrency must be from 1 to 256, not 0"),
        ({"engine": BATCHED, "concurrencies": [257]}, "each concurrency must be from 1 to 256, not 257"),
        ({"engine": BATCHED, "concurrencies": []}, "each concurrency must be from 1 to 256, not nothing"),
        ({"output_tokens": 0}, "--output-tokens must be 1 or more, not 0"),
        ({"instance": instance("--embeddings")}, "generates no text"),
        ({"instance": instance("--reranking")}, "generates no text"),
        (
            {"instance": Instance("rig", "r", "", None, None, {"path": "/r"}, ["/r", "--models-preset", "x"], "")},
            "router",
        ),
        ({"instance": instance("--model", "/m/a,b.gguf")}, "two files"),
    ],
)
def test_what_can_not_be_measured_is_refused(options: dict[str, Any], message: str) -> None:
    given = {
        "instance": instance(), "engine": BENCH, "prompt_tokens": 8, "output_tokens": 8, "repetitions": 2,
        "concurrencies": [1], **options,
    }  # fmt: skip
    with pytest.raises(UsageError, match=message):
        tool_plan.plan_for(**given)
