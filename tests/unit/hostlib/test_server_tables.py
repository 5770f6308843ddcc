"""Tables of what rows of the llama_server modules say, for people."""

from __future__ import annotations

import pytest

from nexus_tasks.hostlib.server_tables import log_text, proof_table, status_table
from tests.server_rows import RELEASE, Row, check, lines, proven, running

SHA256 = "3c03b40a9e394cc1a6d12b7c6ee7e4344c345e0141c94a300ff842e3a4e089c6"


def below(text: str, head: str) -> tuple[str, list[str]]:
    """The line of a text that begins with ``head``, and those that follow it."""
    (number,) = [number for number, line in enumerate(lines(text)) if line.startswith(head)]
    return lines(text)[number], lines(text)[number + 1 :]


# ---- status


def test_a_status_says_what_runs_how_fast_for_whom_and_where() -> None:
    text = status_table([running()])
    first, *below = lines(text)[1:]
    assert first.split() == ["main", "running", "gpt-oss-20b-mxfp4", "231.4", "32768", "x", "4", "1/4"]
    assert " ".join(below) == (
        f"http://127.0.0.1:8600, {RELEASE}, systemd, 25 of 25 layers on the GPU, CUDA0 13.4 GiB, host 599 MiB"
    )


@pytest.mark.parametrize("width", [72, 80])
def test_a_status_fits_its_width_whatever_names_are_like(width: int) -> None:
    rows = [
        {**running("an-instance-with-quite-a-long-name"), "host": "rig-1"},
        {**running(model={"name": "qwen3-coder-30b-a3b-instruct-2507-q4-k-m"}, phase="refused"), "host": "rig-2",
         "last_error": "command line: expected a, found b (an older server is still running; deploy again)"},
    ]  # fmt: skip
    text = status_table(rows, width)
    assert max(map(len, text.splitlines())) <= width
    assert "qwen3-coder-30b-a3b" in text  # as much of it as there is room for


def test_names_get_the_room_that_a_wide_terminal_has() -> None:
    name = "qwen3-coder-30b-a3b-instruct-2507-q4-k-m"
    assert name not in status_table([running(model={"name": name})], 72)
    assert name in status_table([running(model={"name": name})], 120)


def test_a_host_that_is_not_reached_has_a_line() -> None:
    row: Row = {"host": "rig-9", "name": None, "state": "unreachable", "checks": [], "error": "no route\nat all"}
    text = lines(status_table([row]))
    assert text[1].split()[:2] == ["rig-9", "UNREACHABLE"]
    assert text[2:] == ["no route"]


# ---- proofs


def test_a_check_is_a_line_and_what_was_measured_stands_below() -> None:
    text = proof_table([proven(check("slots", 4, 4))])
    assert lines(text)[0] == "main: changed and verified"
    line, rest = below(text, "slots")
    assert line.split() == ["slots", "4", "4", "ok"]
    assert " ".join(rest) == (
        "231.4 tokens/s, ready after 3.2 s, 0.9 s without service, 25 of 25 layers on the GPU "
        "CUDA0 13.4 GiB (weights 10.4 GiB, caches 2.9 GiB), host 599 MiB (weights 587 MiB, compute 12 MiB)"
    )


def test_a_proof_shows_what_was_planned_of_memory_beside_what_it_takes() -> None:
    named = ("device", "part", "plan_mib", "measured_mib")
    figures = [
        ("CUDA0", "weights", 10694.15, 10694.15), ("CUDA0", "KV", 3018.0, 3018.0), ("CUDA0", "compute", 404.0, 398.02),
        ("host", "weights", 379.71, 379.71), ("host", "KV", 0.0, 0.0), ("host", "compute", 10.0, None),
    ]  # fmt: skip
    parts = [dict(zip(named, row, strict=True)) for row in figures]
    text = proof_table([proven(check("slots", 4, 4), memory=parts)])
    head, rest = below(text, "memory, MiB")
    assert head.split() == ["memory,", "MiB", "planned", "measured"]
    assert [line.split() for line in rest] == [
        ["CUDA0", "weights", "10,694.15", "10,694.15"], ["KV", "3,018.00", "3,018.00"], ["compute", "404.00", "398.02"],
        ["host", "weights", "379.71", "379.71"], ["compute", "10.00", "-"],
    ]  # fmt: skip
    routed = proof_table([proven(check("slots", 4, 4), memory=[{**part, "model": "m" * 90} for part in parts])])
    assert max(map(len, [*text.splitlines(), *routed.splitlines()])) <= 72


