"""supervisor: a program an instance, of one supervisord a prefix, without root and without systemd."""

from __future__ import annotations

import glob
import json
import os
import time
import xmlrpc.client
from collections.abc import Sequence
from typing import Any

from ...hostlib.files import read_text, write_file
from ...hostlib.instances import Instance
from ...hostlib.pids import argv_of
from ...hostlib.supervisor import command, value
from ..commands import attempt, cause
from ..errors import HostError
from ..folder import folders
from ..processes import end
from . import log_files
from .base import STOP_SECONDS, Runtime, Settings, Status
from .supervisord import ShuttingDown, connect

LIVE = ("STARTING", "RUNNING", "BACKOFF")  # states of a program that supervisord keeps running
# What supervisord and its servers keep of the environment of whoever deploys, who may have keys in it.
KEPT_VARIABLES = (
    "PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "CUDA_CACHE_PATH",
    "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES",
)  # fmt: skip


class Supervisor(Runtime):
    """Programs of one supervisord a prefix, as whatever user runs it."""

    name = "supervisor"

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.configuration = os.path.join(settings.root, "supervisord.conf")
        self.socket = os.path.join(settings.root, "supervisor.sock")

    def owner(self) -> tuple[int, int] | None:
        return None

    def prepare(self, config: Instance) -> None:
        """Refuse to start without supervisor; its configuration comes with the start."""
        if not os.path.exists(self.settings.supervisor_python):
            raise HostError(
                f"supervisor's {self.settings.supervisor_python} is missing: deploy instance {config.name} again"
            )

    def start(self, config: Instance) -> None:
        name = config.name
        text = self._configuration({name: config})
        if read_text(self.configuration) != text:
            write_file(self.configuration, text, mode=0o600)
        proxy = self._connect()
        if proxy is None:
            proxy = self._start_supervisord()
        applied: Any = proxy.supervisor.reloadConfig()  # which reads the file and applies nothing
        added, changed, removed = applied[0]
        for group in [*removed, *changed]:
            if group in removed or group == name:
                proxy.supervisor.stopProcessGroup(group)
                proxy.supervisor.removeProcessGroup(group)
        for group in [*changed, *added]:
            if group in added or group == name:
                proxy.supervisor.addProcessGroup(group)
        if self._info(proxy, name).get("statename") not in LIVE:
            end(self._orphans(name), STOP_SECONDS / 2)
            proxy.supervisor.startProcess(name, False)

    def stop(self, name: str) -> None:
        proxy = self._connect()
        if proxy and self._info(proxy, name).get("statename") in LIVE:
            try:
                proxy.supervisor.stopProcess(name)
            except HostError:  # it may have ended by itself meanwhile
                if self._info(proxy, name).get("statename") in LIVE:
                    raise
        end(self._orphans(name), STOP_SECONDS / 2)

    def settle(self, config: Instance) -> None:
        """Nothing starts supervisord with the host: deploy again after a reboot."""

    def unsettle(self, name: str) -> None:
        """It never was to start with the host; the last one stopped ends supervisord."""
        proxy = self._connect()
        if proxy and not any(info["pid"] for info in self._infos(proxy)):
            self.shut_down()

    def forget(self, name: str) -> None:
        self.stop(name)
        proxy = self._connect()
        write_file(self.configuration, self._configuration({}, without=name), mode=0o600)
        if proxy and self._info(proxy, name):
            proxy.supervisor.removeProcessGroup(name)
        if proxy and not self._infos(proxy):
            self.shut_down()

    def shut_down(self) -> None:
        """End supervisord, and with it what it runs."""
        proxy = self._connect()
        if proxy:
            proxy.supervisor.shutdown()
            while self._connect():  # until the shutdown has begun; _connect waits for its end
                time.sleep(0.1)

    def altered(self, config: Instance) -> list[str]:
        return []  # what supervisord has read counts, not the file

    def status(self, name: str) -> Status:
        proxy = self._connect()
        info = self._info(proxy, name) if proxy else {}
        state, pid = info.get("statename"), info.get("pid") or None
        if state in ("STARTING", "RUNNING") and pid:
            return Status("running", pid, str(info["start"]))
        if state in ("STARTING", "BACKOFF"):
            return Status("starting", None, str(info["start"]))
        left = self._orphans(name)
        if left:
            return Status("unsupervised", left[0], str(left[0]))
        return Status("failed" if state in ("FATAL", "EXITED") else "stopped")

    def log(self, name: str, lines: int | None = None) -> list[str]:
        parts = log_files.parts(self.where_log(name))
        return log_files.end(parts)[-lines:] if lines else log_files.life(parts, self.status(name).pid)

    def lives(self, name: str, lives: Sequence[str]) -> list[list[str]]:
        # supervisord names no lives in the logs; those that were seen are the last ones.
        parts = log_files.parts(self.where_log(name))
        return log_files.lives(log_files.end(parts))[-max(len(lives), 1) :]

    def where_log(self, name: str) -> str:
        return os.path.join(self.settings.logs, f"{name}.log")

    def _configuration(self, wanted: dict[str, Instance], without: str | None = None) -> str:
        known = {
            folder.name: config
            for folder in folders(self.settings.root)
            for config in map(folder.linked, ("pending", "verified"))
            if config and config.runtime == self.name
        }
        programs = {**known, **wanted}
        parts = [
            "; Written by Ansible, role llama_server.",
            "[unix_http_server]\nfile = %(here)s/supervisor.sock\nchmod = 0700",
            "[rpcinterface:supervisor]\n"
            "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface",
            "[supervisorctl]\nserverurl = unix://%(here)s/supervisor.sock",
            "[supervisord]\npidfile = %(here)s/supervisord.pid\n"
            f"logfile = {value(self.settings.logs)}/supervisord.log\nlogfile_maxbytes = 10MB\nlogfile_backups = 2\n"
            f"childlogdir = {value(self.settings.logs)}",
        ]
        for name in sorted(set(programs) - {without}):
            folder = os.path.join(self.settings.root, name)
            launcher = os.path.join(programs[name].folder, "launch.py")
            parts.append(
                f"[program:{name}]\n"
                f"command = {command([self.settings.supervisor_python, launcher, folder])}\n"
                f"directory = {value(folder)}\n"
                f"stdout_logfile = {value(self.where_log(name))}\n"
                "stdout_logfile_maxbytes = 50MB\nstdout_logfile_backups = 3\n"
                "redirect_stderr = true\nautostart = false\nautorestart = true\n"
                # One that dies within this time after its start is tried three times more and then left alone, FATAL.
                "startsecs = 30\nstartretries = 3\n"
                "stopsignal = TERM\nstopwaitsecs = 30\nkillasgroup = true\nstopasgroup = true"
            )
        return "\n\n".join(parts) + "\n"

    @staticmethod
    def _infos(proxy: xmlrpc.client.ServerProxy) -> list[dict[str, Any]]:
        infos: Any = proxy.supervisor.getAllProcessInfo()
        return list(infos)

    def _info(self, proxy: xmlrpc.client.ServerProxy, name: str) -> dict[str, Any]:
        return next((info for info in self._infos(proxy) if info["name"] == name), {})

    def _connect(self) -> xmlrpc.client.ServerProxy | None:
        """supervisord's interface, or None when it does not run. One that is shutting down is waited for."""
        proxy = connect(self.socket)
        deadline = time.monotonic() + STOP_SECONDS
        while True:
            try:
                proxy.supervisor.getState()
                return proxy
            except OSError as error:
                if not isinstance(error, ShuttingDown):
                    return None
                if time.monotonic() > deadline:
                    raise HostError(f"supervisord does not end within {STOP_SECONDS} s: end it") from error
                time.sleep(0.2)

    def _start_supervisord(self) -> xmlrpc.client.ServerProxy:
        os.makedirs(self.settings.logs, exist_ok=True)
        kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        argv = (self.settings.supervisor_python, "-m", "supervisor.supervisord", "--configuration", self.configuration)
        code, output_lines = attempt(*argv, env=kept)
        for _ in range(100) if code == 0 else ():
            proxy = self._connect()
            if proxy:
                return proxy
            time.sleep(0.1)
        raise HostError(
            f"supervisord does not start from {self.configuration}: {cause(output_lines) or 'it says nothing'}"
        )

    def _orphans(self, name: str = "*") -> list[int]:
        """Servers that were started from here and still run. With supervisord gone nobody looks after them."""
        pids = []
        for path in glob.glob(os.path.join(glob.escape(self.settings.root), name, "process")):
            try:
                with open(path, encoding="utf-8") as stream:
                    started = json.load(stream)
            except (OSError, ValueError):
                continue
            if argv_of(started["pid"]) == started["argv"]:  # else the number has passed to another process
                pids.append(started["pid"])
        return pids
