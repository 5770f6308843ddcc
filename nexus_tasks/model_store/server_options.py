"""The options of llama-server that its memory depends on, from a command line.

    options, others = parse_options(["-c", "32768", "-ngl", "99", "--temp", "0.7"])
    options.ctx_size, others            32768, ["--temp"]

Defaults are those of the pinned llama-server. Other options are handed back by name: they change no buffer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nexus_tasks.core.errors import UsageError
from nexus_tasks.hostlib import argv as command_line
from nexus_tasks.hostlib.llama_server_flags import canonical
from nexus_tasks.hostlib.model_shape import MAX_LAYERS

POOLINGS = ("none", "mean", "cls", "last", "rank")  # by their numbers in headers
CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
AUTO_PARALLEL = 4
MAX_SLOTS, MAX_CONTEXT = 256, 1 << 31  # of llama.cpp
DRAFT_TOKENS = 3
# Tokens that are drafted without a model, by the ways to do it, and the fields that have another number.
NGRAM_TOKENS = {
    "ngram-simple": "ngram_simple", "ngram-map-k": "ngram_map_k", "ngram-map-k4v": "ngram_map_k4v",
    "ngram-mod": "ngram_mod", "ngram-cache": "ngram_cache",
}  # fmt: skip
MAX_NGRAM = 1024
DRAFT_MTP = "draft-mtp"
WITH_DRAFT = ("draft-simple", "draft-eagle3", DRAFT_MTP, "draft-dflash", "draft-dspark")
TRUE, FALSE = ("on", "enabled", "true", "1"), ("off", "disabled", "false", "0")


@dataclass(frozen=True)
class ServerOptions:
    """Options of a server, as far as memory is concerned."""

    ctx_size: int = 0
    """Tokens of all slots; 0 for as many as the model was trained on."""
    parallel: int = AUTO_PARALLEL
    kv_unified: bool = True
    batch_size: int = 2048
    ubatch_size: int = 512
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    flash_attn: str = "auto"
    n_gpu_layers: int | None = None
    """None: all of them."""
    tensor_overrides: tuple[tuple[str, str], ...] = ()
    """Patterns of names and the buffer types that they go to; the first that fits counts."""
    tensor_split: tuple[float, ...] = ()
    split_mode: str = "layer"
    main_gpu: int = 0
    devices: tuple[str, ...] | None = None
    swa_full: bool = False
    kv_offload: bool = True
    op_offload: bool = True
    embedding: bool = False
    pooling: str = ""
    mmproj: str = ""
    mmproj_offload: bool = True
    mmproj_device: str = ""
    """Empty: the first of the devices."""
    model_draft: str = ""
    draft_devices: tuple[str, ...] | None = None
    """None: those of the model."""
    draft_gpu_layers: int | None = None
    draft_cache_type_k: str = "f16"
    draft_cache_type_v: str = "f16"
    draft_overrides: tuple[tuple[str, str], ...] = ()
    draft_max: int = DRAFT_TOKENS
    spec_types: tuple[str, ...] = ()
    ngram_simple: int = 48
    ngram_map_k: int = 48
    ngram_map_k4v: int = 48
    ngram_mod: int = 64
    ngram_cache: int = 8
    cache_ram_mib: int = 8192
    ctx_checkpoints: int = 32
    mmap: bool = True
    mlock: bool = False
    repack: bool = True
    """Whether the processor may keep weights in an order of its own."""
    fit: bool = True

    @property
    def loads_mtp(self) -> bool:
        """True where layers of multi-token prediction are loaded."""
        return DRAFT_MTP in self.spec_types

    @property
    def outputs_per_sequence(self) -> int:
        """Tokens of a sequence whose logits are computed at a time: the drafted ones, and one more."""
        drafted = [getattr(self, NGRAM_TOKENS.get(name, "draft_max")) for name in self.spec_types]
        return 1 + max(drafted, default=0)

    @property
    def n_batch(self) -> int:
        """Tokens of a batch: embeddings need them in one piece."""
        return min(self.batch_size, self.ubatch_size) if self.embedding else self.batch_size

    @property
    def all_outputs(self) -> bool:
        """True where every token of a batch may have an output: embeddings, or a pooling of them, are asked for."""
        return self.embedding or self.pooling not in ("", "none")

    @property
    def snapshots(self) -> int:
        """Earlier states that recurrent layers keep of each sequence, to go back to."""
        return self.draft_max if set(self.spec_types) & set(WITH_DRAFT[1:]) else 0

    def of_draft(self) -> ServerOptions:
        """The options of the draft model's own context."""
        own = self.draft_devices
        return replace(
            self, n_gpu_layers=self.draft_gpu_layers, cache_type_k=self.draft_cache_type_k,
            cache_type_v=self.draft_cache_type_v, tensor_overrides=self.draft_overrides,
            spec_types=tuple(name for name in self.spec_types if name == DRAFT_MTP),
            devices=self.devices if own is None else own, split_mode="layer" if own else self.split_mode,
            embedding=False, pooling="", model_draft="", mmproj="",
        )  # fmt: skip


