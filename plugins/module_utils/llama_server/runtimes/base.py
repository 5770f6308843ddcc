"""Runtimes: the three supervisors of servers, behind one contract.

systemd runs launch.py, which becomes the verified generation, or the pending one while a switch holds the lock.
Each generation has the launcher and the unit that it was proven with. supervisor does the same without root. Docker has
a container a generation, so its argv is that of the container.
"""

from __future__ import annotations

import os
import pwd
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from ...hostlib.instances import Instance
from ..commands import run
from ..errors import HostError

LOG_BYTES = 16 << 20  # a server says all of its loading in less; it may write any amount later
STOP_SECONDS = 60  # each runtime asks politely for 30 seconds and then kills


@dataclass(frozen=True)
class Status:
    """State of an instance, by its runtime.

    ``state`` is "running", "starting" (between two lives), "failed" (given up), "stopped", "unsupervised" (it runs, and
    nothing would start it again), or "unknown" (the runtime does not answer). ``life`` changes with each start.
    """

    state: str
    pid: int | None = None
    life: str = ""
    argv: tuple[str, ...] | None = None
    """As the runtime knows it; None: ask /proc."""


@dataclass(frozen=True)
class Settings:
    """The role's settings for the host."""

    root: str  # the folder of all instances
    logs: str
    user: str
    supervisor_python: str


class RuntimeView(Protocol):
    """As much of a runtime as a proof needs: what runs, and what it wrote."""

    def status(self, name: str) -> Status:
        """As ``Runtime.status``."""

    def log(self, name: str, lines: int | None = None) -> list[str]:
        """As ``Runtime.log``."""

    def lives(self, name: str, lives: Sequence[str]) -> list[list[str]]:
        """As ``Runtime.lives``."""

    def where_log(self, name: str) -> str:
        """As ``Runtime.where_log``."""


class Runtime(ABC):
    """Supervisor that keeps the servers of one prefix running."""

    name: ClassVar[str]

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @abstractmethod
    def owner(self) -> tuple[int, int] | None:
        """The user and group that must be able to read a generation's keys; None: whoever deploys."""

    @abstractmethod
    def prepare(self, config: Instance) -> None:
        """Have what a start needs (unit, program, image, user); nothing that runs is touched."""

    @abstractmethod
    def start(self, config: Instance) -> None:
        """Have the server of this generation told to run."""

    @abstractmethod
    def stop(self, name: str) -> None:
        """End it; it has ended on return."""

    @abstractmethod
    def settle(self, config: Instance) -> None:
        """It was proven: from now on it starts with the host, where the runtime can do that."""

    @abstractmethod
    def unsettle(self, name: str) -> None:
        """It does not start with the host any more."""

    @abstractmethod
    def forget(self, name: str) -> None:
        """Leave nothing of it."""

    @abstractmethod
    def altered(self, config: Instance) -> list[str]:
        """Whatever the runtime itself keeps of it on the disk that is no longer what was proven."""

    @abstractmethod
    def status(self, name: str) -> Status:
        """The state of an instance and its process."""

    @abstractmethod
    def log(self, name: str, lines: int | None = None) -> list[str]:
        """The first lines that the running process wrote, as many as are in ``LOG_BYTES``; none, or later ones, where
        the log has lost its beginning. With a number, the last lines, of whichever life.
        """

    @abstractmethod
    def lives(self, name: str, lives: Sequence[str]) -> list[list[str]]:
        """The lines of each of these lives (``Status.life``), the oldest first; of the last one where none is named.

        Each begins where that life does, and ends with it or after ``LOG_BYTES``.
        """

    @abstractmethod
    def where_log(self, name: str) -> str:
        """The place of its log, for people."""


def have_user(name: str) -> tuple[int, int]:
    """The ids of the servers' own user, made where it does not exist."""
    try:
        account = pwd.getpwnam(name)
    except KeyError:
        try:
            run("useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent",
                "--shell", "/usr/sbin/nologin", name)  # fmt: skip
        except HostError as error:
            raise HostError(
                f"the servers' user can't be made ({error}): make it, or set llama_server_user to one that is there"
            ) from error
        account = pwd.getpwnam(name)
    return account.pw_uid, account.pw_gid


def user_under_supervisor(settings: Settings) -> str | None:
    """The user that servers under supervisor become; None where they are processes of who deploys."""
    return settings.user if is_root() and settings.user != "root" else None


def is_root() -> bool:
    """True where this process may manage units, users and files of others."""
    return os.geteuid() == 0
