"""The exporter of role telemetry, run without the role."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@contextlib.contextmanager
def command(*options: str) -> Iterator[tuple[list[str], dict[str, str]]]:
    """The arguments and the environment that start it: on a host the sampler lies beside it as ``telemetry.py``."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "telemetry.py").symlink_to(ROOT / "nexus_tasks" / "telemetry" / "sampling.py")
        argv = [sys.executable, str(ROOT / "roles" / "telemetry" / "files" / "exporter.py"), *options]
        yield argv, {**os.environ, "PYTHONPATH": folder}


@contextlib.contextmanager
def run(*options: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """The exporter as it runs; whoever ends it waits for its end."""
    with command(*options) as (argv, own), subprocess.Popen(argv, env={**own, **environment}) as process:
        yield process