# ---- Values


def _integer(flag: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{flag} {text} is no whole number", hint=f"give {flag} a number") from None


def _natural(flag: str, text: str) -> int:
    value = _integer(flag, text)
    if value < 0:
        raise UsageError(f"{flag} {text} is negative", hint=f"give {flag} a number from 0 on")
    return value


def _count(flag: str, text: str) -> int:
    value = _integer(flag, text)
    if value < 1:
        raise UsageError(f"{flag} {text} is below 1", hint=f"give {flag} a number from 1 on")
    return value


def _one_of(*names: str) -> Callable[[str, str], str]:
    def checked(flag: str, text: str) -> str:
        if text not in names:
            raise UsageError(f"{flag} {text} is no choice", hint=f"one of {', '.join(names)}")
        return text

    return checked


def _layers(flag: str, text: str) -> int | None:
    value = None if text in ("auto", "all") else _integer(flag, text)
    return None if value is None or value < 0 else value


def _shares(flag: str, text: str) -> tuple[float, ...]:
    try:
        shares = tuple(float(part) for part in text.replace("/", ",").split(","))
    except ValueError:
        shares = ()
    if not shares or min(shares) < 0 or not sum(shares) < float("inf"):
        raise UsageError(f"{flag} {text} is no list of shares", hint=f"as in {flag} 3,1: one number a GPU")
    return shares


def _switch(flag: str, text: str) -> bool:
    return _one_of(*TRUE, *FALSE)(flag, text) in TRUE


def _flash_attention(flag: str, text: str) -> str:
    if text in ("auto", "-1"):
        return "auto"
    return "on" if _one_of("auto", *TRUE, *FALSE)(flag, text) in TRUE else "off"


def _slots(flag: str, text: str) -> int:
    if (value := _integer(flag, text)) == 0:
        raise UsageError(f"{flag} 0 is refused by llama-server", hint=f"give {flag} a number from 1 on, or -1")
    return value


def _ngram(flag: str, text: str) -> int:
    value = _natural(flag, text)
    if value > MAX_NGRAM:
        raise UsageError(f"{flag} {text} is above {MAX_NGRAM}", hint=f"give {flag} a number up to {MAX_NGRAM}")
    return value


def _device(flag: str, text: str) -> str:
    if "," in text:
        raise UsageError(f"{flag} {text} names several devices", hint=f"give {flag} one device, or none")
    return text


def _devices(flag: str, text: str) -> tuple[str, ...]:
    return () if text == "none" else tuple(text.split(","))


def _types(flag: str, text: str) -> tuple[str, ...]:
    names = tuple(name for name in text.split(",") if name != "none")
    for name in names:
        _one_of(*WITH_DRAFT, *NGRAM_TOKENS)(flag, name)
    return names


def _text(flag: str, text: str) -> str:
    return text


_CACHE_TYPE = _one_of(*CACHE_TYPES)
# By field the flags that set it and what reads their value.
VALUES: dict[str, tuple[tuple[str, ...], Callable[[str, str], Any]]] = {
    "ctx_size": (("-c", "--ctx-size"), _natural),
    "parallel": (("-np", "--parallel"), _slots),
    "batch_size": (("-b", "--batch-size"), _count),
    "ubatch_size": (("-ub", "--ubatch-size"), _natural),
    "cache_type_k": (("-ctk", "--cache-type-k"), _CACHE_TYPE),
    "cache_type_v": (("-ctv", "--cache-type-v"), _CACHE_TYPE),
    "flash_attn": (("-fa", "--flash-attn"), _flash_attention),
    "n_gpu_layers": (("-ngl", "--gpu-layers", "--n-gpu-layers"), _layers),
    "tensor_split": (("-ts", "--tensor-split"), _shares),
    "split_mode": (("-sm", "--split-mode"), _one_of("none", "layer", "row", "tensor")),
    "pooling": (("--pooling",), _one_of(*POOLINGS)),
    "main_gpu": (("-mg", "--main-gpu"), _integer),
    "devices": (("-dev", "--device"), _devices),
    "mmproj": (("-mm", "--mmproj"), _text),
    "mmproj_device": (("-mmdev", "--mmproj-device"), _device),
    "model_draft": (("-md", "--model-draft", "--spec-draft-model"), _text),
    "draft_devices": (("-devd", "--device-draft", "--spec-draft-device"), _devices),
    "draft_gpu_layers": (("-ngld", "--gpu-layers-draft", "--n-gpu-layers-draft", "--spec-draft-ngl"), _layers),
    "draft_cache_type_k": (("-ctkd", "--cache-type-k-draft", "--spec-draft-type-k"), _CACHE_TYPE),
    "draft_cache_type_v": (("-ctvd", "--cache-type-v-draft", "--spec-draft-type-v"), _CACHE_TYPE),
    "draft_max": (("--spec-draft-n-max",), _natural),
    "spec_types": (("--spec-type",), _types),
    "ngram_simple": (("--spec-ngram-simple-size-m",), _ngram),
    "ngram_map_k": (("--spec-ngram-map-k-size-m",), _ngram),
    "ngram_map_k4v": (("--spec-ngram-map-k4v-size-m",), _ngram),
    "ngram_mod": (("--spec-ngram-mod-n-max",), _ngram),
    "cache_ram_mib": (("-cram", "--cache-ram"), _integer),
    "ctx_checkpoints": (("-ctxcp", "--ctx-checkpoints", "--swa-checkpoints"), _natural),
    "fit": (("-fit", "--fit"), _switch),
}  # fmt: skip
# Flags without a value, and the field and value that each sets.
SWITCHES: dict[str, tuple[str, bool]] = {
    "-kvu": ("kv_unified", True), "--kv-unified": ("kv_unified", True),
    "-no-kvu": ("kv_unified", False), "--no-kv-unified": ("kv_unified", False),
    "--swa-full": ("swa_full", True),
    "-kvo": ("kv_offload", True), "--kv-offload": ("kv_offload", True),
    "-nkvo": ("kv_offload", False), "--no-kv-offload": ("kv_offload", False),
    "--op-offload": ("op_offload", True), "--no-op-offload": ("op_offload", False),
    "--embedding": ("embedding", True), "--embeddings": ("embedding", True),
    "--rerank": ("reranking", True), "--reranking": ("reranking", True),
    "--mmproj-offload": ("mmproj_offload", True), "--no-mmproj-offload": ("mmproj_offload", False),
    "--mmap": ("mmap", True), "--no-mmap": ("mmap", False), "--mlock": ("mlock", True),
    "-nr": ("repack", False), "--no-repack": ("repack", False), "--repack": ("repack", True),
}  # fmt: skip
ADDING_UP = ("spec_types",)  # each time that its flag is given
FIELDS = {flag: (field, read) for field, (flags, read) in VALUES.items() for flag in flags}
OVERRIDES = {
    "-ot": "tensor_overrides", "--override-tensor": "tensor_overrides",
    "-otd": "draft_overrides", "--override-tensor-draft": "draft_overrides",
    "--spec-draft-override-tensor": "draft_overrides",
}  # fmt: skip
# Experts of the first layers, or of all, in the host's memory.
FIRST_EXPERTS = {
    "-ncmoe": "tensor_overrides", "--n-cpu-moe": "tensor_overrides", "-ncmoed": "draft_overrides",
    "--n-cpu-moe-draft": "draft_overrides", "--spec-draft-n-cpu-moe": "draft_overrides",
    "--spec-draft-ncmoe": "draft_overrides",
}  # fmt: skip
FIRST_DENSE = {"-ncffn": "tensor_overrides", "--n-cpu-ffn": "tensor_overrides"}  # likewise of layers without experts
ALL_EXPERTS = {
    "-cmoe": "tensor_overrides", "--cpu-moe": "tensor_overrides", "-cmoed": "draft_overrides",
    "--cpu-moe-draft": "draft_overrides", "--spec-draft-cpu-moe": "draft_overrides",
}  # fmt: skip
DENSE = r"\.ffn_(up|down|gate)\."
EXPERTS = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"  # LLM_FFN_EXPS_REGEX of common.h
LOAD_MODE = ("-lm", "--load-mode")
LOAD_MODES = {
    "auto": {}, "none": {"mmap": False}, "mmap": {"mmap": True}, "mlock": {"mmap": False, "mlock": True},
    "mmap+mlock": {"mmap": True, "mlock": True}, "dio": {"mmap": False},
}  # fmt: skip
SPEC_DEFAULT = "--spec-default"  # drafts by ngram-mod, of its default length
# What changes buffers in ways that the rules don't cover, or names models that nobody reads the headers of.
UNCOVERED = frozenset({
    "--rpc", "--lora", "--lora-scaled", "--control-vector", "--control-vector-scaled", "-bs", "--backend-sampling",
    "--override-kv", "--kv-unified-per-slot", "--no-host", "--models-preset", "--models-dir", "-mmu", "--mmproj-url",
    "-hfd", "-hfrd", "--hf-repo-draft", "--spec-draft-hf", "--embd-gemma-default", "--fim-qwen-1.5b-default",
    "--fim-qwen-3b-default", "--fim-qwen-7b-default", "--fim-qwen-7b-spec", "--fim-qwen-14b-spec",
    "--fim-qwen-30b-default", "--gpt-oss-20b-default", "--gpt-oss-120b-default", "--vision-gemma-4b-default",
    "--vision-gemma-12b-default",
})  # fmt: skip
# What the pinned server still lists, and ends with an error.
REMOVED = frozenset({
    "--draft", "--draft-n", "--draft-max", "--draft-min", "--draft-n-min", "--spec-ngram-size-n", "--spec-ngram-size-m",
    "--spec-ngram-min-hits",
})  # fmt: skip


def known_flags() -> list[str]:
    """Every flag that this module reads, or refuses."""
    read = (FIELDS, SWITCHES, OVERRIDES, FIRST_EXPERTS, FIRST_DENSE, ALL_EXPERTS, LOAD_MODE, [SPEC_DEFAULT])
    return [flag for group in (*read, UNCOVERED, REMOVED) for flag in group]


def field_of(flag: str) -> str:
    """The field that a flag sets, in whatever spelling; the flag itself where memory does not depend on it."""
    if flag in SWITCHES:
        return SWITCHES[flag][0]
    if flag in LOAD_MODE:
        return "mmap"
    if flag == SPEC_DEFAULT:
        return "spec_types"
    if flag in FIELDS:
        return FIELDS[flag][0]
    groups = (OVERRIDES, FIRST_EXPERTS, FIRST_DENSE, ALL_EXPERTS)
    return next((f"{group[flag]} {place}" for place, group in enumerate(groups) if flag in group), flag)


def is_known(flag: str) -> bool:
    """True where memory depends on a flag, in ways that the rules cover."""
    return field_of(flag) != flag


def parse_options(words: Sequence[str]) -> tuple[ServerOptions, list[str]]:
    """Options, and the flags that memory does not depend on.

    Raises UsageError for a value that llama-server refuses and for options that the rules don't cover.
    """
    fields: dict[str, Any] = {}
    overrides: dict[str, list[tuple[str, str]]] = {"tensor_overrides": [], "draft_overrides": []}
    others = []
    if words and not command_line.is_flag(words[0]):
        raise UsageError(f"{words[0]} belongs to no option", hint="options of llama-server begin with a hyphen")
    for option in command_line.options(words):
        flag = _planned(option)
        if flag in SWITCHES:
            field, value = SWITCHES[flag]
            fields[field] = value
        elif flag in FIELDS:
            field, read = FIELDS[flag]
            value = read(flag, _value(flag, option.values))
            fields[field] = (*fields.get(field, ()), *value) if field in ADDING_UP else value
        elif flag == SPEC_DEFAULT:
            fields["spec_types"] = (*fields.get("spec_types", ()), "ngram-mod")
            fields.pop("ngram_mod", None)
        elif flag in OVERRIDES:
            parts = _value(flag, option.values).split(",")
            overrides[OVERRIDES[flag]].extend(_override(flag, part) for part in parts)
        elif flag in FIRST_EXPERTS or flag in FIRST_DENSE:
            layers = min(_natural(flag, _value(flag, option.values)), MAX_LAYERS)
            field, part = (FIRST_EXPERTS[flag], EXPERTS) if flag in FIRST_EXPERTS else (FIRST_DENSE[flag], DENSE)
            overrides[field].extend((rf"blk\.{layer}{part}", "CPU") for layer in range(layers))
        elif flag in ALL_EXPERTS:
            overrides[ALL_EXPERTS[flag]].append((EXPERTS, "CPU"))
        elif flag in LOAD_MODE:
            mode = _one_of(*LOAD_MODES)(flag, _value(flag, option.values))
            fields.update(LOAD_MODES[mode])
        else:
            others.append(flag)
    return _complete(fields, overrides), others


def _planned(option: command_line.Option) -> str:
    """The flag of an option. Raises UsageError where llama-server refuses it, or the rules don't cover it."""
    flag = canonical(option.flag)
    if flag in UNCOVERED:
        raise UsageError(f"the memory plan doesn't cover {flag}", hint="plan without it, and measure what it adds")
    if flag in REMOVED:
        raise UsageError(
            f"{flag} was removed from llama-server", hint="its help has --spec-draft-n-max and --spec-ngram-… instead"
        )
    if option.words[0] != option.flag:
        raise UsageError(
            f"llama-server has no option {option.words[0]}", hint=f"write a space for the equals sign after {flag}"
        )
    return flag


def _value(flag: str, values: tuple[str, ...]) -> str:
    if len(values) != 1:
        raise UsageError(f"{flag} has {len(values)} values", hint=f"give {flag} one value")
    return values[0]


def _override(flag: str, text: str) -> tuple[str, str]:
    pattern, equals, buffer = text.rpartition("=")
    if not equals or not pattern:
        raise UsageError(f"{flag} {text} names no buffer type", hint=f"as in {flag} 'ffn_.*_exps=CPU'")
    return pattern, buffer


def _complete(fields: dict[str, Any], overrides: dict[str, list[tuple[str, str]]]) -> ServerOptions:
    """With what follows from options that were not given."""
    if fields.get("parallel", -1) > MAX_SLOTS or fields.get("ctx_size", 0) > MAX_CONTEXT:
        raise UsageError(
            "llama-server has no such slots", hint=f"up to {MAX_SLOTS} slots, and {MAX_CONTEXT:,} tokens of context"
        )
    if fields.get("parallel", -1) < 1:
        fields["parallel"], fields["kv_unified"] = AUTO_PARALLEL, True
    else:
        fields.setdefault("kv_unified", False)
    if fields.pop("reranking", False):
        fields.update(embedding=True, pooling="rank")
    fields.update({field: tuple(patterns) for field, patterns in overrides.items()})
    options = ServerOptions(**fields)
    if options.embedding and not options.ubatch_size:
        raise UsageError("llama-server has no embeddings with --ubatch-size 0", hint="leave it out, or give a number")
    if options.n_batch < options.parallel:
        raise UsageError(
            f"llama-server aborts with {options.parallel} slots and batches of {options.n_batch}",
            hint="give --batch-size a token of each slot at least, and --ubatch-size for embeddings",
        )
    return options
