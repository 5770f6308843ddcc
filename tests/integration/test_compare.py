"""The command that compares, as a gate in a shell has it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nexus_tasks import compare
from nexus_tasks.comparison import gate
from nexus_tasks.comparison.quantities import QUANTITIES
from nexus_tasks.core.provenance import ROOT
from tests.compare_records import changed, run, save


def compared(*arguments: str | Path, root: Path) -> subprocess.CompletedProcess[str]:
    """Run ``python -m nexus_tasks.compare`` on a terminal of 80 columns."""
    return subprocess.run(
        [sys.executable, "-m", "nexus_tasks.compare", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "80", "NEXUS_RESULTS": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A run, a slower one, one of another workload, and one in which the generator was too slow."""
    save(
        tmp_path,
        run("20261122T100000000Z-main-0001", header={"tag": "before"}),
        run("20261122T110000000Z-main-0002", slower=1.15, header={"tag": "after", "server.build": "b2"}),
        run("20261122T120000000Z-main-0003", header={"workload.api": "chat", "tag": "chat"}),
        changed(run("20261122T130000000Z-main-0004", header={"tag": "busy"}), {}, valid=False, reasons=["late"]),
    )
    return tmp_path


def test_a_slower_run_fails_the_gate_and_says_why(root: Path) -> None:
    done = compared("before", "after", root=root)
    assert (done.returncode, done.stderr) == (gate.EXIT_WORSE, "")
    lines = done.stdout.splitlines()
    assert lines[:3] == ["A: 20261122T100000000Z-main-0001", "B: 20261122T110000000Z-main-0002", "   build: b1 → b2"]
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("decode, tokens/s") and line.rstrip().endswith("worse") for line in lines)
    assert "B against A: worse: decode, ITL p99" in done.stdout


def test_the_other_way_round_it_passes(root: Path) -> None:
    done = compared("after", "before", root=root)
    assert done.returncode == 0
    assert "better: decode, ITL p99" in done.stdout


def test_json_is_all_there_is_on_standard_output(root: Path) -> None:
    done = compared("before", "after", "--json", root=root)
    assert done.returncode == gate.EXIT_WORSE
    (found,) = json.loads(done.stdout)
    decode = next(one for one in found["findings"] if one["name"] == "decode_tps")
    assert decode["low"] < decode["change"] < decode["high"] < 0
    assert (decode["verdict"], found["verdict"], found["noise"]) == ("worse", "worse", "assumed")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["before", "chat"], "asked different things: api completion against chat"),
        (["before", "busy"], "is not valid: late"),
        (["before", "nothing"], "no run, tag or baseline 'nothing'"),
        (["--against", "v1"], "no run, tag or baseline 'v1'"),
    ],
)
def test_what_can_t_be_compared_is_an_error_of_two_lines(arguments: list[str], said: str, root: Path) -> None:
    done = compared(*arguments, root=root)
    assert (done.returncode, done.stdout) == (1, "")
    first, second = done.stderr.splitlines()
    assert first.startswith("error: ")
    assert said in first
    assert second.startswith(" hint: ")


def test_a_baseline_is_saved_and_held_against(root: Path) -> None:
    assert compared("--save-baseline", "v1", "before", root=root).returncode == 0
    assert compared("--against", "v1", "after", root=root).returncode == gate.EXIT_WORSE
    assert compared("--against", "v1", "after", "--margin", "decode_tps=30", "--margin", "itl_p99_ms=30",
                    root=root).returncode == 0  # fmt: skip


def test_a_damaged_record_is_told_with_file_and_line(root: Path) -> None:
    path = root / "benchmark" / "20261122T110000000Z-main-0002.jsonl"
    path.write_text(path.read_text().replace('"type":"request"', '"type":', 1))
    done = compared("before", "after", root=root)
    assert done.returncode == 1
    assert f"{path}, line 2: it is not JSON" in done.stderr


def test_the_page_of_docs_names_every_option_and_every_exit_status() -> None:
    page = (ROOT / "docs" / "compare.md").read_text()
    options = {option for action in compare.parser()._actions for option in action.option_strings if option != "-h"}
    assert {option for option in options if option not in page} == {"--help"}
    for quantity in QUANTITIES:
        row = next((line for line in page.splitlines() if line.startswith(f"| `{quantity.name}`")), "")
        assert f"| {quantity.margin_percent:g} " in row, quantity.name
    for status in (0, 1, gate.EXIT_WORSE, gate.EXIT_CANT_TELL):
        assert f"| {status} |" in page
