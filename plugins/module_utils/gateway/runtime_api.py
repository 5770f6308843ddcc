"""Runtime API of HAProxy: a client of its unix socket. What is changed here lasts until the process is loaded anew.

api = RuntimeApi("/opt/llama-nexus/gateway/run/admin.sock")
for server in api.servers():
    print(server.backend, server.name, server.state, server.sessions)
api.set_state("model_tiny", "rig-1_main", "drain")
api.map_set("/opt/llama-nexus/gateway/maps/keys.map", "secret", "alice")

Every failure is a GatewayError of one line.
"""

from __future__ import annotations

import csv
import io
import re
import socket
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from .errors import GatewayDown, GatewayError

TIMEOUT_S = 10.0
READ_BYTES = 65536
LEVELS = "set severity-output number"  # then a message begins with its level, as in [3]: No such server.
MESSAGE = re.compile(r"^\[(\d)\]:", re.MULTILINE)
ERROR_LEVEL = 3  # of syslog; 4 is a warning, with which HAProxy tells that an address changed
UNKNOWN = "Unknown command"  # which HAProxy takes for information
IN_MAINTENANCE, DRAINED = 0x01 | 0x02 | 0x04 | 0x20, 0x08 | 0x10  # bits of srv_admin_state
STOPPED = 0  # of srv_op_state
STATES = ("ready", "drain", "maint")
SHOW_ALL = "show stat -1 6 -1"  # any proxy, its backend and servers, any of these
OLD_WORKERS, OLD_WORKER = "# old workers", re.compile(r"^(\d+)\s+worker\s", re.MULTILINE)
SHOW_SERVERS = "show stat -1 4 -1"  # any proxy, its servers, any of these


@dataclass(frozen=True)
class Server:
    """One server of a backend, as HAProxy has it now.

    ``sessions`` are requests that it has, ``queued`` those that wait for this very server, ``max_connections`` how many
    it gets at a time (None: any number). ``is_drained`` and ``is_up`` are independent: one that is drained can go down.
    """

    backend: str
    name: str
    address: str
    port: int
    is_up: bool
    is_drained: bool
    is_in_maintenance: bool
    sessions: int
    queued: int
    max_connections: int | None
    requests: int
    check: str

    @property
    def state(self) -> str:
        """The state in one word: ``maintenance``, ``down``, ``drained`` or ``up``."""
        if self.is_in_maintenance:
            return "maintenance"
        if not self.is_up:
            return "down"
        return "drained" if self.is_drained else "up"


class RuntimeApi:
    """Client of one HAProxy's socket. Each call is a connection of its own, so nothing is left open."""

    def __init__(self, path: str, timeout_s: float = TIMEOUT_S) -> None:
        self.path = path
        self.timeout_s = timeout_s

    def command(self, text: str) -> str:
        """Send one command, or several parted by ``;``, and return what is said, without levels.

        Raises:
            GatewayError: HAProxy is not there, does not answer in time, or refuses the command.
        """
        if "\n" in text:
            raise GatewayError("a command to HAProxy has a line break in it, which it would take for two commands")
        said = self.exchange(f"{LEVELS};{text}\n")
        levels = [int(level) for level in MESSAGE.findall(said)]
        said = MESSAGE.sub("", said).strip("\n")
        if any(level <= ERROR_LEVEL for level in levels) or said.strip().startswith(UNKNOWN):
            raise self._refusal(text, said)
        return said

    def _refusal(self, text: str, said: str) -> GatewayError:
        """The error for a command that was refused; what comes after its first words may be a key."""
        why = said.strip().split("\n", 1)[0].partition(", but maybe")[0].rstrip(".:")
        return GatewayError(f"HAProxy at {self.path} refused '{' '.join(text.split()[:2])} …': {why}")

    def exchange(self, text: str) -> str:
        """Send a text and return all that is said, as it is."""
        deadline = time.monotonic() + self.timeout_s
        answer = bytearray()
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(self.timeout_s)
                connection.connect(self.path)
                connection.sendall(text.encode())
                connection.shutdown(socket.SHUT_WR)  # else a master waits for more
                while True:
                    connection.settimeout(max(deadline - time.monotonic(), 0.001))
                    part = connection.recv(READ_BYTES)
                    if not part:
                        return answer.decode(errors="replace")
                    answer += part
        except socket.timeout as error:
            raise GatewayError(f"HAProxy at {self.path} did not answer within {self.timeout_s:g} s") from error
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise GatewayDown(f"HAProxy does not run: {self.path}: {error.strerror}") from error
        except OSError as error:
            raise GatewayError(f"HAProxy can't be asked at {self.path}: {error.strerror or error}") from error

    def servers(self, backend: str | None = None) -> list[Server]:
        """All servers, or those of one backend, in the order of the configuration."""
        states = _states(self.command(f"show servers state {_word(backend) if backend else ''}".strip()))
        found = []
        for row in self._rows(SHOW_SERVERS):
            state = states.get((row["pxname"], row["svname"]))
            if state is None:
                continue
            admin = int(state["srv_admin_state"])
            found.append(
                Server(
                    backend=row["pxname"],
                    name=row["svname"],
                    address=state["srv_addr"],
                    port=int(state["srv_port"]),
                    is_up=int(state["srv_op_state"]) != STOPPED,
                    is_drained=bool(admin & DRAINED),
                    is_in_maintenance=bool(admin & IN_MAINTENANCE),
                    sessions=int(row["scur"] or 0),
                    queued=int(row["qcur"] or 0),
                    max_connections=int(row["slim"]) if row["slim"] else None,
                    requests=int(row["stot"] or 0),
                    check=row["check_status"],
                )
            )
        return found

    def waiting(self) -> dict[str, int]:
        """By backend how many requests wait for any of its servers."""
        return {row["pxname"]: int(row["qcur"] or 0) for row in self._rows("show stat -1 2 -1")}

    def _rows(self, command: str) -> Iterable[dict[str, str]]:
        return csv.DictReader(io.StringIO(self.command(command).lstrip("# ")))

    def set_state(self, backend: str, server: str, state: str) -> None:
        """Change what a server gets: ``ready`` all, ``drain`` no new request, ``maint`` none, and no checks."""
        if state not in STATES:
            raise GatewayError(f"a server's state is one of {', '.join(STATES)}, not {state}")
        self.command(f"set server {_word(f'{backend}/{server}')} state {state}")

    def set_address(self, backend: str, server: str, address: str, port: int) -> None:
        """Lead what a server gets from now on to another address; requests that it has end where they are."""
        if not 0 < port < 65536:
            raise GatewayError(f"a port is a number from 1 to 65535, not {port}")
        command = f"set server {_word(f'{backend}/{server}')} addr {_word(address)} port {port}"
        if "Invalid" in (said := self.command(command)):  # told as what changed is: by a warning
            raise self._refusal(command, said)

    def set_max_connections(self, backend: str, server: str, number: int) -> None:
        """Change how many requests a server gets at a time; the rest wait. 0 is no limit."""
        if number < 0:
            raise GatewayError(f"a number of connections is 0 or more, not {number}")
        self.command(f"set maxconn server {_word(f'{backend}/{server}')} {number}")

    def map_entries(self, path: str) -> list[tuple[str, str]]:
        """The keys and values of a map, in its order; ``path`` is the file that the configuration names."""
        lines = self.command(f"show map {_word(path)}").splitlines()
        parts = [line.split(" ", 2) for line in lines if line]  # an address, the key, the value
        return [(part[1], part[2] if len(part) > 2 else "") for part in parts]

    def map_set(self, path: str, key: str, value: str) -> None:
        """Give a key of a map this value, whether or not it was there; a value has no space at its ends."""
        if any(known == key for known, _ in self.map_entries(path)):
            self.command(f"set map {_word(path)} {_word(key)} {_word(value)}")
        else:
            self.command(f"add map {_word(path)} {_word(key)} {_word(value)}")

    def map_delete(self, path: str, key: str) -> None:
        """Remove a key from a map; one that isn't there is no failure."""
        if any(known == key for known, _ in self.map_entries(path)):
            self.command(f"del map {_word(path)} {_word(key)}")


