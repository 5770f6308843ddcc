"""A real HAProxy with a configuration of the test's own, for what speaks with one.

with running_haproxy(folder, "frontend gateway ...", "backend model_a ...") as haproxy:
    haproxy.socket, haproxy.url
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import free_port, wait_for

needs_haproxy = pytest.mark.skipif(shutil.which("haproxy") is None, reason="needs HAProxy (Debian's package haproxy)")

BEGINNING = """\
global
  stats socket {socket} level admin mode 600
  {globals_}
defaults
  mode http
  timeout connect 1s
  timeout client 60s
  timeout server 60s
frontend gateway
  bind 127.0.0.1:{port}
{sections}
"""


@dataclass
class Haproxy:
    """A process; ``socket`` is that of its runtime API."""

    socket: Path
    url: str
    process: subprocess.Popen[bytes]


@contextlib.contextmanager
def running_haproxy(folder: Path, sections: str, globals_: str = "") -> Iterator[Haproxy]:
    """Run HAProxy with ``sections``, which go on with its frontend ``gateway``; ``globals_`` are lines of global."""
    port, socket, config = free_port(), folder / "admin.sock", folder / "haproxy.cfg"
    socket.unlink(missing_ok=True)  # of one that ran here before
    config.write_text(BEGINNING.format(socket=socket, port=port, globals_=globals_, sections=sections))
    with (folder / "haproxy.log").open("wb") as log:
        process = subprocess.Popen(["haproxy", "-db", "-f", config], stdout=log, stderr=log)
    try:
        wait_for(lambda: socket.exists() or process.poll() is not None, "HAProxy's socket", 30)
        assert process.poll() is None, (folder / "haproxy.log").read_text()
        yield Haproxy(socket, f"http://127.0.0.1:{port}", process)
    finally:
        process.kill()
        process.wait()
