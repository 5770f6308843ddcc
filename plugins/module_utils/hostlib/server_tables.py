"""Tables of what rows of the llama_server modules say, for people.

    status_table(rows)      one table: what runs
    proof_table(rows)       a table an instance: what was compared and measured
    log_text(rows)          the logs, each line with the name of its instance
    text(rows, action)      the one of the three that goes with an action

Rows are those of server_rows.py. Lines fit a terminal of 80 columns, less what Ansible puts before them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from .buffers import is_host
from .server_rows import Row, condition, named, remark, trouble
from .terminal_text import columns, first_line, listed, shortened, wrapped

WIDTH = 72
LEAST_ROOM = 12  # for the name of a model
ROOM_FOR_FIGURES = 40  # beside a device's name, in the table of memory
GIB = 1024.0  # in MiB
SHA256 = re.compile(r"[0-9a-f]{64}")
DEVICE_KINDS = {"model": "weights", "kv": "caches", "compute": "compute"}
NOTHING = "nothing is deployed here"


# ---- values


def size(mib: float) -> str:
    """An amount of memory: ``512 MiB``, ``14.2 GiB``."""
    return f"{mib / GIB:.1f} GiB" if mib >= GIB else f"{mib:.0f} MiB"


def memory(buffers: Mapping[str, Mapping[str, float]] | None, *, kinds: bool = False) -> list[str]:
    """Memory by device, as ``CUDA0 14.2 GiB`` and ``host 612 MiB``; all of the processor's buffers are the host's.

    Args:
        buffers: MiB by device and kind.
        kinds: whether to say what each device holds.
    """
    devices: dict[str, dict[str, float]] = {}
    for device, sizes in (buffers or {}).items():
        sums = devices.setdefault("host" if is_host(device) else device, {})
        for kind, mib in sizes.items():
            sums[kind] = sums.get(kind, 0.0) + mib
    parts = []
    for device in sorted(devices, key=lambda name: (name == "host", name)):
        sums = devices[device]
        what = ", ".join(f"{name} {size(sums[kind])}" for kind, name in DEVICE_KINDS.items() if kind in sums)
        parts.append(f"{device} {size(sum(sums.values()))}" + (f" ({what})" if kinds else ""))
    return parts


def differing(expected: Sequence[Any], found: Sequence[Any]) -> tuple[str, str]:
    """The differences of two lists of arguments, a value with the flag before it."""
    one, other = [str(word) for word in expected], [str(word) for word in found]
    sides: tuple[list[str], list[str]] = ([], [])
    for tag, *spans in difflib.SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        for words, side, start, stop in zip((one, other), sides, spans[::2], spans[1::2]):
            is_value = 0 < start < stop and words[start - 1].startswith("-") and not words[start].startswith("-")
            side += words[start - 1 if is_value else start : stop]
    return " ".join(sides[0]) or "nothing", " ".join(sides[1]) or "nothing"


def value(compared: Any) -> str:
    """A value that was compared, on one line."""
    if compared is None:
        return "nothing"
    if isinstance(compared, (list, tuple)):
        return ", ".join(value(item) for item in compared) or "none"
    if isinstance(compared, str):
        return f"{compared[:12]}…" if SHA256.fullmatch(compared) else " ".join(compared.split())
    return str(compared)


def values(check: Row) -> tuple[str, str]:
    """The expected and the actual value of a check, long ones shortened to what differs."""
    expected, found = check["expected"], check["found"]
    lists = isinstance(expected, list) and isinstance(found, list)
    if lists and len(expected) + len(found) > 8:
        return (f"{len(expected)} words", "the same") if expected == found else differing(expected, found)
    return value(expected), value(found)


# ---- tables


def status_table(rows: Sequence[Row], width: int = WIDTH) -> str:
    """Table of what runs: a line an instance with its state; below it where it answers, what it is, what is wrong."""
    if not rows:
        return NOTHING
    head = ["INSTANCE", "STATE", "MODEL", "TOKENS/S", "CONTEXT", "BUSY"]
    cells = [head, *(status_cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    room = width - sum(widths) + widths[2] - 2 * (len(head) - 1)
    tall = room < LEAST_ROOM  # long names get a line of their own
    if tall:
        room += widths[0] - 2
    short = [[*("",) * tall, *row[tall:2], shortened(row[2], max(room, LEAST_ROOM)), *row[3:]] for row in cells]
    lines = columns([["  " * tall + row[0], *row[1:]] for row in short], right=(3, 5))
    table_lines = [lines[0]]
    for row, line in zip(rows, lines[1:]):
        table_lines += [named(row), line] if tall else [line]
        what = [row.get("url"), row.get("release"), row.get("runtime"), offload(row), *memory(row.get("buffers_mib"))]
        what += [f"{state} at {gateway}" for gateway, state in (row.get("gateways") or {}).items()]
        table_lines += listed(what, 4, width)
        for text in (row.get("trouble", trouble(row)), row.get("remark", remark(row))):
            table_lines += wrapped(first_line(text), 4, width)
    return "\n".join(table_lines)


def status_cells(row: Row) -> list[str]:
    """The cells of an instance in the table of a status; what is wrong stands in capitals."""
    wrong = bool(row.get("trouble", trouble(row)))
    speed, context, slots, busy = (row.get(key) for key in ("tokens_per_second", "n_ctx", "slots", "busy"))
    return [
        named(row),
        condition(row).upper() if wrong else condition(row),
        model_of(row),
        f"{speed:.1f}" if speed else "-",
        f"{context} x {slots}" if context and slots else "-",
        f"{busy}/{slots}" if busy is not None and slots else "-",
    ]


def model_of(row: Row) -> str:
    """The name of its model, the number of a router's, or "-"."""
    if row.get("model"):
        return str(row["model"]["name"])
    models = (row.get("config") or {}).get("models")
    return f"{len(models)} models" if models else "-"


