"""Ansible filters: what the rows of the llama_server modules say, and the same as text for people.

    rows | llama_server_chosen(action, names)               the names of the instances that an action is about
    hosts | llama_server_nowhere(hostvars, action, names)   why no host has any of them; empty where one has
    rows | llama_server_judged(action, declared, names)     the rows with what is wrong and what is worth knowing
    rows | llama_server_text(action)                        one of the three below
    rows | llama_server_status_table                        one table: what runs
    rows | llama_server_proof_table                         a table an instance: what was compared and measured
    rows | llama_server_log_text                            the logs, each line with the name of its instance

A row is a dict as plugins/modules returns it. Where rows have a ``host``, names are shown as
HOST/INSTANCE. Lines fit a terminal of 80 columns, less what Ansible puts before them.
"""

from __future__ import annotations

import difflib
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

WIDTH = 72
LEAST_ROOM = 12  # for the name of a model
GIB = 1024.0  # in MiB
SHA256 = re.compile(r"[0-9a-f]{64}")
DEVICE_KINDS = {"model": "weights", "kv": "caches", "compute": "compute"}
# Phases that a running switch goes through; found without one, they are where the last switch was cut off.
PASSING = ("trial", "draining", "switching", "restoring")
NOTHING = "nothing is deployed here"
NOT_DEPLOYED = "not deployed"
UNREACHABLE = "unreachable"

Row = Mapping[str, Any]


# ---- what rows say


def named(row: Row) -> str:
    """An instance as people name it: ``main``, or ``rig-1/main`` where the row knows its host."""
    return "/".join(str(part) for part in (row.get("host"), row["name"]) if part)


def condition(row: Row) -> str:
    """The state of an instance in a word or two."""
    if row.get("switching"):
        return "switching"
    if row["state"] == "running":
        if row.get("phase") == "failed":
            return "not proven"
        if row.get("health") != 200:
            return "loading" if row.get("health") == 503 else "no answer"
    if row["state"] == "stopped" and row.get("phase") != "stopped":
        return "failed" if row.get("phase") == "failed" else "down"
    return str(row["state"])


def trouble(row: Row) -> str | None:
    """What is not as it should be, and what to do; None where nothing is wrong."""
    name, phase = row["name"], row.get("phase")
    why = f": {row['last_error']}" if row.get("last_error") else ""
    if row.get("error"):
        return str(row["error"])
    if row.get("switching") or "phase" not in row:  # without one it is not of a status, and the error says it all
        return None
    if phase == "failed":
        left = "what runs was not proven" if row["state"] == "running" else "nothing runs"
        return f"the last deployment failed, and {left}{why}"
    if phase in PASSING:
        return f"the last run ended while it was {phase}: deploy again"
    words = {
        "no answer": row.get("unasked")
        or f"the process runs, but nothing answers at {row.get('url')}: look at its log, or restart it",
        "down": "it should run: start it, and look at its log",
        "failed": "it ended again and again and was given up: look at its log, then start it",
        "starting": "it ended and is being started again: look at its log",
        "unsupervised": "its supervisord ended, so nothing would start it again: restart it",
        "unknown": f"what runs it does not answer: {row.get('why')}",
    }
    said = words.get(condition(row))
    if said is None and row["state"] == "running" and phase == "stopped":
        return f"it was stopped and runs all the same: stop it, or start {name}"
    return said


def remark(row: Row) -> str | None:
    """What is worth knowing although nothing is wrong; None where nothing is."""
    phase = row.get("phase")
    why = f": {row['last_error']}" if row.get("last_error") else ""
    parts = []
    if row.get("switching"):
        parts.append(f"a run is switching it ({phase})")
    elif phase == "restored":
        parts.append(f"the last deployment failed and the server before it was restored{why}")
    elif phase == "refused":
        parts.append(f"the last deployment failed its trial, and this server served on{why}")
    if row.get("unasked") and row.get("health") == 200:
        parts.append(row["unasked"])
    if row.get("declared") is False:
        parts.append("not declared")
    parts += [f"it has {advisory}" for advisory in row.get("advisories", [])]
    if row["state"] == NOT_DEPLOYED:
        parts.append("declared and not deployed: ansible-playbook deploy.yml -l HOST")
    return "; ".join(parts) or None


