"""What a terminal shows of a comparison."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from nexus_tasks.comparison import text
from nexus_tasks.comparison.verdicts import judge
from tests.compare_records import levels, loaded, run


def test_the_table_fits_a_terminal_of_80_columns(tmp_path: Path) -> None:
    slo = {"load.slo": {"ttft_ms": 1.0}}
    speeds: list[dict[int, float]] = [{1: 1.0, 8: 1.0}, {1: 3.0, 8: 1.2}]
    a, b = loaded(tmp_path, *(levels(run(name, header=slo), of, 60) for name, of in zip("ab", speeds, strict=True)))
    console = Console(width=80, record=True, file=io.StringIO())
    text.show(judge([a], [b]), console)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("concurrency 8") for line in lines)
    row = next(line for line in lines if line.startswith("decode, tokens/s"))
    assert row.split()[-1] == "worse"
    assert "…" in row
    assert "-66." in row


def test_the_verdict_is_said_in_a_sentence() -> None:
    found = judge([run("a")], [run("b", slower=1.2)])
    first, noise_known, advice = text.sentences(found)
    assert first.startswith("B against A: worse: decode, ITL p99; can't be told: TTFT.")
    assert "assumed" in noise_known
    assert "--interleave 10" in advice


def test_large_figures_cut_no_verdict(tmp_path: Path) -> None:
    a, b = loaded(tmp_path, run("a", slower=1_000_000), run("b", slower=1_100_000))
    console = Console(width=80, record=True, file=io.StringIO())
    text.show(judge([a], [b]), console)
    rows = [line for line in console.export_text().splitlines() if " % " in line]
    assert rows
    assert all(row.rstrip().endswith(("better", "worse", "same", "can't tell")) for row in rows), rows