def offload(row: Row) -> str | None:
    """The layers on the GPU out of all, for people; None where no proof found them in the log."""
    if not row.get("offloaded"):
        return None
    done, layers = row["offloaded"]
    return f"{done} of {layers} layers on the GPU"


def proof_table(rows: Sequence[Row], width: int = WIDTH) -> str:
    """A table an instance: check, expected, found and a mark, and the cause below what is not well."""
    parts = [proof_lines(row, width) for row in rows]
    between = "\n\n" if any(len(lines) > 1 for lines in parts) else "\n"
    return between.join("\n".join(lines) for lines in parts) or NOTHING


def proof_lines(row: Row, width: int) -> list[str]:
    """The lines about the proof of an instance, and about that of the server that was restored."""
    lines = wrapped(f"{named(row)}: {proof_verdict(row)}", 0, width)
    if row.get("reason"):
        lines += wrapped(f"because {row['reason']}", 2, width)
    lines += compared_lines(row, width)
    if restored := row.get("restored"):
        bad = bool(restored.get("error"))
        if row.get("changed"):
            verdict = "the server before it " + ("does not serve either" if bad else "serves again, proven")
        else:
            verdict = "the old server " + ("is not as it was proven" if bad else "served on, and was proven again")
        lines += ["", f"  {verdict}", *("  " + line for line in compared_lines(restored, width - 2))]
    return lines


def compared_lines(row: Row, width: int) -> list[str]:
    """The table of a row, what was measured, and the error where no line of the table says it."""
    lines: list[str] = []
    if row["checks"]:
        lines += listed([model_of(row), row.get("release"), row.get("runtime"), row.get("url")], 2, width)
        lines += check_lines(row["checks"], width)
        lines += measured_lines(row, width)
    if row.get("error") and all(check["ok"] for check in row["checks"]):
        lines += wrapped(first_line(row["error"]), 2, width)
    return lines


