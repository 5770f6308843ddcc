"""Servers over real HTTP that answer by a function of the test's."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

from nexus_tasks.servers.client import connect


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers by the function that :func:`serving` was given."""

    protocol_version = "HTTP/1.1"
    respond: Callable[[Handler], None]

    def do_GET(self) -> None:
        type(self).respond(self)

    do_POST = do_GET  # noqa: N815 - the name that http.server looks for

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in http.server
        pass

    def answer(self, body: bytes, status: int = 200, content_type: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def answer_json(self, value: object, status: int = 200) -> None:
        self.answer(json.dumps(value).encode(), status)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def begin_stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def send(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def relay(self, base_url: str) -> None:
        """Pass a POST on to another server and its stream back."""
        with (
            connect(base_url, None) as client,
            client.stream("POST", self.path, content=self.body()) as response,
        ):
            self.begin_stream()
            for chunk in response.iter_raw():
                self.send(chunk)
            self.send(b"")


@contextlib.contextmanager
def serving(respond: Callable[[Handler], None]) -> Iterator[str]:
    """A server of the test's own; its address."""
    handler = type("Responding", (Handler,), {"respond": staticmethod(respond)})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_address[1]}"
        finally:
            running.shutdown()
            thread.join()


def openai(stream: Callable[[Handler], None]) -> Callable[[Handler], None]:
    """A server with one model that answers chats by ``stream``."""

    def respond(handler: Handler) -> None:
        if handler.path == "/v1/models":
            handler.answer_json({"object": "list", "data": [{"id": "scripted", "max_model_len": 2048}]})
        elif handler.command == "POST":
            handler.body()
            stream(handler)
        else:
            handler.answer_json({"detail": "Not Found"}, 404)

    return respond
