"""Flags that reach a command line: those that options become, and those of extra_args."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping

from ...module_utils.hostlib.argv import flag_of, is_flag
from ...module_utils.hostlib.llama_server_flags import canonical
from .options import parsed
from .rules import RULES, Options, Settings, router_model_spec


def flags_by_option(values: Options) -> Iterator[tuple[str, str]]:
    """The flags that stand for options, each with the name of its option; those of a router's models, too."""
    for option, entry in RULES.flags.items():
        if option in values and values[option] not in ({}, []):
            flag = entry if isinstance(entry, str) else entry[0] if values[option] else entry[1]
            if flag:
                yield option, flag
    yield from (("extra_args", canonical(word)) for word in values.get("extra_args", []) if is_flag(word))
    for model in values.get("models", {}).values():
        if isinstance(model, Mapping):
            yield from flags_by_option(parsed(model, router_model_spec())[0])


def argument_problems(words: list[str], settings: Settings) -> Iterator[str]:
    """Problems of extra_args, which may not hold options a second time, and what makes the process something else."""
    owned = RULES.spellings()
    refused = {flag: group["because"] for group in RULES.refused_flags for flag in group["flags"]}
    flags = [(word, canonical(word)) for word in words]
    twice = {word: owned[flag] for word, flag in flags if flag in owned}
    if twice:
        options = ", ".join(dict.fromkeys(twice.values()))
        yield f"extra_args hold {', '.join(map(flag_of, twice))}: set {options} instead, which is checked"
    reasons: dict[str, list[str]] = {}
    for word, flag in flags:
        if flag in refused:
            reasons.setdefault(refused[flag], []).append(flag_of(word))
    tools = [flag_of(word) for word, flag in flags if flag in RULES.tool_flags]
    if tools and not settings["allow_tools"]:
        yield (
            f"extra_args hold {', '.join(dict.fromkeys(tools))}: whoever sends it a request could run programs with "
            "the server's rights; leave it out, or set llama_server_allow_tools: true"
        )
    for reason, spellings in reasons.items():
        yield f"extra_args hold {', '.join(dict.fromkeys(spellings))}: {reason}"
    for word, flag in flags:
        if re.match(r"--[\w-]+=", word) and flag not in owned and flag not in refused:
            yield f"extra_args hold {flag_of(word)}=…: write the value as an item of its own"


def release_problems(values: Options, settings: Settings) -> Iterator[str]:
    """Problems of flags that the host's release does not know; nothing where there is no release yet."""
    known = {canonical(flag): value for flag, value in settings["flags"].items()}
    if not known:
        return
    lacking: dict[str, list[str]] = {}
    for option, flag in flags_by_option(values):
        if option != "extra_args" and flag not in known:
            lacking.setdefault(option, []).append(flag)
    for option, flags in lacking.items():
        yield (
            f"{option} becomes {', '.join(dict.fromkeys(flags))}, which llama-server of release {settings['release']} "
            "does not know: leave it out, or move llama_cpp_ref"
        )
    values_left = 0  # of the flag before, which may begin with a hyphen
    for word in values.get("extra_args", []):
        if values_left:
            values_left -= 1
        elif is_flag(word):
            values_left = len(known.get(canonical(word), "").split())
            if canonical(word) not in known:
                close = difflib.get_close_matches(canonical(word), known, n=1)
                hint = f"did you mean {close[0]}? llama-server --help lists them" if close else "leave it out"
                yield (
                    f"extra_args hold {flag_of(word)}, which llama-server of release {settings['release']} does not "
                    f"know: {hint}"
                )
