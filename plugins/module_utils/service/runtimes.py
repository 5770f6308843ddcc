"""Runtimes of a service: systemd, or a supervisord of its own. Python 3.9's standard library only.

service = Service("telemetry", "exporter", root, python, log="exporter.log", mark=f"{root}/exporter.py")
chosen, other = choose(service, unit_text, "auto", variable="telemetry_exporter_runtime")
chosen.refuse()
chosen.start()
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Union

from ..hostlib import supervisor, systemd
from ..hostlib.files import read_text
from ..hostlib.pids import argv_of
from ..hostlib.programs import Finished, ProgramError, last_lines, run
from . import pids
from .errors import ServiceError

# What supervisord and the program keep of the environment of whoever deploys, who may have keys in it.
KEPT_VARIABLES = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")


@dataclass(frozen=True)
class Service:
    """A program that runs for good below a folder of its own."""

    role: str
    """The role's name, of which supervisor's program and systemd's unit have theirs."""
    title: str
    """The program in errors, as in ``the exporter``."""
    root: str
    python: str
    """The interpreter of the environment that supervisor is in."""
    log: str
    """The file in ``root`` for what it prints under supervisor."""
    mark: str
    """An argument that its processes have, and no other process has."""

    @property
    def unit(self) -> str:
        return f"llama-nexus-{self.role}.service"

    @property
    def unit_path(self) -> str:
        return f"/etc/systemd/system/{self.unit}"

    def processes(self) -> list[int]:
        """Its processes, whoever started them."""
        return pids.with_argument(self.mark)


class Systemd:
    """A unit of the whole host."""

    name = "systemd"

    def __init__(self, service: Service, unit: str) -> None:
        self.service = service
        self.unit = unit

    def place(self) -> str:
        return self.service.unit_path

    def text(self, command: list[str]) -> str:
        return self.unit.replace("@COMMAND@", " ".join(command))

    def there(self) -> bool:
        """True where the unit is there and of this prefix."""
        text = read_text(self.service.unit_path)
        return text is not None and f"{self.service.root}/" in text

    def refuse(self) -> None:
        if read_text(self.service.unit_path) is not None and not self.there():
            raise ServiceError(
                f"{self.service.unit_path} belongs to another prefix of this host: remove it, or switch the "
                f"{self.service.title} off there"
            )

    def runs(self) -> bool:
        return _attempt("systemctl", "is-active", "--quiet", self.service.unit).status == 0

    def boots(self) -> bool:
        """True where it starts with the host."""
        return _attempt("systemctl", "is-enabled", "--quiet", self.service.unit).status == 0

    def start(self) -> None:
        self.settle()
        _attempt("systemctl", "reset-failed", self.service.unit)
        if _attempt("systemctl", "restart", self.service.unit).status != 0:
            raise ServiceError(f"{self.service.unit} does not start. It said: {last_lines(self.log()) or 'nothing'}")

    def settle(self) -> None:
        """Have systemd know the unit as it is written, and start it with the host."""
        _must("systemctl", "daemon-reload")
        _must("systemctl", "enable", "--quiet", self.service.unit)

    def main_pid(self) -> int:
        """Its first process; 0 where it does not run."""
        said = _attempt("systemctl", "show", "--property=MainPID", "--value", self.service.unit).output.strip()
        return int(said) if said.isdigit() else 0

    def remove(self) -> None:
        _attempt("systemctl", "disable", "--quiet", "--now", self.service.unit)
        os.unlink(self.service.unit_path)
        _must("systemctl", "daemon-reload")
        _attempt("systemctl", "reset-failed", self.service.unit)

    def log(self) -> str:
        own = (f"--unit={self.service.unit}", "_TRANSPORT=stdout")  # without what systemd says of it
        return _attempt("journalctl", "--quiet", "--output=cat", "--lines=20", *own).output


