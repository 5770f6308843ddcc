"""Words of the command line that options become, and the sections of a router's file."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from ...module_utils.hostlib.llama_server_flags import canonical
from .options import given
from .profiles import file_of
from .rules import PROFILES, RULES, Options, Settings

# Options whose argument is a file that the host gets with the instance; the host replaces the word by its path.
FILES = {"api_keys": "@keys", "chat_template": "@chat_template.jinja", "models": "@models.ini"}

# llama-server lets pages of any origin read its answers. Without keys that is any page that a user visits on the
# instance's own machine: only those that this machine itself serves may.
ORIGINS, LOCAL_PAGES = "--cors-origins", "localhost"


def with_preset(values: Options, settings: Settings) -> Options:
    """The options with the sampling that their preset stands for; what is set beside it counts more."""
    preset = given(settings["sampling_presets"][values["sampling_preset"]]) if "sampling_preset" in values else {}
    return {**preset, **values}


def arguments(values: Options, files: Mapping[str, Any], known: Collection[str] = ()) -> list[str]:
    """The words of the command line after the program. ``known``: the release's flags, none before there is one."""
    words = []
    if "model" in values:
        words += ["--model", file_of(values["model"], files)["path"], "--alias", values["model"]]
    for option, entry in RULES.flags.items():
        if option not in values or values[option] in ({}, []):
            continue
        if isinstance(entry, str):
            words += [entry, FILES.get(option) or argument(option, values[option], files)]
        elif chosen := entry[0] if values[option] else entry[1]:
            words.append(chosen)
    extra = values.get("extra_args", [])
    if not values.get("api_keys") and ORIGINS not in map(canonical, extra) and (not known or ORIGINS in known):
        words += [ORIGINS, LOCAL_PAGES]
    return [*words, *extra]


def argument(option: str, value: Any, files: Mapping[str, Any]) -> str:
    """The word after a flag."""
    if option in PROFILES:
        path: str = file_of(value, files)["path"]
        return path
    if option == "lora":
        return ",".join(f"{file_of(one['profile'], files)['path']}:{one['scale']}" for one in value)
    return text(value)


def text(value: Any) -> str:
    """A value as an argument's text: JSON of a dict, commas between a list's items."""
    if isinstance(value, Mapping):
        return json.dumps(value, sort_keys=True)
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def section(name: str, values: Options, files: Mapping[str, Any]) -> str:
    """One model of a router, as --models-preset reads it: flags without their dashes are the keys."""
    lines = [f"[{name}]", f"model = {file_of(values['model'], files)['path']}"]
    if "load_on_startup" in values:
        lines.append(f"load-on-startup = {str(values['load_on_startup']).lower()}")
    for option, entry in RULES.flags.items():
        if option not in values or values[option] in ({}, []):
            continue
        if isinstance(entry, str):
            lines.append(f"{entry.lstrip('-')} = {argument(option, values[option], files)}")
        elif values[option] or entry[1]:
            lines.append(f"{RULES.flags_of(option)[0].lstrip('-')} = {str(values[option]).lower()}")
    return "\n".join(lines) + "\n"
