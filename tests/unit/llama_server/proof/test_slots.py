"""Requests of a proof to a server whose slots are at work."""

from __future__ import annotations

import json
import multiprocessing
import socket
import threading

import pytest

from plugins.module_utils.hostlib.instances import Instance
from plugins.module_utils.llama_server.client import Server
from plugins.module_utils.llama_server.proof import slots
from plugins.module_utils.llama_server.proof.readiness import NotProven
from plugins.module_utils.llama_server.proof.slots import SlotRequest

kept: list[socket.socket] = []


class Stuck:
    """A server whose slots work and do not move; ``spins``: its process computes all the while."""

    def __init__(self, spins: bool) -> None:
        self.spins = spins
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def serve(self) -> None:
        if self.spins:
            threading.Thread(target=self._spin, daemon=True).start()
        rows = json.dumps([{"id": 0, "id_task": 1, "is_processing": True, "next_token": [{"n_decoded": 5}]}]).encode()
        while True:
            connection, _ = self.listener.accept()
            if connection.recv(65536).startswith(b"GET /slots "):
                connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + rows)
                connection.close()
            else:
                kept.append(connection)

    @staticmethod
    def _spin() -> None:
        while True:
            pass


@pytest.mark.parametrize("spins", [True, False])
def test_slots_that_do_not_move_are_told_and_a_process_that_computes_is_not_restarted(
    spins: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend that hangs, which no processor does: one that spins in its driver may also be in a long batch."""
    monkeypatch.setattr(slots, "REQUEST_SECONDS", 3)
    monkeypatch.setattr(slots, "SLOT_SECONDS", 1)
    stuck = Stuck(spins)
    process = multiprocessing.get_context("fork").Process(target=stuck.serve)
    process.start()
    stuck.listener.close()
    try:
        server = Server(Instance(name="main", local_url=stuck.url), process.pid)
        with pytest.raises(NotProven) as told:
            SlotRequest(server, None, "completion").ask("/completion", {"prompt": "a"}, 3)
    finally:
        process.kill()
        process.join()
    assert told.value.restart is not spins
    assert "1 of 1 slots work, and none has moved for" in str(told.value)
    assert ("its process is at work" if spins else "its process does nothing") in str(told.value)
