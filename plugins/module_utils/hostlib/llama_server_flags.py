"""Flags of llama-server and the options of an instance that they stand for, by the tables of role llama_server.

rules = Rules.of_files(variables, argument_specs)    vars/main.yml and meta/argument_specs.yml, as parsed
rules.spellings()["-c"]                              "ctx_size"
rules.flags_of("warmup")                             ["--warmup", "--no-warmup"]
canonical("--ctx_size=4096")                         "--ctx-size"
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .argv import flag_of

PREFIX = "__llama_server_"
# What a router can have neither at its own level nor a model's.
NOT_OF_ROUTERS = ("chat_template", "min_decode_tps", "max_regression")


@dataclass(frozen=True)
class Rules:
    """The role's tables.

    ``specs`` are its argument specs: by entry point (``main``, ``instance``, ``router_model``) the options. ``flags``
    has an option's flag, or that of true and that of false, which may be none; ``other_spellings`` has more of them.
    ``refused_flags`` are dicts of ``flags`` that extra_args can't hold and the reason, ``because``. ``tool_flags`` they
    may hold with llama_server_allow_tools only. ``router_options`` are a router's own.
    """

    specs: Mapping[str, Mapping[str, Any]]
    flags: Mapping[str, str | list[str | None]]
    other_spellings: Mapping[str, Sequence[str]]
    refused_flags: Sequence[Mapping[str, Any]]
    tool_flags: Sequence[str]
    router_options: Sequence[str]

    @classmethod
    def of_files(cls, variables: Mapping[str, Any], argument_specs: Mapping[str, Any]) -> Rules:
        """The tables in the role's vars/main.yml and meta/argument_specs.yml."""
        names = ("flags", "other_spellings", "refused_flags", "tool_flags", "router_options")
        specs = {name: entry["options"] for name, entry in argument_specs["argument_specs"].items()}
        return cls(specs, *(variables[PREFIX + name] for name in names))

    def flags_of(self, option: str) -> list[str]:
        """The flags of an option; a boolean may have two, an option of the role's own has none."""
        entry = self.flags.get(option, [])
        return [flag for flag in ([entry] if isinstance(entry, str) else entry) if flag]

    def spellings(self) -> dict[str, str]:
        """By flag the option that says it, in every spelling."""
        by_flag = {flag: option for option in self.flags for flag in self.flags_of(option)}
        for option, flags in self.other_spellings.items():
            by_flag.update(dict.fromkeys(flags, option))
        return by_flag


def canonical(word: str) -> str:
    """A flag as llama-server compares it, which takes underscores for hyphens."""
    flag = flag_of(word)
    return flag.replace("_", "-") if flag.startswith("--") else flag
