"""systemd: a unit an instance, whose generation has the text that it was proven with."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence

from ...hostlib.files import read_text, write_file
from ...hostlib.instances import Instance
from ..commands import beginning, run
from ..errors import HostError
from .base import LOG_BYTES, Runtime, Status, have_user

UNITS = "/etc/systemd/system"
MASKED_UNITS = "/run/systemd/system"  # where systemctl mask --runtime says that a unit must not start
TRIED_UNITS = "/run/systemd/system.control"  # counts more, and does not outlive a reboot: so the verified one boots


class Systemd(Runtime):
    """A unit an instance, all from one template."""

    name = "systemd"

    @staticmethod
    def unit(name: str) -> str:
        return f"llama-server@{name}.service"

    def owner(self) -> tuple[int, int] | None:
        return have_user(self.settings.user)

    def prepare(self, config: Instance) -> None:
        """Refuse a unit that another prefix has. Its own comes with the start: a unit on the disk counts."""
        strange = self._strange(config.name)
        if strange:
            raise HostError(
                f"{strange} is masked, or belongs to another prefix of this host: remove it, or give instance "
                f"{config.name} another name"
            )

    def _strange(self, name: str) -> str | None:
        """The unit of this name that another prefix has, or that somebody masked. It is not touched."""
        for folder in (UNITS, TRIED_UNITS, MASKED_UNITS):
            path = os.path.join(folder, self.unit(name))
            text = read_text(path)
            if text is not None and f" {self.settings.root}/" not in text:
                return path
        return None

    def start(self, config: Instance) -> None:
        unit = self.unit(config.name)
        self._have_units(config, {TRIED_UNITS} if self.altered(config) else {UNITS})
        run("systemctl", "reset-failed", unit, check=False)
        run("systemctl", "start", unit)

    def stop(self, name: str) -> None:
        if self._strange(name):
            return
        run("systemctl", "stop", self.unit(name), check=False)  # which fails for a unit that is not there, too
        state = self._show(name)["ActiveState"]
        if state not in ("inactive", "failed"):
            raise HostError(f"{self.unit(name)} does not stop, it is {state}: look at the host")
        # One that had to be killed was stopped all the same.
        run("systemctl", "reset-failed", self.unit(name), check=False)

    def settle(self, config: Instance) -> None:
        self._have_units(config, {UNITS})
        run("systemctl", "enable", "--quiet", self.unit(config.name))

    def unsettle(self, name: str) -> None:
        if self._strange(name):
            return
        run("systemctl", "disable", "--quiet", self.unit(name), check=False)

    def forget(self, name: str) -> None:
        unit = self.unit(name)
        if self._strange(name):
            return
        run("systemctl", "disable", "--quiet", unit, check=False)
        self.stop(name)
        for folder in (UNITS, TRIED_UNITS):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(folder, unit))
        run("systemctl", "daemon-reload")

    def altered(self, config: Instance) -> list[str]:
        unit = self.unit(config.name)
        return [] if read_text(os.path.join(UNITS, unit)) == self._text(config) else [unit]

    def _have_units(self, config: Instance, folders_: set[str]) -> None:
        """Have the unit of a generation in these folders; what is not to be tried any more goes."""
        name, changed = self.unit(config.name), False
        for folder in folders_:
            path = os.path.join(folder, name)
            if read_text(path) != self._text(config):
                os.makedirs(folder, mode=0o755, exist_ok=True)
                write_file(path, self._text(config))
                changed = True
        tried = os.path.join(TRIED_UNITS, name)
        if TRIED_UNITS not in folders_ and os.path.exists(tried):
            os.unlink(tried)
            changed = True
        stale = run(
            "systemctl", "show", name, "-p", "NeedDaemonReload", check=False
        )  # a run was killed before it asked
        if changed or "yes" in stale:
            run("systemctl", "daemon-reload")

    @staticmethod
    def _text(config: Instance) -> str:
        return str(config.unit).replace("@PYTHON@", sys.executable).replace("@GENERATION@", config.folder)

    def status(self, name: str) -> Status:
        if self._strange(name):
            return Status("stopped")
        properties = self._show(name)
        pid = int(properties.get("MainPID") or 0) or None
        active, sub = properties.get("ActiveState"), properties.get("SubState")
        if pid and active == "active":
            return Status("running", pid, properties.get("InvocationID", ""))
        if active == "activating" or sub == "auto-restart":
            return Status("starting", None, properties.get("InvocationID", ""))
        return Status("failed" if active == "failed" else "stopped")

    def _show(self, name: str) -> dict[str, str]:
        """The unit's properties, by ``systemctl show``; also of one that is not there."""
        shown = run("systemctl", "show", self.unit(name), "-p", "ActiveState,SubState,MainPID,InvocationID", timeout=60)
        return dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)

    def log(self, name: str, lines: int | None = None) -> list[str]:
        if lines:
            asked = ["journalctl", "--boot", "--quiet", "--output=cat", f"--unit={self.unit(name)}", f"--lines={lines}"]
            return run(*asked, check=False).splitlines()
        return self._life(self.status(name).life)

    def lives(self, name: str, lives: Sequence[str]) -> list[list[str]]:
        return [self._life(life) for life in lives or [self._show(name).get("InvocationID", "")]]

    @staticmethod
    def _life(life: str) -> list[str]:
        """The lines that a life wrote, and what systemd says of it, as that it can't be started."""
        which = [f"_SYSTEMD_INVOCATION_ID={life}", "+", f"INVOCATION_ID={life}"]
        return beginning(("journalctl", "--boot", "--quiet", "--output=cat", *which), LOG_BYTES) if life else []

    def where_log(self, name: str) -> str:
        return f"journalctl -u {self.unit(name)}"
