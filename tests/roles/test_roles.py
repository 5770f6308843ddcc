"""What every role has in common."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

ROLES = sorted(path.name for path in (ROOT / "roles").iterdir())
PLAYBOOKS = [ROOT / "deploy.yml", *sorted((ROOT / "playbooks").glob("**/*.yml"))]
INTERNAL = re.compile(r"\b__([a-z][a-z0-9_]*)")


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
    shared = {"llama_models", "llama_own_models"}  # the catalogue belongs to no one role
    assert [name for name in load(role, "defaults/main.yml") if not name.startswith(role) and name not in shared] == []


@pytest.mark.parametrize("role", ROLES)
def test_every_role_has_a_readme_that_leads_to_its_variables(role: str) -> None:
    assert "(defaults/main.yml)" in (ROOT / "roles" / role / "README.md").read_text()


def foreign(text: str, own: str | None = None) -> set[str]:
    """The internal variables of roles in a text, but for those of the role ``own``."""
    longest_first = sorted(ROLES, key=len, reverse=True)
    owners = {
        name: next((role for role in longest_first if name == role or name.startswith(f"{role}_")), None)
        for name in INTERNAL.findall(text)
    }
    return {f"__{name}" for name, role in owners.items() if role and role != own}


@pytest.mark.parametrize("path", PLAYBOOKS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_playbook_reads_an_internal_variable_of_a_role(path: Path) -> None:
    assert foreign(path.read_text()) == set()


@pytest.mark.parametrize("role", ROLES)
def test_no_role_reads_an_internal_variable_of_another_and_its_own_carry_its_name(role: str) -> None:
    files = [path for kind in ("yml", "j2") for path in (ROOT / "roles" / role).glob(f"**/*.{kind}")]
    assert len(files) > 2
    for path in files:
        assert foreign(path.read_text(), own=role) == set(), path
        names = INTERNAL.findall(path.read_text())
        assert [name for name in names if name != role and not name.startswith(f"{role}_")] == [], path


def test_an_internal_variable_is_found_wherever_it_is_read() -> None:
    text = 'a: "{{ __llama_server_plan.names + hostvars[host].__llama_cpp_probe }}"\nb: __provision_steps'
    assert foreign(text) == {"__llama_server_plan", "__llama_cpp_probe"}
    assert foreign(text, own="llama_cpp") == {"__llama_server_plan"}


@pytest.mark.parametrize(
    ("role", "fact"),
    [
        ("container_engine", "container_engine_plan"), ("nvidia_driver", "nvidia_driver_plan"),
        ("llama_server", "llama_server_plan"), ("llama_server", "llama_server_result"),
        ("llama_server", "llama_server_rows"), ("llama_server", "llama_server_endpoints"),
        ("telemetry", "telemetry_endpoint"), ("llama_bench", "llama_bench_result"),
        ("llama_cpp", "llama_cpp_release"), ("gguf_model", "gguf_model_files"), ("host_tools", "host_tools_python"),
    ],
)  # fmt: skip
def test_what_a_role_publishes_is_in_its_readme(role: str, fact: str) -> None:
    assert f"`{fact}`" in (ROOT / "roles" / role / "README.md").read_text()
