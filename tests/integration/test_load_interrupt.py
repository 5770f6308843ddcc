"""Ctrl-C while a stage runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from nexus_tasks.load.requests import Stage
from nexus_tasks.records.benchmark_rows import RequestRow
from tests.conftest import ROOT
from tests.support.load_runs import drive
from tests.support.raw_server import serving, slow

pytestmark = pytest.mark.alone


def test_ctrl_c_delivers_what_had_ended_and_leaves_no_process(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent("""
        import sys, time
        import msgspec
        from nexus_tasks.load import generator
        from nexus_tasks.load.requests import Item, Limits, Request, Stage
        from nexus_tasks.servers import route
        def rows(batch):
            for row in batch:
                print(msgspec.json.encode(row).decode(), flush=True)
        item = Item((Request("/completion", b"{}"),))
        try:
            generator.run(route.to(sys.argv[1]).resolved(), None, iter(lambda: item, None),
                          Stage("closed", concurrency=2, duration_s=60), Limits(), index=0,
                          origin=time.perf_counter(), on_rows=rows)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        """)
    )
    with (
        serving(slow) as address,
        subprocess.Popen(
            [sys.executable, program, address], stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        ) as process,
    ):  # fmt: skip
        assert process.stdout
        first = json.loads(process.stdout.readline())
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        *rows, last = process.stdout.read().splitlines()
    assert process.returncode == 0
    assert last == "interrupted"
    assert first["ok"] is True
    assert all(json.loads(row)["ok"] for row in rows)


def test_rows_that_came_while_others_were_written_are_delivered_after_ctrl_c() -> None:
    batches: list[list[RequestRow]] = []

    def write(rows: list[RequestRow]) -> None:
        batches.append(rows)
        if len(batches) == 1:
            time.sleep(0.5)  # meanwhile requests end
            signal.raise_signal(signal.SIGINT)

    with serving(slow) as address, pytest.raises(KeyboardInterrupt):
        drive(address, Stage("closed", concurrency=2, duration_s=60), on_rows=write)
    assert len(batches) == 2
    assert len(batches[1]) >= 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
