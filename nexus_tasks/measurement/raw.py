"""Measure a model without its server: llama.cpp's own llama-bench and llama-batched-bench, on the host of an instance.

    path = raw.run(instance, "llama-bench", 512, 256, 5, [1], root=store.ROOT, console=Console())
    results.load(path).summary["metrics"]["decode_tps"]["median"]

The tools are those of the instance's release. They load the same file with the same settings as far as they have them;
what they lack is a warning. The record is one of kind ``benchmark``, so that a report can show what serving costs.

The process that measures may be killed. A second one, ``python -m nexus_tasks.measurement.raw``, waits for its end and
leaves the host as it was: the tool is ended, and a server that was stopped for it is started and proven.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import secrets
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import psutil
from rich.console import Console
from rich.markup import escape

from nexus_tasks.core import provenance
from nexus_tasks.core.errors import DeployError, NexusError, UsageError, command_line
from nexus_tasks.fleet import playbook, server_options
from nexus_tasks.fleet.inventory import Instance
from nexus_tasks.records import store
from nexus_tasks.stats import summary
from nexus_tasks.telemetry import sampling

BENCH, BATCHED = "llama-bench", "llama-batched-bench"
ENGINES = (BENCH, BATCHED)
MOST_SEQUENCES = 256  # LLAMA_MAX_SEQ
CACHE_PAD = 256  # tokens; llama.cpp rounds the context of a sequence up to it
HOST_STATE = ("driver", "power_limit_w", "clocks_max_mhz", "governor")
STOPPED = ("stopped", "not deployed")
# The tensors that --cpu-moe keeps in host memory (LLM_FFN_EXPS_REGEX of llama.cpp), for a tool without that flag.
EXPERTS = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps=CPU"

Row = dict[str, Any]
Words = list[str]


# --- the settings of a server, as the tools take them


# What has no part in how fast a model is: options of role llama_server.
SERVING = {
    "model", "host", "port", "api_keys", "timeout", "threads_http", "ui", "metrics", "slots", "log_verbosity",
    "ctx_size", "parallel", "n_predict", "fit", "cache_ram", "cache_reuse", "context_shift", "mmproj", "jinja",
    "chat_template", "chat_template_kwargs", "reasoning", "reasoning_format", "reasoning_effort", "reasoning_budget",
    "temperature", "top_k", "top_p", "min_p", "repeat_penalty", "frequency_penalty", "presence_penalty", "warmup",
    "sleep_idle_seconds", "seed",
}  # fmt: skip
# Flags that no option of the role says, from extra_args.
EXTRA_OPTIONS = {
    "--op-offload": "op_offload", "--no-op-offload": "op_offload", "--repack": "repack", "-nr": "repack",
    "--no-repack": "repack", "--no-host": "no_host", "--lazy-mode": "lazy_mode", "-lzm": "lazy_mode",
    "--override-kv": "override_kv", "--rope-freq-base": "rope_freq_base", "--rope-freq-scale": "rope_freq_scale",
    "--n-cpu-ffn": "n_cpu_ffn", "-ncffn": "n_cpu_ffn", "--seed": "seed", "-s": "seed",
}  # fmt: skip
SWITCHES = {"cpu_moe", "swa_full", "kv_offload", "kv_unified", "op_offload", "repack", "no_host"}
# llama-batched-bench reads the flags of llama-server; these reach its model and its context.
BATCHED_TAKES = SWITCHES | {
    "batch_size", "ubatch_size", "n_gpu_layers", "n_cpu_moe", "override_tensor", "device", "split_mode",
    "tensor_split", "main_gpu", "flash_attn", "cache_type_k", "cache_type_v", "rope_scaling", "rope_scale",
    "yarn_orig_ctx", "load_mode", "numa", "threads", "threads_batch", "lazy_mode", "override_kv", "rope_freq_base",
    "rope_freq_scale", "n_cpu_ffn",
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """An option of a server's command line. ``value`` is None for a switch, ``on`` what the switch says."""

    option: str
    flag: str
    value: str | None
    on: bool = True


