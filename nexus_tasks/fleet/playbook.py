"""Run a playbook through ansible-runner: what people see of it while it runs, and what came of it.

    outcome = playbook.run("deploy.yml", "--limit", "local", console=console, log=Path("logs/deploy.log"))
    outcome.rows["localhost"], outcome.stats["changed"]

People see a line for each play, each change and each long task, and on a terminal below them a line for each host that
says what it does now.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import IO, Any

import ansible_runner
import psutil
from rich.console import Console, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from nexus_tasks.core.errors import DeployError, UsageError
from nexus_tasks.core.provenance import ROOT
from nexus_tasks.fleet import ansible_environment, patterns
from nexus_tasks.hostlib.task_results import reasons
from nexus_tasks.hostlib.terminal_text import all_plain, plain

LOGS = Path("logs")
LONG_SECONDS = 2.0
TELLING = ("debug", "set_fact")
STDERR_LINES = 5  # of what failed: its last ones
WAITS_SECONDS = 1.0  # without a task: less is the time between two
GRACE_SECONDS = 10.0  # for Ansible to end by itself after Ctrl-C
# What Ansible says where it can't ask, and the variable that names a file with the answer.
PASSWORDS = {
    r"Missing sudo password|Incorrect sudo password|sudo: a password is required": "ANSIBLE_BECOME_PASSWORD_FILE",
    r"no vault secrets": "ANSIBLE_VAULT_PASSWORD_FILE",
}
# As plugins/action/follow.py writes it: the host, the time that passed, and what the job says.
PROGRESS = re.compile(r"  (\S+) +\d+m\d\ds  (.*)")

Row = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run.

    ``stats`` is Ansible's: ``{"changed": {"localhost": 2}, "ok": {...}, ...}``. ``rows`` has by host what the modules
    of role llama_server said of each instance last. ``failures`` has the message of each host that was lost, and not
    of those that recovered; ``error`` is what Ansible said last where it failed without a host.
    """

    status: int
    stats: dict[str, dict[str, int]]
    rows: dict[str, list[Row]]
    failures: dict[str, str]
    error: str = ""

    @property
    def hosts(self) -> list[str]:
        return sorted(self.stats.get("processed", {}))

    @property
    def unreachable(self) -> set[str]:
        return set(self.stats.get("dark", {}))

    def must_be_read(self) -> Outcome:
        """This, where the instances of every host are known that did not fail.

        Raises:
            DeployError: of a host nothing came: what runs there is not known, which is not that nothing does.
        """
        unread = [host for host in self.hosts if host not in self.rows and host not in self.failures]
        if unread:
            raise DeployError(
                f"what Ansible found out about {', '.join(unread)} could not be read: nobody knows what runs there",
                hint="ansible-playbook playbooks/status.yml shows it; something keeps ansible-runner from its events",
            )
        return self

    def problem(self) -> str:
        """The reason for a failure: a line or more for each host that did."""
        return "\n".join(f"{host}: {message}" for host, message in self.failures.items()) or self.error


@dataclass
class Activity:
    """The activity of one host now."""

    task: str = ""
    since: float = 0.0
    """Time at which it began the task, or ended it, on the narrator's clock."""
    busy: bool = False
    progress: str = ""
    trouble: str = ""

    def words(self, now: float) -> str:
        """Its task, or that of a moment ago."""
        if self.trouble and not self.busy:
            return self.trouble
        if not self.busy and now - self.since > WAITS_SECONDS:
            return "waits"
        return f"{self.task}: {self.progress}" if self.progress else self.task


