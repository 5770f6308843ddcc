"""supervisor: a program an instance, of one supervisord a prefix, without root and without systemd."""

from __future__ import annotations

import contextlib
import os
import time
import xmlrpc.client
from collections.abc import Iterator, Sequence
from typing import Any

from ...hostlib import locks
from ...hostlib.files import read_json, read_text, write_file
from ...hostlib.instances import Instance
from ...hostlib.pids import argv_of
from ..commands import attempt, cause
from ..errors import HostError
from ..folder import STARTED, Folder, folders
from ..processes import end, with_variable
from . import log_files
from .base import STOP_SECONDS, Runtime, Settings, Status, have_user, user_under_supervisor
from .supervisord import configuration, log_of, reach

LOCK = "supervisord.lock"
LOCK_SECONDS = 300  # the longest of what is done under it: to end servers of a supervisord that is gone
LIVE = ("STARTING", "RUNNING", "BACKOFF")  # states of a program that supervisord keeps running
# What supervisord and its servers keep of the environment of whoever deploys, who may have keys in it.
KEPT_VARIABLES = (
    "PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "CUDA_CACHE_PATH",
    "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES",
)  # fmt: skip


class Supervisor(Runtime):
    """Programs of one supervisord a prefix. As root its servers become a user of their own (files/launch.py)."""

    name = "supervisor"

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.configuration = os.path.join(settings.root, "supervisord.conf")
        self.socket = os.path.join(settings.root, "supervisor.sock")

    def owner(self) -> tuple[int, int] | None:
        user = user_under_supervisor(self.settings)
        return have_user(user) if user else None

    def prepare(self, config: Instance) -> None:
        """Refuse to start without supervisor; have the configuration, and what the server's user needs."""
        if not os.path.exists(self.settings.supervisor_python):
            raise HostError(
                f"supervisor's {self.settings.supervisor_python} is missing: deploy instance {config.name} again"
            )
        os.makedirs(self.settings.logs, exist_ok=True)
        with self._configuring():
            self._have_configuration(config.name)
        if config.user:
            uid, gid = have_user(config.user)
            cache = os.path.join(self.settings.root, config.name, "cache")
            os.makedirs(cache, mode=0o700, exist_ok=True)
            # Where a host was set up anew around its data, a user of this name has another number.
            for path in (cache, config.key_file):
                if path and os.stat(path).st_uid != uid:
                    os.chown(path, uid, gid)

    def start(self, config: Instance) -> None:
        name, folder = config.name, Folder(self.settings.root, config.name)
        try:
            folder.link(STARTED, config)
        except OSError:  # a full disk: the launcher of another generation starts this one as well
            if not folder.linked(STARTED):
                raise
        with self._configuring():
            self._have_configuration(name)
            self._apply(name)

    @contextlib.contextmanager
    def _configuring(self) -> Iterator[None]:
        """Hold the lock of this prefix's supervisord. What is computed of the instances is written and applied before
        another run does so: one that applied what it had computed earlier would remove what was added since.
        """
        try:
            with locks.held(os.path.join(self.settings.root, LOCK), "supervisord's configuration", wait=LOCK_SECONDS):
                yield
        except locks.LockError as error:
            raise HostError(str(error)) from error

    def _apply(self, name: str) -> None:
        """Have supervisord run an instance by the configuration on the disk, and none that it does not have."""
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
        with self._configuring():
            proxy = self._connect()
            if proxy and not any(info["pid"] for info in self._infos(proxy)):
                self.shut_down()

    def forget(self, name: str) -> None:
        self.stop(name)
        with self._configuring():
            proxy = self._connect()
            Folder(self.settings.root, name).link(STARTED, None)
            write_file(self.configuration, self._configuration(without=name), mode=0o600)
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
        return log_of(self.settings, name)

    def _have_configuration(self, name: str) -> None:
        """Have an instance among the programs. No section names a generation, so that no switch has to write it, and
        none can be kept from going back by a full disk.
        """
        text = self._configuration(name)
        if read_text(self.configuration) != text:
            write_file(self.configuration, text, mode=0o600)

    def _configuration(self, wanted: str | None = None, *, without: str | None = None) -> str:
        names = {
            folder.name
            for folder in folders(self.settings.root)
            for config in map(folder.linked, ("pending", "verified"))
            if config and config.runtime == self.name
        }
        return configuration(self.settings, [name for name in {*names, wanted} - {without} if name])

    @staticmethod
    def _infos(proxy: xmlrpc.client.ServerProxy) -> list[dict[str, Any]]:
        infos: Any = proxy.supervisor.getAllProcessInfo()
        return list(infos)

    def _info(self, proxy: xmlrpc.client.ServerProxy, name: str) -> dict[str, Any]:
        return next((info for info in self._infos(proxy) if info["name"] == name), {})

    def _connect(self) -> xmlrpc.client.ServerProxy | None:
        return reach(self.socket)

    def _start_supervisord(self) -> xmlrpc.client.ServerProxy:
        kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        program = (self.settings.supervisor_python, "-I", "-m", "supervisor.supervisord")
        code, output_lines = attempt(*program, "--configuration", self.configuration, env=kept)
        for _ in range(100) if code == 0 else ():
            proxy = self._connect()
            if proxy:
                return proxy
            time.sleep(0.1)
        raise HostError(
            f"supervisord does not start from {self.configuration}: {cause(output_lines) or 'it says nothing'}"
        )

    def _orphans(self, name: str) -> list[int]:
        """Servers that were started from here and still run. With supervisord gone nobody looks after them."""
        folder = os.path.join(self.settings.root, name)
        pids = with_variable("LLAMA_NEXUS_INSTANCE", folder)
        started = read_json(os.path.join(folder, "process")) or {}  # as former versions wrote it down
        pid = started.get("pid", 0)
        if pid and pid not in pids and argv_of(pid) == started["argv"]:  # else the number has passed to another process
            pids.append(pid)
        return pids
