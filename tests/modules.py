"""Ansible modules and plugins outside of a play: as Python modules, and called as Ansible calls them."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import ansible.module_utils

# Ansible brings what modules share to the host with them; here it is found where it lies.
_ROOT = Path(__file__).resolve().parent.parent
SHARED = sorted(map(str, [*_ROOT.glob("roles/*/module_utils"), _ROOT / "plugins" / "module_utils"]))
RUN = """\
import runpy, sys
import ansible.module_utils
module, *shared = sys.argv[1:]
del sys.argv[1:]
ansible.module_utils.__path__ += shared
runpy.run_path(module, run_name="__main__")
"""


def share() -> None:
    """Make what modules share importable as ``ansible.module_utils.NAME``, as it is on a host."""
    ansible.module_utils.__path__ += [path for path in SHARED if path not in ansible.module_utils.__path__]


def load(path: Path) -> ModuleType:
    """A file's own functions; neither modules nor plugins are on the path of imports."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def command(path: Path) -> list[str | Path]:
    """The command that runs a module; its arguments come by standard input."""
    return [sys.executable, "-c", RUN, path, *SHARED]


def call(path: Path, arguments: dict[str, Any], **environment: str) -> dict[str, Any]:
    """Run a module as Ansible does on a host and return its result."""
    done = subprocess.run(
        command(path), input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
        env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.lstrip().startswith("{"), done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result
