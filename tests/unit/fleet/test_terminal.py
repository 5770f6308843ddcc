"""Texts of the role's filters on a terminal."""

from __future__ import annotations

from nexus_tasks.fleet import terminal


def test_what_is_wrong_is_red_and_what_is_well_is_green() -> None:
    shown = terminal.coloured(
        "rig-1/main  running  x\nrig-2/main  DOWN  x\n  slots  4  1  FAILED\n  keys  ops  ops  ok"
    )
    styles = {shown.plain[span.start : span.end].strip(): str(span.style) for span in shown.spans}
    assert styles == {"running": "green", "DOWN": "bold red", "FAILED": "bold red", "ok": "green"}