def settings(argv: Sequence[str]) -> list[Setting]:
    """The options of a server's command line in their order; ``option`` is the flag itself where role llama_server has
    no name for it.
    """
    spelled: dict[str, str] = {**server_options.rules().spellings(), **EXTRA_OPTIONS}
    words, found = list(argv[1:]), []
    while words:
        flag = words.pop(0)
        option = spelled.get(flag, flag)
        # What follows and is no flag is its value; a number may be below 0.
        has_value = option not in SWITCHES and bool(words) and not re.match(r"-{1,2}[A-Za-z]", words[0])
        on = option == "no_host" or not flag.lstrip("-").startswith("n")  # --no-kv-offload, -nkvo, -nr
        found.append(Setting(option, flag, words.pop(0) if has_value else None, on))
    return found


def _layers(value: str) -> str:
    return {"auto": "-1", "all": "-2"}.get(value, value)


def _slashes(value: str) -> str:
    return value.replace(",", "/")  # where llama-bench takes commas for further tests


BENCH_TAKES: dict[str, tuple[str, Callable[[str], str]]] = {
    "batch_size": ("-b", str),
    "ubatch_size": ("-ub", str),
    "n_gpu_layers": ("-ngl", _layers),
    "n_cpu_moe": ("-ncmoe", str),
    "device": ("-dev", _slashes),
    "split_mode": ("-sm", str),
    "tensor_split": ("-ts", _slashes),
    "main_gpu": ("-mg", str),
    "flash_attn": ("-fa", str),
    "cache_type_k": ("-ctk", str),
    "cache_type_v": ("-ctv", str),
    "load_mode": ("-lm", str),
    "lazy_mode": ("-lzm", str),
    "numa": ("--numa", str),
}
# Switches of a server that are numbers of llama-bench, for true and for false.
BENCH_SWITCHES = {
    "kv_offload": ("-nkvo", "0", "1"),
    "op_offload": ("-nopo", "0", "1"),
    "repack": ("--repack", "1", "0"),
    "no_host": ("--no-host", "1", "0"),
}


def bench_words(found: Iterable[Setting]) -> tuple[Words, Words]:
    """The settings as llama-bench takes them, without threads, and the flags that it has no equal for."""
    taken: dict[str, str] = {}
    overrides: Words = []
    lacking: Words = []
    for setting in found:
        value = setting.value or ""
        if setting.option in BENCH_SWITCHES:
            flag, true, false = BENCH_SWITCHES[setting.option]
            taken[flag] = true if setting.on else false
        elif setting.option == "cpu_moe":
            overrides.append(EXPERTS)
        elif setting.option == "override_tensor" and ";" not in value:
            overrides.append(value.replace(",", ";"))
        elif setting.option.startswith("cache_type") and value == "f32":
            lacking.append(f"{setting.flag} f32")
        elif setting.option in BENCH_TAKES:
            flag, spell = BENCH_TAKES[setting.option]
            taken[flag] = spell(value)
        elif setting.option not in SERVING | {"threads", "threads_batch", "kv_unified"}:
            lacking.append(setting.flag)
    if overrides:  # a second -ot would be a second test
        taken["-ot"] = ";".join(overrides)
    return [word for pair in taken.items() for word in pair], lacking


def batched_words(found: Sequence[Setting]) -> tuple[Words, Words]:
    """The settings as llama-batched-bench takes them, and the flags that mean nothing to it."""
    words: Words = []
    lacking: Words = []
    for setting in found:
        if setting.option in BATCHED_TAKES:
            words += [setting.flag] if setting.value is None else [setting.flag, setting.value]
        elif setting.option not in SERVING:
            lacking.append(setting.flag)
    options = {setting.option for setting in found}
    if "kv_unified" not in options:  # the server's own rule, which goes by slots that the tool does not have
        words.append("--no-kv-unified" if "parallel" in options else "--kv-unified")
    return words, lacking


# --- what is run


@dataclass(frozen=True)
class Plan:
    """The command lines of a run, what people should know of them, and what is measured."""

    engine: str
    commands: tuple[tuple[str, ...], ...]
    warnings: tuple[str, ...]
    prompt_tokens: int
    output_tokens: int
    repetitions: int
    concurrencies: tuple[int, ...]