class OldWorkers:
    """Workers that go on with the requests that they had when their HAProxy was loaded anew.

    They know nothing of what the new one is told since, and can't be told: their proxies are disabled.

    Args:
        path: the socket of the master.
    """

    def __init__(self, path: str) -> None:
        self.master = RuntimeApi(path)

    def open_requests(self, names: Collection[str]) -> int:
        """Number of requests of theirs that these servers work on, or that wait in a backend of those."""
        return sum(self._open_requests(pid, names) for pid in self._pids())

    def _pids(self) -> list[str]:
        try:
            said = self.master.exchange("show proc\n")
        except GatewayError:  # one that was started without such a socket
            return []
        return OLD_WORKER.findall(said.partition(OLD_WORKERS)[2])

    def _open_requests(self, pid: str, names: Collection[str]) -> int:
        try:
            said = self.master.exchange(f"@!{pid} {SHOW_ALL}\n")
        except GatewayError:  # it ended a moment ago
            return 0
        rows = [row for row in csv.DictReader(io.StringIO(said.lstrip("# \n"))) if row.get("svname")]
        counted = [row for row in rows if row["svname"] in names]
        backends = {row["pxname"] for row in counted}
        waiting = [row for row in rows if row["svname"] == "BACKEND" and row["pxname"] in backends]
        return sum(int(row["scur"] or 0) for row in counted) + sum(int(row["qcur"] or 0) for row in waiting)


def state_rows(text: str) -> list[dict[str, str]]:
    """The rows of ``show servers state``, a server each: a version, a header after ``#``, and then a line a server."""
    lines = text.splitlines()
    header = next((line[1:].split() for line in lines if line.startswith("#")), [])
    rows = [dict(zip(header, line.split())) for line in lines if len(line.split()) >= len(header) > 0]
    return [row for row in rows if row["be_id"].isdigit()]


def _states(text: str) -> dict[tuple[str, str], dict[str, str]]:
    """The rows of ``show servers state`` by backend and server."""
    return {(row["be_name"], row["srv_name"]): row for row in state_rows(text)}


def _word(text: str) -> str:
    """One argument of a command: what would end it is escaped.

    Raises:
        GatewayError: it is empty, or has a character that HAProxy's commands can't hold.
    """
    if not text or re.search(r"[\x00-\x1f\x7f]", text):
        raise GatewayError(f"{text!r} can't be said to HAProxy: it is empty or has a control character")
    return re.sub(r"([\\ ;\"'#<])", r"\\\1", text)
