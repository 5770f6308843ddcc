"""A server on a raw socket that misbehaves as a test wants, and the messages of servers."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

Message = dict[str, Any]

CHAT = "/v1/chat/completions"
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
FINISH = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
DONE = b"data: [DONE]\n\n"


class Peer:
    """The server's end of a connection."""

    def __init__(self, line: socket.socket, body: bytes, number: int, head: bytes) -> None:
        self.line, self.body, self.number, self.head = line, body, number, head

    def raw(self, *pieces: bytes) -> None:
        """Send pieces, each by itself."""
        for piece in pieces:
            self.line.sendall(piece)
            time.sleep(0.002)

    def say(self, *messages: Any) -> None:
        """Send events in the chunked coding: objects as JSON, bytes as they are."""
        for message in messages:
            data = message if isinstance(message, bytes) else b"data: " + json.dumps(message).encode() + b"\n\n"
            self.raw(b"%x\r\n%s\r\n" % (len(data), data))

    def completion(self, tokens: int, **more: Any) -> None:
        """A whole answer of llama-server's, without the end of its body."""
        self.raw(EVENTS)
        self.say(*(token(n) for n in range(1, tokens + 1)), stop(tokens, **more))

    def end(self) -> None:
        """End a body in the chunked coding."""
        self.raw(b"0\r\n", b"\r\n")


def token(predicted: int) -> Message:
    return {"content": "a", "tokens": [5], "stop": False, "tokens_predicted": predicted, "tokens_evaluated": 3}


def stop(predicted: int, **timings: float) -> Message:
    return {
        "content": "", "stop": True, "stop_type": "limit", "tokens_predicted": predicted, "tokens_evaluated": 3,
        "timings": {
            "prompt_n": 3, "prompt_ms": 1.0, "predicted_n": predicted, "predicted_ms": 2.0, "cache_n": 0, **timings,
        },
    }  # fmt: skip


def delta(**content: Any) -> Message:
    return {"choices": [{"index": 0, "delta": content, "finish_reason": None}]}


def quick(peer: Peer) -> bool:
    """Answer with two tokens at once."""
    peer.completion(2)
    peer.end()
    return True


def slow(peer: Peer) -> bool:
    """Answer with two tokens after 50 ms."""
    time.sleep(0.05)
    return quick(peer)


def _request(line: socket.socket) -> tuple[bytes, bytes] | None:
    data = b""
    while b"\r\n\r\n" not in data:
        if not (more := line.recv(65536)):
            return None
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(int(row[15:]) for row in head.split(b"\r\n") if row.lower().startswith(b"content-length:"))
    while len(body) < length:
        if not (more := line.recv(65536)):
            return None
        body += more
    return head, body


@contextlib.contextmanager
def serving(answer: Callable[[Peer], bool | None], tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Serve on loopback. ``answer`` gives True where the connection stays; the block gets the address."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    lock, numbers, threads = threading.Lock(), iter(range(1 << 30)), []

    def serve(line: socket.socket) -> None:
        if tls:
            line = tls.wrap_socket(line, server_side=True, do_handshake_on_connect=False)
        with contextlib.suppress(OSError), contextlib.closing(line):
            if isinstance(line, ssl.SSLSocket):
                line.do_handshake()
            while request := _request(line):
                with lock:
                    number = next(numbers)
                if not answer(Peer(line, request[1], number, request[0])):
                    if isinstance(line, ssl.SSLSocket):
                        line.unwrap()
                    return

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                line, _ = listener.accept()
                threads.append(threading.Thread(target=serve, args=(line,), daemon=True))
                threads[-1].start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join()
        for thread in threads:
            thread.join(timeout=5)
