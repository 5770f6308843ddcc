"""Ansible callback: one run record a deployment, ``results/deployment/<run id>.jsonl`` on the controller.

Enabled in ansible.cfg; what the rows hold is in docs/records.md. It watches: whatever goes wrong in here is one
warning, and the play goes on as it would have.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import getpass
import math
import os
import platform
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Concatenate, ParamSpec

from ansible import context
from ansible.executor.stats import AggregateStats
from ansible.executor.task_result import CallbackTaskResult
from ansible.inventory.host import Host
from ansible.playbook import Playbook
from ansible.playbook.task import Task
from ansible.plugins.callback import CallbackBase
from ansible.release import __version__ as ansible_version

DOCUMENTATION = """
name: deployment_record
type: aggregate
short_description: write a run record of each deployment
description:
  - Writes results/deployment/<run id>.jsonl for runs of deploy.yml and rollback.yml, failed, interrupted and --check
    ones too.
  - Names of extra variables are recorded, their values never; neither are arguments of tasks.
options:
  results:
    description: Folder of the run records. By default results, beside deploy.yml.
    type: path
    env:
      - name: NEXUS_RESULTS
    ini:
      - section: callback_deployment_record
        key: results
author: Llama Nexus
"""

ROOT = Path(__file__).resolve().parent.parent.parent
PLAYBOOKS = ("deploy.yml", "rollback.yml")
# What reports instances; follow returns the result of the job that it waited for.
REPORTERS = ("llama_server_plan", "llama_server_converge", "llama_server_control", "follow")
BUILDER, SHIPPER, RETAINER = "llama_cpp_release", "llama_cpp_ship", "llama_cpp_retain"
RELEASERS = (BUILDER, "follow", SHIPPER, RETAINER)
BUILDS = "llama_cpp"  # the role that they are in
# What is recorded of a release's manifest, beside its inputs; never the list of files.
BUILD_FACTS = ("compiler", "ccache", "built_on", "built_at", "build_seconds", "size")
ARRIVED = ("there", "built", "taken")
# Before the host of an address: user and password, or a token. After a question mark: signatures and tokens.
CREDENTIALS = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)[^\s/'\"<>]*@", re.IGNORECASE)
QUERY = re.compile(r"(?P<address>\b[a-z][a-z0-9+.-]*://[^\s?'\"<>]*)\?[^\s'\"<>]*", re.IGNORECASE)
SIGNALS = (signal.SIGTERM, signal.SIGHUP)  # Ctrl-C ends in the usual way, through atexit
HEAD_LINES = 4
TAIL_LINES = 20
LINE_LENGTH = 500
TEXT_LENGTH = 8000

Row = dict[str, Any]
P = ParamSpec("P")


@dataclass
class Release:
    """What role llama_cpp said of a host's release so far."""

    name: str | None = None
    how: str = "planned"
    source: str | None = None
    """The host of the inventory that built it, or should have."""
    inputs: Row | None = None
    build: Row | None = None
    releases: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)

    def look(self, said: Mapping[str, Any]) -> None:
        """Take what a look at the host found out; what this run made before stays so."""
        if said["name"] != self.name or not said.get("manifest"):
            self.how, self.source, self.build = "planned", None, None
        self.name, self.inputs = str(said["name"]), plain(said.get("inputs"))
        self.releases = [str(name) for name in said.get("releases") or ()]

    def retain(self, said: Mapping[str, Any], *, check: bool) -> None:
        """Take what was removed of the older ones; in a check they are still there."""
        self.removed = [str(name) for name in said["removed"]]
        if not check:
            self.releases = [str(name) for name in said["kept"]]

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
class Seen:
    """What is known of one host so far."""

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
    lines = [line[:LINE_LENGTH] for line in public(text).strip().splitlines()]
    left_out = len(lines) - HEAD_LINES - TAIL_LINES
    if left_out > 0:
        lines[HEAD_LINES:-TAIL_LINES] = [f"({left_out} lines left out)"]
    return "\n".join(lines)


def public(text: str) -> str:
    """A text without what its addresses tell beside the place: passwords, tokens, signatures."""
    return QUERY.sub(r"\g<address>?…", CREDENTIALS.sub(r"\g<scheme>", text))


def message(result: Mapping[str, Any]) -> str:
    """Why a task failed, by its result: that of the failed items of a loop, else its own."""
    if "censored" in result:
        return "hidden: the task has no_log"
    items = [item for item in result.get("results") or () if isinstance(item, dict) and item.get("failed")]
    if items:
        return "\n".join(dict.fromkeys(message(item) for item in items))
    said = str(result.get("msg") or "").strip()
    stderr = str(result.get("stderr") or result.get("module_stderr") or "").strip()
    return "\n".join(part for part in (said, stderr if stderr not in said else "") if part) or "it gave no reason"


