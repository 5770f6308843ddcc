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


def load(path: Path) -> ModuleType:
    """A file's own functions; neither modules nor plugins are on the path of imports."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(path: Path, arguments: dict[str, Any], **environment: str) -> dict[str, Any]:
    """Run a module as Ansible does on a host and return its result."""
    done = subprocess.run(
        [sys.executable, path], input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
        env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.lstrip().startswith("{"), done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result
