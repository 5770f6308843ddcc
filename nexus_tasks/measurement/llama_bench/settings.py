"""Settings of a server, as llama-bench and llama-batched-bench take them.

    settings.bench_words(settings.parse(argv))          # (["-b", "512", ...], ["--lora-scaled"])

The first list is what the tool is given, the second what it has no equal for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from nexus_tasks.fleet import server_options
from nexus_tasks.hostlib.argv import options

# The tensors that --cpu-moe keeps in host memory (LLM_FFN_EXPS_REGEX of llama.cpp), for a tool without that flag.
EXPERTS = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps=CPU"

Words = list[str]

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


def parse(argv: Sequence[str]) -> list[Setting]:
    """The options of a server's command line in their order; ``option`` is the flag itself where role llama_server has
    no name for it.
    """
    spelled: dict[str, str] = {**server_options.rules().spellings(), **EXTRA_OPTIONS}
    given: list[Setting] = []
    for one in options(argv[1:]):
        option = spelled.get(one.flag, one.flag)
        on = option == "no_host" or not one.flag.lstrip("-").startswith("n")  # --no-kv-offload, -nkvo, -nr
        values = [*one.values]
        value = values.pop(0) if values and option not in SWITCHES else None
        given.append(Setting(option, one.flag, value, on))
        given += [Setting(word, word, None) for word in values]  # a second value, which no tool takes
    return given


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


def bench_words(given: Iterable[Setting]) -> tuple[Words, Words]:
    """The settings as llama-bench takes them, without threads, and the flags that it has no equal for."""
    taken: dict[str, str] = {}
    overrides: Words = []
    lacking: Words = []
    for setting in given:
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


def batched_words(given: Sequence[Setting]) -> tuple[Words, Words]:
    """The settings as llama-batched-bench takes them, and the flags that mean nothing to it."""
    words: Words = []
    lacking: Words = []
    for setting in given:
        if setting.option in BATCHED_TAKES:
            words += [setting.flag] if setting.value is None else [setting.flag, setting.value]
        elif setting.option not in SERVING:
            lacking.append(setting.flag)
    present = {setting.option for setting in given}
    if "kv_unified" not in present:  # the server's own rule, which goes by slots that the tool does not have
        words.append("--no-kv-unified" if "parallel" in present else "--kv-unified")
    return words, lacking
