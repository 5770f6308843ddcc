"""Models looked up: what is planned, what is read again, and what is kept offline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nexus_tasks.core.errors import UsageError
from nexus_tasks.model_store.lookup import look_up
from tests.memory_models import write
from tests.roles.file_server import FileServer, serve
from tests.support import known_models
from tests.support.known_models import CATALOGUE, REPO


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FileServer]:
    with serve() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        known_models.have(server, tmp_path)
        yield server


@pytest.mark.parametrize("name", ["small", REPO, f"{REPO}:small-Q8_0.gguf"])
def test_a_model_is_its_repository_whatever_it_is_called(hub: FileServer, name: str) -> None:
    found = look_up(name, CATALOGUE)
    assert (found.name, found.source, found.place) == (REPO, "hub", REPO)
    assert [[need.ctx_size for need in variant.needs] for variant in found.variants] == [[8192], [8192]]
    first, second = (variant.needs[0].gpu_mib for variant in found.variants)
    assert 600 < first < second


def test_what_is_still_the_same_is_not_read_again(hub: FileServer) -> None:
    before = look_up("small", CATALOGUE)
    hub.asked.clear()
    again = look_up("small", CATALOGUE, [before])
    assert [one.needs for one in again.variants] == [one.needs for one in before.variants]
    assert hub.asked == []
    hub.repositories[REPO]["small-Q8_0.gguf"] += bytes(32)
    look_up("small", CATALOGUE, [before])
    assert hub.asked


def test_a_file_that_is_no_model_costs_itself_only(hub: FileServer) -> None:
    hub.repositories[REPO]["broken-Q2_K.gguf"] = b"<!doctype html>" * 10
    found = look_up("small", CATALOGUE)
    [broken] = [one for one in found.variants if not one.needs]
    assert broken.file == "broken-Q2_K.gguf"
    assert broken.problem
    assert len(found.variants) == 3


def test_a_file_of_the_users_is_known_by_its_name(tmp_path: Path) -> None:
    path = write(tmp_path / "it's mine.gguf", known_models.small())
    found = look_up(str(path), {})
    assert (found.name, found.source, found.place) == ("it's mine", "path", str(path))
    assert found.variants[0].needs


def test_of_two_files_of_one_name_each_is_known(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    first, second = (write(folder / "m.gguf", known_models.small()) for folder in (tmp_path, tmp_path / "other"))
    known = [look_up(str(first), {})]
    known.append(look_up(str(second), {}, known))
    assert [one.name for one in known] == ["m", str(second)]
    assert [look_up(str(path), {}, known).name for path in (first, second)] == ["m", str(second)]
    assert look_up(str(first), {"m": {"repo": REPO}}).name == str(first)


def test_a_name_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="there is no model nosuch"):
        look_up("nosuch", CATALOGUE)


def test_a_name_that_no_file_can_have_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="File name too long"):
        look_up("a/" + "b" * 300, CATALOGUE)
