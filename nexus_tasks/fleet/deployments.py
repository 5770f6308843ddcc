"""The fleet as its deployments left it: what runs on which host, and what became of each deployment.

    state = deployments.read(Path("results"))
    deployments.sentences(state)      ["The fleet has 3 hosts with 5 instances.", "All 5 instances are verified.", ...]

Everything comes from the records of kind ``deployment``. A run with --check changes nothing, so it is listed and
otherwise counts for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from nexus_tasks.core.text import moment, plural
from nexus_tasks.hostlib.buffers import is_host
from nexus_tasks.records import store
from nexus_tasks.records.benchmark_rows import fields
from nexus_tasks.records.deployment_rows import Check, HostRow, InstanceRow, ProofRow
from nexus_tasks.records.store import DeploymentRecord

# What became of a host in a deployment, the worst of it.
OUTCOMES = ("verified", "unchanged", "restored", "failed", "stopped")
PROVEN = ("verified", "restored")  # a restored instance is what it was before, proven again
BROKEN = ("restored", "failed")
CAUSE_LENGTH = 200
NAMED = 3  # so many of those that are not well are named in a sentence


@dataclass(frozen=True)
class Instance:
    """An instance as the last deployment left it that reported it.

    ``row`` is as reported (docs/records.md); ``verified_at`` is when the last proof of it succeeded, None if none did.
    """

    host: str
    name: str
    at: datetime
    run_id: str
    row: InstanceRow
    verified_at: datetime | None

    @property
    def label(self) -> str:
        return f"{self.host}/{self.name}"

    @property
    def state(self) -> str:
        return self.row.state

    @property
    def serving(self) -> ProofRow:
        """The row of what runs: after a failed switch the one before it, where that was proven again."""
        return served(self.row)


@dataclass(frozen=True)
class Trouble:
    """A host whose last deployment failed where no instance tells of it: a build, a download, the connection."""

    host: str
    at: datetime
    run_id: str
    what: str
    message: str


@dataclass(frozen=True)
class Deployment:
    """One run: ``outcomes`` are those of its hosts, ``tone`` and ``verdict`` those of the whole."""

    record: DeploymentRecord
    outcomes: dict[str, str]
    tone: str
    verdict: str

    @property
    def check(self) -> bool:
        return self.record.header.check


@dataclass(frozen=True)
class Fleet:
    """All that the records tell. ``instances`` and ``troubles`` are sorted by name, ``deployments`` oldest first.

    ``unread`` holds one line for each record that cannot be read.
    """

    hosts: list[str]
    instances: list[Instance]
    troubles: list[Trouble]
    deployments: list[Deployment]
    unread: list[str]

    @property
    def broken(self) -> list[Instance]:
        """Instances that are not what was declared."""
        return [instance for instance in self.instances if instance.state in BROKEN]

    @property
    def real(self) -> list[Deployment]:
        """Deployments that were no check, oldest first."""
        return [deployment for deployment in self.deployments if not deployment.check]

    @property
    def well(self) -> bool:
        """True where everything that was deployed is as it was declared."""
        return not (self.broken or self.troubles or (self.real and interrupted(self.real[-1].record)))


def read(root: Path = store.ROOT) -> Fleet:
    """The fleet by all deployment records that can be read.

    Raises:
        RecordError: there are none, or the folder cannot be listed.
    """
    return tell(*store.load_readable_deployments(root))


def tell(records: Sequence[DeploymentRecord], unread: Sequence[str] = ()) -> Fleet:
    """The fleet by these records."""
    instances: dict[tuple[str, str], Instance] = {}
    troubles: dict[str, Trouble | None] = {}
    ordered = sorted(records, key=lambda record: record.started_at)
    for record in ordered:
        if record.header.check:
            continue
        for host in record.hosts:
            name = host.host
            for row in reported(host):
                key = (name, row.name)
                before = instances.pop(key, None)
                if row.removed:
                    continue
                proven = record.started_at if row.state in PROVEN else None
                if before:
                    proven = proven or before.verified_at
                    if row.state in ("stopped", "undeclared"):
                        row = _still_known(before.row, row)
                instances[key] = Instance(*key, record.started_at, record.run_id, row, proven)
            troubles[name] = _trouble(host, record)
    return Fleet(
        hosts=sorted(troubles),
        instances=[instances[key] for key in sorted(instances)],
        troubles=[trouble for _, trouble in sorted(troubles.items()) if trouble],
        deployments=[_deployment(record) for record in ordered],
        unread=list(unread),
    )


def sentences(fleet: Fleet) -> list[str]:
    """Three sentences: what there is, what of it is verified, and what is amiss or failed last."""
    return [_extent(fleet), _proof(fleet), _trouble_told(fleet)]


def reported(host: HostRow) -> list[InstanceRow]:
    """The instances that a deployment did something about; one that was only planned is as it was."""
    return [row for row in host.instances if row.state != "planned"]


def served(row: InstanceRow) -> ProofRow:
    """The row of what an instance serves, which after a failed switch may be what it served before."""
    return row.restored if row.restored and row.state == "restored" else row


def interrupted(record: DeploymentRecord) -> bool:
    """True for a run that did not come to its end."""
    return record.summary is None or record.summary.interrupted


def outcome(host: HostRow) -> str:
    """The outcome for a host: one of OUTCOMES, or nothing where no instance was touched and nothing failed."""
    states = {row.state for row in reported(host)}
    if "failed" in states:
        return "failed"
    if "restored" in states:
        return "restored"
    if not host.ok:
        return "failed"
    if "verified" in states:
        return "verified" if any(row.changed for row in reported(host)) else "unchanged"
    return "stopped" if states else ""


def failed_checks(row: InstanceRow) -> list[Check]:
    """The checks of a proof that did not hold."""
    return [check for check in row.checks if not check.ok]


def cause(row: InstanceRow) -> str:
    """The reason for which an instance is not what was declared, in a line."""
    if row.error:
        return _line(row.error)
    for check in failed_checks(row):
        difference = f"{check.check}: expected {check.expected}, found {check.found}"
        return _line(f"{difference} ({check.cause})" if check.cause else difference)
    return "no reason was given"


def aftermath(row: InstanceRow) -> str:
    """The state after a proof that failed, in a sentence."""
    if row.state == "restored":
        served_now = served(row)
        parts = [served_now.model.name if served_now.model else None, served_now.build, served_now.release]
        return f"It serves what it served before: {', '.join(filter(None, parts)) or 'proven again'}."
    if row.restored and row.restored.error:
        return f"What it served before does not serve either: {_line(row.restored.error)}."
    if not row.changed:
        return "It was left running."
    return "Nothing that was proven runs there."


def model_name(row: ProofRow) -> str:
    """The model that an instance serves; a router's models stand in its proof."""
    if row.model:
        return row.model.name or ""
    served_models = next((check.expected for check in row.checks if check.check == "models"), None)
    return ", ".join(map(str, served_models)) if isinstance(served_models, list) else ""


