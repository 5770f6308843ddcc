"""Follower of a gateway's log: moves its lines to files by day, and tells HAProxy what users have left of their tokens.

follower = Follower("/opt/llama-nexus/gateway", keep_days=90)
follower.step()

What a request took is known when it has ended, so a user can exceed the limit of a day by what is under way then. Days
are those of UTC. Nothing is kept but the log: the sums of a day are made again from it at each start.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from datetime import datetime, timedelta, timezone
from types import FrameType

from . import usage_sums
from .errors import GatewayError
from .request_log import RequestLog
from .runtime_api import RuntimeApi

LIMITS, TOKENS_LEFT, SOCKET = "maps/tokens_per_day.json", "maps/tokens_left.map", "run/admin.sock"
STEP_S = 0.25
AGAIN_S = 10.0  # everything is told again as often: HAProxy may have been started anew
HOUR_S = 3600.0


class Follower:
    """The sums of the present day, and what of them HAProxy was told. All of a gateway is below ``root``."""

    def __init__(self, root: str, keep_days: int) -> None:
        self.root = root
        self.keep_days = keep_days
        self.log = RequestLog(os.path.join(root, "log"))
        self.api = RuntimeApi(self._path(SOCKET), timeout_s=2.0)
        self.day = ""
        self.used: dict[str, int] = {}
        self.told: dict[str, int] = {}
        self.written: dict[str, int] | None = None
        self.failed: str | None = None
        self._all_due_at = 0.0
        self._forget_due_at = 0.0

    def _path(self, place: str) -> str:
        return os.path.join(self.root, place)

    def step(self) -> bool:
        """Take what is new and tell what it changes; True where there may be more at once."""
        lines = self.log.move()
        today = datetime.now(timezone.utc).date()
        if today.isoformat() != self.day:
            self.day, self.used = today.isoformat(), {}
            lines = list(self.log.lines_of(self.day))
        for line in lines:
            self._count(line)
        now = time.monotonic()
        if now >= self._forget_due_at:
            self.log.forget((today - timedelta(days=self.keep_days)).isoformat())
            self._forget_due_at = now + HOUR_S
        self._tell(everything=now >= self._all_due_at)
        return bool(lines)

    def _count(self, line: bytes) -> None:
        row = usage_sums.parsed(line)
        user = usage_sums.name_of(row, "user") if row else ""
        if row is None or not user:
            return
        if datetime.fromtimestamp(row["time"], timezone.utc).date().isoformat() == self.day:
            self.used[user] = self.used.get(user, 0) + usage_sums.tokens_of(row)

    def _tell(self, everything: bool) -> None:
        limits = self._limits()
        left = {user: max(limit - self.used.get(user, 0), 0) for user, limit in limits.items()}
        if left != self.written:
            self._write(left)
            self.written = left
        changed = {user: number for user, number in left.items() if everything or self.told.get(user) != number}
        if not everything and not changed and self.told.keys() == left.keys():
            return
        path = self._path(TOKENS_LEFT)
        try:
            if everything:  # limits may have gone while nothing followed
                gone = {user for user, _ in self.api.map_entries(path)} - left.keys()
            else:
                gone = self.told.keys() - left.keys()
            for user, number in changed.items():
                self.api.map_set(path, user, str(number))
            for user in gone:
                self.api.map_delete(path, user)
        except GatewayError as error:  # it is not up: it reads the file when it starts
            if self.failed != str(error):
                _say(str(error))
            self.failed = str(error)
            return
        self.failed = None
        self.told = left
        self._all_due_at = time.monotonic() + AGAIN_S

    def _limits(self) -> dict[str, int]:
        try:
            with open(self._path(LIMITS), encoding="utf-8") as stream:
                return {str(user): int(limit) for user, limit in json.load(stream).items()}
        except (OSError, ValueError, AttributeError):
            return {}

    def _write(self, left: dict[str, int]) -> None:
        path = self._path(TOKENS_LEFT)
        text = "".join(f"{user} {number}\n" for user, number in sorted(left.items()))
        descriptor = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.replace(f"{path}.new", path)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def main(root: str, keep_days: int) -> int:
    """Follow until SIGTERM or SIGINT, then take what is left."""
    ended: list[int] = []

    def end(number: int, _frame: FrameType | None) -> None:
        ended.append(number)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    os.umask(0o077)
    follower = Follower(root, keep_days)
    while not ended:
        try:
            more = follower.step()
        except OSError as error:  # a full disk, say: what was not moved is still in the log
            _say(f"the log can't be moved on: {error}")
            time.sleep(5)
            continue
        if not more:
            time.sleep(STEP_S)
    follower.step()
    return 0
