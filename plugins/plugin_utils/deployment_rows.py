"""Rows of a deployment's record, gathered from the results of tasks: hosts, their releases and instances.

What reaches a row holds no password, no signature of an address and nothing that a task hides.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..module_utils.hostlib import masking, terminal_text
from ..module_utils.hostlib.task_results import reasons

# What reports instances; follow returns the result of the job that it waited for.
REPORTERS = ("llama_server_plan", "llama_server_converge", "llama_server_control", "follow")
BUILDER, SHIPPER, RETAINER = "llama_cpp_release", "llama_cpp_ship", "llama_cpp_retain"
RELEASERS = (BUILDER, "follow", SHIPPER, RETAINER)
BUILDS = "llama_cpp"  # the role that they are in
# What is recorded of a release's manifest, beside its inputs; never the list of files.
BUILD_FACTS = ("compiler", "ccache", "built_on", "built_at", "build_seconds", "size")
ARRIVED = ("there", "built", "taken")
HEAD_LINES = 4
TAIL_LINES = 20
LINE_LENGTH = 500
TEXT_LENGTH = 8000

Row = dict[str, Any]


@dataclass
class Release:
    """A host's release, as role llama_cpp tells of it so far."""

    name: str | None = None
    how: str = "planned"
    source: str | None = None
    """The host of the inventory that built it, or should have."""
    inputs: Row | None = None
    build: Row | None = None
    releases: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)

    def look(self, result: Mapping[str, Any]) -> None:
        """Take what a look at the host found out; what this run made before stays so."""
        if result["name"] != self.name or not result.get("manifest"):
            self.how, self.source, self.build = "planned", None, None
        self.name, self.inputs = str(result["name"]), plain(result.get("inputs"))
        self.releases = [str(name) for name in result.get("releases") or ()]

    def retain(self, result: Mapping[str, Any], *, check: bool) -> None:
        """Take what was removed of the older ones; in a check they are still there."""
        self.removed = [str(name) for name in result["removed"]]
        if not check:
            self.releases = [str(name) for name in result["kept"]]

    def arrive(self, how: str, source: str | None) -> None:
        """It is on the host now."""
        self.how, self.source = how, source or self.source
        self.add(str(self.name))

    def add(self, name: str) -> None:
        """A release is on the host now, be it for the host or for another one."""
        if name not in self.releases:
            self.releases.insert(0, name)

    def learn(self, manifest: Mapping[str, Any]) -> None:
        """Take what tells of a release out of its manifest."""
        self.name = str(manifest["name"])
        self.inputs = plain(manifest["inputs"])
        self.build = {key: plain(manifest.get(key)) for key in BUILD_FACTS}

    def row(self, host: str, error: str | None) -> Row:
        """The row of the record; with an error, of one that is not there because of it."""
        return {
            "type": "release",
            "host": host,
            "name": self.name,
            "how": "failed" if error else self.how,
            "from": self.source,
            "inputs": self.inputs,
            "build": self.build,
            "releases": self.releases,
            "removed": self.removed,
            "error": error,
        }


@dataclass
class HostState:
    """A host's part of the run so far."""

    began: float = field(default_factory=time.monotonic)
    ended: float = field(default_factory=time.monotonic)
    changed: int = 0
    release: Release | None = None
    instances: dict[str, Row] = field(default_factory=dict)
    failed: bool = False
    unreachable: bool = False
    failed_task: Row | None = None
    """The last task that failed; where ``failed`` is False, the play went on after it."""

    def row(self, host: str) -> Row:
        """The row of the record."""
        return {
            "type": "host",
            "host": host,
            "release": self.release.name if self.release else None,
            "instances": list(self.instances.values()),
            "changed": self.changed,
            "ok": not (self.failed or self.unreachable),
            "failed": self.failed,
            "unreachable": self.unreachable,
            "failed_task": self.failed_task if self.failed or self.unreachable else None,
            "seconds": round(self.ended - self.began, 3),
        }

    def release_row(self, host: str, *, check: bool) -> Row | None:
        """The row of its release; None where role llama_cpp had nothing to do with the host."""
        failed = self.failed_task if self.failed or self.unreachable else None
        if self.release is None:
            asked = failed is not None and failed["role"] == BUILDS
            return Release().row(host, failed["message"]) if failed and asked else None
        # From the look at the host until it has its release there are only tasks for that. A check ends with the look.
        missing = failed is not None and self.release.how not in ARRIVED and not check
        return self.release.row(host, failed["message"] if failed and missing else None)


def excerpt(text: str) -> str:
    """The first and the last lines of a message, without the middle of a log."""
    lines = [line[:LINE_LENGTH] for line in masking.addresses(terminal_text.plain(text)).strip().splitlines()]
    left_out = len(lines) - HEAD_LINES - TAIL_LINES
    if left_out > 0:
        lines[HEAD_LINES:-TAIL_LINES] = [f"({left_out} lines left out)"]
    return "\n".join(lines)


