"""What the tests share: a real llama-server built by the role, the tiny model, and a running server."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class RunningServer:
    """A llama-server of the tests' own, on loopback."""

    base_url: str
    model: Path
    log: Path
    process: subprocess.Popen[bytes]


def free_port() -> int:
    """A TCP port on loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def run_server(binary: Path, model: Path, log: Path, *flags: str) -> Iterator[RunningServer]:
    """Run llama-server until the block is left; it answers requests when the block is entered."""
    port = free_port()
    argv: Sequence[str | Path] = [
        binary, "--model", model, "--alias", "tiny", "--port", str(port), "--ctx-size", "4096",
        "--parallel", "1", "--no-ui", *flags,
    ]  # fmt: skip
    with log.open("wb") as stream, subprocess.Popen(argv, stdout=stream, stderr=subprocess.STDOUT) as process:
        try:
            base_url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 60
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(f"{base_url}/health").status_code == httpx.codes.OK:
                        break
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"llama-server did not start:\n{log.read_text()[-3000:]}")
                time.sleep(0.1)
            yield RunningServer(base_url, model, log, process)
        finally:
            process.kill()


@pytest.fixture(scope="session")
def llama_server_bin() -> Path:
    """The llama-server of the release that the role built."""
    return Path("/tmp/x/b/bin/llama-server")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quickstart's model."""
    from nexus_tasks import tiny_model

    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    tiny_model.write(path)
    return path


@pytest.fixture(scope="session")
def server(
    llama_server_bin: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """A llama-server that serves the tiny model without a key."""
    log = tmp_path_factory.mktemp("server") / "server.log"
    with run_server(llama_server_bin, tiny_model, log) as running:
        yield running
