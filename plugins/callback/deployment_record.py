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
BUILDERS = ("llama_cpp_release",)
SIGNALS = (signal.SIGTERM, signal.SIGHUP)  # Ctrl-C ends in the usual way, through atexit
HEAD_LINES = 4
TAIL_LINES = 20
LINE_LENGTH = 500
TEXT_LENGTH = 8000

Row = dict[str, Any]
P = ParamSpec("P")


@dataclass
class Seen:
    """What is known of one host so far."""

    began: float = field(default_factory=time.monotonic)
    ended: float = field(default_factory=time.monotonic)
    changed: int = 0
    release: str | None = None
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
            "release": self.release,
            "instances": list(self.instances.values()),
            "changed": self.changed,
            "ok": not (self.failed or self.unreachable),
            "failed": self.failed,
            "unreachable": self.unreachable,
            "failed_task": self.failed_task if self.failed or self.unreachable else None,
            "seconds": round(self.ended - self.began, 3),
        }


def excerpt(text: str) -> str:
    """The first and the last lines of a message, without the middle of a log."""
    lines = [line[:LINE_LENGTH] for line in text.strip().splitlines()]
    left_out = len(lines) - HEAD_LINES - TAIL_LINES
    if left_out > 0:
        lines[HEAD_LINES:-TAIL_LINES] = [f"({left_out} lines left out)"]
    return "\n".join(lines)


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
        return str(value[:TEXT_LENGTH])
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
    CALLBACK_NAME = "deployment_record"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._record: Any = None  # a results.Writer while a playbook of ours runs
        self._began = 0.0
        self._hosts: dict[str, Seen] = {}
        self._handlers: dict[int, Any] = {}
        self._pid = os.getpid()

    @watching
    def v2_playbook_on_start(self, playbook: Playbook) -> None:
        name = Path(playbook._file_name).name
        if name not in PLAYBOOKS:
            return
        self._began = time.monotonic()
        self._hosts = {}
        # No later than here: the library costs milliseconds, which other playbooks need not pay.
        sys.path.insert(0, str(ROOT))
        try:
            from nexus_tasks import provenance, results
        finally:
            sys.path.remove(str(ROOT))
        given = context.CLIARGS
        limit = given["subset"]
        plays = playbook.get_plays()
        header = {
            "target": limit or "all",
            "playbook": name,
            "check": bool(given["check"]),
            "limit": limit,
            "tags": sorted(set(given["tags"]) - {"all"}),
            "skip_tags": sorted(given["skip_tags"]),
            "extra_vars": sorted(plays[0].get_variable_manager().extra_vars) if plays else [],
            "ansible": ansible_version,
            "git": provenance.git(ROOT),
            "controller": {"user": getpass.getuser(), "host": platform.node()},
        }
        folder = Path(self.get_option("results") or ROOT / "results")
        self._record = results.create("deployment", header, target=header["target"], root=folder)
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
        self._look_for_instances(result)

    def _look_for_instances(self, result: CallbackTaskResult) -> None:
        action = result.task.action.rpartition(".")[2]
        host = self._host(result)
        if action in BUILDERS and isinstance(result.result.get("name"), str):
            host.release = str(result.result["name"])
        if action not in REPORTERS:
            return
        found = instances(result.result)
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
        for row in rows:
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
