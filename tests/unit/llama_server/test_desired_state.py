"""Declarations: the name of a generation decides whether servers are restarted."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils.hostlib.stored import to_json
from plugins.module_utils.llama_server import host as host_module
from plugins.module_utils.llama_server.host import Host, host_of
from tests.unit.llama_server import former

ROOT = former.PARAMS["root"]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    """What is declared as the former version was told, on a host that has every runtime, and not by root."""
    as_former(monkeypatch)
    return host_of(copy.deepcopy(former.PARAMS))


def as_former(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_module, "resolve", lambda runtime: runtime)
    monkeypatch.setattr(host_module, "user_under_supervisor", lambda settings: None)


@pytest.mark.parametrize("name", sorted(former.INSTANCES))
def test_a_generation_has_the_name_and_the_bytes_that_a_former_version_gave_it(host: Host, name: str) -> None:
    declaration, written = host.declared[name], former.INSTANCES[name]
    identity = declaration.identity(former.SALT)
    assert identity == written["id"]
    placed = declaration.placed(host.folder(name).generation(identity), identity)
    assert to_json(placed.as_json()) == written["instance.json"]
    assert declaration.on_side_port(4711).identity(former.SALT) == written["trial_id"]


@pytest.mark.parametrize("name", sorted(former.INSTANCES))
def test_what_a_former_version_deployed_is_as_declared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    as_former(monkeypatch)
    host = host_of({**copy.deepcopy(former.PARAMS), "root": str(tmp_path)})
    folder, declaration, identity = host.folder(name), host.declared[name], former.INSTANCES[name]["id"]
    generation = Path(folder.generation(identity))
    generation.mkdir(parents=True)
    written = former.INSTANCES[name]["instance.json"].replace(f"{ROOT}/{name}", folder.path)
    texts = {**declaration.files, "instance.json": written}
    for file, text in texts.items():
        (generation / file).write_bytes(text.encode())
        (generation / file).chmod(0o600)
    assert folder.differs(declaration, identity) == []
    folder.link("verified", declaration.placed(str(generation), identity))
    verified = folder.linked("verified")
    assert verified == declaration.placed(str(generation), identity)
    (generation / "instance.json").write_text("{}")
    assert folder.differs(declaration, identity) == ["instance.json"]


@pytest.mark.parametrize(
    "change",
    [
        {"port": 8700}, {"ctx_size": 4096}, {"ctx_size": None}, {"gpus": []}, {"argv": ["a"]}, {"environment": {}},
        {"side_models": [{"path": "a"}]}, {"a_later_option": None}, {"has_template": False},
    ],
)  # fmt: skip
def test_any_change_of_a_declaration_is_another_generation(host: Host, change: dict[str, Any]) -> None:
    params = copy.deepcopy(former.PARAMS)
    params["instances"]["main"]["config"].update(change)
    changed = host_of(params).declared["main"]
    assert changed.identity(former.SALT) != host.declared["main"].identity(former.SALT)


def test_variables_of_the_role_lead_to_the_files_of_a_generation_in_a_container_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    as_former(monkeypatch)
    params = copy.deepcopy(former.PARAMS)
    variables = {"LLAMA_ARG_API_KEY_FILE": "@keys", "THEIRS": "@keys"}
    for runtime in ("supervisor", "docker"):
        params["instances"]["main"]["config"].update(runtime=runtime, environment=variables)
        placed = host_of(params).declared["main"].placed("/g", "0")
        assert placed.environment == {"LLAMA_ARG_API_KEY_FILE": "/g/keys", "THEIRS": "@keys"}
    assert placed.container
    assert {"LLAMA_ARG_API_KEY_FILE=/g/keys", "THEIRS=@keys"} < set(placed.container)
