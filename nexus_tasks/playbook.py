"""Run a playbook through ansible-runner, with a line a step and the time it takes.

run("deploy.yml", "--limit", "local", console=console)
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import ansible_runner
from rich.console import Console
from rich.markup import escape
from rich.status import Status

from nexus_tasks.errors import DeployError

ROOT = Path(__file__).resolve().parent.parent
LOGS = Path("logs")
LONG_SECONDS = 2.0


@dataclass
class Narrator:
    """Turns ansible-runner's events into lines for people, and keeps what went wrong.

    A line for each play, for each task that changed something or took long, and for the progress of a long one. On a
    terminal a spinner names the task that is running.
    """

    console: Console | None
    log: IO[str]
    status: Status | None = None
    started: float = field(default_factory=time.monotonic)
    task_started: float = 0.0
    failures: dict[str, str] = field(default_factory=dict)
    """The last failure of each host; those before it were rescued."""

    def __call__(self, event: Mapping[str, Any]) -> bool:
        """Handle one event. True, else ansible-runner drops it from its statistics."""
        text = event.get("stdout") or ""
        if text:
            self.log.write(f"{text}\n")
            self.log.flush()
        data = event.get("event_data", {})
        match event["event"]:
            case "playbook_on_play_start":
                self._say(f"[bold]{escape(data['name'])}")
            case "playbook_on_task_start":
                self.task_started = time.monotonic()
                if self.status:
                    self.status.update(escape(_name(data)))
            case "verbose" if text.startswith("  "):
                self._say(f"  [dim]{escape(text.strip())}")
            case "runner_on_ok":
                seconds = time.monotonic() - self.task_started
                changed = data.get("res", {}).get("changed", False)
                if changed or seconds >= LONG_SECONDS:
                    verdict = "[yellow]changed" if changed else "[green]ok"
                    self._say(f"  {verdict}[/] {escape(_name(data))}")
            case "runner_on_failed" | "runner_on_unreachable" | "runner_item_on_failed" if not data.get(
                "ignore_errors"
            ):
                message = str(data["res"].get("msg", "it gave no reason")).strip()
                # A loop fails once for each item, and then as a whole to say that items failed.
                if data["host"] not in self.failures or "items completed" not in message:
                    self.failures[data["host"]] = message
        return True

    def _say(self, line: str) -> None:
        if self.console:
            seconds = int(time.monotonic() - self.started)
            stamp = f"[cyan]{seconds // 60:3d}:{seconds % 60:02d}[/]"
            self.console.print(f"{stamp} {line}", highlight=False, no_wrap=True, overflow="ellipsis")


def _name(data: Mapping[str, Any]) -> str:
    role = f"{data['role']}: " if data.get("role") else ""
    return f"{role}{data['task']}"


def run(
    playbook: str, *arguments: str, console: Console | None = None, log: Path | None = None
) -> dict[str, dict[str, int]]:
    """Run a playbook of this repository and wait for it.

    Args:
        playbook: its path from the repository's root.
        arguments: options of ansible-playbook.
        console: where lines for people go; None is silence.
        log: the file that Ansible's own output goes to; None keeps it in memory only as long as it runs.

    Returns:
        Ansible's statistics: ``{"changed": {"localhost": 2}, "ok": {...}, ...}``.

    Raises:
        DeployError: the playbook failed; the message is that of each host's failed task.
        KeyboardInterrupt: it was interrupted; Ansible has ended.
    """
    if log:
        log.parent.mkdir(parents=True, exist_ok=True)
    # A folder a run: ansible-runner would otherwise find the variables and output of the run before.
    with (
        tempfile.TemporaryDirectory(prefix="llama-nexus-") as private,
        log.open("w", encoding="utf-8") if log else tempfile.TemporaryFile("w+", encoding="utf-8") as stream,
    ):
        narrator = Narrator(console, stream)
        spinner = console.status("starting ansible-playbook") if console else contextlib.nullcontext()
        with _own_signals(), spinner as narrator.status:
            result = ansible_runner.run(
                private_data_dir=private,
                project_dir=str(ROOT),
                playbook=playbook,
                # Without an activated environment, too, its own Ansible is the one that runs.
                envvars={"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"},
                cmdline=shlex.join(arguments),  # which ansible-runner splits again
                event_handler=narrator,
                quiet=True,
                suppress_env_files=True,
            )
        stream.flush()
        if result.status == "canceled":
            raise KeyboardInterrupt
        stats = result.stats or {}
        if result.rc != 0:
            where = f"; Ansible's output is in {log}" if log else ""
            lost = {**stats.get("failures", {}), **stats.get("dark", {})}  # not those that were rescued
            said = [f"{host}: {message}" for host, message in narrator.failures.items() if host in lost]
            message = "\n".join(said) or _last_words(stream, log)
            raise DeployError(message, hint=f"mend it and run {playbook} again: what is done stays done{where}")
    return {key: dict(value) for key, value in stats.items() if isinstance(value, dict)}


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Take SIGINT and SIGTERM back from ansible-runner, which keeps them after its run."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _last_words(stream: IO[str], log: Path | None) -> str:
    if log:
        text = log.read_text(encoding="utf-8")
    else:
        stream.seek(0)
        text = stream.read()
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "ansible-playbook failed before its first task"
