"""Ansible callback: one run record a deployment, ``results/deployment/<run id>.jsonl`` on the controller.

Enabled in ansible.cfg; what the rows hold is in docs/records.md. It watches: whatever goes wrong in here is one
warning, and the play goes on as it would have.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import getpass
import json
import os
import platform
import signal
import time
from collections.abc import Callable
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

from ..plugin_utils.deployment_rows import Deployment, HostState, Row, excerpt, message

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
SIGNALS = (signal.SIGTERM, signal.SIGHUP)  # Ctrl-C ends in the usual way, through atexit
UNKNOWN_HERE = (
    "no record is written of this deployment, which goes on: this ansible-playbook lacks what writes it ({error}); "
    f"{ROOT / '.venv' / 'bin' / 'ansible-playbook'} has it"
)

P = ParamSpec("P")


def action_of(result: CallbackTaskResult) -> str:
    """The name of a task's action or module, without that of its collection."""
    return str(result.task.action.rpartition(".")[2])


def failed_task(result: CallbackTaskResult) -> Row:
    """The task that failed, for the row of its host."""
    role = result.task._role
    return {
        "name": str(result.task_fields.get("name") or result.task.name or result.task.action),
        "role": role.get_name() if role else None,
        "message": excerpt(message(result.result)),
    }


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
        self._record: Any = None  # a store.Writer while a playbook of ours runs
        self._began = 0.0
        self._deployment = Deployment()
        self._handlers: dict[int, Any] = {}
        self._pid = os.getpid()

    @watching
    def v2_playbook_on_start(self, playbook: Playbook) -> None:
        name = Path(playbook._file_name).name
        if name not in PLAYBOOKS:
            return
        self._began = time.monotonic()
        try:
            # No earlier than here: the library costs milliseconds, which other playbooks need not pay.
            from nexus_tasks.records import benchmark_rows, header, store
        except ImportError as error:
            self._display.warning(UNKNOWN_HERE.format(error=error))
            return
        given = context.CLIARGS
        self._deployment = Deployment(check=bool(given["check"]))
        limit = given["subset"]
        plays = playbook.get_plays()
        head = {
            "type": "header",
            "target": limit or "all",
            "git": benchmark_rows.fields(header.git(ROOT)),
            "playbook": name,
            "check": self._deployment.check,
            "limit": limit,
            "tags": sorted(set(given["tags"]) - {"all"}),
            "skip_tags": sorted(given["skip_tags"]),
            "extra_vars": sorted(plays[0].get_variable_manager().extra_vars) if plays else [],
            "ansible": ansible_version,
            "controller": {"user": getpass.getuser(), "host": platform.node()},
        }
        folder = Path(self.get_option("results") or ROOT / "results")
        self._record = store.create(self._typed(head), root=folder)
        self._watch_for_the_end()

    @watching
    def v2_runner_on_start(self, host: Host, task: Task) -> None:
        if self._record:
            self._deployment.hosts.setdefault(host.name, HostState())

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
            host = self._deployment.host(result.host.name)
            host.failed, host.failed_task = True, failed_task(result)
            self._take_instances(result)

    @watching
    def v2_runner_on_unreachable(self, result: CallbackTaskResult) -> None:
        if not self._record:
            return
        if result.task.ignore_unreachable:
            self._went_on(result)
        else:
            host = self._deployment.host(result.host.name)
            host.unreachable, host.failed_task = True, failed_task(result)

    @watching
    def v2_playbook_on_stats(self, stats: AggregateStats) -> None:
        if not self._record:
            return
        for name, host in self._deployment.hosts.items():
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
        host = self._deployment.host(result.host.name)
        host.failed = False
        host.changed += result.is_changed()
        self._take_instances(result)
        where = result.task_fields.get("delegate_to") or result.host.name
        row = self._deployment.take_release(
            result.host.name, action_of(result), result.result, where=where, changed=result.is_changed()
        )
        if row:
            self._append(row)

    def _take_instances(self, result: CallbackTaskResult) -> None:
        row = self._deployment.take_instances(result.host.name, action_of(result), result.result)
        if row:  # written now, too: if the controller dies, what was deployed is still told
            self._append(row)

    def _append(self, row: Row) -> None:
        self._record.append(self._typed(row))

    @staticmethod
    def _typed(row: Row) -> Any:
        from nexus_tasks.records import schema  # not at the top, as above

        # By way of JSON: Ansible's strings are of a subclass, which a row would keep and could not write.
        return schema.row("deployment", json.loads(json.dumps(row)))

    def _finish(self, *, interrupted: bool) -> None:
        for row in self._deployment.rows():
            self._append(row)
        summary = self._deployment.summary(time.monotonic() - self._began, interrupted=interrupted)
        self._record.finish(self._typed({"type": "summary", **summary}))
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
