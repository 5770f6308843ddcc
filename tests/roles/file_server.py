"""A small HTTP server for downloads that go wrong, and the routes of the hub that huggingface_hub asks."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "c" * 40  # of each repository's one revision, main


@dataclass
class Served:
    """One file and how it is served."""

    content: bytes
    etag: str | None = '"1"'
    ranges: bool = True
    length: bool = True  # whether Content-Length is sent
    drops: int = 0  # this many answers break off half way through what they should send
    stalls_at: int | None = None
    """After so many bytes of the first answer nothing comes until the client hangs up."""
    stalled: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Asked:
    """One GET of a file."""

    path: str
    range: str | None
    status: int
    authorization: str | None


@dataclass
class FileServer:
    """What is served under which path, and what was asked for."""

    url: str
    files: dict[str, Served] = field(default_factory=dict)
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    relays: dict[str, str] = field(default_factory=dict)
    """Files that a mirror hands out itself, by a redirect that only those see who fetch them."""
    moved: dict[str, str] = field(default_factory=dict)
    """Where a mirror has moved to for good, by the beginning of a path (308)."""
    asked: list[Asked] = field(default_factory=list)
    credentials: list[tuple[str, str]] = field(default_factory=list)
    """Host and Authorization of each GET that had one."""


class Httpd(ThreadingHTTPServer):
    """The server of a :class:`FileServer`, which is there before the first request is."""

    hosted: FileServer


class Handler(BaseHTTPRequestHandler):
    """Answers from what a :class:`FileServer` holds."""

    server: Httpd
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (the base class calls it so)
        pass

    def answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.hub()

    def do_GET(self) -> None:
        hosted = self.server.hosted
        if self.headers["Authorization"]:
            hosted.credentials.append((self.headers["Host"], self.headers["Authorization"]))
        if self.path in hosted.files:
            self.file(hosted.files[self.path])
        elif self.path in hosted.relays:
            hosted.asked.append(Asked(self.path, self.headers["Range"], 302, self.headers["Authorization"]))
            self.answer(302, {"Location": hosted.relays[self.path]})
        else:
            self.hub()

    def file(self, served: Served) -> None:
        hosted = self.server.hosted
        wanted = self.headers["Range"]
        start, end, status = 0, len(served.content), 200
        if wanted and served.ranges and self.headers["If-Range"] in (None, served.etag):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end, status = int(first), int(last) + 1 if last else end, 206
        if start >= len(served.content):
            status = 416
        hosted.asked.append(Asked(self.path, wanted, status, self.headers["Authorization"]))
        if status == 416:
            self.answer(status, {"Content-Range": f"bytes */{len(served.content)}"})
            return
        body = served.content[start:end]
        self.send_response(status)
        if served.etag:
            self.send_header("ETag", served.etag)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(served.content)}")
        if served.length:
            self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if served.stalls_at is not None and not served.stalled.is_set():
            self.wfile.write(body[: served.stalls_at])
            served.stalled.set()
            self.connection.recv(1)
            self.close_connection = True
            return
        if served.drops:
            served.drops -= 1
            body = body[: len(body) // 2]
        with contextlib.suppress(ConnectionError):  # the client may have had enough
            self.wfile.write(body)
        self.close_connection = True

    def hub(self) -> None:
        """HEAD of a file to resolve, and the list of a repository's files."""
        hosted = self.server.hosted
        for begin, there in hosted.moved.items():
            if self.path.startswith(begin):
                self.answer(308, {"Location": there + self.path})
                return
        found = re.fullmatch(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)", self.path)
        listed = re.match(r"/api/models/(?P<repo>[^/]+/[^/]+)/tree/main", self.path)
        described = re.match(r"/api/models/(?P<repo>[^/]+/[^/]+)/revision/(?P<revision>[^/?]+)", self.path)
        match = found or listed or described
        if match is None or match["repo"] not in hosted.repositories:
            self.answer(401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Invalid credentials"})
        elif match["repo"] in hosted.gated and self.headers["Authorization"] != "Bearer hf_right":
            self.answer(401, {"X-Error-Code": "GatedRepo"})
        elif listed:
            files = hosted.repositories[match["repo"]]
            rows = [{"type": "file", "path": p, "size": len(c), "oid": "0"} for p, c in files.items()]
            self.answer(200, {"Content-Type": "application/json"}, json.dumps(rows).encode())
        elif match["revision"] not in ("main", COMMIT):
            self.answer(404, {"X-Error-Code": "RevisionNotFound"})
        elif described:
            self.answer(200, {"Content-Type": "application/json"}, self.description(match["repo"]))
        elif match["file"] not in hosted.repositories[match["repo"]]:
            self.answer(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        else:
            content = hosted.repositories[match["repo"]][match["file"]]
            digest = hashlib.sha256(content).hexdigest()
            hosted.files.setdefault(f"/storage/{digest}?signature=secret", Served(content))
            headers = {
                "X-Repo-Commit": COMMIT,
                "X-Linked-Etag": f'"{digest}"',
                "X-Linked-Size": str(len(content)),
                "ETag": '"0"',
                # Another host than the hub's, as the real one's storage is.
                "Location": f"{hosted.url.replace('127.0.0.1', 'localhost')}/storage/{digest}?signature=secret",
            }
            if self.path in hosted.relays:
                del headers["Location"]
            self.answer(302 if "Location" in headers else 200, headers)

    def description(self, repo: str) -> bytes:
        """The page of a repository, as the hub's API has it, with its files."""
        files = [
            {"rfilename": name, "size": len(content),
             "lfs": {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "pointerSize": 134}}
            for name, content in self.server.hosted.repositories[repo].items()
        ]  # fmt: skip
        about = {
            "id": repo, "sha": COMMIT, "lastModified": "2026-11-01T12:00:00.000Z", "gated": False,
            "pipeline_tag": "text-generation", "tags": ["gguf"], "siblings": files,
            "cardData": {"license": "apache-2.0", "base_model": ["someone/base"]},
        }  # fmt: skip
        return json.dumps(about).encode()


@contextlib.contextmanager
def serve() -> Iterator[FileServer]:
    """Serve on a port of loopback until the block is left."""
    httpd = Httpd(("127.0.0.1", 0), Handler)
    httpd.hosted = FileServer(f"http://127.0.0.1:{httpd.server_port}")
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    try:
        yield httpd.hosted
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()
