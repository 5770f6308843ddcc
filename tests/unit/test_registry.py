"""The command `registry`: models looked up, joined with the fleet's records, rated, exported and taken."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from nexus_tasks import registry
from nexus_tasks.core import database
from nexus_tasks.core.text import MISSING
from nexus_tasks.model_store import registry as rooms
from tests import deployment_records
from tests.conftest import ROOT
from tests.memory_models import write
from tests.roles.file_server import FileServer, serve
from tests.support import known_models
from tests.support.known_models import REPO

SERVED = {"name": "mine", "sha256": ""}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FileServer]:
    """A hub, a catalogue and records of a deployment of its model; the command works beside them."""
    with serve() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.chdir(tmp_path)
        (tmp_path / "group_vars/all").mkdir(parents=True)
        (tmp_path / "group_vars/all/models.yml").write_text(json.dumps({"llama_models": known_models.CATALOGUE}))
        files = known_models.have(server, tmp_path)
        model = {"name": "mine", "sha256": known_models.sha256(files["small-Q8_0.gguf"])}
        row = deployment_records.host("rig-1", deployment_records.instance(model=model))
        deployment_records.write(tmp_path / "results", deployment_records.NOON, row)
        yield server


def test_a_model_that_was_added_by_its_path_is_found_by_it_from_any_folder(
    hub: FileServer, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "own.gguf", known_models.small())
    assert runs("add", str(path)) == 0
    results = str(tmp_path / "results")
    monkeypatch.chdir(tmp_path / "group_vars")
    assert registry.main(["rate", "../own.gguf", "4", "--results", results]) == 0
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert runs("show", str(path)) == 0
    assert "4 of 5 on " in capsys.readouterr().out
    assert runs("list", "--json") == 0
    assert [one["rating"] for one in json.loads(capsys.readouterr().out) if "own" in one["name"]] == [4]


def test_names_of_files_do_not_reach_the_terminal_with_what_controls_it(
    hub: FileServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = write(tmp_path / "odd\x1b]0;title\x1b[31m.gguf", known_models.small())
    assert runs("add", str(path)) == 0
    assert runs("list") == 0
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err
    (row,) = (line for line in shown.out.splitlines() if line.startswith("odd "))
    assert row.split()[1:] == ["1", MISSING, "0", "0", "0", MISSING]


def runs(*arguments: str) -> int:
    return registry.main([*arguments, *(["--results", "results"] if arguments[0] in TAKES_RESULTS else [])])


TAKES_RESULTS = ("list", "show", "rate", "recommend")


def test_a_model_is_known_with_its_use_and_goes_on_being_known_without_the_hub(
    hub: FileServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert runs("list") == 0
    assert "mine" in capsys.readouterr().out  # from the records alone
    assert runs("add", "small") == 0
    assert f"{REPO}: 2 variants, plans of 2" in capsys.readouterr().out
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert runs("rate", "mine", "4", "--note", 'it\'s "good"') == 0
    assert runs("show", "small") == 0
    shown = capsys.readouterr().out
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert all(
        text in shown for text in ("Q4_K_M", "Q8_0", "apache-2.0", "serves on: rig-1/main", "4 of 5", 'it\'s "good"')
    )
    assert runs("list", "--json") == 0
    [row] = json.loads(capsys.readouterr().out)
    assert (row["name"], row["loads"], row["rating"]) == (REPO, 1, 4.0)
    assert row["serves"] == [{"host": "rig-1", "instance": "main", "since": "2026-11-22T12:00:00.000000+00:00"}]
    assert "headers" not in row["known"]["variants"][0]
    assert runs("add", "small") == 1  # and what is known stays
    assert "can't be asked" in capsys.readouterr().err
    assert runs("show", "small") == 0


def test_a_registry_that_is_lost_comes_back_from_hub_and_records_and_ratings_from_an_export(
    hub: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs("add", "small")
    runs("rate", "small", "5")
    runs("export", "--out", "kept.json")
    capsys.readouterr()
    runs("show", "small", "--json")
    before = json.loads(capsys.readouterr().out)
    place = database.data_folder() / rooms.FILE
    place.write_bytes(b"not a database" * 100)
    assert runs("list") == 1
    assert "is damaged" in capsys.readouterr().err
    place.unlink()
    assert runs("import", "kept.json") == 0
    capsys.readouterr()
    runs("show", "small", "--json")
    assert json.loads(capsys.readouterr().out) == before


def test_a_record_that_is_damaged_is_told_and_costs_nothing_else(
    hub: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    later = deployment_records.NOON + timedelta(hours=1)
    path = deployment_records.write(tmp_path / "results", later)
    path.write_text(path.read_text().replace('"type": "host"', '"type": "hos').replace('"type":"host"', '"type":"hos'))
    assert runs("list") == 0
    said = capsys.readouterr()
    assert "mine" in said.out
    assert path.name in said.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["show", "nosuch"], "the registry has no model nosuch"),
        (["show", 'it\'s; "x"\n'], "the registry has no model it's"),
        (["rate", "mine", "0"], "a rating is a whole number from 1 to 5, not 0"),
        (["rate", "mine", "4.5"], "a rating is a whole number from 1 to 5, not 4.5"),
        (["rate", "nosuch", "4"], "the registry has no model nosuch"),
        (["recommend", "mine"], "of mine nothing is known but its use"),
        (["import", "nowhere.json"], "there is no file nowhere.json"),
        (["import", "."], "Is a directory"),
        (["export", "--out", "nowhere/x.json"], "there is no folder nowhere"),
        (["add", "someone/nothing"], "the hub has no repository someone/nothing"),
        (["add", "../x.gguf"], "there is no model ../x.gguf"),
    ],
    ids=lambda value: "-".join(value)[:30] if isinstance(value, list) else "",
)
def test_what_can_not_be_is_refused_in_one_line(
    hub: FileServer, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert runs(*arguments) == 1
    error, hint = capsys.readouterr().err.splitlines()[-2:]
    assert says in error
    assert hint.startswith(" hint: ")


def test_a_pipe_that_is_closed_ends_it_quietly(hub: FileServer, tmp_path: Path) -> None:
    command = f"{sys.executable} -m nexus_tasks.registry list --results results | true"
    done = subprocess.run(
        ["/bin/sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(ROOT), "XDG_DATA_HOME": str(tmp_path / "data"), "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.stderr == ""


def test_of_several_models_those_are_kept_that_there_are(hub: FileServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert runs("add", "someone/nothing", "small") == 1
    said = capsys.readouterr()
    assert "someone/nothing: the hub has no repository someone/nothing" in said.err
    assert f"{REPO}: 2 variants" in said.out
    assert runs("show", "small") == 0
