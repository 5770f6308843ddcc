"""Ansible modules and plugins outside of a play: as Python modules, and called as Ansible calls them."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

_ROOT = Path(__file__).resolve().parent.parent
RUN = """\
import runpy, sys
root, module = sys.argv[1:]
del sys.argv[1:]
sys.path.insert(0, root)
runpy.run_module(module, run_name="__main__")
"""


def _name(path: Path) -> str:
    """A file's name as a Python module; Ansible finds its relative imports in the same way."""
    return ".".join(path.relative_to(_ROOT).with_suffix("").parts)


def load(path: Path) -> ModuleType:
    """A file's own functions."""
    return importlib.import_module(_name(path))


def command(path: Path) -> list[str | Path]:
    """The command that runs a module; its arguments come by standard input."""
    return [sys.executable, "-c", RUN, _ROOT, _name(path)]


def call(path: Path, arguments: dict[str, Any], **environment: str) -> dict[str, Any]:
    """Run a module as Ansible does on a host and return its result."""
    done = subprocess.run(
        command(path), input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
        env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.lstrip().startswith("{"), done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result
