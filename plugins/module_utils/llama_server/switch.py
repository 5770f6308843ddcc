"""Switch: from one verified server to the next, in one process on the host; rollback where the next one fails.

Each step is written to the instance's state.json as it begins. Whatever ends this process, a start of the instance
follows the verified generation (folder.py), and another run converges.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from ..hostlib.instances import Instance
from .drain import Drained, drain
from .errors import HostError
from .folder import Folder
from .host import Host, Row
from .preconditions import require_startable
from .proof.kept import keep
from .proof.prove import prove


class Switch:
    """One instance on its way from a generation to another; the lock is held."""

    def __init__(self, host: Host, folder: Folder, old: Instance | None, proof: dict[str, Any]) -> None:
        self.host = host
        self.folder = folder
        self.old = old
        self.proof = proof
        self.answered: float | None = None  # when the server that was started last was ready
        self.troubles: list[str] = []  # what went wrong beside the switch itself

    def progress(self, line: str) -> None:
        self.host.progress(f"{self.folder.name}: {line}")

    def to(self, new: Instance) -> Row:
        """Switch, prove, and keep the new generation or restore the old one.

        Raises HostError where the new one can't start; nothing was touched then.
        """
        require_startable(new)
        folder, old = self.folder, self.old
        left = folder.linked("pending")
        if left and old and left.runtime == old.runtime:
            folder.link("pending", None)  # of an earlier run: a crash of the old server must not start it
        drained = self._drain(old) if old else Drained(None)
        served, stopped = old is not None and bool(self.host.pids(folder)), time.monotonic()
        self._clear()
        # What needs the disk comes before the old server is stopped: a full one must not cost it.
        folder.note("switching", generation=new.id, old=old.id if old else None)
        folder.link("pending", new)
        row = self._start(new, instead_of=old)
        row |= {"changed": True, "restored": None, **drained.as_row()}
        row["downtime_seconds"] = round(self.answered - stopped, 2) if served and self.answered else None
        if not row["error"]:
            try:
                self._keep(new)
            except (OSError, HostError) as error:
                row["error"] = f"it was proven, but that can't be written down: {error}"
        row = self._back(new, row, stopped) if row["error"] else self._kept(new, row)
        if row["error"]:
            row["error"] = "; ".join([row["error"], *self.troubles])
        else:
            notes = {"expected": "", "found": "", "ok": True}
            row["checks"] += [{"check": "afterwards", **notes, "cause": trouble} for trouble in self.troubles]
        return row

    def _clear(self) -> None:
        """End what a switch that was cut off left in another runtime than the old one's; that one is stopped anyway."""
        for runtime in self.host.runtimes(self.folder):
            if self.old is None or runtime.name != self.old.runtime:
                try:
                    runtime.forget(self.folder.name)
                except HostError:
                    if not self.host.runs_nothing(self.folder, runtime.name):
                        raise

    def _start(self, config: Instance, *, instead_of: Instance | None = None, speed_counts: bool = True) -> Row:
        """Stop the one that runs, start a generation and prove it."""
        runtime = self.host.runtime(config)
        try:
            if instead_of:
                self.progress("stopping")
                self._stop(instead_of, runtime.name)
            self.progress("starting")
            runtime.start(config)
            row = prove(
                config, self.proof, runtime, self.folder, speed_counts=speed_counts, progress=self.host.progress
            )
        except Exception as error:  # whatever it is, the old one must come back
            what = str(error) if isinstance(error, HostError) else f"{type(error).__name__}: {error}"
            row = {"name": config.name, "generation": config.id, "checks": [], "error": what}
        self.answered = row.pop("answered", None)
        return row

    def _stop(self, config: Instance, successor: str) -> None:
        """Stop what runs. A runtime that is left for another one may be gone from the host."""
        try:
            self.host.runtime(config).stop(self.folder.name)
        except HostError as error:
            if config.runtime == successor or not self.host.runs_nothing(self.folder, config.runtime):
                raise
            self.troubles.append(f"the old one can't be stopped, and does not run: {error}")

    def _keep(self, new: Instance) -> None:
        """Make the new generation what every start follows."""
        folder, old = self.folder, self.old
        # Whatever ends this process, a reboot starts the old one or the new one, or both for one port: then one serves.
        self.host.runtime(new).settle(new)
        if old and old.id != new.id:
            folder.link("previous", old)  # before: the old one is not forgotten
        folder.link("verified", new)

    def _kept(self, new: Instance, row: Row) -> Row:
        """Tidy up after a switch that is done: what fails now is told, and changes nothing of that."""
        folder, old = self.folder, self.old
        with self._despite("the old one can't be removed"):
            if old and old.runtime != new.runtime:
                self.host.runtime(old).forget(folder.name)
        with self._despite("this can't be written down"):
            folder.link("pending", None)
            keep(row, folder)
            folder.note("verified", generation=new.id)
            folder.tidy()
        return {**row, "state": "verified"}

    def _back(self, failed: Instance, row: Row, stopped: float) -> Row:
        """Restore the old generation and prove it; without one, stop. Goes on whatever fails on the way."""
        folder, old = self.folder, self.old
        self.progress("restoring the old one" if old else "stopping what can't be proven")
        self._note("restoring", error=row["error"])
        if old is None:
            with self._despite("it can't be stopped"):
                self.host.runtime(failed).forget(folder.name)
                folder.link("verified", None)
                folder.link("pending", None)  # else the next run knows by it what to end
            self._note("failed", error=row["error"], runtime=failed.runtime)
            folder.tidy()  # its keys are of no use here
            return {**row, "state": "failed"}
        with self._despite("a link can't be changed"):
            folder.link("pending", None)
            folder.link("verified", old)
        if old.id == failed.id:  # a restart that failed: there is nothing else that was proven
            with self._despite("it does not start with the host"):
                self.host.runtime(old).settle(old)
            if [check["check"] for check in row["checks"] if not check["ok"]] == ["decode speed"]:
                # Slow is better than nothing, and a restart does not make it faster.
                self._note("verified", error=row["error"])
                return {**row, "state": "failed", "changed": False}
            self._note("failed", error=row["error"])
            return {**row, "state": "failed"}
        # What can't be stopped must not keep the old one from being tried; its own proof says what is wrong then.
        with self._despite("the new one can't be stopped"):
            self.host.runtime(failed).stop(folder.name)
            if old.runtime != failed.runtime:
                self.host.runtime(failed).forget(folder.name)
        restored = self._start(old, speed_counts=False)  # slow is better than nothing; the row says how slow
        row["downtime_seconds"] = round(self.answered - stopped, 2) if self.answered else None
        with self._despite("the old one may not start with the host"):
            self.host.runtime(old).settle(old)
        if restored["error"]:
            self._note("failed", error=row["error"], restored=restored["error"])
            return {**row, "state": "failed", "restored": restored}
        self._note("restored", generation=old.id, error=row["error"])
        if not self.troubles:  # else something may still go by the other one's folder
            folder.tidy()
        return {**row, "state": "restored", "restored": restored}

    @contextlib.contextmanager
    def _despite(self, what: str) -> Iterator[None]:
        """Go on when this fails, and remember what did."""
        try:
            yield
        except (HostError, OSError) as error:
            self.troubles.append(f"{what}: {error}")

    def _note(self, phase: str, **facts: Any) -> None:
        """Write the step down where the disk allows it; the links are what counts."""
        with contextlib.suppress(OSError):
            self.folder.note(phase, **facts)

    def _drain(self, config: Instance) -> Drained:
        limit = float(self.proof.get("drain_timeout", 0))
        return drain(self.host, self.folder, config, limit, self.troubles.append)