def plan(
    instance: Instance,
    engine: str,
    prompt_tokens: int,
    output_tokens: int,
    repetitions: int,
    concurrencies: Sequence[int],
) -> Plan:
    """What to run for an instance.

    llama-bench runs twice: prompts with nothing before them, then generation after such a prompt, as a server does it.
    llama-batched-bench repeats each concurrency by itself, after one time that doesn't count.

    Raises:
        UsageError: the engine does not exist or can't measure this.
    """
    if engine not in ENGINES:
        raise UsageError(f"there is no engine {engine!r}", hint=f"the engines are http, {', '.join(ENGINES)}")
    sizes = {"prompt-tokens": prompt_tokens, "output-tokens": output_tokens, "runs": repetitions}
    for name, size in sizes.items():
        if size < 1:
            raise UsageError(f"--{name} {size} is too few", hint="at least 1")
    if engine == BENCH and list(concurrencies) != [1]:
        raise UsageError("llama-bench has no concurrency but 1", hint="take --engine llama-batched-bench for others")
    if not concurrencies or min(concurrencies) < 1 or max(concurrencies) > MOST_SEQUENCES:
        raise UsageError(
            f"llama-batched-bench can't have a concurrency of {', '.join(map(str, concurrencies)) or 'nothing'}",
            hint=f"from 1 to {MOST_SEQUENCES}",
        )
    found = settings(instance.argv)
    options = {setting.option: setting.value for setting in found}
    if instance.model is None or not (model := _model(found)):
        raise UsageError(f"{instance.target} is a router of several models", hint="measure an instance with one model")
    if {"embeddings", "reranking"} & options.keys():
        raise UsageError(
            f"{instance.target} generates no text, and {engine} measures nothing else", hint="measure it over HTTP"
        )
    program = str(Path(instance.release["path"]) / "bin" / engine)
    commands: list[Words]
    if engine == BENCH:
        if "," in model:
            raise UsageError(f"llama-bench takes {model} for two files", hint="llama-batched-bench can read it")
        words, lacking = bench_words(found)
        one, several = options.get("threads"), options.get("threads_batch")
        base = [program, "-m", model, *words, "-r", str(repetitions), "-o", "jsonl", "--progress"]
        commands = [
            [*base, *_threads(several or one), "-p", str(prompt_tokens), "-n", "0"],
            [*base, *_threads(one), "-p", "0", "-n", str(output_tokens), "-d", str(prompt_tokens)],
        ]
    else:
        words, lacking = batched_words(found)
        sequence = -(-(prompt_tokens + output_tokens) // CACHE_PAD) * CACHE_PAD
        # One more at the end, which is not read: the tool may end before the thread that prints its last line has.
        levels = ",".join([*(str(level) for level in concurrencies for _ in range(repetitions + 1)), "1"])
        commands = [
            [program, "-m", model, *words, "-c", str(sequence * max(concurrencies)), "-npp", str(prompt_tokens),
             "-ntg", str(output_tokens), "-npl", levels, "--output-format", "jsonl"]
        ]  # fmt: skip
    warnings = []
    if lacking:
        warnings.append(f"{engine} has no equal for {', '.join(lacking)}: it measures {instance.target} without")
    fits = instance.release.get("backend") == "cuda" and options.get("fit") != "off"
    if fits and options.get("n_gpu_layers") in (None, "auto"):
        warnings.append(
            f"{instance.target} may have moved layers to fit the GPU, and {engine} does not: set n_gpu_layers"
        )
    return Plan(
        engine, tuple(map(tuple, commands)), tuple(warnings), prompt_tokens, output_tokens, repetitions,
        tuple(concurrencies),
    )  # fmt: skip


def _model(found: Sequence[Setting]) -> str | None:
    """The file that is served; the last one given counts, as for every flag."""
    return next((setting.value for setting in reversed(found) if setting.flag in ("--model", "-m")), None)


def _threads(value: str | None) -> Words:
    """llama-bench knows no -1, which is as many as it takes by itself."""
    return ["-t", value] if value and not value.startswith("-") else []


# --- what came of it


@dataclass(frozen=True)
class Sample:
    """One repetition: seconds of prefill and of decoding, None where it was not come to."""

    concurrency: int
    start_s: float
    prefill_s: float | None
    decode_s: float | None
    phase: str = "run"


def bench_samples(lines: Iterable[Mapping[str, Any]]) -> list[Sample]:
    """The repetitions in the lines of llama-bench: the first prefill with the first generation, and so on."""
    seconds: dict[int, list[float]] = {0: [], 1: []}
    begun: dict[int, list[float]] = {0: [], 1: []}
    for line in lines:
        command, text = line["command"], line["text"]
        if text.startswith("{"):
            seconds[command] = [sample / 1e9 for sample in json.loads(text)["samples_ns"]]
        elif re.search(r": (prompt|generation) run ", text):
            begun[command].append(line["t_s"])
    return [
        Sample(1, begun[0][number], prefill, seconds[1][number] if seconds[1] else None)
        for number, prefill in enumerate(seconds[0])
    ]


def batched_samples(lines: Sequence[Mapping[str, Any]], asked: Plan) -> list[Sample]:
    """The repetitions in the lines of llama-batched-bench; the first of each concurrency is warm-up."""
    samples: list[Sample] = []
    for line in lines[: (asked.repetitions + 1) * len(asked.concurrencies)]:
        row = json.loads(line["text"])
        first = not samples or samples[-1].concurrency != row["pl"]
        samples.append(
            Sample(row["pl"], line["t_s"] - row["t"], row["t_pp"], row["t_tg"], "warmup" if first else "run")
        )
    return samples


def request_row(index: int, stage: int, sample: Sample, asked: Plan, after_s: float) -> Row:
    """A repetition as a record holds it: what each of its sequences had. ``after_s`` is when the tools were started."""
    start_s = round(sample.start_s + after_s, 4)
    parts = (sample.prefill_s, sample.decode_s)
    total_s = sum(part for part in parts if part is not None)
    return {
        "type": "request", "index": index, "stage": stage, "round": 0, "phase": sample.phase, "key": None,
        "conversation": None, "turn": 0, "worker": 0, "intended_s": start_s, "start_s": start_s, "late_ms": None,
        "ok": True, "error": None, "prompt_tokens": asked.prompt_tokens,
        "output_tokens": asked.output_tokens if sample.decode_s else None, "reasoning_tokens": None,
        "cached_tokens": 0, "draft": None, "finish_reason": None, "ttft_ms": None,
        "ttft_visible_ms": None, "queue_ms": None, "decode_ms": _ms(sample.decode_s),
        "total_ms": _ms(total_s) if None not in parts else None,
        # A tool's N tokens are N steps; a server's first token comes with the prefill.
        "tpot_ms": _ms(sample.decode_s / asked.output_tokens) if sample.decode_s else None,
        "itl_ms": [], "stalls": 0,
        "decode_tps": asked.output_tokens / sample.decode_s if sample.decode_s else None,
        "prefill_tps": asked.prompt_tokens / sample.prefill_s if sample.prefill_s else None,
        "server": None, "backend": None,
    }  # fmt: skip


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


def stage_row(stage: int, concurrency: int, rows: Sequence[Row]) -> Row:
    """The figures of one concurrency. Its throughput is that of all sequences together."""
    figures = summary.of_requests(rows, window_s=_window_s(rows))
    return {
        "type": "stage", "stage": stage, "round": 0, "concurrency": concurrency, "rate_per_s": None,
        "prompt_tokens": None, "watch": None, **figures,
        "throughput": {name: value and value * concurrency for name, value in figures["throughput"].items()},
    }  # fmt: skip


def _window_s(rows: Iterable[Row]) -> float:
    return sum(row["total_ms"] or 0.0 for row in rows if row["phase"] == "run") / 1000


def summary_row(
    rows: Sequence[Row], stages: Sequence[Row], *, interrupted: bool, failure: str | None, wall_s: float
) -> Row:
    """The verdict on a run and the figures of all of its repetitions."""
    windows = [_window_s(row for row in rows if row["stage"] == stage["stage"]) for stage in stages]
    throughput: dict[str, float | None] = {}
    for name in ("output_tps", "requests_per_s", "prompt_tps", "total_tps"):
        parts = [
            (stage["throughput"][name], window) for stage, window in zip(stages, windows, strict=True) if window > 0
        ]
        known = [value * window for value, window in parts if value is not None]
        throughput[name] = sum(known) / sum(windows) if known else None
    return {
        "ok": failure is None and not interrupted, "valid": failure is None, "reasons": [failure] if failure else [],
        "interrupted": interrupted, "stopped": None, "wall_s": round(wall_s, 3),
        **summary.of_requests(rows, window_s=sum(windows)), "throughput": throughput,
        "knee": None, "agreement": None, "energy": None,
    }  # fmt: skip


def header(
    asked: Plan, instance: Instance, answer: Mapping[str, Any], *, beside: Sequence[str], tag: str | None
) -> Row:
    """What a record says about the run, besides what every record says."""
    told: Row = next((json.loads(line["text"]) for line in answer["lines"] if line["text"].startswith("{")), {})
    model = instance.model or {}
    warmup = 1 if asked.engine == BATCHED else 0
    fixed = {
        "prompt_tokens": {"kind": "fixed", "mean": asked.prompt_tokens},
        "output_tokens": {"kind": "fixed", "mean": asked.output_tokens},
    }
    release = instance.release
    ref, commit = str(release.get("ref")), str(release.get("commit"))
    build = f"{ref}-{commit[:9]}" if re.fullmatch(r"b\d+", ref) else None  # as /props of its server says it
    return {
        "target": instance.target,
        "endpoint": {
            "base_url": instance.base_url, "host": instance.host, "instance": instance.name, "engine": "llama.cpp",
            "model": model.get("name"), "tunnel": None, "preset": None,
        },
        "model": {
            "name": model.get("name"), "path": model.get("path"), "size_bytes": model.get("size_bytes"),
            "sha256": model.get("sha256"), "n_params": told.get("model_n_params"), "n_ctx_train": None,
        },
        "server": {
            "build": build, "release": release.get("name"), "argv": _without_key(instance),
            "argv_sha256": instance.argv_sha256, "n_ctx": None, "total_slots": None,
        },
        "client": {**provenance.client(), "local": instance.here},
        "gpus": answer.get("gpus", []),
        "nvml_error": None,
        "git": provenance.git(),
        "workload": {
            "preset": None, "kind": "synthetic", "api": "completion", **fixed, "prompts": "unique", "turns": 1,
            "prefix_tokens": 0, "lengths": None, "file": None, "documents": None, "temperature": 0,
            "ignore_eos": True, "seed": None,
        },
        "load": {
            "engine": asked.engine, "mode": "closed",
            "axis": "concurrency" if len(asked.concurrencies) > 1 else None,
            "planned": [
                {"concurrency": level, "requests": asked.repetitions, "warmup": warmup, "ramp_s": 0.0}
                for level in asked.concurrencies
            ],
            "until": None, "slo": {}, "limits": {"token_s": None, "request_s": None, "max_error_rate": None},
            "processes": 1, "rounds": 1, "interleaved_with": None,
            "commands": [list(command) for command in asked.commands],
            "servers_beside": list(beside),
        },
        "tag": tag,
        "host_state": answer.get("host_state") or dict.fromkeys(HOST_STATE),
    }  # fmt: skip


def _without_key(instance: Instance) -> list[str]:
    """The server's argv; a key that somebody put there in spite of --api-key-file is masked."""
    return [word.replace(instance.api_key, "***") if instance.api_key else word for word in instance.argv]


# --- the host


@dataclass(frozen=True)
class Place:
    """Where a run is, and what has to be put back after it: all that the second process must know."""

    host: str
    instance: str
    run: str
    starts: bool
    """Whether the server was stopped for the run."""


def _play(place: Place, console: Console | None, **variables: Any) -> Any:
    """Run playbooks/raw.yml, and return what it wrote."""
    with tempfile.TemporaryDirectory(prefix="llama-nexus-") as folder:
        answer = Path(folder) / "answer.json"
        given = {"raw_run": place.run, "raw_instance": place.instance, "raw_file": str(answer), **variables}
        outcome = playbook.run_on(
            place.host, "playbooks/raw.yml", "--extra-vars", json.dumps({"raw_commands": [], **given}), console=console
        )
        if outcome.status != 0:
            raise DeployError(outcome.problem(), hint="mend it and measure again; nox -s status shows what runs")
        return json.loads(answer.read_text(encoding="utf-8"))


def end(place: Place, console: Console | None) -> Any:
    """Have the run's tool ended; the lines that there were.

    Raises:
        DeployError: the host can't be reached, or the tool does not end.
    """
    return _play(place, console, raw_ends=True)


def _move(verb: str, place: Place, console: Console | None) -> None:
    """Stop or start the server of a place, and prove one that was started."""
    variables = json.dumps({"instance": place.instance, "raw_run": place.run})
    outcome = playbook.run_on(place.host, f"playbooks/{verb}.yml", "--extra-vars", variables, console=console)
    if outcome.status != 0:
        target = f"{place.host}/{place.instance}"
        raise DeployError(
            f"{target} did not {verb}: {outcome.problem()}", hint=f"nox -s status, then nox -s {verb} -- {target}"
        )


@contextlib.contextmanager
def left_as_it_was(place: Place, console: Console) -> Iterator[None]:
    """Put the host back when the block is left, and also when this process is killed in it.

    Raises:
        DeployError: the server that was stopped does not come back.
        KeyboardInterrupt: it was interrupted again; the second process goes on.
    """
    argv = [sys.executable, "-m", "nexus_tasks.measurement.raw"]
    quiet = subprocess.DEVNULL
    # A session of its own: what ends a terminal's processes does not end this one.
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, text=True, start_new_session=True
    ) as second:
        told = cast(IO[str], second.stdin)
        told.write(json.dumps(dataclasses.asdict(place)) + "\n")
        told.flush()
        try:
            failure: NexusError | None = None
            try:
                yield
            except NexusError as error:
                failure = error
            if place.starts:
                _move("start", place, console)
            told.write("done\n")
            if failure:
                raise failure
        except KeyboardInterrupt:
            console.print("interrupted; leaving the host as it was, which goes on by itself after another Ctrl-C")
            told.close()
            if second.wait() != 0:
                target = f"{place.host}/{place.instance}"
                _warn(console, f"{target} may not be as it was: nox -s status, then nox -s start -- {target}")
            raise


