"""Options as they are given: their types, their defaults, and what they say of a server."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Any

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from .rules import REFERENCE, Options

# The types of the argument specs.
TYPES: dict[str, type | tuple[type, ...]] = {
    "str": str, "int": int, "float": (int, float), "bool": bool, "dict": dict, "list": list,
}  # fmt: skip


def given(options: Mapping[str, Any]) -> Options:
    """The options that are set; null means unset."""
    return {str(name): value for name, value in options.items() if value is not None}


def parsed(options: Mapping[str, Any], spec: Options) -> tuple[Options, list[str]]:
    """The options that are of the right type, with defaults, and what is wrong with the others, one line each."""
    options = given(options)
    wrong = []
    for name in sorted(set(options) - set(spec)):
        close = difflib.get_close_matches(name, spec, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        wrong.append(f"there is no option {name}: {hint}({REFERENCE})")
    known = {name: value for name, value in options.items() if name in spec}
    for name, value in list(known.items()):
        problem = misfit(value, spec[name])
        if problem:
            del known[name]
            wrong.append(f"{name} {problem} ({REFERENCE})")
    validator = ArgumentSpecValidator({name: usable(entry) for name, entry in spec.items()})
    result = validator.validate(known)
    wrong += [f"{one_line(message)} ({REFERENCE})" for message in result.error_messages]
    values = {
        name: value for name, value in given(result.validated_parameters).items()
        if name in spec and isinstance(value, TYPES[spec[name]["type"]])
    }  # fmt: skip
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            wrong.append(f"{name} is {value}: use a number")
    return values, wrong


def usable(entry: Mapping[str, Any]) -> Options:
    """An entry of the argument specs without what only its readers need."""
    kept = {key: value for key, value in entry.items() if key not in ("description", "options")}
    if "options" in entry:
        kept["options"] = {name: usable(option) for name, option in entry["options"].items()}
    return kept


def misfit(value: object, entry: Mapping[str, Any]) -> str | None:
    """The problem of a value that Ansible would make fit, as an unquoted yes, of which it makes the text True."""
    quote = "holds what is no text: put it in quotes"
    if entry["type"] == "list" and isinstance(value, list):
        if entry["elements"] == "dict" and not all(isinstance(item, Mapping) for item in value):
            return f"holds what is no dict: write each item with its {' and '.join(entry['options'])}"
        if entry["elements"] == "str" and any(item is None or isinstance(item, bool | list | dict) for item in value):
            return quote
    if entry["type"] == "str" and isinstance(value, list | dict):
        return quote
    # An unquoted on or off is meant where these are choices.
    if entry["type"] == "str" and isinstance(value, bool) and "choices" not in entry:
        return quote
    return None


def one_line(message: object) -> str:
    """A message without line breaks and without its last full stop."""
    return " ".join(str(message).split()).rstrip(".")


def mode_of(options: Options) -> str:
    """The kind of what an instance serves: router, embedding, reranking or completion."""
    if options.get("models"):
        return "router"
    if options.get("embeddings"):
        return "embedding"
    return "reranking" if options.get("reranking") else "completion"


def uses_gpu(values: Options, backend: str) -> bool:
    """True where a model's layers are to be on a GPU: said so, or what a CUDA release does by itself."""
    layers = values.get("n_gpu_layers")
    return bool(values.get("device") != "none" and (layers != 0 if layers is not None else backend == "cuda"))
