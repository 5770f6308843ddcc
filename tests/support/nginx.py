"""A file server as many have one: nginx from the system's packages, with ranges and a log of what it sent.

with nginx(folder, rate="8m") as server:
    server.url, server.sent("/model.gguf")
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import free_port

PROGRAM = next((path for path in (Path("/usr/sbin/nginx"), Path("/usr/bin/nginx")) if path.exists()), None)
CONFIG = """
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
  log_format sent '$request_method $uri $status $body_bytes_sent $http_range';
  access_log {folder}/access.log sent;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  lingering_close off;
  server {{ listen {address}:{port}; root {root}; {limit} }}
}}
"""


@dataclass
class Nginx:
    """One that serves, and what it has sent so far."""

    url: str
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and return when it listens."""
        assert PROGRAM is not None
        self.process = subprocess.Popen([PROGRAM, "-c", self.folder / "nginx.conf", "-e", self.folder / "error.log"])
        deadline = time.monotonic() + 60
        while not (self.folder / "pid").exists() or not (self.folder / "pid").read_text().strip():
            assert self.process.poll() is None, (self.folder / "error.log").read_text()
            assert time.monotonic() < deadline, "nginx does not start"
            time.sleep(0.01)

    def kill(self) -> None:
        """End it at once, in the middle of what it sends."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        (self.folder / "pid").unlink(missing_ok=True)

    def stop(self) -> None:
        """End it, and have its log written."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait()

    def lines(self) -> list[list[str]]:
        """Method, path, status, bytes of the body and range of each request that ended."""
        log = self.folder / "access.log"
        return [line.split() for line in log.read_text().splitlines()] if log.exists() else []

    def sent(self, path: str) -> int:
        """The bytes of a file that were sent, in all requests that ended."""
        return sum(int(line[3]) for line in self.lines() if line[1] == path and line[0] == "GET")


@contextlib.contextmanager
def nginx(root: Path, folder: Path, *, address: str = "127.0.0.1", rate: str = "") -> Iterator[Nginx]:
    """Serve a folder until the block is left.

    Args:
        folder: for what nginx writes.
        rate: bytes a second of each answer, as nginx writes it (``8m``); none is as fast as it can.
    """
    if PROGRAM is None:
        if os.environ.get("CI"):
            raise AssertionError("nginx is missing: apt-get install nginx-light")
        pytest.skip("needs nginx (nginx-light)")
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    limit = f"limit_rate {rate};" if rate else ""
    config = CONFIG.format(folder=folder, root=root, address=address, port=port, limit=limit)
    if os.geteuid() == 0:
        config = "user root;\n" + config  # the test's folders are its own
    (folder / "nginx.conf").write_text(config)
    server = Nginx(f"http://{address}:{port}", folder)
    server.start()
    try:
        yield server
    finally:
        if server.process is not None and server.process.poll() is None:
            server.stop()
