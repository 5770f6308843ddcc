"""Errors that a user can mend, each with a hint of what to do.

    NexusError                  anything a user can mend: a message and a hint, never a traceback
    ├── UsageError              the command or a file of the user's asks for something that does not exist
    ├── DeployError             a playbook failed or nothing is deployed
    ├── EndpointError           an address that cannot be measured
    │   ├── EndpointDown        nothing answers there
    │   ├── Unauthorized        it answers 401 or 403
    │   └── NotOpenAI           it answers, but not as an OpenAI-compatible server does
    ├── BatchError              a job of a batch whose files are damaged or can't be written
    ├── RecordError             a run record that is missing, damaged or of an unknown schema
    ├── DatabaseError           a database of the user's that is damaged, newer, or can't be written
    └── ReportError             a notebook that cannot be rendered

Library code raises these and never exits; ``main`` functions are wrapped in :func:`command_line`.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from nexus_tasks.core.text import suit_terminals
from nexus_tasks.hostlib import environment
from nexus_tasks.hostlib.terminal_text import plain

# What a disk or the rights of its folders refuse; any other error of the system's is the code's own.
OF_THE_USER = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR}


class NexusError(Exception):
    """A failure that its reader can mend.

    Args:
        message: one line that says what is wrong and where.
        hint: one line that says what to do about it.
    """

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(NexusError):
    """The command line or an edited file asks for something that does not exist."""


class DeployError(NexusError):
    """A playbook failed, or what it should have deployed is not there."""


class EndpointError(NexusError):
    """An address that cannot be measured."""


class EndpointDown(EndpointError):
    """Nothing answers at the address."""


class Unauthorized(EndpointError):
    """The server refuses the key, or wants one."""


class NotOpenAI(EndpointError):
    """Something answers, but not the way an OpenAI-compatible server does."""


class BatchError(NexusError):
    """A job of a batch whose files are damaged, or can't be written on to."""


class RecordError(NexusError):
    """A run record that is missing, damaged or of a schema this version does not know."""


class DatabaseError(NexusError):
    """A database of the user's that is damaged, of a later version, or can't be read or written."""


class ReportError(NexusError):
    """A notebook that cannot be rendered into a report."""


def refuse_empty(argv: Sequence[str]) -> None:
    """Refuse a command line with an empty argument: what a variable that is not set leaves would mean everything.

    Raises:
        UsageError: with its place.
    """
    for place, argument in enumerate(argv, start=1):
        if not argument.strip() or re.fullmatch(r"--[a-z-]+=\s*", argument):
            before = f", after {argv[place - 2]}" if place > 1 and not argument.strip() else ""
            shown = argument.strip() or f"argument {place}{before}"
            raise UsageError(
                f"{shown} is empty",
                hint="leave it out, or say what is meant; is a variable of the command line not set?",
            )


def _require_working_folder() -> None:
    """Stop where the working folder was removed: nothing that is named relative to it can be found.

    Raises:
        UsageError: it is gone.
    """
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise UsageError("the working folder was removed", hint="cd into one that is there") from error


class Main(Protocol):
    """A command: the arguments after its name, or None for those of the process; gives the exit status."""

    def __call__(self, argv: Sequence[str] | None = None) -> int: ...


def command_line(main: Callable[[Sequence[str] | None], int], *, usage_status: int = 1) -> Main:
    """Wrap ``main(argv) -> exit status`` so that a NexusError is two lines on stderr and status 1.

    ``usage_status`` is that of a UsageError, for commands whose status 1 says something else.

    A file or folder that can't be read or written is such an error, too.
    Ctrl-C gives status 130 (128 + SIGINT, as shells report it). What it starts (Ansible, compilers, notebooks) gets a
    home folder that can be written to, and this user's name. What it prints suits terminals of any encoding.
    """

    @functools.wraps(main)
    def wrapped(argv: Sequence[str] | None = None) -> int:
        environment.have_a_home()
        suit_terminals()
        try:
            if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # imports are over
                signal.signal(signal.SIGINT, signal.default_int_handler)
            refuse_empty(sys.argv[1:] if argv is None else argv)
            _require_working_folder()
            status = main(argv)
            sys.stdout.flush()  # here, where a pipe that was closed is not Python's own to tell
            return status
        except NexusError as error:
            sys.stdout.flush()
            sys.stderr.write(plain(f"error: {error.message}\n hint: {error.hint}\n"))
            return usage_status if isinstance(error, UsageError) else 1
        except BrokenPipeError:  # whoever read what is printed has seen enough, as head does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + signal.SIGPIPE
        except OSError as error:
            if error.errno not in OF_THE_USER:
                raise
            sys.stdout.flush()
            place = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
            hint = "see that it can be read and written, and that its disk has room"
            sys.stderr.write(plain(f"error: {place}{error.strerror}\n hint: {hint}\n"))
            return 1
        except KeyboardInterrupt:
            sys.stderr.write("interrupted\n")
            return 130

    return wrapped