def test_a_failed_check_has_its_cause_below_and_a_note_too() -> None:
    note = {**check("weights in host memory", "2048 MiB", "2048 MiB"), "cause": "declared by --n-cpu-moe: slower"}
    failed = check("slots", 4, 1, "the server chose another number")
    text = proof_table([proven(failed, note, state="failed", error="slots: expected 4")])
    assert lines(text)[0] == "main: FAILED"
    line, rest = below(text, "slots")
    assert line.split() == ["slots", "4", "1", "FAILED"]
    assert rest[0] == "the server chose another number"
    assert rest[1].endswith("note")
    assert rest[2] == "declared by --n-cpu-moe: slower"
    assert "slots: expected 4" not in text  # the table says it


def test_of_two_command_lines_only_the_difference_shows() -> None:
    argv = ["/opt/releases/x/bin/llama-server", "--model", "/models/a.gguf", "--ctx-size", "4096", "--jinja"]
    failed = check("command line", argv, [*argv[:4], "2048", "--no-ui", "--seed", "7"], "an older server runs")
    text = proof_table([proven(failed, state="failed", error="x")])
    _, rest = below(text, "command line")
    assert rest[0] == "expected  --ctx-size 4096 --jinja"
    assert rest[1] == "found     --ctx-size 2048 --no-ui --seed 7"
    assert rest[2] == "an older server runs"
    assert "llama-server" not in text


def test_equal_command_lines_and_hashes_are_short() -> None:
    argv = ["llama-server", *(f"--flag-{number}" for number in range(20))]
    text = proof_table([proven(check("command line", argv, argv), check("model sha256", SHA256, SHA256))])
    assert below(text, "command line")[0].split()[2:] == ["21", "words", "the", "same", "ok"]
    assert below(text, "model sha256")[0].split()[2:] == ["3c03b40a9e39…", "3c03b40a9e39…", "ok"]


def test_a_proof_fits_its_width_and_of_what_failed_nothing_is_cut_off() -> None:
    long, path = "a path with spaces " * 8, "/x" * 28
    failed = check("model file", long, path, "another model " * 9)
    text = proof_table([proven(failed, check("keys", long, long), error="x", state="failed")])
    assert max(map(len, text.splitlines())) <= 72
    assert " ".join(long.split()) in " ".join(text.split())
    assert path in text


@pytest.mark.parametrize(
    ("changed", "error", "head", "verdict"),
    [
        (True, None, "FAILED; the server before it was restored", "the server before it serves again, proven"),
        (False, None, "FAILED; the old server was not touched", "the old server served on, and was proven again"),
        (True, "no GPU", "FAILED; the server before it FAILED, too", "the server before it does not serve either"),
    ],
)
def test_a_restored_server_has_its_verdict_and_its_own_table(
    changed: bool, error: str | None, head: str, verdict: str
) -> None:
    restored = {**proven(check("completion", 200, 200)), "error": error}
    state = "failed" if error else "restored"
    row = proven(state=state, changed=changed, error="the server ends while it starts", restored=restored)
    text = lines(proof_table([row]))
    assert text[:2] == [f"main: {head}", "the server ends while it starts"]
    assert verdict in text
    assert "completion  200       200    ok" in text


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"state": "stopped", "changed": True, "drained": True}, "main: stopped"),
        ({"state": "stopped", "changed": True, "drained": False, "cut": 40}, "main: stopped; 40 answers were cut off"),
        ({"state": "stopped", "changed": True, "drained": False, "cut": 1}, "main: stopped; 1 answer was cut off"),
        ({"state": "stopped", "changed": True, "drained": False}, "main: stopped; some answers were cut off"),
        (
            {"state": "stopped", "changed": True, "removed": True, "drained": False, "cut": 2},
            "main: stopped and removed; 2 answers were cut off",
        ),
        ({"state": "stopped", "changed": False}, "main: was not running"),
        ({"state": "stopped", "changed": True, "removed": True}, "main: stopped and removed"),
        ({"state": "undeclared", "changed": False}, "main: not declared"),
        ({"state": "planned", "changed": True, "reason": "it is new"}, "main: would change\nbecause it is new"),
        ({"state": "running", "phase": "verified", "health": 200, "changed": True}, "main: running, would change"),
    ],
)
def test_what_needs_no_proof_is_said_in_a_line(row: Row, said: str) -> None:
    text = proof_table([{"name": "main", "checks": [], "error": None, **row}])
    assert "\n".join(lines(text)) == said


def test_several_that_need_no_proof_are_a_line_each() -> None:
    stopped: Row = {"state": "stopped", "changed": True, "checks": [], "error": None}
    text = proof_table([{"name": "chat", **stopped}, {"name": "main", **stopped}])
    assert text == "chat: stopped\nmain: stopped"


def test_each_line_of_a_log_says_whose_it_is() -> None:
    rows = [{**running(), "host": "rig-1", "log_tail": ["one", "two"]}, {**running("chat"), "log_tail": []}]
    assert log_text(rows).splitlines() == ["rig-1/main | one", "rig-1/main | two", "chat | (there is no log)"]