def device_memory_mib(row: ProofRow) -> dict[str, float]:
    """MiB by device: the server's buffers, else what the driver says its process uses; empty where neither is known.

    Mapped weights and buffers pinned for a GPU (``CPU_Mapped``, ``CUDA_Host``) are the host's memory.
    """
    by_device: dict[str, float] = {}
    for name, parts in (row.buffers_mib or {}).items():
        device = "CPU" if is_host(name) else name
        by_device[device] = by_device.get(device, 0.0) + sum(size for size in parts.values() if size)
    return by_device or {name: size for name, size in (row.gpu_processes_mib or {}).items() if size is not None}


def causes(record: DeploymentRecord) -> list[str]:
    """The failures of a run, a line for each instance or host."""
    lines = []
    for host in record.hosts:
        broken = [row for row in reported(host) if row.state in BROKEN]
        lines += [f"{host.host}/{row.name} {row.state}: {cause(row)}" for row in broken]
        if not broken and not host.ok:
            lines.append(f"{host.host}: {_line(_failure_of(host)[1])}")
    return lines


def _still_known(before: InstanceRow, row: InstanceRow) -> InstanceRow:
    """The row of one that was left alone or stopped, of which no more was found out than that."""
    told = {name: value for name, value in fields(row).items() if value is not None}
    return msgspec.structs.replace(before, **told, error=row.error)


