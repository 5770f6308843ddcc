"""Page of a batch as a whole, of batches of which there is little to tell, or too much."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nexus_tasks.batches.entries import Answer, Entry, Session, SetAside, Usage
from tests.batch_runs import Run, Server, recorded, unequal
from tests.nasty_records import shown
from tests.report_pages import check_ids

RIG = "rig/main"


def one_row() -> list[Entry]:
    run = Run({RIG: Server()})
    run.work(range(1))
    return run.entries


def huge() -> list[Entry]:
    run = Run({RIG: Server(ttft_ms=1e6, itl_ms=1e4)}, reply=lambda item: {"usage": Usage(10**15, 10**15, 10**15)})
    run.work(range(40))
    return run.entries


def many_endpoints() -> list[Entry]:
    run = Run({f"rack-{number:02}-with-a-long-name.example.org/main": Server() for number in range(40)})
    run.work(range(400))
    return run.entries


def all_failed() -> list[Entry]:
    run = Run({RIG: Server()}, lambda item, attempt: ("connect", "nothing listens on port 8600.", attempt == 3))
    run.work(range(50))
    return run.entries


def nothing_sent() -> list[Entry]:
    return [Session(0.0), *(SetAside(item, 0.0, "no_prompt", f"line {item + 1} has no column prompt")
                            for item in range(50)), Session(0.1, "complete")]  # fmt: skip


def untold() -> list[Entry]:
    run = Run({RIG: Server(slots=None, counts=False, build=None)},
              reply=lambda item: {"answer": Answer(text=None), "ttft_ms": None, "decode_tps": None})  # fmt: skip
    run.work(range(50))
    return run.entries


ODD: dict[str, tuple[Callable[[], list[Entry]], int, str]] = {
    "one row": (one_row, 1, "The row was answered"),
    "no entry": (list, 50, "Interrupted: 50 of 50 rows left"),
    "no row": (lambda: [Session(0.0), Session(0.0, "complete")], 0, "There was no row to answer"),
    "all failed": (all_failed, 50, "All 50 rows failed"),
    "nothing sent": (nothing_sent, 50, "All 50 rows failed"),
    "huge numbers": (huge, 40, "All 40 rows were answered"),
    "many endpoints": (many_endpoints, 400, "and 37 more endpoints"),
    "servers that tell nothing": (untold, 50, "All 50 rows were answered"),
    "unequal": (lambda: unequal().entries, 400, "13 of 400 rows failed"),
}


@pytest.mark.parametrize("name", ODD)
def test_any_batch_has_a_page(tmp_path: Path, name: str) -> None:
    entries, items, said = ODD[name]
    page = shown("batch", record_path=str(recorded(tmp_path, entries(), items).path))
    assert said in page
    assert "nan" not in page.replace("banana", "")
    assert len(page) < 700_000
    if "<svg" in page:
        check_ids(page)


def test_a_record_that_was_cut_off_while_it_was_written_has_a_page(tmp_path: Path) -> None:
    path = recorded(tmp_path, unequal().entries, 400).path
    lines = path.read_bytes().splitlines(keepends=True)
    for kept in (1, 3, 50, len(lines) - 1):
        path.write_bytes(b"".join(lines[:kept]))
        assert "The record was cut off while it was written." in shown("batch", record_path=str(path))