def proof_verdict(row: Row) -> str:
    """The verdict on an instance, in a few words."""
    changed, restored = row.get("changed"), row.get("restored")
    if "phase" in row:  # of check mode: what it is now
        return condition(row) + (", would change" if changed else "")
    if row["state"] == "stopped":
        return stop_verdict(row)
    verdicts = {
        "verified": "changed and verified" if changed else "verified, nothing to change",
        "restored": "FAILED; " + ("the server before it was restored" if changed else "the old server was not touched"),
        "failed": "FAILED" + ("; the server before it FAILED, too" if restored and restored.get("error") else ""),
        "planned": "would change",
        "undeclared": "not declared, would be removed" if changed else "not declared",
    }
    return verdicts.get(row["state"], str(row["state"]))


def stop_verdict(row: Row) -> str:
    """The verdict on an instance that is stopped."""
    was = "stopped" if row.get("changed") else "was not running"
    was = "stopped and removed" if row.get("removed") else was
    return "; ".join(filter(None, [was, cut_off(row)]))


def cut_off(row: Row) -> str | None:
    """The number of answers that a stop cut; None where it waited for all of them."""
    if row.get("drained") is not False:
        return None
    cut = row.get("cut")
    return f"{cut} answer{'s were' if cut != 1 else ' was'} cut off" if cut else "some answers were cut off"


def check_lines(checks: Sequence[Row], width: int) -> list[str]:
    """The table of one proof. What is well takes one line; what is not is shown whole."""
    marks = ["FAILED" if not check["ok"] else "note" if check.get("cause") else "ok" for check in checks]
    pairs = [values(check) for check in checks]
    first = max(len("check"), *(len(check["check"]) for check in checks))
    room = (width - 2 - first - len("FAILED") - 3 * 2) // 2
    table = [["check", "expected", "found", ""]]
    below: list[list[str]] = [[]]
    for check, mark, (expected, found) in zip(checks, marks, pairs):
        under: list[str] = []
        if mark == "FAILED" and max(len(expected), len(found)) > room:
            under += wrapped(f"expected  {expected}", 6, width, hang=10) + wrapped(
                f"found     {found}", 6, width, hang=10
            )
            expected = found = ""
        under += wrapped(" ".join((check.get("cause") or "").split()), 6, width)
        table.append([check["check"], shortened(expected, room), shortened(found, room), mark])
        below.append(under)
    lines = columns(table, indent=2)
    return [part for line, under in zip(lines, below) for part in (line, *under)]


def measured_lines(row: Row, width: int) -> list[str]:
    """Measurements of a proof, and the memory that the model takes."""
    speed, load, gap = (row.get(key) for key in ("tokens_per_second", "load_seconds", "downtime_seconds"))
    parts = [
        f"{speed:.1f} tokens/s" if speed else None,
        f"ready after {load:.1f} s" if load is not None and row.get("changed") is not False else None,
        f"{gap:.1f} s without service" if gap is not None else None,
        "proven on a side port first" if row.get("trial") else None,
        cut_off(row),
        offload(row),
    ]
    return listed(parts, 2, width) + (
        memory_lines(row, width) or listed(memory(row.get("buffers_mib"), kinds=True), 2, width)
    )


def memory_lines(row: Row, width: int) -> list[str]:
    """The table of its memory: what was planned of each part, and what it takes; nothing where there is no plan."""
    table, last = [], ""
    for part in row.get("memory") or ():
        figures = [part.get("plan_mib"), part.get("measured_mib")]
        if any(figures):
            where = " ".join(filter(None, (part.get("model"), part["device"])))
            cells = ("-" if mib is None else f"{mib:,.2f}" for mib in figures)
            table.append([shortened(where, width - ROOM_FOR_FIGURES) if where != last else "", part["part"], *cells])
            last = where
    return columns([["memory, MiB", "", "planned", "measured"], *table], indent=2, right=(2, 3)) if table else []


def text(rows: Sequence[Row], action: str) -> str:
    """The text that goes with an action."""
    return {"status": status_table, "logs": log_text}.get(action, proof_table)(rows)


def log_text(rows: Sequence[Row]) -> str:
    """The ends of the logs, each line with the name of its instance."""
    logs = [(named(row), row.get("log_tail") or [first_line(row.get("error")) or "(there is no log)"]) for row in rows]
    return "\n".join(f"{name} | {line}" for name, lines in logs for line in lines) or NOTHING
