"""A llama-server of the tests' own for batches: it answers by a function of the test's, dies, and comes back.

with BatchServer() as server:
    server.script = lambda request: request.status(500, "broken")
    ...
    server.prompts              # of all requests, in their order
"""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from tests.conftest import free_port


class Request(http.server.BaseHTTPRequestHandler):
    """A request, and the ways to answer it."""

    protocol_version = "HTTP/1.1"
    owner: BatchServer

    def do_GET(self) -> None:
        self.owner.looked_at(self)

    def do_POST(self) -> None:
        self.body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.owner.asked(self)

    @property
    def prompt(self) -> str:
        """What is asked last."""
        prompt: str = self.body["messages"][-1]["content"]
        return prompt

    def document(self, value: object, status: int = 200, **headers: str) -> None:
        """Answer with one JSON document."""
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        self.wfile.write(body)

    def status(self, status: int, message: str, headers: dict[str, str] | None = None, **more: Any) -> None:
        """Answer with an error as llama-server words it."""
        self.document({"error": {"code": status, "message": message, **more}}, status, **(headers or {}))

    def begin(self) -> None:
        """Begin a stream."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def say(self, message: object) -> None:
        """Send an event."""
        text = message if isinstance(message, str) else json.dumps(message)
        data = f"data: {text}\n\n".encode()
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()

    def delta(self, **delta: Any) -> None:
        """Send a part of a chat's answer."""
        server = self.owner
        choice = {"index": 0, "delta": delta, "finish_reason": None}
        self.say({"choices": [choice], "model": server.model, "system_fingerprint": server.build})

    def end(self, tokens: int = 1) -> None:
        """End a chat's answer."""
        server = self.owner
        named = {"model": server.model, "system_fingerprint": server.build}
        self.say({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], **named})
        self.say({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": tokens}, **named})
        self.say("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def answer(self, text: str | None = None) -> None:
        """Answer a chat, by default with its prompt in capitals."""
        self.begin()
        self.delta(content=self.prompt.upper() if text is None else text)
        self.end()

    def hang_up(self) -> None:
        """End the connection without more."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in http.server
        pass


class _Listener(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that hangs up is what tests want


class BatchServer:
    """A server on loopback, whose address stays the same when it dies and comes back."""

    def __init__(self, *, slots: int = 4, model: str = "tiny", build: str = "b1", n_ctx: int = 1024) -> None:
        self.slots, self.model, self.build, self.n_ctx = slots, model, build, n_ctx
        self.script: Callable[[Request], None] = Request.answer
        self.props_build: str | None = None  # where its answers are of other builds, as behind a gateway
        self.looks = 0  # at its properties
        self.prompts: list[str] = []
        self.key: str | None = None
        self.deaths = 0
        self.busy: int | None = None  # slots that it claims to be busy; None: those that are
        self.under_way = self.max_under_way = 0
        self._lock, self._living = threading.Lock(), threading.Lock()
        self._port = free_port()
        self._running: _Listener | None = None
        self._lines: set[socket.socket] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> BatchServer:
        self.live()
        return self

    def __exit__(self, *_: object) -> None:
        self.die()

    def live(self) -> None:
        """Listen, where it does not."""
        with self._living:
            if self._running is not None:
                return
            handler = type("Asked", (Request,), {"owner": self})
            running = self._running = _Listener(("127.0.0.1", self._port), handler)
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def die(self) -> bool:
        """Stop listening, and cut all that is under way; False where it was dead."""
        with self._living:
            running, self._running = self._running, None
            if running is None:
                return False
            self.deaths += 1
            running.shutdown()
            running.server_close()
        with self._lock:
            lines = list(self._lines)
        for line in lines:
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
        return True

    def die_for(self, seconds: float) -> None:
        """Die as a process does that is started again after so many seconds."""

        if not self.die():
            return

        def lives() -> None:
            time.sleep(seconds)
            self.live()

        threading.Thread(target=lives, daemon=True).start()

    def looked_at(self, request: Request) -> None:
        """Answer what is asked about the server itself."""
        if self.key is not None and request.headers.get("Authorization") != f"Bearer {self.key}":
            request.status(401, "Invalid API Key")
            return
        busy = self.under_way if self.busy is None else self.busy
        documents: dict[str, Any] = {
            "/v1/models": {"data": [{"id": self.model, "owned_by": "llamacpp"}]},
            "/health": {"status": "ok"},
            "/props": {
                "build_info": self.props_build or self.build, "total_slots": self.slots,
                "default_generation_settings": {"n_ctx": self.n_ctx},
            },
            "/slots": [{"id": number, "is_processing": number < busy} for number in range(self.slots)],
        }  # fmt: skip
        self.looks += request.path == "/props"
        if request.path in documents:
            request.document(documents[request.path])
        else:
            request.status(404, "File Not Found")

    def asked(self, request: Request) -> None:
        """Answer a prompt by the script."""
        with self._asking(request):
            self.script(request)

    @contextlib.contextmanager
    def _asking(self, request: Request) -> Iterator[None]:
        with self._lock:
            self.prompts.append(request.prompt)
            self.under_way += 1
            self.max_under_way = max(self.max_under_way, self.under_way)
            self._lines.add(request.connection)
        try:
            yield
        finally:
            with self._lock:
                self.under_way -= 1
                self._lines.discard(request.connection)