@dataclass
class Narrator:
    """Turns ansible-runner's events into what people see, and keeps what is asked for afterwards."""

    console: Console | None
    log: IO[str]
    narrate: bool = True
    """True for a line for each thing that happened; what the hosts do now is shown in any case."""
    clock: Callable[[], float] = time.monotonic
    hosts: dict[str, Activity] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    """The last failure of each host; those before it were rescued."""
    rows: dict[str, dict[str, Row]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.started = self.clock()
        self._told: set[tuple[str, str]] = set()
        self._log_is_broken = False
        self._spinner, self._beginning = Spinner("dots"), Spinner("dots", "starting ansible-playbook")
        terminal = self.console is not None and self.console.is_terminal and not self.console.is_dumb_terminal
        self.live = Live(get_renderable=self.now, console=self.console, transient=True) if terminal else None

    def __call__(self, event: Mapping[str, Any]) -> bool:
        """Handle one event. True, else ansible-runner drops it from its statistics."""
        text = plain((event.get("stdout") or "").replace("\r\n", "\n"))
        if text:
            self._log(text)
        data = event.get("event_data", {})
        match event["event"]:
            case "playbook_on_play_start":
                self._say(f"[bold]{escape(data['name'])}")
            case "runner_on_start":
                trouble = self.hosts.get(data["host"], Activity()).trouble
                self.hosts[data["host"]] = Activity(_name(data), since=self.clock(), busy=True, trouble=trouble)
            case "verbose" if step := PROGRESS.fullmatch(text):
                self._progress(step[1], step[2])
            case "warning":
                self._warn("", text.strip().removeprefix("[WARNING]: "))
            case "runner_on_file_diff" if text:
                self._show_diff(data["host"], text)
            case "runner_on_ok" | "runner_on_skipped" | "runner_on_failed" | "runner_on_unreachable" as kind:
                self._ended(kind.removeprefix("runner_on_"), data)
        return True

    def _log(self, text: str) -> None:
        """Write to the log as long as that works: a disk that is full is no reason to leave a play halfway."""
        if self._log_is_broken:
            return
        try:
            self.log.write(f"{text}\n")
            self.log.flush()
        except OSError as error:
            self._log_is_broken = True
            self._warn("", f"no more of Ansible's output is kept: {error.strerror}")

    def now(self) -> RenderableType:
        """The lines at the bottom of a terminal, one a host."""
        hosts = sorted(self.hosts.items(), key=lambda host: (not host[1].busy, not host[1].trouble, host[0]))
        if not hosts:
            return self._beginning
        table = Table.grid(padding=(0, 1), expand=True)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, max_width=24)
        table.add_column(width=6, justify="right", style="cyan")
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        for name, activity in hosts:
            style = "" if activity.busy else "red" if activity.trouble else "dim"
            mark = self._spinner if activity.busy else "!" if activity.trouble else ""
            elapsed = _elapsed(self.clock() - activity.since) if activity.busy else ""
            table.add_row(mark, escape(name), elapsed, Text(activity.words(self.clock()), style))
        return table

    def _ended(self, how: str, data: Mapping[str, Any]) -> None:
        host, result = data["host"], data.get("res") or {}
        activity = self.hosts.setdefault(host, Activity(_name(data), since=self.clock()))
        seconds, activity.since = self.clock() - activity.since, self.clock()
        activity.busy, activity.progress = False, ""
        self._keep_rows(host, result)
        for warning in result.get("warnings") or ():
            self._warn(host, plain(str(warning)))
        if how in ("failed", "unreachable") and not data.get("ignore_errors"):
            self.failures[host] = _reason(result)
            activity.trouble = f"{how}: {' '.join(self.failures[host].split())}"
        elif how == "ok":
            # A host that does more after a failure was rescued; one that only tells of it was not.
            if str(data.get("task_action", "")).rpartition(".")[2] not in TELLING:
                activity.trouble = ""
            changed = result.get("changed", False)
            if changed or seconds >= LONG_SECONDS:
                verdict = "[yellow]changed" if changed else "[green]ok"
                self._say(f"  {verdict}[/] {self._prefix(host)}{escape(activity.task)}")

    def _keep_rows(self, host: str, result: Mapping[str, Any]) -> None:
        judged = (result.get("ansible_facts") or {}).get("llama_server_rows")
        rows = result.get("instances") if judged is None else judged
        if isinstance(rows, list) and all(isinstance(row, dict) and {"name", "state"} <= row.keys() for row in rows):
            kept = self.rows.setdefault(host, {})
            if judged is not None:
                kept.clear()
            kept |= {row["name"]: row for row in map(all_plain, rows)}

    def _progress(self, host: str, line: str) -> None:
        activity = self.hosts.setdefault(host, Activity(since=self.clock(), busy=True))
        if not self.live and line != activity.progress:
            self._say(f"  [dim]{self._prefix(host)}{escape(line)}")
        activity.progress = line

    def _warn(self, host: str, text: str) -> None:
        if (host, text) not in self._told:
            self._told.add((host, text))
            self._say(f"  [yellow]warning[/] {self._prefix(host)}{escape(' '.join(text.split()))}", whole=True)

    def _show_diff(self, host: str, text: str) -> None:
        if not self.console or not self.narrate:
            return
        self._say(f"  difference on [bold]{escape(host)}")
        styles = {"+": "green", "-": "red", "@": "cyan"}
        for line in text.strip("\n").splitlines():
            self.console.print(Text(f"      {line}", styles.get(line[:1], "")), soft_wrap=True)

    def _prefix(self, host: str) -> str:
        """The host's name, where there is more than one."""
        return f"{escape(host)}: " if host and len(self.hosts) > 1 else ""

    def _say(self, line: str, *, whole: bool = False) -> None:
        if self.console and self.narrate:
            stamp = f"[cyan]{_elapsed(self.clock() - self.started):>6}[/]"
            self.console.print(f"{stamp} {line}", highlight=False, no_wrap=not whole, overflow="ellipsis")


