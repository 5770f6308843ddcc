"""The command that compares: which runs, which exit status, which output."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from nexus_tasks import compare
from nexus_tasks.comparison import gate, selection, simulation
from nexus_tasks.records.store import BenchmarkRecord
from tests import deployment_records
from tests.compare_records import five_runs, run, save


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The results folder of :func:`five_runs`."""
    return five_runs(tmp_path)


def test_the_record_of_a_deployment_is_no_run_to_compare(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(deployment_records.write(root))
    for names_ in ([path, "last"], ["last", path]):
        assert compare.main([*names_, "--results", str(root)]) == 1
        assert f"{path} must be the record of a benchmark, not of a deployment" in capsys.readouterr().err


def test_the_last_good_runs_of_several_targets_are_one_of_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x, y = {"target": "x"}, {"target": "y"}
    save(tmp_path, run("r1", header=x), run("r2", header=y), run("r3", header={**x, "tag": "new"}),
         run("r4", header={**y, "tag": "new"}))  # fmt: skip
    assert compare.main(["last-good", "new", "--json", "--results", str(tmp_path)]) == 0
    assert [(one["a"], one["b"]) for one in json.loads(capsys.readouterr().out)] == [
        (["r1"], ["r3"]), (["r2"], ["r4"]),
    ]  # fmt: skip
    assert gate.against("last-good", selection.find("new", tmp_path), root=tmp_path) == 0


@pytest.mark.parametrize(
    ("slower", "arguments", "status"),
    [
        (1.2, [], 3),
        (1.0, [], 0),
        (1.0, ["--fail-on", "cant-tell"], 4),
        (1.2, ["--fail-on", "cant-tell"], 3),
        (1.2, ["--margin", "decode_tps=50", "--margin", "itl_p99_ms=50"], 0),
    ],
)
def test_the_exit_status_is_that_of_a_gate(slower: float, arguments: list[str], status: int, tmp_path: Path) -> None:
    save(tmp_path, run("a"), run("b", slower=slower))
    assert compare.main(["a", "b", "--results", str(tmp_path), *arguments]) == status


def test_a_run_is_held_against_a_baseline(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = ["--results", str(root)]
    assert compare.main(["--save-baseline", "v1", "before", *folder]) == 0
    assert compare.main(["--against", "v1", *folder]) == 0
    assert "A: r1, r2\nB: r5\n" in capsys.readouterr().out
    console = Console(quiet=True)
    slow = run("slow", slower=1.2)
    assert gate.against("v1", [slow], root=root, console=console) == 3
    assert gate.against("last-good", selection.find("last", root), root=root) == 0


@pytest.mark.parametrize(
    "arguments", [["a"], [], ["a", "b", "c"], ["--save-baseline", "x", "a", "b"], ["a", "b", "--margin", "speed=1"],
                  ["a", "b", "--margin", "decode_tps=0"], ["last-good", "last-good"], ["--simulate", "0"]],
)  # fmt: skip
def test_a_command_that_makes_no_sense_is_an_error(arguments: list[str], tmp_path: Path) -> None:
    save(tmp_path, run("a"), run("b"))
    assert compare.main([*arguments, "--results", str(tmp_path)]) == 1


def test_runs_of_several_targets_are_compared_target_by_target(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def tagged(run_id: str, tag: str, target: str, slower: float = 1.0) -> BenchmarkRecord:
        return run(run_id, slower=slower, header={"tag": tag, "target": target})

    save(tmp_path, tagged("a1", "old", "x"), tagged("a2", "old", "y"), tagged("b1", "new", "x"),
         tagged("b2", "new", "y", 1.2), tagged("c1", "third", "z"))  # fmt: skip
    assert compare.main(["old", "new", "--json", "--results", str(tmp_path)]) == 3
    first, second = json.loads(capsys.readouterr().out)
    assert (first["a"], first["b"], second["a"], second["b"]) == (["a1"], ["b1"], ["a2"], ["b2"])
    assert second["verdict"] == "worse"
    assert first["verdict"] != "worse"
    assert compare.main(["old", "third", "--results", str(tmp_path)]) == 1


def test_the_simulation_is_a_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(simulation, "DESIGNS", simulation.DESIGNS[-1:])
    assert compare.main(["--simulate", "20"]) == 0
    out = capsys.readouterr().out
    assert "20 trials of each kind" in out
    assert "10 rounds of 5 and 5" in out
