"""The start of a sender process is short because it imports little."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import ROOT

ALLOWED = {"httptools", "msgspec", "nexus_tasks", "typing_extensions", "uvloop"}
"""typing_extensions: msgspec takes it where it is there."""


def imported(program: str) -> set[str]:
    argv = [sys.executable, "-c", f"import sys\n{program}\nprint(*sys.modules)"]
    modules = subprocess.run(argv, check=True, capture_output=True, text=True, cwd=ROOT).stdout.split()
    return {name.partition(".")[0] for name in modules}


def test_a_sender_process_imports_the_standard_library_and_three_packages() -> None:
    extra = imported("import nexus_tasks.load.sender.process") - imported("") - sys.stdlib_module_names - ALLOWED
    assert {name for name in extra if "cython" not in name} == set()
