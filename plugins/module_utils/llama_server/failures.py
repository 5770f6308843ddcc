"""Failures of instances, in words for people."""

from __future__ import annotations

from .host import Row


def failure_message(rows: list[Row]) -> str:
    """The failures, for people: one line an instance, then the end of its log; empty when nothing failed."""
    lines: list[str] = []
    for row in rows:
        if not row["error"]:
            continue
        restored = row.get("restored")
        if restored and not restored["error"]:
            after = "the old one was restored and proven" if row["changed"] else "the old one never stopped serving"
        elif restored:
            after = f"the old one does not serve either: {restored['error']}"
        elif row["state"] == "failed" and not row["changed"]:
            after = "what ran before runs on"
        else:
            after = "there was nothing proven to go back to"
        lines.append(f"instance {row['name']} does not serve what was declared: {row['error']}; {after}")
        if row.get("log_tail"):
            lines += [f"The last {len(row['log_tail'])} lines of its log ({row.get('log', 'gone')}):", *row["log_tail"]]
    return "\n".join(lines)
