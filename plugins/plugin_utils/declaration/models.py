"""Problems of what an instance serves: one model, or several as a router, and how."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ...module_utils.hostlib.llama_server_flags import NOT_OF_ROUTERS
from .arguments import text
from .options import given, mode_of, parsed, uses_gpu
from .rules import REFERENCE, RULES, Options, Settings, router_model_spec

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")
# The least that means what the option says; below it stand llama-server's own words for something else.
LEAST = {
    "parallel": (1, "1 or more, or leave it out for llama-server's own choice"),
    "ctx_size": (0, "0 for the model's own length, or more"),
    "batch_size": (1, "1 or more"),
    "ubatch_size": (1, "1 or more"),
}
QUIET = 4  # below this verbosity llama.cpp does not say where it put what


def single_problems(values: Options, settings: Settings) -> Iterator[str]:
    """Problems of an instance that serves one model."""
    yield from choice_problems(values, settings)
    yield from value_problems(values)
    for name in ("models_max", "models_autoload"):
        if name in values:
            yield f"{name} is for routers: set models, or leave it out"


def router_problems(values: Options, settings: Settings) -> Iterator[str]:
    """Problems of an instance that serves several models."""
    if not values["models"]:
        yield "models is empty: name at least one"
    misplaced = sorted(set(values) - set(RULES.router_options) - set(NOT_OF_ROUTERS))
    if misplaced:
        yield f"it is a router, so {', '.join(misplaced)} belong to each of its models: move them there"
    for name in NOT_OF_ROUTERS:
        if name in values:
            yield f"it is a router, which has no {name}: leave it out, or serve the model by an instance of its own"
    for name, options in values["models"].items():
        yield from (f"model {name}: {problem}" for problem in router_model_problems(str(name), options, settings))


def router_model_problems(name: str, options: Any, settings: Settings) -> Iterator[str]:
    """Problems of one of a router's models, one line each."""
    if not MODEL_NAME.fullmatch(name) or name == "default":
        yield "its name can't be that of a section: use letters, digits and . _ / -, and not default"
    if not isinstance(options, Mapping):
        yield f"it is no dict: write its options under its name ({REFERENCE})"
        return
    options = given(options)
    for option in sorted(set(options) & (set(RULES.router_options) - {"models"})):
        del options[option]
        yield f"{option} is the router's: set it for the instance"
    for option in sorted(set(options) & set(NOT_OF_ROUTERS)):
        del options[option]
        yield f"a router's models have no {option}: leave it out, or serve the model by an instance of its own"
    values, wrong = parsed(options, router_model_spec())
    yield from wrong
    yield from choice_problems(values, settings)
    yield from value_problems(values)
    if values.get("embeddings") and values.get("reranking"):
        yield "it can't serve both embeddings and reranking: choose one"
    for option, value in values.items():
        if re.search(r"[;#\n\r]", text(value)):
            yield f"{option} holds ; or # or a new line, which end a value in a router's file: serve it by an instance"


def choice_problems(values: Options, settings: Settings) -> Iterator[str]:
    """Problems of a model's options that don't go together, or not with the host's release."""
    preset, presets = values.get("sampling_preset"), settings["sampling_presets"]
    if preset is not None and isinstance(presets, Mapping) and preset not in presets:
        known = ", ".join(sorted(map(str, presets))) or "none"
        yield f"there is no sampling preset {preset}: use one of {known}, or add it to llama_sampling_presets"
    models = settings.get("models")
    for adapter in values.get("lora", []):
        profile = models.get(adapter["profile"]) if isinstance(models, Mapping) else None
        path = str(profile.get("path", "")) if isinstance(profile, Mapping) else ""
        if re.search("[,:]", path):
            yield (
                f"lora names {adapter['profile']}, whose path {path} has a comma or colon, by which llama-server parts "
                "adapters and their scales: give the file another path"
            )
    pair = f"{values.get('cache_type_k', 'f16')}-{values.get('cache_type_v', 'f16')}"
    compiled = settings["fa_quants"] if settings["gpu"] and uses_gpu(values, "cuda") else []
    on_gpu = values.get("flash_attn") != "off" and values.get("kv_offload") is not False
    if on_gpu and compiled and not {pair, "all"} & {*compiled, "f16-f16"}:
        yield (
            f"its K and V caches are {pair}, for which the release has no FlashAttention kernels, so they would be "
            f"converted at every step: add {pair} to llama_cpp_fa_quants, or use one of {', '.join(compiled)}"
        )


def value_problems(values: Options) -> Iterator[str]:
    """Problems of a model's options with which llama-server does something else than what they say, or nothing."""
    for name, (least, use) in LEAST.items():
        if values.get(name, least) < least:
            yield f"{name} is {values[name]}: use {use}"
    if "draft-simple" in values.get("spec_type", []) and "model_draft" not in values:
        yield "spec_type has draft-simple, which drafts nothing without a model: set model_draft, or leave it out"
    if values.get("embeddings") and values.get("pooling") == "none":
        yield (
            "pooling none gives an embedding for each token, which clients of OpenAI's API can't ask for: leave "
            "it out, or use mean, cls or last"
        )


def mode_problems(values: Options, settings: Settings) -> Iterator[str]:
    """Problems of options that don't go with what an instance serves."""
    mode = mode_of(values)
    if values.get("embeddings") and values.get("reranking"):
        yield "it can't serve both embeddings and reranking: make two instances"
    if mode in ("embedding", "reranking"):
        for name in ("chat_template", "sampling_preset", "min_decode_tps", "max_regression"):
            if name in values:
                yield f"{name} means nothing where there is no chat (embeddings, reranking): leave it out"
    if "chat_template" in values and values.get("jinja") is False:
        yield "chat_template needs the Jinja engine: leave jinja out"
    verbosity = values.get("log_verbosity", QUIET)
    if verbosity < QUIET and settings["gpu"] and uses_gpu(values, "cuda"):
        yield (
            f"log_verbosity {verbosity} hides the lines that prove what lies on the GPU: leave it at {QUIET}, or above"
        )
