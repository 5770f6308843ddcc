"""Log of a process among those of others, in files that are rotated by supervisor."""

from __future__ import annotations

from pathlib import Path

import pytest

from plugins.module_utils.llama_server.runtimes import log_files
from plugins.module_utils.llama_server.runtimes.base import Settings, Status
from plugins.module_utils.llama_server.runtimes.supervisor import Supervisor

BEGIN = "launch: process 7 is main, verified generation 0\nloading\n"
FORMER = "launch: process 77 is main\nformer\nlaunch: process 7 is main, of another boot\nof another boot\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    """A supervisor whose instance runs as process 7."""
    runtime = Supervisor(Settings(str(tmp_path), str(tmp_path), "nobody", "python3"))
    monkeypatch.setattr(runtime, "status", lambda name: Status("running", 7, "1"))
    return runtime


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ([FORMER + BEGIN + "served\n"], ["loading", "served"]),
        ([BEGIN], ["loading"]),
        (["later\n", FORMER + BEGIN + "served\n"], ["loading", "served", "later"]),
        (["newest\n", "", "newer\n", FORMER + BEGIN], ["loading", "newer", "newest"]),
        (["later\n"], None),  # its beginning is gone
        ([""], None),
        ([], None),
    ],
)
def test_the_log_of_a_process_goes_from_its_launch_over_all_files(
    here: Supervisor, tmp_path: Path, files: list[str], expected: list[str] | None
) -> None:
    for number, text in enumerate(files):
        (tmp_path / ("main.log" + (f".{number}" if number else ""))).write_text(text)
    (tmp_path / "main-2.log").write_text("launch: process 7 is main-2\nof another instance\n")
    assert here.log("main") == ([BEGIN.splitlines()[0], *expected] if expected else [])


def test_of_a_log_that_grows_without_end_only_so_much_is_read(
    here: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_files, "LOG_BYTES", 1000)
    (tmp_path / "main.log").write_text("last\n" * 5000)
    (tmp_path / "main.log.1").write_text(FORMER + BEGIN + "first\n" * 5000)
    log = here.log("main")
    assert log[:3] == [*BEGIN.splitlines(), "first"]
    assert len("\n".join(log)) <= 1000
    assert here.log("main", 3) == ["last"] * 3
    assert len(here.log("main", 5000)) == 200
    assert len("\n".join(here.lives("main", ["1"])[0])) <= 1000


@pytest.mark.parametrize(
    ("count", "expected"), [(0, [["no GPU"]]), (1, [["no GPU"]]), (2, [["loading"], ["no GPU"]]), (9, None)]
)
def test_lives_are_told_apart_by_what_the_launcher_says(
    here: Supervisor, tmp_path: Path, count: int, expected: list[list[str]] | None
) -> None:
    (tmp_path / "main.log").write_text(f"an end\n{FORMER}{BEGIN}launch: the GPU is not there\nno GPU\n")
    found = [[line for line in life if not line.startswith("launch: ")] for life in here.lives("main", ["1"] * count)]
    assert found == (expected or [["an end"], ["former"], ["of another boot"], ["loading"], ["no GPU"]])
