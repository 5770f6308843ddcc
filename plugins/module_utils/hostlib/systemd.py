"""systemd, as far as a host has it. Python 3.9's standard library only."""

from __future__ import annotations

import os


def is_pid_1() -> bool:
    """True where systemd runs this host, as sd_booted(3) tells."""
    return os.path.isdir("/run/systemd/system")
