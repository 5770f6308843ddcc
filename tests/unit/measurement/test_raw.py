"""What the raw engines run for an instance, and what their lines come to."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from nexus_tasks.core.errors import DeployError, UsageError
from nexus_tasks.fleet import playbook, server_options
from nexus_tasks.fleet.inventory import Instance
from nexus_tasks.measurement import raw

# Options that change how fast a server is and that llama-bench knows nothing of.
NOT_OF_BENCH = {
    "swa_full", "rope_scaling", "rope_scale", "yarn_orig_ctx", "lora", "model_draft", "n_gpu_layers_draft",
    "device_draft", "spec_type", "spec_draft_n_max", "spec_draft_n_min", "spec_draft_p_min", "pooling",
}  # fmt: skip
REFUSED = {"embeddings", "reranking", "models", "models_max", "models_autoload"}


def instance(*flags: str, backend: str = "cpu", model: dict[str, Any] | None = None) -> Instance:
    argv = ["/r/bin/llama-server", "--model", "/m/tiny.gguf", "--alias", "tiny", "--port", "1", "--fit", "off", *flags]
    release = {"name": "b1-cpu", "path": "/r", "ref": "b1", "commit": "0123456789abcdef", "backend": backend}
    return Instance("rig", "main", "http://127.0.0.1:1", "sesame", model or {"name": "tiny"}, release, argv, "/log")


def planned(*flags: str, engine: str = raw.BENCH, levels: tuple[int, ...] = (1,), **options: Any) -> raw.Plan:
    return raw.plan(instance(*flags, **options), engine, 300, 20, 3, levels)


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
        ("--cpu-moe --override-tensor a=CPU,b=CPU", f"-ot {raw.EXPERTS};a=CPU;b=CPU"),
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
    (command,) = planned(*flags.split(), engine=raw.BATCHED, levels=(1, 4)).commands
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
    (batched,) = planned(*flags, engine=raw.BATCHED).warnings
    assert "no equal for --lora-scaled, --spec-type, --some-new-flag: " in batched


def test_a_server_that_fits_itself_to_the_gpu_is_told_of() -> None:
    (warning,) = planned("--fit", "on", backend="cuda").warnings
    assert "may have moved layers to fit the GPU" in warning
    assert planned("--fit", "on", "-ngl", "99", backend="cuda").warnings == ()
    assert planned(backend="cuda").warnings == ()


def test_of_each_option_of_an_instance_it_is_decided_what_becomes_of_it() -> None:
    taken = raw.BENCH_TAKES.keys() | raw.BENCH_SWITCHES.keys() | {"cpu_moe", "override_tensor"}
    known = raw.SERVING | taken | NOT_OF_BENCH | REFUSED | {"threads", "threads_batch", "kv_unified"}
    assert set(server_options.rules().flags) - known == set()
    assert not (raw.SERVING & raw.BATCHED_TAKES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "vllm"}, "no engine 'vllm'"),
        ({"engine": raw.BENCH, "concurrencies": [1, 2]}, "no concurrency but 1"),
        ({"engine": raw.BATCHED, "concurrencies": [0]}, "concurrency of 0"),
        ({"engine": raw.BATCHED, "concurrencies": [257]}, "concurrency of 257"),
        ({"engine": raw.BATCHED, "concurrencies": []}, "concurrency of nothing"),
        ({"output_tokens": 0}, "--output-tokens 0 is too few"),
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
        "instance": instance(), "engine": raw.BENCH, "prompt_tokens": 8, "output_tokens": 8, "repetitions": 2,
        "concurrencies": [1], **options,
    }  # fmt: skip
    with pytest.raises(UsageError, match=message):
        raw.plan(**given)


# --- lines


def bench_lines(generated: int = 2) -> list[dict[str, Any]]:
    lines = [
        {"command": 0, "t_s": 1.0, "text": "llama-bench: benchmark 1/1: warmup prompt run"},
        {"command": 0, "t_s": 2.0, "text": "llama-bench: benchmark 1/1: prompt run 1/2"},
        {"command": 0, "t_s": 2.5, "text": "llama-bench: benchmark 1/1: prompt run 2/2"},
        {"command": 0, "t_s": 3.0, "text": json.dumps({"samples_ns": [400_000_000, 500_000_000]})},
        {"command": 1, "t_s": 5.0, "text": "llama-bench: benchmark 1/1: generation run 1/2"},
    ]
    samples = [1_000_000_000, 1_100_000_000][:generated]
    return lines + ([{"command": 1, "t_s": 8.0, "text": json.dumps({"samples_ns": samples})}] if samples else [])


BATCHED_LINES = [
    {"command": 0, "t_s": 2.0, "text": json.dumps({"pl": level, "t_pp": 0.3, "t_tg": seconds, "t": 0.3 + seconds})}
    for level, seconds in ((1, 0.9), (1, 0.4), (1, 0.5), (1, 0.6), (4, 2.0), (4, 0.8), (4, 1.0), (4, 1.2), (1, 9.0))
]
BATCHED = planned(engine=raw.BATCHED, levels=(1, 4))


def test_a_repetition_of_llama_bench_is_a_prefill_and_a_generation() -> None:
    first, second = raw.bench_samples(bench_lines())
    assert (first.prefill_s, first.decode_s, first.start_s) == (0.4, 1.0, 2.0)
    assert (second.prefill_s, second.decode_s, second.start_s) == (0.5, 1.1, 2.5)
    row = raw.request_row(0, 0, first, planned(), after_s=10.0)
    assert (row["start_s"], row["decode_ms"], row["total_ms"], row["tpot_ms"]) == (12.0, 1000.0, 1400.0, 50.0)
    assert (row["decode_tps"], row["prefill_tps"]) == (20.0, 750.0)
    assert (row["ttft_ms"], row["itl_ms"], row["server"]) == (None, [], None)


def test_of_an_interrupted_llama_bench_the_prompts_are_kept() -> None:
    samples = raw.bench_samples(bench_lines(generated=0))
    assert [sample.decode_s for sample in samples] == [None, None]
    rows, stages = raw.rows_of(planned(), samples, 0.0)
    outcome = raw.summary_row(rows, stages, interrupted=True, failure=None, wall_s=1.0)
    assert (outcome["ok"], outcome["interrupted"]) == (False, True)
    assert outcome["metrics"]["prefill_tps"]["n"] == 2
    assert outcome["metrics"]["decode_tps"] is None
    assert rows[0]["total_ms"] is None
    assert raw.bench_samples(bench_lines()[:3]) == []


def test_the_first_time_of_each_concurrency_is_warm_up() -> None:
    samples = raw.batched_samples(BATCHED_LINES, BATCHED)
    assert [sample.phase for sample in samples] == ["warmup", "run", "run", "run"] * 2
    rows, stages = raw.rows_of(BATCHED, samples, 0.0)
    assert [row["stage"] for row in rows] == [0] * 4 + [1] * 4
    assert [(stage["stage"], stage["concurrency"]) for stage in stages] == [(0, 1), (1, 4)]
    # 20 tokens in 0.4, 0.5 and 0.6 s; of the warm-up nothing counts.
    assert stages[0]["metrics"]["decode_tps"]["median"] == pytest.approx(40)
    assert stages[0]["metrics"]["decode_tps"]["n"] == 3


def test_a_sequence_has_its_own_speed_and_a_concurrency_that_of_all() -> None:
    rows, stages = raw.rows_of(BATCHED, raw.batched_samples(BATCHED_LINES, BATCHED), 0.0)
    assert stages[1]["metrics"]["decode_tps"]["median"] == pytest.approx(20)
    window_s = 3 * 0.3 + 0.8 + 1.0 + 1.2
    assert stages[1]["throughput"]["output_tps"] == pytest.approx(4 * 3 * 20 / window_s)
    assert stages[1]["throughput"]["prompt_tps"] == pytest.approx(4 * 3 * 300 / window_s)
    outcome = raw.summary_row(rows, stages, interrupted=False, failure=None, wall_s=1.0)
    assert outcome["ok"] is True
    assert outcome["throughput"]["output_tps"] == pytest.approx(5 * 3 * 20 / (window_s + 2.4))


@pytest.mark.parametrize(
    ("answer", "made", "message"),
    [
        ({"status": 1, "said": ["x", "error: no model", "bye"]}, 0, r"failed \(exit status 1\): error: no model"),
        ({"status": 1, "said": []}, 0, "it gave no reason"),
        ({"status": -9, "said": ["loading"]}, 0, "as the kernel does where memory runs out"),
        ({"status": 0, "said": []}, 2, "measured 2 of 3 repetitions"),
    ],
)
def test_a_run_that_is_not_whole_says_why(answer: dict[str, Any], made: int, message: str) -> None:
    asked = planned()
    samples = [raw.Sample(1, 0.0, 0.1, 0.1)] * made
    failure = raw._failure(asked, samples, answer)
    assert failure is not None
    with pytest.raises(DeployError, match=message):
        raise DeployError(failure, hint="")
    rows, stages = raw.rows_of(asked, samples, 0.0)
    outcome = raw.summary_row(rows, stages, interrupted=False, failure=failure, wall_s=1.0)
    assert (outcome["ok"], outcome["valid"], outcome["reasons"]) == (False, False, [failure])


def test_a_whole_run_has_no_failure() -> None:
    assert raw._failure(planned(), [raw.Sample(1, 0.0, 0.1, 0.1)] * 3, {"status": 0, "said": []}) is None


# --- the servers of the host


def row(name: str, state: str = "running", **more: Any) -> dict[str, Any]:
    return {"name": name, "state": state, "trouble": None, "remark": None, **more}


def test_only_a_server_that_runs_is_stopped_and_the_others_run_beside_the_tool() -> None:
    rows = [row("main"), row("other"), row("old", "stopped"), row("new", "not deployed")]
    assert raw._running(rows, instance(), stop_server=True) == (True, ["rig/other"])
    assert raw._running(rows, instance(), stop_server=False) == (False, ["rig/main", "rig/other"])
    assert raw._running([row("main", "stopped")], instance(), stop_server=True) == (False, [])


@pytest.mark.parametrize(
    "found",
    [row("main", "failed"), row("main", trouble="what runs was not proven"), row("main", switching=True)],
)
def test_a_server_that_may_not_come_back_is_not_stopped(found: dict[str, Any]) -> None:
    with pytest.raises(DeployError, match="it may not come back"):
        raw._running([found], instance(), stop_server=True)


def test_a_tool_whose_host_was_lost_is_ended_before_the_server_is_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done: list[str] = []

    def play(place: raw.Place, console: Console, **variables: Any) -> dict[str, Any]:
        done.append("end" if variables.get("raw_ends") else "measure")
        if done[-1] == "measure":
            raise DeployError("the way there was lost", hint="")
        return {"lines": []}

    monkeypatch.setattr(raw, "_play", play)
    monkeypatch.setattr(raw, "_move", lambda verb, *_: done.append(verb))
    monkeypatch.setattr(playbook, "run_on", lambda *_, **__: playbook.Outcome(0, {}, {"rig": [row("main")]}, {}))
    with pytest.raises(DeployError, match="the way there was lost"):
        raw.run(
            instance(), raw.BENCH, 300, 20, 3, [1], root=tmp_path, console=Console(quiet=True), stop_server=True
        )  # fmt: skip
    assert done == ["stop", "measure", "end", "start"]


def test_after_ctrl_c_a_server_that_did_not_come_back_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fails = tmp_path / "python"
    fails.write_text("#!/bin/sh\ncat > /dev/null\nexit 1\n")
    fails.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fails))
    stream = io.StringIO()
    with (
        pytest.raises(KeyboardInterrupt),
        raw.left_as_it_was(raw.Place("rig", "main", "1", starts=True), Console(file=stream, width=200)),
    ):
        raise KeyboardInterrupt
    assert "rig/main may not be as it was: nox -s status, then nox -s start -- rig/main" in stream.getvalue()


def test_a_key_in_the_command_line_does_not_reach_the_record() -> None:
    written = raw.header(planned(), instance("--api-key", "sesame"), {"lines": bench_lines()}, beside=[], tag="a")
    assert "sesame" not in json.dumps(written)
    assert written["server"]["argv"][-2:] == ["--api-key", "***"]
    assert (written["server"]["build"], written["load"]["engine"], written["tag"]) == ("b1-012345678", raw.BENCH, "a")
