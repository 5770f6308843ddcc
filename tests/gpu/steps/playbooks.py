"""The project's playbooks, run for this machine, and why one failed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


def play(name: str, *arguments: str) -> tuple[int, str]:
    """Run a playbook for this machine: its status, and what it said, which goes to the log as it comes."""
    said = []
    command = [str(Path(sys.executable).parent / "ansible-playbook"), name, *arguments]
    print("$", *command, flush=True)  # noqa: T201 - the log
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout or ():
            sys.stdout.write(line)
            sys.stdout.flush()
            said.append(line)
    return process.returncode, "".join(said)


def reason(said: str) -> str:
    """Why a play failed: the message of its first failure."""
    found = re.search(
        r"(?:fatal|failed): .*?(?:\bmsg: |\"msg\": )(?:\|-)?(.*?)(?=\n\S|\n    \w+: |\Z)", said, re.DOTALL
    )
    words = " ".join((found[1] if found else said[-400:]).split())
    return words.partition(" The last 30 lines of its log")[0][:600]
