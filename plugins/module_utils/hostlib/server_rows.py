"""Rows of the llama_server modules, an instance each: its state, its trouble and its remarks in words.

    condition(row)                          "running", "down", "not proven"
    trouble(row), remark(row)               what is wrong and what to do; what is worth knowing
    judged(rows, action, declared, names)   the rows of an action with both, and a row for what was never deployed

A row is a dict as modules of plugins/modules return it. One with a ``host`` is shown as HOST/INSTANCE.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# Phases that a running switch goes through; found without one, they are where the last switch was cut off.
PASSING = ("trial", "draining", "switching", "restoring")
NOT_DEPLOYED = "not deployed"
UNREACHABLE = "unreachable"

Row = Mapping[str, Any]


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
        if row.get("at_work"):
            return "busy"
        if row.get("sleeping"):
            return "sleeping"
        if row.get("health") != 200:
            return "loading" if row.get("health") == 503 else "no answer"
    if row["state"] == "stopped" and row.get("phase") != "stopped":
        return "failed" if row.get("phase") == "failed" else "down"
    return str(row["state"])


def trouble(row: Row) -> str | None:
    """The trouble of an instance, and what to do; None where nothing is wrong."""
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
    sentence = words.get(condition(row))
    if sentence is None and row["state"] == "running" and phase == "stopped":
        return f"it was stopped and runs all the same: stop it, or start {name}"
    return sentence or _kept_from_users(row)


def _kept_from_users(row: Row) -> str | None:
    """The trouble of a server that answers, and gets no requests from a gateway; None where all send it some."""
    if row["state"] != "running":
        return None
    words = {
        "maintenance": "sends it nothing: nox -s start proves it, and has it taken back",
        "down": f"finds it down: is port {str(row.get('url')).rpartition(':')[2]} open for it?",
    }
    gateways = (row.get("gateways") or {}).items()
    return "; ".join(f"gateway {name} {words[state]}" for name, state in gateways if state in words) or None


def remark(row: Row) -> str | None:
    """A remark on an instance with which nothing is wrong; None where there is none."""
    phase = row.get("phase")
    why = f": {row['last_error']}" if row.get("last_error") else ""
    parts = []
    if row.get("switching"):
        parts.append(f"a run is switching it ({phase})")
    elif phase == "restored":
        parts.append(f"the last deployment failed and the server before it was restored{why}")
    elif phase == "refused":
        parts.append(f"the last deployment failed its trial, and this server served on{why}")
    if condition(row) == "busy":
        clients = f": {row['clients']} connections are open" if row.get("clients") else ""
        parts.append(f"it computes and has no time to say what{clients}")
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
    declared = list(map(str, declared))  # a number, where YAML made one of a name
    chosen = [{**row, "declared": row["name"] in declared} for row in rows if not names or row["name"] in names]
    there = {row["name"] for row in chosen}
    chosen += [
        {"name": name, "state": NOT_DEPLOYED, "declared": True, "changed": False, "checks": [], "error": None}
        for name in declared
        if action == "status" and name not in there and (not names or name in names)
    ]
    return [{**row, "trouble": trouble(row), "remark": remark(row)} for row in chosen]
