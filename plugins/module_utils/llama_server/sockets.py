"""TCP sockets of this host, as the kernel's tables and the descriptors of processes tell: who listens and who holds."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import struct
from dataclasses import dataclass

from .rights import as_its_user

TABLES = ("/proc/net/tcp", "/proc/net/tcp6")
ESTABLISHED, HANDSHAKE, LISTENING = "01", "03", "0A"
EVERYWHERE = bytes(16)  # all addresses of IPv6
MAPPED = bytes(10) + b"\xff\xff"  # what an IPv4 address is behind in an IPv6 socket


@dataclass(frozen=True)
class Socket:
    """A row of the kernel's tables of TCP sockets."""

    local: tuple[bytes, int]
    remote: tuple[bytes, int]
    state: str
    uid: int
    inode: str  # 0 for a connection that nobody has accepted yet


def at_port(port: int) -> list[Socket]:
    """The sockets whose own port this is."""
    sockets = []
    for table in TABLES:
        try:
            with open(table, encoding="ascii") as stream:
                rows = [line.split() for line in stream.readlines()[1:] if f":{port:04X} " in line]
        except OSError:
            continue
        sockets += [
            Socket(_entry(row[1]), _entry(row[2]), row[3], int(row[7]), row[9])
            for row in rows
            if row[1].endswith(f":{port:04X}")
        ]
    return sockets


def _entry(text: str) -> tuple[bytes, int]:
    """An address and a port as the tables have them: words of 32 bits, each in the order of this machine."""
    address, _, port = text.partition(":")
    words = [int(address[at : at + 8], 16) for at in range(0, len(address), 8)]
    return _plain(struct.pack(f"={len(words)}I", *words)), int(port, 16)


def end_of(address: str, port: int) -> tuple[bytes, int]:
    """An end of a connection as the kernel's tables have it, of one as the socket module tells it."""
    family_ = socket.AF_INET6 if ":" in address else socket.AF_INET
    return _plain(socket.inet_pton(family_, address.partition("%")[0])), port


def _plain(address: bytes) -> bytes:
    return address[len(MAPPED) :] if address.startswith(MAPPED) else address


def listeners(host: str, port: int) -> list[Socket]:
    """The sockets that get the connections to an address: those that listen at it, else at all addresses of its kind;
    else, for IPv4, those at all of IPv6, which may take both. What listens elsewhere on the port is not asked there.
    """
    listening = [entry for entry in at_port(port) if entry.state == LISTENING]
    found: list[Socket] = []
    for asked in _addresses(host, port):
        everywhere = bytes(len(asked))
        for place in (asked, everywhere, *([EVERYWHERE] if len(asked) == 4 else [])):
            here = [entry for entry in listening if entry.local[0] == place]
            if here:
                found += here
                break
    return found


def rivals(host: str, port: int) -> list[Socket]:
    """The sockets beside which nobody else can listen at an address, or at those for which it stands."""
    listening = [entry for entry in at_port(port) if entry.state == LISTENING]
    # One at all addresses of IPv6 takes those of IPv4 as well, unless something listens at one of these beside it.
    is_dual = not any(len(entry.local[0]) == 4 for entry in listening)
    found = []
    for entry in listening:
        for asked in _addresses(host, port):
            held = entry.local[0]
            same_kind = len(held) == len(asked)
            if (
                (same_kind and (held == asked or not any(held) or not any(asked)))
                or (held == EVERYWHERE and is_dual)
                or asked == EVERYWHERE
            ) and entry not in found:
                found.append(entry)
    return found


def _addresses(host: str, port: int) -> list[bytes]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return list(dict.fromkeys(end_of(*address[4][:2])[0] for address in found))


def holder(entries: list[Socket]) -> int | None:
    """The process that has the first of some sockets; None where there are none, or only those of other users."""
    return next((pid for pid in (process_holding(entry.inode) for entry in entries) if pid), None)


def descriptors(pid: int | None) -> set[str] | None:
    """The inodes of the sockets that a process has open; None where that can't be told."""
    if pid is None:
        return set()
    try:
        links = as_its_user(pid, functools.partial(_open_files, pid))
    except (FileNotFoundError, ProcessLookupError):
        return set()
    except OSError:
        return None
    return {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")}


def _open_files(pid: int) -> set[str]:
    links = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            links.add(os.readlink(f"/proc/{pid}/fd/{name}"))
    return links


def process_holding(inode: str) -> int | None:
    """The process that has a socket open; None where it is another user's."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if inode in (descriptors(int(pid)) or ()):
            return int(pid)
    return None


def free_port() -> int:
    """A TCP port on loopback that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