def _elapsed(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _name(data: Mapping[str, Any]) -> str:
    role = f"{data['role']}: " if data.get("role") else ""
    return f"{role}{data['task']}"


def run(
    playbook: str,
    *arguments: str,
    console: Console | None = None,
    narrate: bool = True,
    log: Path | None = None,
    check: bool = True,
) -> Outcome:
    """Run a playbook of this repository and wait for it.

    Args:
        playbook: its path from the repository's root.
        arguments: options of ansible-playbook.
        console: where lines for people go; None is silence.
        narrate: whether each play and change is a line; without, only a terminal shows what goes on.
        log: the file that Ansible's own output goes to; None keeps it in memory only as long as it runs.
        check: whether a failed playbook is an error.

    Raises:
        DeployError: the playbook failed; the message is that of each host's failed task.
        UsageError: a limit is empty, or has an empty word.
        KeyboardInterrupt: it was interrupted; Ansible has ended. Jobs that it started on hosts go on there.
    """
    patterns.check_limits(arguments)
    # A folder a run: ansible-runner would otherwise find the variables and output of the run before.
    with tempfile.TemporaryDirectory(prefix="llama-nexus-") as private, _opened(log) as stream:
        narrator = Narrator(console, stream, narrate)
        with _interrupts() as interrupts:
            with _environment():
                result = ansible_runner.interface.init_runner(
                    private_data_dir=private,
                    project_dir=str(ROOT),
                    playbook=playbook,
                    cmdline=shlex.join(arguments),  # which ansible-runner splits again
                    event_handler=narrator,
                    cancel_callback=interrupts.too_late,
                    fact_cache_type="memory",
                    quiet=True,
                    suppress_env_files=True,
                )
            with narrator.live or contextlib.nullcontext():
                result.run()
        if interrupts.count:
            raise KeyboardInterrupt
        stats = {key: dict(value) for key, value in (result.stats or {}).items() if isinstance(value, dict)}
        lost = {**stats.get("failures", {}), **stats.get("dark", {})}  # not those that were rescued
        outcome = Outcome(
            status=result.rc,
            stats=stats,
            rows={host: list(rows.values()) for host, rows in narrator.rows.items()},
            failures={host: message for host, message in narrator.failures.items() if host in lost},
            error="" if result.rc == 0 else _with_remedy(_last_words(stream, log)),
        )
    if check and outcome.status != 0:
        where = f"; Ansible's output is in {log}" if log else ""
        raise DeployError(outcome.problem(), hint=f"mend it and run {playbook} again: what is done stays done{where}")
    return outcome


def run_on(
    pattern: str, playbook: str, *arguments: str, console: Console | None = None, narrate: bool = True
) -> Outcome:
    """Run a playbook on the hosts of an inventory pattern, and wait for it. What fails on a host is in the outcome.

    Args:
        pattern: of the inventory; the others are those of :func:`run`.

    Raises:
        UsageError: no host matches the pattern.
        DeployError: Ansible failed before it came to a host.
        KeyboardInterrupt: as :func:`run` does.
    """
    outcome = run(playbook, "--limit", pattern, *arguments, console=console, narrate=narrate, check=False)
    if not outcome.hosts:
        if outcome.status != 0 and "no hosts to target" not in outcome.error:
            raise DeployError(outcome.error, hint=f"ansible-playbook {playbook} -l {pattern} says more")
        if outcome.status == 0 and not outcome.stats:
            raise DeployError(
                "what Ansible did could not be read", hint=f"try ansible-playbook {playbook} -l {pattern}"
            )
        raise UsageError(
            f"the inventory has no host that matches {pattern}",
            hint="ansible-inventory --graph shows its groups and hosts",
        )
    return outcome


@contextlib.contextmanager
def _opened(log: Path | None) -> Iterator[IO[str]]:
    """The file for Ansible's output. What of it can't be written at the end is lost, and that was told."""
    try:
        if log:
            log.parent.mkdir(parents=True, exist_ok=True)
        stream = log.open("w", encoding="utf-8") if log else tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - closed below, which may fail
    except OSError as error:
        raise DeployError(
            f"{log.absolute() if log else tempfile.gettempdir()} must be writable: {error.strerror}",
            hint="Ansible's output goes there; mend the folder, or work in another one",
        ) from error
    try:
        yield stream
    finally:
        with contextlib.suppress(OSError):
            stream.close()


def new_log() -> Path:
    """The file for the output of a deployment that begins now."""
    return LOGS / f"deploy-{datetime.now():%Y%m%dT%H%M%S}.log"


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """The environment that ansible-runner is to begin with: it can be added to there, and nothing left out."""
    made = ansible_environment.made(os.environ)
    warning = made.warning()
    if warning and warning not in _told:
        _told.add(warning)
        sys.stderr.write(f"note: {warning}\n")
    kept = dict(os.environ)
    _set(made.variables)
    try:
        yield
    finally:
        _set(kept)


def _set(variables: Mapping[str, str]) -> None:
    """Have these variables in the environment, and no others; at no moment without those that stay."""
    os.environ.update(variables)
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]


