"""A host is left as it was."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

from nexus_tasks.measurement.llama_bench import guard
from nexus_tasks.measurement.llama_bench.playbooks import Place


def test_after_ctrl_c_a_server_that_did_not_come_back_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fails = tmp_path / "python"
    fails.write_text("#!/bin/sh\ncat > /dev/null\nexit 1\n")
    fails.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fails))
    stream = io.StringIO()
    with (
        pytest.raises(KeyboardInterrupt),
        guard.left_as_it_was(Place("rig", "main", "1", starts=True), Console(file=stream, width=200)),
    ):
        raise KeyboardInterrupt
    assert "rig/main may not be as it was: nox -s status, then nox -s start -- rig/main" in stream.getvalue()
