"""Plans of memory for what the inventory declares."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from nexus_tasks import plan
from nexus_tasks.fleet import inventory, planned
from nexus_tasks.fleet.hardware import Hardware
from nexus_tasks.model_store.memory import DOES_NOT_FIT, FITS, UNKNOWN
from nexus_tasks.model_store.model_sources import open_model
from nexus_tasks.records import store
from tests.memory_model_list import MODELS
from tests.memory_models import write

Models = dict[str, dict[str, Any]]


def host(name: str, model: Path, memory: list[Any] | None, instances: Models, ram: int | None = None) -> dict[str, Any]:
    """A host as playbooks/planned.yml describes it; instances are by name ``words`` and ``gpus``."""
    models = [
        {"instance": one, "model": "m", "argv": ["--model", "m", *given.get("words", [])], "gpus": given.get("gpus")}
        for one, given in instances.items()
    ]
    return {
        "host": name,
        "gpu_memory": memory,
        "host_memory": ram,
        "declared": {"models": models, "profiles": {"m": {"path": str(model)}}, "problems": []},
    }


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model that takes about 4.4 GiB with all its context of 8192 tokens on one GPU."""
    return write(tmp_path / "m.gguf", MODELS["qwen3moe"])


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(inventory, "answer", lambda pattern, play, variable: (found, {}))
    return found


def rows(opened: list[str] | None = None) -> list[planned.Row]:
    def opens(name: str, profiles: str) -> Any:
        (opened if opened is not None else []).append(name)
        return open_model(name, json.loads(profiles))

    return planned.plan_all(planned.declared_models("all", Path("none")).models, opens)


SMALL = {"words": ["-c", "8192", "-np", "1"]}


def test_a_model_alone_is_planned_with_its_hosts_gpus(hosts: list[dict[str, Any]], model: Path) -> None:
    hosts.append(host("rig", model, [24576, 16384], {"main": SMALL}))
    (row,) = rows()
    assert row.verdict == FITS
    assert [number for number, mib in planned.needed(row) if mib > 1000] == [0, 1]


def test_what_else_the_host_serves_counts_in_the_verdict(hosts: list[dict[str, Any]], model: Path) -> None:
    hosts.append(host("rig", model, [6000], {"one": SMALL, "two": SMALL}))
    hosts.append(host("other", model, [6000], {"one": SMALL}))
    assert [row.verdict for row in rows()] == [DOES_NOT_FIT, DOES_NOT_FIT, FITS]


def test_instances_on_gpus_of_their_own_do_not_disturb_one_another(hosts: list[dict[str, Any]], model: Path) -> None:
    own = {name: {**SMALL, "gpus": [str(number)]} for number, name in enumerate(("one", "two"))}
    hosts.append(host("rig", model, ["8000", "8000"], own))
    made = rows()
    assert [row.verdict for row in made] == [FITS, FITS]
    assert [planned.needed(row)[0][0] for row in made] == [0, 1]


def test_hosts_that_are_alike_are_planned_once(hosts: list[dict[str, Any]], model: Path) -> None:
    hosts.extend(host(f"rig-{number}", model, [24576], {"main": SMALL}) for number in range(50))
    opened: list[str] = []
    assert len(rows(opened)) == 50
    assert opened == ["m"]


def test_a_model_is_read_once_whatever_else_its_hosts_serve(hosts: list[dict[str, Any]], model: Path) -> None:
    hosts.append(host("one", model, [24576], {"main": SMALL}))
    hosts.append(host("two", model, [16384], {"main": SMALL}))
    hosts[1]["declared"]["profiles"]["other"] = {"path": "/elsewhere.gguf"}
    declared = planned.declared_models("all", Path("none")).models
    assert declared[0].profiles == declared[1].profiles


def test_without_known_gpus_there_is_no_verdict(hosts: list[dict[str, Any]], model: Path) -> None:
    hosts.append(host("rig", model, [], {"main": SMALL}))
    (row,) = rows()
    assert row.plan is not None
    assert row.verdict == UNKNOWN


