"""What every role has in common."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

ROLES = sorted(path.name for path in (ROOT / "roles").iterdir())


def load(role: str, path: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "roles" / role / path).read_text())
    return loaded


@pytest.mark.parametrize("role", ROLES)
def test_defaults_and_argument_specs_say_the_same(role: str) -> None:
    options = load(role, "meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    required = {name for name, spec in options.items() if spec.get("required")}
    defaults = {name: spec.get("default") for name, spec in options.items() if name not in required}
    assert load(role, "defaults/main.yml") == defaults


@pytest.mark.parametrize("role", ROLES)
def test_every_option_says_what_it_is(role: str) -> None:
    for entry in load(role, "meta/argument_specs.yml")["argument_specs"].values():
        for name, spec in entry["options"].items():
            assert spec.get("description"), name
            assert spec.get("type"), name


@pytest.mark.parametrize("role", ROLES)
def test_public_variables_carry_the_name_of_the_role(role: str) -> None:
    shared = {"llama_models"}  # the catalogue belongs to no one role
    assert [name for name in load(role, "defaults/main.yml") if not name.startswith(role) and name not in shared] == []


@pytest.mark.parametrize("role", ROLES)
def test_every_role_has_a_readme_that_leads_to_its_variables(role: str) -> None:
    assert "(defaults/main.yml)" in (ROOT / "roles" / role / "README.md").read_text()