def _trouble(host: HostRow, record: DeploymentRecord) -> Trouble | None:
    states = {row.state for row in reported(host)}
    if not host.ok and states.isdisjoint(BROKEN):
        what, message = _failure_of(host)
    elif host.ok and not states and interrupted(record):
        what, message = "interrupted", "the run was interrupted before it came to an instance"
    else:
        return None
    return Trouble(host.host, record.started_at, record.run_id, what, message)


def _failure_of(host: HostRow) -> tuple[str, str]:
    """The task at which a host failed, and its message."""
    task = host.failed_task
    if host.unreachable:
        what = "not reached"
    else:
        what = ": ".join(part for part in (task.role, task.name) if part) if task else "failed"
    return what, task.message if task and task.message else "no reason was given"


def _deployment(record: DeploymentRecord) -> Deployment:
    outcomes = {host.host: outcome(host) for host in record.hosts}
    wrong = causes(record)
    if interrupted(record):
        tone, verdict = "bad", "; ".join(["interrupted", *wrong])
    elif wrong:
        tone, verdict = "bad", "; ".join(wrong)
    elif record.header.check:
        would = sum(1 for host in record.hosts if host.changed)
        tone, verdict = "muted", f"check: {plural(would, 'host')} would change"
    else:
        results = list(outcomes.values())
        parts = [f"{results.count(one)} {one}" for one in OUTCOMES if one in results]
        tone, verdict = ("good", ", ".join(parts)) if parts else ("muted", "no instance was deployed")
    return Deployment(record, outcomes, tone, verdict)


def _extent(fleet: Fleet) -> str:
    if not fleet.hosts:
        return "Nothing has been deployed yet."
    if not fleet.instances:
        return f"The fleet has {plural(len(fleet.hosts), 'host')}, and no instance yet."
    return f"The fleet has {plural(len(fleet.hosts), 'host')} with {plural(len(fleet.instances), 'instance')}."


def _proof(fleet: Fleet) -> str:
    states = [instance.state for instance in fleet.instances]
    wanted = [state for state in states if state in ("verified", *BROKEN)]
    others = [
        f"{states.count(state)} {'is' if states.count(state) == 1 else 'are'} {words}"
        for state, words in (("stopped", "stopped"), ("undeclared", "no longer declared"))
        if state in states
    ]
    if not wanted:
        verified = "no instance is meant to run" if others else "no instance has been verified"
    elif wanted.count("verified") == len(wanted):
        verified = "the one instance is verified" if len(wanted) == 1 else f"all {len(wanted)} instances are verified"
        verified = verified if not others else f"{plural(len(wanted), 'instance')} of {len(states)} verified"
    else:
        broken = ", ".join(f"{wanted.count(state)} {state}" for state in BROKEN if state in wanted)
        verified = f"{wanted.count('verified')} of {plural(len(wanted), 'instance')} verified, {broken}"
    sentence = ", ".join([verified, *others])
    return f"{sentence[0].upper()}{sentence[1:]}."


def _trouble_told(fleet: Fleet) -> str:
    wrong = [f"{one.label} {_became(one)} ({moment(one.at)}): {cause(one.row)}" for one in fleet.broken]
    wrong += [f"{one.host} ({one.what}, {moment(one.at)}): {_line(one.message)}" for one in fleet.troubles]
    if not wrong and not fleet.well:
        last = fleet.real[-1].record
        wrong = [f"the last deployment ({last.header.target}, {moment(last.started_at)}) was interrupted"]
    if wrong:
        more = f"; and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        return f"Not as it should be: {'; '.join(wrong[:NAMED])}{more}."
    bad = [deployment for deployment in fleet.real if deployment.tone == "bad"]
    if not bad:
        return "No deployment has failed."
    last = bad[-1].record
    return f"Nothing is amiss now; the last failure was on {moment(last.started_at)}: {bad[-1].verdict}."


def _became(instance: Instance) -> str:
    return "serves what it served before" if instance.state == "restored" else "failed"


def _line(text: Any) -> str:
    """The first line of a text, without the stop at its end."""
    line = str(text).strip().partition("\n")[0].rstrip(".")
    return line if len(line) <= CAUSE_LENGTH else f"{line[: CAUSE_LENGTH - 1].rstrip()}…"