class Supervisor:
    """A supervisord of the service's own, as whatever user runs it."""

    name = "supervisor"

    def __init__(self, service: Service) -> None:
        self.service = service
        self.configuration = os.path.join(service.root, "supervisord.conf")

    def place(self) -> str:
        return self.configuration

    def text(self, command: list[str]) -> str:
        return (
            f"; Written by Ansible, role {self.service.role}.\n"
            "[unix_http_server]\nfile = %(here)s/supervisor.sock\nchmod = 0700\n\n"
            "[rpcinterface:supervisor]\n"
            "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n\n"
            "[supervisorctl]\nserverurl = unix://%(here)s/supervisor.sock\n\n"
            "[supervisord]\npidfile = %(here)s/supervisord.pid\nlogfile = %(here)s/supervisord.log\n"
            "logfile_maxbytes = 1MB\nlogfile_backups = 1\nchildlogdir = %(here)s\n\n"
            f"[program:{self.service.role}]\n"
            f"command = {supervisor.command(command)}\n"
            f"directory = %(here)s\nstdout_logfile = %(here)s/{self.service.log}\nstdout_logfile_maxbytes = 1MB\n"
            "stdout_logfile_backups = 1\nredirect_stderr = true\nautostart = true\nautorestart = true\n"
            "startsecs = 3\nstartretries = 3\nstopsignal = TERM\nstopwaitsecs = 10\n"
        )

    def there(self) -> bool:
        return os.path.exists(self.configuration)

    def refuse(self) -> None:
        """Nothing: what is below the prefix is its own."""

    def runs(self) -> bool:
        return re.search(r"\b(RUNNING|STARTING)\b", self._ctl("status", self.service.role).output) is not None

    def boots(self) -> bool:
        return True  # nothing starts it with the host, and nobody expects it to

    def start(self) -> None:
        if self._ctl("pid").status == 0:
            self._ctl("reread")
            self._ctl("update")
            self._ctl("restart", self.service.role)
        else:
            pids.end(self.service.processes())  # one that outlived its supervisord
            kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
            python, program = self.service.python, "supervisor.supervisord"
            _must(python, "-I", "-m", program, "--configuration", self.configuration, env=kept)

    def settle(self) -> None:
        """Nothing: supervisord reads its configuration when it starts."""

    def main_pid(self) -> int:
        """Its first process; 0 where it does not run."""
        said = self._ctl("pid", self.service.role).output.strip()
        return int(said) if said.isdigit() else 0

    def remove(self) -> None:
        # Without supervisorctl: its environment may be broken, and is about to go.
        pids.end(
            process
            for process in pids.with_argument(self.configuration)
            if "supervisor.supervisord" in argv_of(process)
        )
        pids.end(self.service.processes())

    def log(self) -> str:
        return (read_text(os.path.join(self.service.root, self.service.log)) or "")[-4000:]

    def _ctl(self, *words: str) -> Finished:
        if not os.path.exists(self.service.python):
            return Finished(1, "", "")
        return _attempt(
            self.service.python, "-I", "-m", "supervisor.supervisorctl", "--configuration", self.configuration, *words
        )


Runtime = Union[Systemd, Supervisor]


def choose(service: Service, unit: str, wanted: str, *, variable: str) -> tuple[Runtime, Runtime]:
    """The runtime that is to run a service, and the one that is not to.

    Args:
        wanted: systemd, supervisor, or auto: systemd where that is PID 1 and the user is root.
        variable: that of the role which says so, for the error.

    Raises:
        ServiceError: systemd is wanted and can't be had.
    """
    by_unit, by_supervisor = Systemd(service, unit), Supervisor(service)
    can_have_unit = systemd.is_pid_1() and os.geteuid() == 0
    if wanted == "systemd" and not can_have_unit:
        raise ServiceError(f"systemd does not run here, or not for this user: set {variable} to auto")
    if wanted == "systemd" or (wanted == "auto" and can_have_unit):
        return by_unit, by_supervisor
    return by_supervisor, by_unit


def _attempt(*argv: str) -> Finished:
    """Run a program that may fail."""
    try:
        return run(argv)
    except ProgramError as error:
        raise ServiceError(str(error)) from error


def _must(*argv: str, env: dict[str, str] | None = None) -> None:
    """Run a program that has to succeed."""
    try:
        done = run(argv, env=env)
    except ProgramError as error:
        raise ServiceError(str(error)) from error
    if done.status != 0:
        reason = last_lines(done.output) or "it said nothing"
        raise ServiceError(f"{' '.join(argv[:3])} failed: {reason}")