def _running(rows: Iterable[Row], instance: Instance, *, stop_server: bool) -> tuple[bool, list[str]]:
    """Whether the instance's own server is to be stopped, and which servers will run beside the tool."""
    running = {row["name"]: row for row in rows if row["state"] not in STOPPED}
    own = running.get(instance.name)
    stops = stop_server and own is not None
    if stops and own and (own["state"] != "running" or own.get("trouble") or own.get("switching")):
        raise DeployError(
            f"{instance.target} is not stopped for a measurement, it may not come back: "
            f"{own.get('trouble') or own.get('remark') or own['state']}",
            hint=f"nox -s status -- {instance.target}; when it serves, measure again",
        )
    return stops, [f"{instance.host}/{name}" for name in running if not (stops and name == instance.name)]


def run(
    instance: Instance,
    engine: str,
    prompt_tokens: int,
    output_tokens: int,
    repetitions: int,
    concurrencies: Sequence[int],
    *,
    root: Path,
    console: Console,
    tag: str | None = None,
    stop_server: bool = False,
) -> Path:
    """Measure an instance's model with a tool of its release, and write the record.

    Args:
        engine: one of ENGINES.
        repetitions: how often each concurrency is measured.
        root: the results folder.
        stop_server: whether the instance's server is stopped meanwhile; it is started and proven afterwards.

    Raises:
        UsageError: as :func:`plan` does.
        DeployError: nothing could be measured, or the server does not come back.
        RecordError: the record cannot be written.
        KeyboardInterrupt: after the tool was ended, the server is back and what was measured is in a record.
    """
    asked = plan(instance, engine, prompt_tokens, output_tokens, repetitions, concurrencies)
    looked = playbook.run_on(instance.host, "playbooks/status.yml", console=console, narrate=False)
    if looked.status != 0:
        raise DeployError(looked.problem(), hint=f"nox -s status -- {instance.host} shows how its servers are")
    stops, beside = _running(looked.rows.get(instance.host, []), instance, stop_server=stop_server)
    for warning in asked.warnings:
        _warn(console, warning)
    if beside:
        advice = f": --stop-server stops {instance.target} meanwhile" if instance.target in beside else ""
        _warn(console, f"{_running_words(beside)} beside {engine}, takes memory and slows it when asked{advice}")
    place = Place(instance.host, instance.name, secrets.token_hex(8), stops)
    interrupted = False
    # The monotonic clock is one for all processes of a machine, and is never set.
    started_at, began_at, origin = store.utc_now(), time.monotonic(), time.perf_counter()
    with (
        left_as_it_was(place, console),
        sampling.Gpus() as gpus,
        sampling.Sampler(gpus, origin=origin) as sampler,
    ):
        if stops:
            _move("stop", place, console)
        try:
            answer = _play(place, console, raw_commands=asked.commands)
        except KeyboardInterrupt:
            interrupted = True
            answer = end(place, console)
        except DeployError:
            # A job goes on when the way to it is lost: not beside a server that is about to be started.
            with contextlib.suppress(DeployError):
                end(place, console)
            raise
        wall_s = time.perf_counter() - origin
        sampler.stop()
        telemetry_rows = sampler.take()
    made = bench_samples(answer["lines"]) if engine == BENCH else batched_samples(answer["lines"], asked)
    failure = None if interrupted else _failure(asked, made, answer)
    if not made:
        if interrupted:
            console.print("interrupted; nothing was measured yet")
            raise KeyboardInterrupt
        raise DeployError(f"{instance.target}: {failure}", hint=_hint(asked, beside))
    about = header(asked, instance, answer, beside=beside, tag=tag)
    # Written when all is known, since the tools say only at their end what they are and what they measured.
    with store.create("benchmark", {**about, "started_at": started_at}, target=instance.target, root=root) as record:
        after_s = answer["begun_at"] - began_at if instance.here else 0.0  # clocks of two machines differ
        rows, stages = rows_of(asked, made, after_s)
        for row in [*rows, *stages, *(telemetry_rows if instance.here else [])]:
            record.append(row)
        record.finish(summary_row(rows, stages, interrupted=interrupted, failure=failure, wall_s=wall_s))
    if interrupted:
        console.print(f"interrupted; what was measured is in {record.path}", soft_wrap=True, highlight=False)
        raise KeyboardInterrupt
    if failure:
        _warn(console, failure)
    return record.path


