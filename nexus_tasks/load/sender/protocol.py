"""The protocol between the generator and its sender processes, over a socket pair.

    to a sender         LENGTH, a letter (CONFIGURE, ASK, ...), MessagePack
    to the generator    HEADER, MessagePack of [kind, ...], stamps (float64, s), lengths of pieces (uint32), raw bytes

Both ends are of one version and on one machine.
"""

from __future__ import annotations

import struct

import msgspec

LENGTH = struct.Struct("<I")
"""Before each command: bytes of the letter and of what belongs to it."""
HEADER = struct.Struct("<IIQ")
"""Before each report: bytes of MessagePack, number of stamps, raw bytes."""

# Commands, from the generator.
CONFIGURE = b"c"
"""A :class:`Config`; answered by READY."""
ASK = b"a"
"""An :class:`Ask`."""
GO = b"g"
"""(begin, ramp_s, duration_s or None): begin at that moment; users come one after another within the ramp."""
RELEASE = b"r"
"""Seconds after which a user who was held is free."""
STOP = b"s"
"""Begin nothing any more; what is under way goes on."""
ABORT = b"x"
"""Give up what is under way, and end."""
FINISH = b"e"
"""End; answered by STATS."""

# Reports, to the generator.
READY = "ready"
PART = "part"
"""[PART, id], and a part of an answer that is under way."""
END = "end"
"""[END, id, begun, sent, ended, [kind, message] or None], and the (rest of the) answer. Moments in seconds."""
DROPPED = "dropped"
"""[DROPPED, ids]: asked for, and never begun."""
STOPPED = "stopped"
"""No further request will be begun."""
STATS = "stats"
"""[STATS, {cpu, cpu_s, lag, lag_max, behind}], the last message of a process. ``cpu`` is a share of a core (0-1),
``lag`` the counts of :class:`nexus_tasks.load.sender.lag.Histogram`, ``lag_max`` in seconds."""

RETRY_AFTER_MAX_S = 30.0
CONNECT_PAUSE_S = 0.25
"""A user whom nobody answered waits so long: a server that is not there can't be asked without a pause."""


class Config(msgspec.Struct):
    """Settings of a process. ``addresses`` are IP addresses; ``head`` ends every request's head.

    ``users`` is the number of users of a closed loop, None in an open loop.
    ``trust`` are certificates, None without TLS.
    """

    addresses: list[str]
    port: int
    trust: tuple[str | None, str | None] | None
    host: str
    prefix: str
    head: bytes
    users: int | None
    connect_s: float
    token_s: float
    request_s: float | None


class Ask(msgspec.Struct, array_like=True):
    """A request to send.

    ``intended`` is when (None: as soon as a user is free). With ``hold`` the user waits afterwards for what the
    generator says: another request that ``continues``, or their release. The first that ``counts`` starts the clock
    of a stage that has a duration.
    """

    id: int
    path: str
    body: bytes
    intended: float | None = None
    hold: bool = False
    continues: bool = False
    counts: bool = True


def pause_s(failure_kind: str | None, retry_after_s: float | None, *, answered: bool) -> float:
    """The pause of a user before it asks again: seconds that the server named, or because nobody was there."""
    if failure_kind in ("connect", "disconnected") and not answered:
        return CONNECT_PAUSE_S
    return min(retry_after_s or 0.0, RETRY_AFTER_MAX_S)