def judged(
    rows: Iterable[Row], action: str, declared: Iterable[str], names: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """The rows of the wanted instances with ``declared``, ``trouble`` and ``remark``.

    A status gets a row for each instance that was never deployed, too.
    """
    declared = list(declared)
    found = [{**row, "declared": row["name"] in declared} for row in rows if not names or row["name"] in names]
    there = {row["name"] for row in found}
    found += [
        {"name": name, "state": NOT_DEPLOYED, "declared": True, "changed": False, "checks": [], "error": None}
        for name in declared
        if action == "status" and name not in there and (not names or name in names)
    ]
    return [{**row, "trouble": trouble(row), "remark": remark(row)} for row in found]


def chosen(rows: Iterable[Row], action: str, names: Sequence[str] = ()) -> list[str]:
    """The names of the deployed instances that an action is about: those given, or all to which it can be done.

    Without names, what somebody stopped stays stopped through a restart or rollback of the rest.
    """
    rows = list(rows)
    if names:
        return [str(row["name"]) for row in rows if row["name"] in names]
    if needs := {"start": "generation", "restart": "generation", "rollback": "previous"}.get(action):
        rows = [row for row in rows if row.get(needs) and (action == "start" or row.get("phase") != "stopped")]
    return [str(row["name"]) for row in rows]


def nowhere(hosts: Iterable[str], variables: Mapping[str, Any], action: str, names: Sequence[str] = ()) -> str:
    """Why the action is about nothing: names that no host has, or nothing to go back to. Empty where all is well.

    Args:
        hosts: those of the play.
        variables: of each host, with ``__llama_server_looked``, the result of a status, where it was reached.
    """
    rows = [
        {**row, "host": host}
        for host in hosts
        for row in (variables[host].get("__llama_server_looked") or {}).get("instances") or ()
    ]
    there = {row["name"] for row in rows}
    if missing := [name for name in names if name not in there]:
        deployed = ", ".join(sorted(map(named, rows))) or "none"
        return f"no instance {', '.join(missing)} is deployed on these hosts; those that are: {deployed}"
    if action == "rollback" and not chosen(rows, action, names):
        return "no instance on these hosts has an earlier generation to go back to"
    return ""


# ---- values


def size(mib: float) -> str:
    """An amount of memory: ``512 MiB``, ``14.2 GiB``."""
    return f"{mib / GIB:.1f} GiB" if mib >= GIB else f"{mib:.0f} MiB"


def is_host(device: str) -> bool:
    """Whether a buffer's name is one of the processor's: CPU, CPU_Mapped, CPU_REPACK, CUDA_Host."""
    return device.startswith("CPU") or device.endswith("_Host")


def memory(buffers: Mapping[str, Mapping[str, float]] | None, *, kinds: bool = False) -> list[str]:
    """What lies where, as ``CUDA0 14.2 GiB`` and ``host 612 MiB``; all of the processor's buffers are the host's.

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
    """What two lists of arguments do not share, a value with the flag before it."""
    one, other = [str(word) for word in expected], [str(word) for word in found]
    sides: tuple[list[str], list[str]] = ([], [])
    for tag, *spans in difflib.SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        for words, side, start, stop in zip((one, other), sides, spans[::2], spans[1::2], strict=True):
            is_value = 0 < start < stop and words[start - 1].startswith("-") and not words[start].startswith("-")
            side += words[start - 1 if is_value else start : stop]
    return " ".join(sides[0]) or "nothing", " ".join(sides[1]) or "nothing"


def value(found: Any) -> str:
    """A value that was compared, on one line."""
    if found is None:
        return "nothing"
    if isinstance(found, list | tuple):
        return ", ".join(value(item) for item in found) or "none"
    if isinstance(found, str):
        return f"{found[:12]}…" if SHA256.fullmatch(found) else " ".join(found.split())
    return str(found)


def values(check: Row) -> tuple[str, str]:
    """What was expected and what was found, long things shortened to what differs."""
    expected, found = check["expected"], check["found"]
    lists = isinstance(expected, list) and isinstance(found, list)
    if lists and len(expected) + len(found) > 8:
        return (f"{len(expected)} words", "the same") if expected == found else differing(expected, found)
    return value(expected), value(found)


# ---- text


def shortened(text: str, width: int) -> str:
    """``text`` in ``width`` columns; of a path its end is kept."""
    if len(text) <= width:
        return text
    return "…" + text[1 - width :] if text.startswith("/") else text[: width - 1] + "…"


def first_line(text: str | None) -> str:
    """The message without the end of a log that follows it."""
    return (text or "").strip().partition("\n")[0]


def wrapped(text: str, indent: int, width: int, *, hang: int = 0) -> list[str]:
    """``text`` as indented lines; words that are too long are not cut, so that they can be copied."""
    first, others = " " * indent, " " * (indent + hang)
    options: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=others, **options)


def listed(parts: Iterable[str | None], indent: int, width: int) -> list[str]:
    """Those parts that there are, with commas; lines end between parts."""
    text = ", ".join(part.replace(" ", "\N{NO-BREAK SPACE}") for part in parts if part)
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in wrapped(text, indent, width)]


def columns(rows: Sequence[Sequence[str]], right: Sequence[int] = (), indent: int = 0) -> list[str]:
    """Rows of cells as aligned lines, two spaces between columns; those whose numbers are in ``right`` align right."""
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return [
        (
            " " * indent
            + "  ".join(
                cell.rjust(width) if number in right else cell.ljust(width)
                for number, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
        ).rstrip()
        for row in rows
    ]


# ---- tables


def status_table(rows: Sequence[Row], width: int = WIDTH) -> str:
    """What runs: a line an instance with its state, and below it where it answers, what it is, and what is wrong."""
    if not rows:
        return NOTHING
    head = ["INSTANCE", "STATE", "MODEL", "TOKENS/S", "CONTEXT", "BUSY"]
    cells = [head, *(status_cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    room = width - sum(widths) + widths[2] - 2 * (len(head) - 1)
    tall = room < LEAST_ROOM  # long names get a line of their own
    if tall:
        room += widths[0] - 2
    short = [[*("",) * tall, *row[tall:2], shortened(row[2], max(room, LEAST_ROOM)), *row[3:]] for row in cells]
    lines = columns([["  " * tall + row[0], *row[1:]] for row in short], right=(3, 5))
    said = [lines[0]]
    for row, line in zip(rows, lines[1:], strict=True):
        said += [named(row), line] if tall else [line]
        what = [row.get("url"), row.get("release"), row.get("runtime"), offload(row), *memory(row.get("buffers_mib"))]
        said += listed(what, 4, width)
        for text in (row.get("trouble", trouble(row)), row.get("remark", remark(row))):
            said += wrapped(first_line(text), 4, width)
    return "\n".join(said)


def status_cells(row: Row) -> list[str]:
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
    if row.get("model"):
        return str(row["model"]["name"])
    models = (row.get("config") or {}).get("models")
    return f"{len(models)} models" if models else "-"


def offload(row: Row) -> str | None:
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
    """What became of an instance, in a few words."""
    changed, restored = row.get("changed"), row.get("restored")
    if "phase" in row:  # of check mode: what it is now
        return condition(row) + (", would change" if changed else "")
    match row["state"]:
        case "verified":
            return "changed and verified" if changed else "verified, nothing to change"
        case "restored":
            return "FAILED; " + ("the server before it was restored" if changed else "the old server was not touched")
        case "failed":
            return "FAILED" + ("; the server before it FAILED, too" if restored and restored.get("error") else "")
        case "planned":
            return "would change"
        case "undeclared":
            return "not declared, would be removed" if changed else "not declared"
        case "stopped":
            if row.get("removed"):
                return "stopped and removed"
            was = "stopped" if changed else "was not running"
            return was + ("; some requests were cut off" if row.get("drained") is False else "")
    return str(row["state"])


def check_lines(checks: Sequence[Row], width: int) -> list[str]:
    """The table of one proof. What is well takes one line; what is not is shown whole."""
    marks = ["FAILED" if not check["ok"] else "note" if check.get("cause") else "ok" for check in checks]
    pairs = [values(check) for check in checks]
    first = max(len("check"), *(len(check["check"]) for check in checks))
    room = (width - 2 - first - len("FAILED") - 3 * 2) // 2
    table = [["check", "expected", "found", ""]]
    below: list[list[str]] = [[]]
    for check, mark, (expected, found) in zip(checks, marks, pairs, strict=True):
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
    return [part for line, under in zip(lines, below, strict=True) for part in (line, *under)]


def measured_lines(row: Row, width: int) -> list[str]:
    """What was measured on the way, and where the model lies."""
    speed, load, gap = (row.get(key) for key in ("tokens_per_second", "load_seconds", "downtime_seconds"))
    parts = [
        f"{speed:.1f} tokens/s" if speed else None,
        f"ready after {load:.1f} s" if load is not None and row.get("changed") is not False else None,
        f"{gap:.1f} s without service" if gap is not None else None,
        "proven on a side port first" if row.get("trial") else None,
        "some requests were cut off" if row.get("drained") is False else None,
        offload(row),
    ]
    return listed(parts, 2, width) + listed(memory(row.get("buffers_mib"), kinds=True), 2, width)


def text(rows: Sequence[Row], action: str) -> str:
    """What came of an action, for people."""
    return {"status": status_table, "logs": log_text}.get(action, proof_table)(rows)


def log_text(rows: Sequence[Row]) -> str:
    """The ends of the logs, each line with the name of its instance."""
    logs = [(named(row), row.get("log_tail") or [first_line(row.get("error")) or "(there is no log)"]) for row in rows]
    return "\n".join(f"{name} | {line}" for name, lines in logs for line in lines) or NOTHING


class FilterModule:
    """See the module docstring."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "llama_server_chosen": chosen,
            "llama_server_nowhere": nowhere,
            "llama_server_judged": judged,
            "llama_server_text": text,
            "llama_server_status_table": status_table,
            "llama_server_proof_table": proof_table,
            "llama_server_log_text": log_text,
        }
