"""Share of a host's models with other hosts: a server of named files, with ranges, for who has the token.

    port, pid = start({"m.gguf": "/opt/…/m.gguf"}, token, port=0, idle_seconds=600)

It is a process of its own, which ends when nobody has asked for so long. Python 3.9's standard library only.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

from .local_file import LocalAnswer

CHUNK_BYTES = 1 << 20
LOOK_SECONDS = 1.0
STALL_SECONDS = 120.0  # for a client that takes no bytes


class Sharing(ThreadingHTTPServer):
    """Serves files by their names, and knows when it was last asked.

    Args:
        files: paths by name.
        token: what a client has to show.
        port: 0 for a free one.
    """

    daemon_threads = True

    def __init__(self, files: Mapping[str, str], token: str, port: int) -> None:
        self.files, self.token = dict(files), token
        self._lock, self._open, self._asked_at = threading.Lock(), 0, time.monotonic()
        super().__init__(("0.0.0.0", port), _Handler)  # noqa: S104 - the other hosts come from anywhere, with the token

    def idle_seconds(self) -> float:
        """The time since the last answer ended; 0 while one is given."""
        with self._lock:
            return 0.0 if self._open else time.monotonic() - self._asked_at

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """For as long as an answer is given."""
        with self._lock:
            self._open += 1
        try:
            yield
        finally:
            with self._lock:
                self._open, self._asked_at = self._open - 1, time.monotonic()


class _Handler(BaseHTTPRequestHandler):
    server: Sharing
    protocol_version = "HTTP/1.1"
    timeout = STALL_SECONDS

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
        pass

    def do_GET(self) -> None:
        given = self.headers.get("Authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {self.server.token}".encode()):
            self.send_error(401)
            return
        path = self.server.files.get(unquote(self.path).lstrip("/"))
        wanted = {name: self.headers[name] for name in ("Range", "If-Range") if name in self.headers}
        try:
            answer = LocalAnswer(path or "", wanted)
        except OSError:
            self.send_error(404)
            return
        with self.server.answering(), answer:
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            for chunk in iter(lambda: answer.read(CHUNK_BYTES), b""):
                self.wfile.write(chunk)


def start(files: Mapping[str, str], token: str, port: int, idle_seconds: float) -> tuple[int, int]:
    """Serve from a process of its own; its port and its id. Raises OSError where the port can't be had."""
    server = Sharing(files, token, port)
    with server.socket:
        pid = os.fork()
        if pid == 0:
            _serve(server, idle_seconds)
        return server.server_port, pid


def stop(pid: int) -> None:
    """End a process that serves, if it still does."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)


def _serve(server: Sharing, idle_seconds: float) -> None:
    """Serve until nobody has asked for so long, and end this process, which is a fork."""
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):  # whoever started this waits for their end
            os.dup2(null, descriptor)
        for descriptor in range(3, 256):
            if descriptor != server.socket.fileno():
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        while server.idle_seconds() < idle_seconds:
            time.sleep(LOOK_SECONDS)
    finally:
        os._exit(0)
