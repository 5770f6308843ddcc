"""The monitor of real servers, by its command: what it prints, and how it ends."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import ROOT, RunningServer, free_port, run_server, wait_for

KEY = "0b9f2c-sesame-opens"
COMMAND = [sys.executable, "-m", "nexus_tasks.monitor"]


def monitor(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], cwd=ROOT, env={**os.environ, "COLUMNS": "80", **environment},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def locked(
    llama_server_bin: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """A server with a key, counters and one slot."""
    folder = tmp_path_factory.mktemp("locked")
    (folder / "keys").write_text(KEY)
    flags = ["--metrics", "--context-shift", "--api-key-file", str(folder / "keys")]
    with run_server(llama_server_bin, tiny_model, folder / "log", *flags) as running:
        yield running


@pytest.fixture
def busy(locked: RunningServer) -> Iterator[RunningServer]:
    """The server with a request that it works on and two that wait, until the test has ended."""
    stop = threading.Event()

    headers = {"Authorization": f"Bearer {KEY}"}

    def ask() -> None:
        # With --context-shift there is no other end to it.
        body = {"prompt": "Once upon a time", "n_predict": -1, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", f"{locked.base_url}/completion", json=body, headers=headers, timeout=300) as answer:
            for _ in answer.iter_lines():
                if stop.is_set():
                    return

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        waits = re.compile(r"^llamacpp:requests_deferred 2$", re.MULTILINE)
        wait_for(lambda: waits.search(httpx.get(f"{locked.base_url}/metrics", headers=headers).text), "two that wait")
        yield locked
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_slots_queue_and_speed_of_a_busy_server_are_seen_while_it_decodes(busy: RunningServer) -> None:
    done = monitor(busy.base_url, "--once", "--json", "--interval", "2", LLAMA_NEXUS_API_KEY=KEY)
    assert (done.returncode, done.stderr) == (0, "")
    [row] = json.loads(done.stdout)["instances"]
    assert (row["up"], row["slots_busy"], row["slots"], row["waiting"]) == (True, 1, 1, 2)
    assert row["decode_tps"] > 0
    assert row["cached_tokens"] > 0
    assert KEY not in done.stdout


def test_a_server_that_is_down_and_one_with_another_key_are_rows_with_the_reason(locked: RunningServer) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    done = monitor(locked.base_url, dead, "--once", LLAMA_NEXUS_API_KEY="another-key-of-somebody")
    assert (done.returncode, done.stderr) == (1, "")
    assert f"{dead}: connection refused" in done.stdout
    assert f"{locked.base_url}: refuses its key" in done.stdout
    assert "2 instances, 2 down" in done.stdout
    assert "another-key" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize("flags", [[], ["--no-slots", "--metrics"], ["--no-slots"]])
def test_what_a_server_does_not_offer_is_a_dash(
    llama_server_bin: Path, small_model: Path, tmp_path: Path, flags: list[str]
) -> None:
    with run_server(llama_server_bin, small_model, tmp_path / "log", *flags) as running:
        done = monitor(running.base_url, "--once", "--interval", "0.1")
    assert done.returncode == 0
    row = next(line for line in done.stdout.splitlines() if line.startswith(running.base_url)).split()[1:]
    assert (
        row
        == {
            (): ["0/1", "-", "≥0.0", "≥0.0", "0"],
            ("--no-slots", "--metrics"): ["0/1", "0", "0.0", "0.0", "-"],
            ("--no-slots",): ["-", "-", "-", "-", "-"],
        }[tuple(flags)]
    )


def test_json_is_a_line_at_each_look_until_it_is_interrupted(locked: RunningServer) -> None:
    with subprocess.Popen(
        [*COMMAND, locked.base_url, "--json", "--interval", "0.2"], cwd=ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env={**os.environ, "LLAMA_NEXUS_API_KEY": KEY},
    ) as process:  # fmt: skip
        assert process.stdout
        assert process.stderr
        rows: list[dict[str, Any]] = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
        assert process.stderr.read() == ""
    assert rows[-1]["instances"][0]["up"]
    assert rows[0]["at"] < rows[-1]["at"]


def test_on_a_terminal_it_is_drawn_again_and_ctrl_c_leaves_the_last_picture(
    llama_server_bin: Path, small_model: Path, tmp_path: Path
) -> None:
    parent, child = pty.openpty()
    with run_server(llama_server_bin, small_model, tmp_path / "log", "--metrics") as running:
        process = subprocess.Popen(
            [*COMMAND, running.base_url, "--interval", "0.2"], cwd=ROOT, stdin=child, stdout=child, stderr=child,
            env={**os.environ, "COLUMNS": "80", "LINES": "24", "TERM": "xterm-256color"}, start_new_session=True,
        )  # fmt: skip
        os.close(child)
        seen = read_until(parent, r"0/1")
        running.process.kill()
        seen = read_until(parent, r"1 down(?s:.*)connection refused")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
    rest = read_until(parent, r"\Z")
    os.close(parent)
    assert "\x1b[1;31m" in seen  # red
    assert "Traceback" not in seen + rest


def read_until(terminal: int, pattern: str, seconds: float = 180) -> str:
    """What the terminal shows until it matches; AssertionError when it does not."""
    text, deadline = "", time.monotonic() + seconds
    while not re.search(pattern, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)):
        assert time.monotonic() < deadline, text
        if select.select([terminal], [], [], 0.2)[0]:
            text += os.read(terminal, 65536).decode(errors="replace")
    return text


def test_an_interval_without_time_is_refused() -> None:
    done = monitor("http://127.0.0.1:1", "--interval", "0")
    assert (done.returncode, done.stdout) == (1, "")
    must = "--interval must be 0.1 or more, and short enough to wait for, not 0"
    assert done.stderr == f"error: {must}\n hint: give it in seconds\n"


@pytest.mark.parametrize("interval", ["nan", "inf"])
def test_an_interval_that_is_no_number_is_refused(interval: str) -> None:
    done = monitor("http://127.0.0.1:1", "--interval", interval)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"argument --interval: must be a number, and at most 1e+09, not '{interval}'" in done.stderr


def test_it_ends_without_a_word_when_nobody_reads_it_any_more() -> None:
    with subprocess.Popen(
        [*COMMAND, "http://127.0.0.1:1", "--json", "--interval", "0.1"], cwd=ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline().startswith("{")
        process.stdout.close()
        assert process.wait(timeout=60) == 1
        assert process.stderr.read() == ""
