"""The tables that a declaration is held against: options with their types, flags, and what is refused.

They are read from the role's own files: Ansible takes long to hand them over, each time anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ...module_utils.hostlib.llama_server_flags import NOT_OF_ROUTERS, Rules

Options = dict[str, Any]
Settings = Mapping[str, Any]

REFERENCE = "docs/reference.md lists the options"
# Options that name a profile of llama_models, beside `lora`, which holds several.
PROFILES = ("model", "mmproj", "model_draft")
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "frequency_penalty", "presence_penalty")


ROLE = Path(__file__).resolve().parents[3] / "roles" / "llama_server"


def read_rules() -> Rules:
    """The tables of role llama_server, as its files have them."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    variables, argument_specs = (
        yaml.load((ROLE / path).read_text(encoding="utf-8"), Loader=loader)  # noqa: S506 - safe ones
        for path in ("vars/main.yml", "meta/argument_specs.yml")
    )
    return Rules.of_files(variables, argument_specs)


RULES = read_rules()


def instance_spec() -> Options:
    """The options of an instance, as the argument specs describe them."""
    return dict(RULES.specs["instance"])


def router_model_spec() -> Options:
    """The options of one of a router's models: its own, and those of an instance that are about a model."""
    ours = instance_spec()
    theirs = [name for name in RULES.flags if name not in RULES.router_options and name not in NOT_OF_ROUTERS]
    return {**RULES.specs["router_model"], **{name: ours[name] for name in [*theirs, "sampling_preset"]}}