_told: set[str] = set()


class _Interrupts:
    """Ctrl-C and SIGTERM, passed on to ansible-playbook, which then ends its work and its record.

    ansible-runner would kill it at once, and not what it started.
    """

    def __init__(self) -> None:
        self.count = 0
        self._since = 0.0
        self._before = set(psutil.Process().children())

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.count == 1:
            self._since = time.monotonic()
            self._send(signal.SIGINT, recursive=False)
        else:
            self._send(signal.SIGKILL, recursive=True)

    def too_late(self) -> bool:
        """True where ansible-runner should end what did not end by itself."""
        late = self.count > 0 and time.monotonic() - self._since > GRACE_SECONDS
        if late:
            self._send(signal.SIGKILL, recursive=True)
        return late

    def _send(self, number: int, *, recursive: bool) -> None:
        for child in set(psutil.Process().children()) - self._before:
            for process in [*(child.children(recursive=True) if recursive else []), child]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)


@contextlib.contextmanager
def _interrupts() -> Iterator[_Interrupts]:
    """Handle SIGINT and SIGTERM for Ansible, and give them back afterwards."""
    handler = _Interrupts()
    kept = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield handler
    finally:
        for number, before in kept.items():
            signal.signal(number, before)


def _reason(result: Mapping[str, Any]) -> str:
    """The reason for which a task failed, with the end of what the program said that it is about."""
    text = plain("\n".join(reasons(result, stderr_lines=STDERR_LINES)))
    return _with_remedy(text.replace("\n>>> Standard Error\n", " "))


def _with_remedy(text: str) -> str:
    """Ansible's message, and where it wanted a password, how it gets one."""
    variable = next((name for pattern, name in PASSWORDS.items() if re.search(pattern, text)), None)
    return f"{text.rstrip('.')}: put it into a file, and export {variable}=FILE" if variable else text


def _last_words(stream: IO[str], log: Path | None) -> str:
    """Ansible's last error, or else its last line."""
    if log:
        text = log.read_text(encoding="utf-8")
    else:
        stream.seek(0)
        text = stream.read()
    errors = re.findall(r"^(?:\[ERROR\]|ERROR!):? (.+(?:\n(?!Origin:).+)*)", text, re.MULTILINE)
    errors += re.findall(r"^ansible-playbook: error: (.+)", text, re.MULTILINE)  # with pages of usage around it
    lines = [line for line in text.splitlines() if line.strip()]
    return (
        " ".join(errors[-1].split())
        if errors
        else (lines[-1] if lines else "ansible-playbook failed before its first task")
    )