def rows_of(asked: Plan, made: Sequence[Sample], after_s: float) -> tuple[list[Row], list[Row]]:
    """The ``request`` rows and the ``stage`` rows of what was measured."""
    levels = {level: stage for stage, level in enumerate(asked.concurrencies)}
    rows = [request_row(index, levels[sample.concurrency], sample, asked, after_s) for index, sample in enumerate(made)]
    stages = [
        stage_row(stage, level, of_stage)
        for level, stage in levels.items()
        if (of_stage := [row for row in rows if row["stage"] == stage])
    ]
    return rows, stages


def _failure(asked: Plan, made: Sequence[Sample], answer: Mapping[str, Any]) -> str | None:
    """What kept the tool from its end; None where it came to it."""
    if status := answer["status"]:
        said = answer["said"]
        why = next((line for line in said if "error" in line.lower()), said[-1] if said else "it gave no reason")
        if -status == signal.SIGKILL:
            why = "it was killed, as the kernel does where memory runs out"
        return f"{asked.engine} failed (exit status {status}): {why}"
    full = [sample for sample in made if sample.phase == "run" and sample.decode_s is not None]
    wanted = asked.repetitions * len(asked.concurrencies)
    return None if len(full) == wanted else f"{asked.engine} measured {len(full)} of {wanted} repetitions"


def _hint(asked: Plan, beside: Sequence[str]) -> str:
    if beside:
        return f"{', '.join(beside)} keeps memory there: measure with --stop-server, or stop what else runs"
    return f"run it on the host to see more: {shlex.join([*asked.commands[0], '-v'])}"


def _running_words(targets: Sequence[str]) -> str:
    return f"{targets[0]} runs" if len(targets) == 1 else f"each of {', '.join(targets)} runs"


def _warn(console: Console, text: str) -> None:
    console.print(f"[yellow]warning[/] {escape(text)}", soft_wrap=True, highlight=False)


def _end_playbooks(place: Place) -> None:
    """End what Ansible does for a run whose own process was killed: without its terminal it would wait for ever."""
    for process in psutil.process_iter(["cmdline"]):
        if any(place.run in word for word in process.info["cmdline"] or ()):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


@command_line
def main(argv: Sequence[str] | None = None) -> int:
    """What the second process does: wait for the end of the first, and put the host back unless that was done."""
    place = Place(**json.loads(sys.stdin.readline()))
    if sys.stdin.read() == "done\n":
        return 0
    _end_playbooks(place)
    try:
        end(place, None)
    finally:
        if place.starts:
            _move("start", place, None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
