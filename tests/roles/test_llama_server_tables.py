"""Tables of role llama_server against the pinned server: each flag is an option's, refused, or for extra_args."""

from __future__ import annotations

import subprocess
from pathlib import Path

import yaml

from nexus_tasks.fleet.server_options import rules
from nexus_tasks.hostlib.llama_server_help import parse_help
from tests.conftest import ROOT


def help_rows(server: Path) -> list[set[str]]:
    """The flags of the server, each with all its spellings."""
    helped = subprocess.run([server, "--help"], capture_output=True, text=True, check=True).stdout
    return [set(spellings) for spellings, _ in parse_help(helped)]


def test_every_flag_of_the_tables_is_one_of_the_pinned_server(llama_server_bin: Path) -> None:
    known = set().union(*help_rows(llama_server_bin))
    entries = rules().flags.values()
    used = {flag for entry in entries for flag in ([entry] if isinstance(entry, str) else entry) if flag}
    used |= {flag for flags in rules().other_spellings.values() for flag in flags}
    used |= {flag for group in rules().refused_flags for flag in group["flags"]}
    assert used - known == set()


def test_extra_args_can_say_no_option_in_any_spelling(llama_server_bin: Path) -> None:
    options: dict[str, set[str]] = {}
    for name, entry in rules().flags.items():
        options[name] = {flag for flag in ([entry] if isinstance(entry, str) else entry) if flag}
    for name, flags in rules().other_spellings.items():
        options.setdefault(name, set()).update(flags)
    groups = [*options.values(), *(set(group["flags"]) for group in rules().refused_flags)]
    for row in help_rows(llama_server_bin):
        touched = [group for group in groups if group & row]
        # A flag is one option's or refused for one reason, and all of its spellings are known; or none is.
        assert len(touched) <= 1, row
        assert not touched or row <= touched[0], row - touched[0]


def test_every_option_has_a_flag_or_a_meaning_of_its_own() -> None:
    flags, options = rules().flags, rules().specs["instance"]
    assert set(options) - set(flags) == {
        "model", "gpus", "sampling_preset", "environment", "runtime", "min_decode_tps", "max_regression",
        "allow_overcommit", "extra_args",
    }  # fmt: skip
    assert set(flags) <= set(options)
    booleans = {name for name, spec in options.items() if spec["type"] == "bool"}
    assert {name for name, entry in flags.items() if isinstance(entry, list)} == booleans - {"allow_overcommit"}
    assert set(rules().router_options) <= set(options)


def test_the_presets_are_whole() -> None:
    presets = yaml.safe_load((ROOT / "group_vars/all/sampling.yml").read_text())["llama_sampling_presets"]
    assert set(presets) == {"balanced", "coding", "creative", "precise"}
    wanted = {"temperature", "top_k", "top_p", "min_p", "repeat_penalty", "frequency_penalty", "presence_penalty"}
    assert {name: set(preset) for name, preset in presets.items()} == dict.fromkeys(presets, wanted)