def test_what_is_planned_on_memory_that_is_not_there_has_no_plan_and_its_host_is_named_once(
    hosts: list[dict[str, Any]], model: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    hosts.append(host("mistyped", model, [24576, "16 GB"], {"main": SMALL, "two": SMALL}))
    hosts.append(host("short", model, [24576], {"main:a": {**SMALL, "gpus": ["5"]}, "main:b": {"gpus": ["5"]}}, ram=64))
    assert plan.main(["-l", "all", "--results", str(tmp_path), "--json"]) == 1
    shown = capsys.readouterr()
    assert [(row["plan"], row["verdict"]) for row in json.loads(shown.out)] == [(None, UNKNOWN)] * 4
    mistyped, short, _ = shown.err.splitlines()
    assert mistyped.startswith("mistyped: llama_server_gpu_memory has '16 GB': write the MiB of each GPU")
    assert short.startswith("short: instance main: gpus names 5, and the host has 1 GPU, counted from 0: correct gpus")


def test_an_instance_that_names_one_of_its_gpus_by_uuid_is_planned_with_all_of_them() -> None:
    one = {"instance": "main", "model": "m", "argv": [], "gpus": ["0", "GPU-12ab"]}
    described = {"host": "rig", "declared": {"models": [one], "profiles": {}}}
    known = Hardware((8000.0, 6000.0), None, "declared")
    (declared,) = planned._of_host(described, known, "")
    assert (declared.gpus, declared.problem) == (((0, 8000.0), (1, 6000.0)), "")


def test_the_hosts_own_memory_counts_with_all_that_it_serves(hosts: list[dict[str, Any]], model: Path) -> None:
    small = {"words": [*SMALL["words"], "--cache-ram", "1024"]}
    hosts.append(host("rig", model, [24576], {"one": small, "two": small}, ram=3000))
    hosts.append(host("other", model, [24576], {"one": small}, ram=3000))
    made = rows()
    assert made[0].plan is not None
    assert 1424 < made[0].plan.devices[-1].total_mib < 2000
    assert [row.verdict for row in made] == [DOES_NOT_FIT, DOES_NOT_FIT, FITS]


def test_hosts_of_which_nothing_is_known_are_asked_and_named_where_they_are_gone(
    hosts: list[dict[str, Any]], model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    hosts.extend(host(name, model, None, {"main": SMALL}) for name in ("rig", "gone"))
    asked = []

    def answer(pattern: str, play: str, variable: str) -> Any:
        if play == "playbooks/planned.yml":
            return hosts, {}
        asked.append(pattern)
        told = [{"host": "rig", "gpu_memory": ["24576"], "host_memory": 64000}]
        return [one for one in told if "rig" in pattern], {"gone": "no route to host"}

    monkeypatch.setattr(inventory, "answer", answer)
    words = ["-l", "all", "--results", str(tmp_path), "--json"]
    assert plan.main(words) == 1
    shown = capsys.readouterr()
    assert "gone: its memory is not known, no route to host: declare llama_server_gpu_memory" in shown.err
    assert [row["verdict"] for row in json.loads(shown.out)] == [FITS, UNKNOWN]
    plan.main(words)
    assert asked == ["rig,gone", "gone"]
    plan.main([*words, "--ask"])
    assert asked[2:] == ["rig,gone"]


def test_the_command_shows_all_and_names_what_can_not_be_planned(
    hosts: list[dict[str, Any]], model: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    hosts.append(host("rig", model, [24576], {"main": SMALL, "adapted": {"words": ["--lora", "x"]}}))
    assert plan.main(["-l", "rig", "--results", str(tmp_path)]) == 1
    shown = capsys.readouterr()
    assert "rig/main" in shown.out
    assert "rig/adapted: the memory plan doesn't cover --lora" in shown.err
    (record,) = (store.load(path, "plan") for path in store.paths("plan", tmp_path))
    assert [(row.instance, row.verdict, row.plan) for row in record.servers] == [
        ("main", FITS, 0),
        ("adapted", UNKNOWN, None),
    ]
    assert plan.main(["-l", "rig", "--json", "--results", str(tmp_path)]) == 1
    first, second = json.loads(capsys.readouterr().out)
    assert (first["verdict"], first["problem"]) == (FITS, None)
    assert first["plan"]["devices"][0]["name"] == "CUDA0"
    assert second["plan"] is None


@pytest.mark.parametrize("words", [["-l", "rig", "m.gguf"], ["-l", "rig", "-c", "4096"], ["m", "--ask"], []])
def test_a_model_or_hosts_are_planned_and_not_both(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert plan.main(words) == 1
    assert "hint:" in capsys.readouterr().err


def test_the_table_keeps_figures_whole_on_a_narrow_terminal(hosts: list[dict[str, Any]], model: Path) -> None:
    hosts.append(host("a-host-with-a-long-name", model, [24576, 16384], {"main": SMALL}))
    console = Console(width=80, record=True)
    console.print(planned.table(rows()))
    assert "24,576 + 16,384" in console.export_text()
