"""The registry's database: what it keeps, rebuilds from records, exports and takes."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec
import pytest

from nexus_tasks.core.errors import DatabaseError, RecordError, UsageError
from nexus_tasks.model_store.registry import KnownModel, ModelFile, Rating, Registry, Variant, read_record
from nexus_tasks.views.model_uses import Use
from tests.support.known_models import use

MODEL = KnownModel(
    name="someone/small-GGUF", source="hub", place="someone/small-GGUF", added_at="2026-11-22T12:00:00+00:00",
    variants=[Variant(file="a", quantization="Q8_0", size_bytes=9, files=[ModelFile(name="a", size_bytes=9)])],
)  # fmt: skip
RATING = Rating(id="1", model="small", rating=4, note='a "good" one; ünï', rated_at="2026-11-22T12:00:00+00:00")


def test_an_export_makes_the_same_registry_elsewhere_and_twice_changes_nothing(tmp_path: Path) -> None:
    with Registry.opened(tmp_path / "a") as registry:
        registry.put(MODEL)
        registry.rate(RATING)
        exported = registry.export()
    for _ in range(2):
        with Registry.opened(tmp_path / "b") as registry:
            registry.take(exported, "x.json")
    with Registry.opened(tmp_path / "b") as registry:
        assert (registry.models(), registry.ratings()) == ([MODEL], [RATING])
        assert registry.export() == exported


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "x is no export of the registry"),
        (b"\xff\xfe", "x is no export of the registry"),
        (b"[]", "x is no export of the registry"),
        (b'{"schema": 1}', "x is no export of the registry"),
        (b'{"schema": 2, "future": true}', "x is of schema 2, this Llama Nexus knows 1"),
        (b'{"schema": 1, "models": [{"name": 3}], "ratings": []}', "x is no export of the registry"),
        (
            msgspec.json.encode({"schema": 1, "models": [], "ratings": [{**msgspec.to_builtins(RATING), "rating": 9}]}),
            "x rates small with 9",
        ),
    ],
    ids=["empty", "binary", "list", "lacks", "newer", "type", "rating"],
)
def test_what_is_no_export_is_refused_and_changes_nothing(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(UsageError, match=says) as refused, Registry.opened(tmp_path / "a") as registry:
        registry.take(content, "x")
    assert "\n" not in refused.value.message
    with Registry.opened(tmp_path / "a") as registry:
        assert registry.models() == []


def test_records_are_read_once_again_when_they_grow_and_forgotten_when_they_go(tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    paths = [results / "a.jsonl", results / "b.jsonl"]
    for path in paths:
        path.write_text("1\n")
    read: list[str] = []

    def uses(path: Path) -> list[Use]:
        read.append(path.name)
        if path.read_text() == "bad":
            raise RecordError(f"{path} is damaged", hint="move it")
        return [use(requests=len(path.read_text()))]

    def sync(there: list[Path]) -> tuple[list[str], list[int]]:
        with Registry.opened(tmp_path / "r") as registry:
            told = [read_record(path, uses) for path in registry.changed_records(there)]
            return registry.remember(told, results, there), sorted(one.requests for one in registry.uses(results))

    assert sync(paths) == ([], [2, 2])
    paths[0].write_text("1\n2\n")
    assert sync(paths) == ([], [2, 4])
    assert read == ["a.jsonl", "b.jsonl", "a.jsonl"]
    paths[1].write_text("bad")
    for _ in range(2):  # told each time, and read once
        assert sync(paths) == ([f"{paths[1]} is damaged"], [4])
    assert read[3:] == ["b.jsonl"]
    assert sync(paths[:1]) == ([], [4])
    with Registry.opened(tmp_path / "r") as registry:
        assert registry.uses(tmp_path / "elsewhere") == []
        registry.remember([], tmp_path / "elsewhere", [])  # of another folder nothing is forgotten
        assert len(registry.uses(results)) == 1


def test_a_row_that_is_no_row_is_told_as_damage(tmp_path: Path) -> None:
    with Registry.opened(tmp_path / "r") as registry:
        registry.put(MODEL)
    with sqlite3.connect(tmp_path / "r") as rows:
        rows.execute("UPDATE model SET content = 'x'")
    with pytest.raises(DatabaseError, match="is damaged"), Registry.opened(tmp_path / "r") as registry:
        registry.models()
