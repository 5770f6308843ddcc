"""The server with a known schedule, and the bare client, both in C (tests/mock_server).

    with mock_server(ttft_ms=50, itl_ms=5, log=log) as address:
        ...
    true_times(log)

The server sends each token at its time and logs when it really did, so that its own jitter is not charged to the
client. The bare client shows what the kernel alone costs.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nexus_tasks.core.errors import UsageError
from nexus_tasks.core.provenance import ROOT

SOURCES = ROOT / "tests" / "mock_server"


def program(name: str) -> Path:
    """The compiled server or client, compiled when its source is new.

    Raises:
        UsageError: there is no C compiler, or it fails.
    """
    source = SOURCES / f"{name}.c"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llama-nexus" / "accuracy"
    binary = cache / f"{name}-{digest}"
    if binary.exists():
        return binary
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        made = Path(folder) / name
        try:
            subprocess.run(["cc", "-O2", "-o", made, source], check=True, capture_output=True, text=True)
        except FileNotFoundError as error:
            raise UsageError("no C compiler: there is no cc", hint="install gcc or clang") from error
        except subprocess.CalledProcessError as error:
            raise UsageError(f"cc fails on {source}: {error.stderr.strip()[:300]}", hint="see its output") from error
        made.rename(binary)
    return binary


@contextlib.contextmanager
def mock_server(
    ttft_ms: float = 0,
    itl_ms: float = 0,
    *,
    core: int | None = None,
    log: Path | None = None,
    closes: bool = False,
    slots: int | None = None,
) -> Iterator[str]:
    """Run the server; gives its address.

    Args:
        core: it is pinned to.
        log: gets the true times of each answer; read it with :func:`true_times` after the block.
        closes: whether connections end with their answers, as those of llama-server do.
        slots: of the llama-server that it says it is; None where it has nothing to say of itself.
    """
    argv = [str(program("server")), str(round(ttft_ms * 1000)), str(round(itl_ms * 1000))]
    argv += [str(-1 if core is None else core), str(log or ""), *(["close"] if closes else [])]
    argv += [f"slots={slots}"] if slots else []
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            port = int(process.stdout.readline()) if process.stdout else 0
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def true_times(log: Path) -> dict[int, tuple[int, NDArray[np.int64]]]:
    """The log of a server, by request: when it arrived, and when each token was sent (ns of the monotonic clock)."""
    words = np.fromfile(log, dtype=np.int64)
    times, at = {}, 0
    while at < len(words):
        seed, count, received = (int(word) for word in words[at : at + 3])
        times[seed] = (received, words[at + 3 : at + 3 + count])
        at += 3 + count
    return times
