"""A llama-server that is killed and started again at the same address."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import httpx

from tests.conftest import free_port, wait_for


class MortalServer:
    """The server runs while the block lasts, but for the time between :meth:`kill` and :meth:`start`."""

    def __init__(self, binary: Path, model: Path, log: Path, *flags: str) -> None:
        port = free_port()
        self.base_url = f"http://127.0.0.1:{port}"
        self._log = log
        self._argv: Sequence[str | Path] = [
            binary, "--model", model, "--alias", "tiny", "--port", str(port), "--ctx-size", "4096",
            "--threads", "1", "--no-ui", *flags,
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; the call does not wait until it answers."""
        with self._log.open("ab") as stream:
            self._process = subprocess.Popen(self._argv, stdout=stream, stderr=subprocess.STDOUT)

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def is_ready(self) -> bool:
        """True where it answers that it is well."""
        try:
            return httpx.get(f"{self.base_url}/health").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def __enter__(self) -> Self:
        self.start()
        wait_for(self.is_ready, "the server")
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
