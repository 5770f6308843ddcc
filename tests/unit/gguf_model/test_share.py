"""Models handed to other hosts: by whom, to whom, from which byte on, and how long."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugins.module_utils.gguf_model.download import Download, Origin
from plugins.module_utils.gguf_model.progress import Progress, Together
from plugins.module_utils.gguf_model.share import stop
from plugins.module_utils.hostlib.files import sha256_of
from plugins.module_utils.hostlib.http_client import open_address
from tests.conftest import ROOT, wait_for

TOKEN = "a-token-of-this-test"  # noqa: S105 - nobody else's
# A process of its own forks the server: this one has threads.
START = """\
import sys
sys.path.insert(0, sys.argv[1])
from plugins.module_utils.gguf_model.share import start
print(*start({"m.gguf": sys.argv[2]}, sys.argv[3], 0, float(sys.argv[4])))
"""


def start(file: Path, idle_seconds: float) -> tuple[str, int]:
    """The server of a file: its address and its process."""
    command = [sys.executable, "-c", START, str(ROOT), str(file), TOKEN, str(idle_seconds)]
    port, pid = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return f"http://127.0.0.1:{port}", int(pid)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The model that is shared."""
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + os.urandom(100_000))
    return path


@pytest.fixture
def shared(file: Path) -> Iterator[str]:
    """The address of a server of it."""
    address, pid = start(file, 60)
    try:
        yield address
    finally:
        stop(pid)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_download_from_there_is_continued_and_whole(tmp_path: Path, file: Path, shared: str) -> None:
    origin = Origin("m", f"{shared}/m.gguf", f"Bearer {TOKEN}", sha256_of(str(file)))
    partial = tmp_path / "partial"
    with open_address(f"{shared}/m.gguf", authorization=f"Bearer {TOKEN}") as answer:
        etag = answer.headers["ETag"]
        assert answer.read() == file.read_bytes()
    partial.write_bytes(file.read_bytes()[:1000])
    known = {"sha256": origin.sha256, "validator": etag}
    (tmp_path / "partial.json").write_text(json.dumps(known))
    Download(origin, str(partial), Together(Progress(str(tmp_path / "progress")), 1).of(0)).run()
    assert partial.read_bytes() == file.read_bytes()


@pytest.mark.parametrize(("path", "token", "status"), [
    ("/m.gguf", "another", 401), ("/m.gguf", None, 401), ("/none", TOKEN, 404), ("/../m.gguf.json", TOKEN, 404),
    ("/", TOKEN, 404),
])  # fmt: skip
def test_nobody_has_it_without_the_token_and_nothing_else_is_had(
    shared: str, path: str, token: str | None, status: int
) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        open_address(f"{shared}{path}", authorization=f"Bearer {token}" if token else None)
    refused.value.close()
    assert refused.value.code == status


def test_it_ends_by_itself_once_nobody_asks_and_is_ended_at_once(file: Path) -> None:
    _, forgotten = start(file, 0)
    _, stopped = start(file, 3600)
    assert lives(stopped)
    stop(stopped)
    wait_for(lambda: not lives(stopped), "the end of the server that was stopped")
    wait_for(lambda: not lives(forgotten), "the end of the server that nobody asked")
    stop(forgotten)  # which is no error
