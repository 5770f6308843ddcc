"""Requests of a proof that need a slot, beside the requests of users."""

from __future__ import annotations

import secrets
import time
from typing import Any

from ..client import LOOK_SECONDS, REQUEST_SECONDS, Server
from ..processes import Activity
from .readiness import NotProven

SLOT_SECONDS = 10  # how long a request of the proof waits for a slot, where others' have all of them
NOT_MEASURED = "others' requests have all of them and are getting on: nothing was measured"


class ServerBusy(Exception):
    """Users' requests have all slots, and are getting on. Says how many."""


class SlotRequest:
    """A request of the proof that needs a slot, and what the slots do meanwhile.

    Args:
        server: who is asked.
        key: one of its keys.
        check: what the request is for.
        slots: where the slots are told.
    """

    def __init__(self, server: Server, key: str | None, check: str, slots: str = "/slots") -> None:
        self.server = server
        self.key = key
        self.check = check
        self.slots = slots
        self.others = 0  # the most slots that worked for others, of all looks
        self.total = 0
        self._seed = secrets.randbelow(2**31)  # /slots tells it: by it our own request is known among others'
        self._working = 0  # slots that work for others, at the last look
        self._ours = False
        self._seen: list[Any] | None = None
        self._moves = 0

    def ask(self, path: str, body: dict[str, Any], limit: float) -> tuple[int, Any]:
        """The status and the answer.

        Raises ServerBusy where others' requests keep it waiting and the slots move, and NotProven where it takes longer
        than ``limit`` seconds all the same.
        """
        self._limit = limit
        self._began = self._moved = time.monotonic()
        self._activity = Activity(self.server.pid)
        self._look()
        body = {**body, "seed": self._seed}
        code, answer = self.server.ask(path, key=self.key, body=body, meanwhile=self._wait)
        self._look()
        return code, answer

    def _look(self) -> None:
        try:
            code, slots = self.server.ask(self.slots, key=self.key, timeout=LOOK_SECONDS)
        except OSError:  # one that is gone ends the request itself
            return
        if code != 200 or not isinstance(slots, list):  # it has none to tell, or is loading
            return
        working = [slot for slot in slots if slot.get("is_processing")]
        others = [slot for slot in working if slot.get("params", {}).get("seed") != self._seed]
        self.total, self._working, self._ours = len(slots), len(others), len(others) < len(working)
        self.others = max(self.others, self._working)
        progress_keys = ("id", "id_task", "is_processing", "n_prompt_tokens_processed", "next_token")
        seen = [[slot.get(name) for name in progress_keys] for slot in slots]
        if seen != self._seen:
            self._moves += self._seen is not None
            self._seen, self._moved, self._activity = seen, time.monotonic(), Activity(self.server.pid)

    def _wait(self) -> None:
        """Look whether waiting on is of use."""
        self._look()
        now = time.monotonic()
        busy = f"{self._working} of {self.total} slots"
        getting_on = self._moves > 0 and now - self._moved < REQUEST_SECONDS
        if getting_on and self._working == self.total and now - self._began > SLOT_SECONDS:
            raise ServerBusy(busy)
        if now - self._began < self._limit:
            return
        if getting_on and self._working:
            raise ServerBusy(busy)
        idle = self._activity.idle()
        doing = "its process does nothing" if idle else "its process is at work"
        if self._seen is None:
            slots = "it does not tell what its slots do"
        elif getting_on:
            slots = "it has a slot" if self._ours else "slots were free"
        else:
            still = now - self._moved
            slots = f"{self._working + self._ours} of {self.total} slots work, and none has moved for {still:.0f} s"
        raise NotProven(
            f"{self.check}: no answer within {now - self._began:.0f} s; {slots}, and {doing}: look at its log, and "
            "restart it where that stays so", restart=idle,
        )  # fmt: skip
