"""Something that has to be done to a host until its driver serves. Python 3.9's standard library only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .packages import Say


@dataclass
class Step:
    """Something to do, as a sentence without a subject."""

    text: str
    do: Callable[[Say], None]
    disruptive: bool = False
    """True where it takes the driver from programs that use it."""
    may_reboot: bool = False
    """True where it may turn out that only a reboot does it."""
