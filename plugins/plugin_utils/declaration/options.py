"""Options as they are given: their types, their defaults, and what they say of a server."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping
from typing import Any

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from .rules import REFERENCE, RULES, Options

# The types of the argument specs.
TYPES: dict[str, type | tuple[type, ...]] = {
    "str": str, "int": int, "float": (int, float), "bool": bool, "dict": dict, "list": list,
}  # fmt: skip


def given(options: Mapping[str, Any]) -> Options:
    """The options that are set; null and Ansible's ``omit`` mean unset."""
    return {str(name): with_set(value) for name, value in options.items() if value is not None and not is_omit(value)}


def with_set(value: Any) -> Any:
    """A value without what is ``omit`` in it."""
    if isinstance(value, Mapping):
        return {name: with_set(item) for name, item in value.items() if not is_omit(item)}
    return [with_set(item) for item in value if not is_omit(item)] if isinstance(value, list) else value


def is_omit(value: object) -> bool:
    """True for what Ansible makes of ``omit``, for which it has no public type."""
    return "omittype" in type(value).__name__.lower()


def parsed(options: Mapping[str, Any], spec: Options) -> tuple[Options, list[str]]:
    """The options that are of the right type, with defaults, and what is wrong with the others, one line each."""
    options = given(options)
    wrong = []
    for name in sorted(set(options) - set(spec)):
        meant = said_by_flag(name, spec) or next(iter(difflib.get_close_matches(name, spec, n=1)), None)
        hint = f"did you mean {meant}? " if meant else ""
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


def said_by_flag(name: str, spec: Options) -> str | None:
    """The option of which a name is a flag of llama-server, with or without its hyphens, as ngl and gpu-layers."""
    spellings = RULES.spellings()
    flags = (name, f"-{name}", f"--{name.replace('_', '-')}")
    return next((spellings[flag] for flag in flags if spellings.get(flag) in spec), None)


def usable(entry: Mapping[str, Any]) -> Options:
    """An entry of the argument specs without what only its readers need."""
    kept = {key: value for key, value in entry.items() if key not in ("description", "options")}
    if "options" in entry:
        kept["options"] = {name: usable(option) for name, option in entry["options"].items()}
    return kept


def misfit(value: object, entry: Mapping[str, Any]) -> str | None:
    """The problem of a value that Ansible would make fit, as an unquoted yes, of which it makes the text True, or over
    which it would stumble, as names that are no text.
    """
    quote = "holds what is no text: put it in quotes"
    if entry["type"] == "list":
        of_texts = isinstance(value, str | int | float) and not isinstance(value, bool) and entry["elements"] != "dict"
        if not of_texts and not isinstance(value, list):
            return "is no list: write each item behind a hyphen, or all in [ ] with commas"
        return items_misfit(value, entry, quote) if isinstance(value, list) else None
    if entry["type"] == "dict":
        if not isinstance(value, Mapping | str):
            return "is no dict: write NAME: VALUE below it"
        return (
            None if is_json(value) else "holds what JSON has no form of, as dates and mixed names: put them in quotes"
        )
    if entry["type"] in ("int", "float", "bool") and (
        isinstance(value, list | Mapping) or (isinstance(value, bool) and entry["type"] != "bool")
    ):
        return f"is no {'number' if entry['type'] != 'bool' else 'true or false'}: write one"
    if entry["type"] == "int" and isinstance(value, float) and not math.isfinite(value):
        return f"is {value}: use a number"
    if entry["type"] == "str" and isinstance(value, list):
        return f'is a list: write its items as one text with commas between, as "{",".join(map(str, value)) or "a,b"}"'
    if entry["type"] == "str" and isinstance(value, Mapping):
        return quote
    # An unquoted on or off is meant where these are choices.
    if entry["type"] == "str" and isinstance(value, bool) and "choices" not in entry:
        return quote
    return None


def is_json(value: object) -> bool:
    """True for what has a form in JSON."""
    try:
        json.dumps(value, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def items_misfit(value: list[Any], entry: Mapping[str, Any], quote: str) -> str | None:
    """The problem of a list's items."""
    if entry["elements"] == "dict" and not all(
        isinstance(item, Mapping) and all(isinstance(key, str) for key in item) for item in value
    ):
        return f"holds what is no dict: write each item with its {' and '.join(entry['options'])}"
    if entry["elements"] == "str" and any(item is None or isinstance(item, bool | list | Mapping) for item in value):
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
