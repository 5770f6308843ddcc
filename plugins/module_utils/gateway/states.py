"""States of servers that outlast a reload: what is out stays out, and what waits for it goes on waiting.

with kept_out(root, servers):
    ...                       # reload HAProxy

HAProxy would begin anew with all servers. Only who is out is kept: where a server is, the new configuration says.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..hostlib.files import write_file
from .errors import GatewayError
from .runtime_api import RuntimeApi, state_rows

STATE_FILE, HOLD_MAP = "run/servers.state", "run/hold.map"
SOCKET, MASTER_SOCKET = "run/admin.sock", "run/master.sock"
LOOK_S = 0.5
IN_MAINTENANCE = 0x01  # of srv_admin_state: by the runtime API


@contextlib.contextmanager
def kept_out(root: str, servers: Sequence[Mapping[str, Any]]) -> Iterator[None]:
    """Have a process that begins while the block runs take over which servers are out.

    Args:
        root: the gateway's folder.
        servers: of the new configuration, with name, address and port.
    """
    state_file, hold_map = os.path.join(root, STATE_FILE), os.path.join(root, HOLD_MAP)
    api = RuntimeApi(os.path.join(root, SOCKET))
    try:
        states = api.command("show servers state")
        held = api.map_entries(hold_map)
    except GatewayError:  # none runs, or one that knew no such map
        states, held = "", []
    write_file(state_file, _only_out(states, servers), mode=0o600, durable=False)
    write_file(hold_map, "".join(f"{key} {value}\n" for key, value in held), mode=0o600, durable=False)
    try:
        yield
    finally:
        # One that begins later, after a crash, begins with all.
        write_file(state_file, _only_out("", ()), mode=0o600, durable=False)
        write_file(hold_map, "", mode=0o600, durable=False)


def wait_for_held(root: str, limit_s: float) -> None:
    """Wait until no request is held, or until those that are have waited as long as they may.

    They are in the process that runs, which once another one begins is told no more: not that their server is back.
    """
    api, hold_map = RuntimeApi(os.path.join(root, SOCKET)), os.path.join(root, HOLD_MAP)
    while True:
        try:
            since = [float(moment) for key, moment in api.map_entries(hold_map) if "/" not in key]
        except (GatewayError, ValueError):  # none runs, or one of another version
            return
        if not any(time.time() - moment < limit_s for moment in since):
            return
        time.sleep(LOOK_S)


def keep_places(root: str) -> None:
    """Have a process that begins later, as after a crash, find servers at the ports where they were taken back."""
    states = RuntimeApi(os.path.join(root, SOCKET)).command("show servers state")
    rows = state_rows(states)
    for row in rows:
        row["srv_admin_state"], row["srv_op_state"] = "0", "2"  # one that begins sends to all, until their checks fail
    lines = [*states.splitlines()[:2], *(" ".join(row.values()) for row in rows), ""]
    write_file(os.path.join(root, STATE_FILE), "\n".join(lines), mode=0o600, durable=False)


def _only_out(states: str, servers: Sequence[Mapping[str, Any]]) -> str:
    """A file of states with the servers that are out, each where the new configuration has it."""
    places = {server["name"]: server for server in servers}
    lines = []
    for row in state_rows(states):
        place = places.get(row["srv_name"])
        if place and int(row["srv_admin_state"]) & IN_MAINTENANCE:
            row["srv_port"] = str(place["port"])
            if row["srv_fqdn"] == "-":
                row["srv_addr"] = place["address"].strip("[]")
            lines.append(" ".join(row.values()))
    return "\n".join([*states.splitlines()[:2], *lines, ""]) if lines else "1\n"
