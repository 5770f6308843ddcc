"""Memory of hosts, as declared, remembered or asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nexus_tasks.core.errors import DeployError
from nexus_tasks.fleet import hardware, inventory
from nexus_tasks.records import store
from tests.plan_records import machine, write_record


def described(name: str, gpus: Any = None, memory: Any = None) -> dict[str, Any]:
    return {"host": name, "gpu_memory": gpus, "host_memory": memory}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Hosts that were asked; each has a GPU of 8 GiB."""
    patterns: list[str] = []

    def answer(pattern: str, play: str, variable: str) -> Any:
        patterns.append(pattern)
        return [{"host": name, "gpu_memory": ["8192"], "host_memory": 32000} for name in pattern.split(",")], {}

    monkeypatch.setattr(inventory, "answer", answer)
    return patterns


def test_what_is_declared_is_not_asked_for(asked: list[str], tmp_path: Path) -> None:
    found = hardware.of_hosts([described("rig", [24576, "16384"], 64000)], tmp_path, ask_again=True)
    assert found.known["rig"] == hardware.Hardware((24576, 16384), 64000, hardware.DECLARED)
    assert asked == []


@pytest.mark.parametrize(
    ("given", "sizes"),
    [(24576, (24576,)), ("24576", (24576,)), ("24576,16384", (24576, 16384)), ([24576, " 8 "], (24576, 8)), ([], ())],
)
def test_a_declaration_is_read_as_ansible_reads_a_list(given: Any, sizes: tuple[float, ...], tmp_path: Path) -> None:
    found = hardware.of_hosts([described("rig", given)], tmp_path, ask_again=False)
    assert (found.known["rig"].gpus_mib, found.problems) == (sizes, {})


@pytest.mark.parametrize("given", [[24576, "16 GB"], {"a": 24576}, [-5], [9999999999], ["x" * 999], True, "", [None]])
def test_of_a_host_whose_gpus_are_declared_wrongly_nothing_is_known(
    given: Any, asked: list[str], tmp_path: Path
) -> None:
    found = hardware.of_hosts([described("rig", given, 64000)], tmp_path, ask_again=True)
    assert (found.known, asked) == ({}, [])
    assert found.problems == found.malformed
    assert found.problems["rig"].startswith("llama_server_gpu_memory has ")
    assert len(found.problems["rig"]) < 140


@pytest.mark.parametrize("given", ["64 GB", -1, [65536], {"a": 1}])
def test_nor_where_its_own_memory_is(given: Any, asked: list[str], tmp_path: Path) -> None:
    found = hardware.of_hosts([described("rig", memory=given)], tmp_path, ask_again=False)
    assert (found.known, asked) == ({}, [])
    assert found.problems["rig"].startswith(f"llama_server_host_memory is {given!r}: write its MiB")


def test_what_a_host_said_last_counts_until_it_is_asked_again(asked: list[str], tmp_path: Path) -> None:
    write_record(tmp_path, [machine("rig", [1024], "asked", "2026-01-01T00:00:00+00:00")], name="1-a")
    write_record(tmp_path, [machine("rig", [2048], "remembered", "2026-02-01T00:00:00+00:00")], name="2-b")
    write_record(tmp_path, [machine("rig", [4096], "declared", None)], name="3-c")
    (tmp_path / "plan" / "4-damaged.jsonl").write_text("{\n")
    found = hardware.of_hosts([described("rig")], tmp_path, ask_again=False).known["rig"]
    assert (found.gpus_mib, found.source, found.asked_at) == ((2048,), "remembered", "2026-02-01T00:00:00+00:00")
    assert asked == []
    found = hardware.of_hosts([described("rig", memory=1000)], tmp_path, ask_again=True).known["rig"]
    assert (found.gpus_mib, found.memory_mib, found.source) == ((8192,), 1000, "asked")


def test_a_host_without_gpus_is_known_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told = [{"host": "small", "gpu_memory": ["[N/A]"], "host_memory": 4000}]
    monkeypatch.setattr(inventory, "answer", lambda pattern, play, variable: (told, {}))
    found = hardware.of_hosts([described("small")], tmp_path, ask_again=False)
    assert (found.known["small"].gpus_mib, found.problems) == ((), {})


def test_where_no_host_can_be_asked_each_has_its_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def answer(pattern: str, play: str, variable: str) -> Any:
        raise DeployError("one: timed out\ntwo: timed out", hint="")

    monkeypatch.setattr(inventory, "answer", answer)
    found = hardware.of_hosts([described("one"), described("two")], tmp_path, ask_again=False)
    assert found.known == {}
    assert sorted(found.problems) == ["one", "two"]
    assert "llama_server_gpu_memory" in found.problems["one"]
    assert store.paths("plan", tmp_path, required=False) == []