def plain(value: Any) -> Any:
    """A value as JSON can hold it, without what Ansible adds to results."""
    if isinstance(value, Mapping):
        kept = {str(key): item for key, item in value.items() if key not in ("invocation", "module_args")}
        return {key: plain(item) for key, item in kept.items() if not key.startswith("_ansible")}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, str):
        return public(value)[:TEXT_LENGTH]
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
    found = {str(row["name"]): plain(row) for row in rows}
    for row in found.values():
        if row.get("log_tail"):
            row["log_tail"] = row["log_tail"][-TAIL_LINES:]
    return found


def action_of(result: CallbackTaskResult) -> str:
    """The name of a task's action or module, without that of its collection."""
    return str(result.task.action.rpartition(".")[2])


def watching(method: Callable[Concatenate[CallbackModule, P], None]) -> Callable[Concatenate[CallbackModule, P], None]:
    """Make an exception one warning and the end of the record, and nothing to the play."""

    @functools.wraps(method)
    def wrapped(self: CallbackModule, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception as error:
            self.give_up(error)

    return wrapped


class CallbackModule(CallbackBase):
    """See DOCUMENTATION."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "llama.nexus.deployment_record"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._record: Any = None  # a results.Writer while a playbook of ours runs
        self._began = 0.0
        self._hosts: dict[str, Seen] = {}
        self._builders: dict[str, str] = {}  # of releases that were made in this run
        self._check = False
        self._handlers: dict[int, Any] = {}
        self._pid = os.getpid()

    @watching
    def v2_playbook_on_start(self, playbook: Playbook) -> None:
        name = Path(playbook._file_name).name
        if name not in PLAYBOOKS:
            return
        self._began = time.monotonic()
        self._hosts, self._builders = {}, {}
        # No later than here: the library costs milliseconds, which other playbooks need not pay.
        sys.path.insert(0, str(ROOT))
        try:
            from nexus_tasks.core import provenance
            from nexus_tasks.records import store
        finally:
            sys.path.remove(str(ROOT))
        given = context.CLIARGS
        self._check = bool(given["check"])
        limit = given["subset"]
        plays = playbook.get_plays()
        header = {
            "target": limit or "all",
            "playbook": name,
            "check": self._check,
            "limit": limit,
            "tags": sorted(set(given["tags"]) - {"all"}),
            "skip_tags": sorted(given["skip_tags"]),
            "extra_vars": sorted(plays[0].get_variable_manager().extra_vars) if plays else [],
            "ansible": ansible_version,
            "git": provenance.git(ROOT),
            "controller": {"user": getpass.getuser(), "host": platform.node()},
        }
        folder = Path(self.get_option("results") or ROOT / "results")
        self._record = store.create("deployment", header, target=header["target"], root=folder)
        self._watch_for_the_end()

    @watching
    def v2_runner_on_start(self, host: Host, task: Task) -> None:
        if self._record:
            self._hosts.setdefault(host.name, Seen())

    @watching
    def v2_runner_on_ok(self, result: CallbackTaskResult) -> None:
        if self._record:
            self._went_on(result)

    @watching
    def v2_runner_on_skipped(self, result: CallbackTaskResult) -> None:
        if self._record:
            self._went_on(result)

    @watching
    def v2_runner_on_failed(self, result: CallbackTaskResult, ignore_errors: bool = False) -> None:
        if not self._record:
            return
        if ignore_errors:
            self._went_on(result)
        else:
            host = self._host(result)
            host.failed, host.failed_task = True, self._failed_task(result)
            self._look_for_instances(result)

    @watching
    def v2_runner_on_unreachable(self, result: CallbackTaskResult) -> None:
        if not self._record:
            return
        if result.task.ignore_unreachable:
            self._went_on(result)
        else:
            host = self._host(result)
            host.unreachable, host.failed_task = True, self._failed_task(result)

    @watching
    def v2_playbook_on_stats(self, stats: AggregateStats) -> None:
        if not self._record:
            return
        for name, host in self._hosts.items():
            # Ansible's own count knows what was rescued.
            host.failed, host.unreachable = stats.failures.get(name, 0) > 0, stats.dark.get(name, 0) > 0
        self._finish(interrupted=False)

    def give_up(self, error: Exception) -> None:
        """Say once that there is no record, or no more of it; the play goes on."""
        self._close()
        # Its own errors have a hint, which says what to do.
        what = str(error) if hasattr(error, "hint") else f"{type(error).__name__}: {error}"
        hint = f" ({error.hint})" if hasattr(error, "hint") else ""
        self._display.warning(f"no more is recorded of this deployment, which goes on: {what}{hint}")

    def _went_on(self, result: CallbackTaskResult) -> None:
        """A task after which the play goes on for its host: what failed before it was rescued."""
        host = self._host(result)
        host.failed = False
        host.changed += result.is_changed()
        self._look_at(result)

    def _look_at(self, result: CallbackTaskResult) -> None:
        self._look_for_instances(result)
        if action_of(result) in RELEASERS:
            self._look_for_a_release(result, action_of(result))

    def _look_for_a_release(self, result: CallbackTaskResult, action: str) -> None:
        host, said = self._host(result), result.result
        if action == RETAINER:
            if host.release and "kept" in said:  # else it was skipped: there are not too many
                host.release.retain(said, check=self._check)
            return
        manifest = said.get("manifest")
        manifest = manifest if isinstance(manifest, Mapping) and manifest.keys() >= {"name", "inputs"} else None
        where = result.task_fields.get("delegate_to") or result.host.name
        if where != result.host.name:  # the host that builds for this one, which does not have the release yet
            if host.release and (manifest or action == BUILDER):
                host.release.source = where
            if host.release and manifest:
                host.release.learn(manifest)
                self._builders[str(host.release.name)] = where
                builder = self._hosts.get(where, Seen()).release
                if builder:
                    builder.add(str(host.release.name))
            return
        if action == BUILDER and isinstance(said.get("name"), str):
            host.release = host.release or Release()
            host.release.look(said)
        elif not (host.release and manifest):  # a job that made something else
            return
        release, before = host.release, (host.release.name, host.release.how)
        if manifest:
            release.learn(manifest)
            if action == SHIPPER:
                release.arrive("taken", self._builders.get(str(release.name)))
            elif result.is_changed():
                release.arrive("built", result.host.name)
            elif release.how not in ARRIVED:
                release.arrive("there", None)
        if release.how in ("built", "taken") and (release.name, release.how) != before:
            self._record.append(release.row(result.host.name, None))

    def _look_for_instances(self, result: CallbackTaskResult) -> None:
        found = instances(result.result) if action_of(result) in REPORTERS else {}
        host = self._host(result)
        host.instances |= found
        # Written now, too: if the controller dies, what was deployed is still told.
        if any(row["state"] != "planned" for row in found.values()):
            self._record.append(host.row(result.host.name))

    def _host(self, result: CallbackTaskResult) -> Seen:
        host = self._hosts.setdefault(result.host.name, Seen())
        host.ended = time.monotonic()
        return host

    @staticmethod
    def _failed_task(result: CallbackTaskResult) -> Row:
        role = result.task._role
        return {
            "name": str(result.task_fields.get("name") or result.task.name or result.task.action),
            "role": role.get_name() if role else None,
            "message": excerpt(message(result.result)),
        }

    def _finish(self, *, interrupted: bool) -> None:
        rows = [host.row(name) for name, host in self._hosts.items()]
        releases = [host.release_row(name, check=self._check) for name, host in self._hosts.items()]
        for row in [*rows, *filter(None, releases)]:
            self._record.append(row)
        done = [row for row in rows if row["ok"]]
        self._record.finish(
            {
                "ok": len(done) == len(rows) and not interrupted,
                "interrupted": interrupted,
                "hosts": {
                    "ok": len(done),
                    "changed": sum(1 for row in done if row["changed"]),
                    "failed": sum(row["failed"] for row in rows),
                    "unreachable": sum(row["unreachable"] for row in rows),
                },
                "wall_s": round(time.monotonic() - self._began, 3),
            }
        )
        self._close()

    def _close(self) -> None:
        record, self._record = self._record, None
        if record:
            record.__exit__(None, None, None)
        atexit.unregister(self._cut_short)
        for number, handler in self._handlers.items():
            if signal.getsignal(number) == self._on_signal:
                signal.signal(number, handler)
        self._handlers = {}

    def _watch_for_the_end(self) -> None:
        """See to a summary of a run that is interrupted: no callback says so."""
        atexit.register(self._cut_short)
        for number in SIGNALS:
            handler = signal.getsignal(number)
            if handler not in (None, signal.SIG_IGN):  # nohup ignores SIGHUP, and so it stays
                with contextlib.suppress(ValueError):  # not the main thread
                    signal.signal(number, self._on_signal)
                    self._handlers[number] = handler

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Write the summary, then do what would have been done without it."""
        handler = self._handlers.get(number, signal.SIG_DFL)
        self._cut_short()
        signal.signal(number, handler)
        if callable(handler):
            handler(number, frame)
        else:
            os.kill(os.getpid(), number)

    @watching
    def _cut_short(self) -> None:
        if self._record and os.getpid() == self._pid:  # Ansible's workers are forks of this process
            self._finish(interrupted=True)
