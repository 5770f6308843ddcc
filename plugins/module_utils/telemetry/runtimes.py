"""Runtimes of the exporter: systemd, or a supervisord of its own. Python 3.9's standard library only."""

from __future__ import annotations

import os
import re
from typing import Union

from ..hostlib import supervisor
from ..hostlib.files import read_text
from ..hostlib.pids import argv_of
from ..hostlib.programs import Finished, ProgramError, last_lines, run
from . import pids
from .errors import ExporterError

UNIT = "llama-nexus-telemetry.service"
UNIT_PATH = "/etc/systemd/system/" + UNIT
# What supervisord and the exporter keep of the environment of whoever deploys, who may have keys in it.
KEPT_VARIABLES = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")


class Systemd:
    """A unit of the whole host."""

    name = "systemd"

    def __init__(self, root: str, unit: str) -> None:
        self.root = root
        self.unit = unit

    def place(self) -> str:
        return UNIT_PATH

    def text(self, command: list[str]) -> str:
        return self.unit.replace("@COMMAND@", " ".join(command))

    def there(self) -> bool:
        """True where the unit is there and of this prefix."""
        text = read_text(UNIT_PATH)
        return text is not None and f" {self.root}/" in text

    def refuse(self) -> None:
        if read_text(UNIT_PATH) is not None and not self.there():
            raise ExporterError(
                f"{UNIT_PATH} belongs to another prefix of this host: remove it, or switch the exporter off there"
            )

    def runs(self) -> bool:
        return _attempt("systemctl", "is-active", "--quiet", UNIT).status == 0

    def boots(self) -> bool:
        """True where it starts with the host."""
        return _attempt("systemctl", "is-enabled", "--quiet", UNIT).status == 0

    def start(self) -> None:
        _must("systemctl", "daemon-reload")
        _must("systemctl", "enable", "--quiet", UNIT)
        _attempt("systemctl", "reset-failed", UNIT)
        _must("systemctl", "restart", UNIT)

    def remove(self) -> None:
        _attempt("systemctl", "disable", "--quiet", "--now", UNIT)
        os.unlink(UNIT_PATH)
        _must("systemctl", "daemon-reload")
        _attempt("systemctl", "reset-failed", UNIT)

    def log(self) -> str:
        return _attempt("journalctl", "--quiet", "--output=cat", "--lines=20", f"--unit={UNIT}").output


class Supervisor:
    """A supervisord of the exporter's own, as whatever user runs it."""

    name = "supervisor"

    def __init__(self, root: str, python: str) -> None:
        self.root = root
        self.python = python
        self.configuration = os.path.join(root, "supervisord.conf")

    def place(self) -> str:
        return self.configuration

    def text(self, command: list[str]) -> str:
        return (
            "; Written by Ansible, role telemetry.\n"
            "[unix_http_server]\nfile = %(here)s/supervisor.sock\nchmod = 0700\n\n"
            "[rpcinterface:supervisor]\n"
            "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n\n"
            "[supervisorctl]\nserverurl = unix://%(here)s/supervisor.sock\n\n"
            "[supervisord]\npidfile = %(here)s/supervisord.pid\nlogfile = %(here)s/supervisord.log\n"
            "logfile_maxbytes = 1MB\nlogfile_backups = 1\nchildlogdir = %(here)s\n\n"
            "[program:telemetry]\n"
            f"command = {supervisor.command(command)}\n"
            "directory = %(here)s\nstdout_logfile = %(here)s/exporter.log\nstdout_logfile_maxbytes = 1MB\n"
            "stdout_logfile_backups = 1\nredirect_stderr = true\nautostart = true\nautorestart = true\n"
            "startsecs = 3\nstartretries = 3\nstopsignal = TERM\nstopwaitsecs = 10\n"
        )

    def there(self) -> bool:
        return os.path.exists(self.configuration)

    def refuse(self) -> None:
        """Nothing: what is below the prefix is its own."""

    def runs(self) -> bool:
        return re.search(r"\b(RUNNING|STARTING)\b", self._ctl("status", "telemetry").output) is not None

    def boots(self) -> bool:
        return True  # nothing starts it with the host, and nobody expects it to

    def start(self) -> None:
        if self._ctl("pid").status == 0:
            self._ctl("reread")
            self._ctl("update")
            self._ctl("restart", "telemetry")
        else:
            pids.end(pids.exporters(self.root))  # an exporter that outlived its supervisord
            kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
            _must(self.python, "-I", "-m", "supervisor.supervisord", "--configuration", self.configuration, env=kept)

    def remove(self) -> None:
        # Without supervisorctl: its environment may be broken, and is about to go.
        pids.end(
            process for process in pids.exporters(self.configuration) if "supervisor.supervisord" in argv_of(process)
        )
        pids.end(pids.exporters(self.root))

    def log(self) -> str:
        return (read_text(os.path.join(self.root, "exporter.log")) or "")[-4000:]

    def _ctl(self, *words: str) -> Finished:
        if not os.path.exists(self.python):
            return Finished(1, "", "")
        return _attempt(
            self.python, "-I", "-m", "supervisor.supervisorctl", "--configuration", self.configuration, *words
        )


Runtime = Union[Systemd, Supervisor]


def _attempt(*argv: str) -> Finished:
    """Run a program that may fail."""
    try:
        return run(argv)
    except ProgramError as error:
        raise ExporterError(str(error)) from error


def _must(*argv: str, env: dict[str, str] | None = None) -> None:
    """Run a program that has to succeed."""
    try:
        done = run(argv, env=env)
    except ProgramError as error:
        raise ExporterError(str(error)) from error
    if done.status != 0:
        reason = last_lines(done.output) or "it said nothing"
        raise ExporterError(f"{' '.join(argv[:3])} failed: {reason}")
