"""Health check: the wait for a server's /health, and why it never comes."""

from __future__ import annotations

import http.client
import re
import time
from collections.abc import Callable, Sequence

from ...hostlib.instances import Instance
from ..client import REQUEST_SECONDS, Server, Stranger
from ..processes import Activity, described
from ..runtimes.base import RuntimeView
from ..sockets import descriptors, holder, rivals

LIVES = 2  # a server that died once may have met a passing fault; twice is a server that can't start
LOOKS = 5  # what is found this often in a row is no passing moment of a start
LOG_LINES = 30
# "0.00.015.369 E llama_model_load: error loading model: …"; a router's children have their port before it.
LINE = re.compile(r"^(?:\[ *\d+\] )?[\d.]+ ([A-Z]) (?:srv|cmn|slot|main|que)?\s*(.+)")
# What else says that something is wrong: the launcher, the loader of libraries, and a server that aborts.
SIGN = re.compile(r"^launch: (?!process )|error while loading shared|GGML_A(?:SSERT|BORT)|CUDA error|terminate called")
WORD = re.compile(r"error|(?<!de)fault|failed|cannot|can't|denied|not found", re.IGNORECASE)


class NotProven(Exception):
    """A proof that compared nothing: why, and the likely cause.

    ``restart``: whether a new start may mend it; one that is only slow or at work loses its users' answers by it.
    """

    def __init__(self, message: str, *, restart: bool = True) -> None:
        super().__init__(message)
        self.restart = restart


def wait_until_loaded(
    config: Instance, runtime: RuntimeView, timeout: float, progress: Callable[[str], None]
) -> tuple[Server, float]:
    """The server once its /health said 200, and how many seconds that took.

    Raises NotProven when the deadline passes, the server dies again and again, or another process answers.
    """
    started = time.monotonic()
    lives: list[str] = []
    server, activity = Server(config, None), Activity(None)
    answered = "nothing answers"
    down = strange = 0
    while True:
        status = runtime.status(config.name)
        if status.life and status.life not in lives:
            lives.append(status.life)
        if status.pid != server.pid:
            server, activity = Server(config, status.pid), Activity(status.pid)
        left = timeout - (time.monotonic() - started)
        if status.state == "running":
            strange += 1
            try:
                code, _ = server.ask("/health", timeout=min(REQUEST_SECONDS, max(left, 1)))
                if code == 200:
                    return server, time.monotonic() - started
                answered, strange = f"/health answers {code}", 0
            except Stranger as error:
                answered = str(error)
            except (OSError, http.client.HTTPException):
                strange = 0
        waited = time.monotonic() - started
        progress(f"{config.name}: loading, {waited:.0f} s")
        down = down + 1 if status.state in ("failed", "stopped") else 0
        if strange > LOOKS:
            raise NotProven(answered)
        if len(lives) > LIVES or down > LOOKS:
            reason = complaint(runtime.lives(config.name, lives))
            others = [entry for entry in rivals(config.host or server.host, server.port)
                      if entry.inode not in (descriptors(status.pid) or ())]  # fmt: skip
            taken = holder(others)
            if taken:
                reason += f"; port {server.port} is held by {described(taken)}: end that one, or choose another port"
            raise NotProven(f"the server ends while it starts: {reason}")
        if waited > timeout:
            raise NotProven(
                f"the server is not ready after {timeout:.0f} s ({answered}): see the log, or raise "
                "llama_server_start_timeout for a slow disk", restart=activity.idle(),
            )  # fmt: skip
        time.sleep(0.2)


def complaint(lives: Sequence[Sequence[str]]) -> str:
    """The first error of the last life that has one: what follows comes of it. Each life begins with its launch."""
    for life in reversed(lives):
        error = _first_error(life)
        if error:
            return error
    return "the log does not say why"


def _first_error(log: Sequence[str]) -> str | None:
    # A chat template that is logged has lines of its own, where words mean nothing.
    vague = None
    for line in log:
        levelled = LINE.match(line)
        if levelled and levelled[1] == "E":
            return levelled[2].strip()
        if not levelled and SIGN.search(line):
            return line.strip()
        if not levelled and vague is None and WORD.search(line):
            vague = line.strip()
    return vague