def message(result: Mapping[str, Any]) -> str:
    """The reason why a task failed, by its result."""
    return "\n".join(reasons(result))


def plain(value: Any) -> Any:
    """A value as JSON can hold it, without what Ansible adds to results."""
    if isinstance(value, Mapping):
        kept = {str(key): item for key, item in value.items() if key not in ("invocation", "module_args")}
        return {key: plain(item) for key, item in kept.items() if not key.startswith("_ansible")}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, str):
        return masking.addresses(terminal_text.plain(value))[:TEXT_LENGTH]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int):
        return value
    return f"({type(value).__name__})"


def instances(result: Mapping[str, Any]) -> dict[str, Row]:
    """The instances of a result by name; empty where it isn't one that reports them."""
    rows = result.get("instances")
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        return {}
    # A row with a phase is from a look at what there is, before something is done about it.
    rows = [row for row in rows if row.keys() >= {"name", "state", "checks"} and "phase" not in row]
    by_name = {str(row["name"]): plain(row) for row in rows}
    for row in by_name.values():
        if row.get("log_tail"):
            row["log_tail"] = row["log_tail"][-TAIL_LINES:]
    return by_name


@dataclass
class Deployment:
    """A run so far, by the results of its tasks.

    ``builders`` has the hosts that releases were built on in this run, by the names of the releases.
    """

    check: bool = False
    hosts: dict[str, HostState] = field(default_factory=dict)
    builders: dict[str, str] = field(default_factory=dict)

    def host(self, name: str) -> HostState:
        """The state of a host, of which something is known as of now."""
        host = self.hosts.setdefault(name, HostState())
        host.ended = time.monotonic()
        return host

    def take_instances(self, name: str, action: str, result: Mapping[str, Any]) -> Row | None:
        """Take the instances that a task of a host reports; the row of the host where something was done about one."""
        reported = instances(result) if action in REPORTERS else {}
        host = self.host(name)
        host.instances |= reported
        return host.row(name) if any(row["state"] != "planned" for row in reported.values()) else None

    def take_release(
        self, name: str, action: str, result: Mapping[str, Any], *, where: str, changed: bool
    ) -> Row | None:
        """Take what a task says of a host's release; the row of the release where the host has just got it.

        Args:
            name: the host that the task was for.
            action: the task's module or action, without its collection.
            where: the host that it ran on.
            changed: whether it changed something there.
        """
        if action not in RELEASERS:
            return None
        host = self.host(name)
        if action == RETAINER:
            if host.release and "kept" in result:  # else it was skipped: there are not too many
                host.release.retain(result, check=self.check)
            return None
        manifest = result.get("manifest")
        manifest = manifest if isinstance(manifest, Mapping) and manifest.keys() >= {"name", "inputs"} else None
        if where != name:
            self._take_from_builder(host, action, manifest, where)
            return None
        if action == BUILDER and isinstance(result.get("name"), str):
            host.release = host.release or Release()
            host.release.look(result)
        elif not (host.release and manifest):  # a job that made something else
            return None
        release, before = host.release, (host.release.name, host.release.how)
        if manifest:
            release.learn(manifest)
            if action == SHIPPER:
                release.arrive("taken", self.builders.get(str(release.name)))
            elif changed:
                release.arrive("built", name)
            elif release.how not in ARRIVED:
                release.arrive("there", None)
        arrived = release.how in ("built", "taken") and (release.name, release.how) != before
        return release.row(name, None) if arrived else None

    def _take_from_builder(
        self, host: HostState, action: str, manifest: Mapping[str, Any] | None, builder: str
    ) -> None:
        """Take what the host says that builds for another one, which does not have the release yet."""
        if host.release and (manifest or action == BUILDER):
            host.release.source = builder
        if host.release and manifest:
            host.release.learn(manifest)
            self.builders[str(host.release.name)] = builder
            own = self.hosts.get(builder, HostState()).release
            if own:
                own.add(str(host.release.name))

    def rows(self) -> list[Row]:
        """The rows of all hosts, then those of their releases."""
        releases = [host.release_row(name, check=self.check) for name, host in self.hosts.items()]
        return [*(host.row(name) for name, host in self.hosts.items()), *filter(None, releases)]

    def summary(self, seconds: float, *, interrupted: bool) -> Row:
        """The summary of the record, without its type."""
        rows = [host.row(name) for name, host in self.hosts.items()]
        done = [row for row in rows if row["ok"]]
        return {
            "ok": len(done) == len(rows) and not interrupted,
            "interrupted": interrupted,
            "hosts": {
                "ok": len(done),
                "changed": sum(1 for row in done if row["changed"]),
                "failed": sum(row["failed"] for row in rows),
                "unreachable": sum(row["unreachable"] for row in rows),
            },
            "wall_s": round(seconds, 3),
        }
