"""Uses of models as run records tell them: deployed where, and how much was asked of it.

uses_of(store.load(path, "batch"))      [Use(host="rig-1", instance="main", model="qwen3-8b", requests=400, ...)]
of_jobs_last(uses)                      of each batch the last record's, which tells all of the others
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from nexus_tasks.records.batch_rows import EndpointRow
from nexus_tasks.records.benchmark_rows import Part
from nexus_tasks.records.deployment_rows import InstanceRow
from nexus_tasks.records.store import BatchRecord, BenchmarkRecord, DeploymentRecord

SERVING = ("verified", "restored", "undeclared")


class Use(Part, kw_only=True):
    """The part of one record that is about one model at one place.

    ``host`` is None for an address that is no instance of the inventory; ``instance`` is that address then.
    ``serves`` tells, of a deployment, whether the instance was left serving this model.
    """

    run_id: str
    kind: str
    started_at: str
    host: str | None
    instance: str
    model: str | None
    sha256: str | None = None
    loads: int = 0
    requests: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    serves: bool | None = None
    job: str | None = None


def uses_of(record: BenchmarkRecord | BatchRecord | DeploymentRecord) -> list[Use]:
    """The uses that a record tells of; one of a check, which changed nothing, has none."""
    if isinstance(record, DeploymentRecord):
        rows = [] if record.header.check else [(host.host, row) for host in record.hosts for row in host.instances]
        return [_deployed(record, host, row) for host, row in rows]
    if isinstance(record, BatchRecord):
        return [_of_batch(record, endpoint) for endpoint in record.endpoints]
    host, instance = _place(record.header.target)
    model = record.header.model
    return [
        Use(
            run_id=record.run_id, kind="benchmark", started_at=record.header.started_at, host=host, instance=instance,
            model=model.name, sha256=model.sha256, requests=len(record.requests),
            prompt_tokens=sum(row.prompt_tokens or 0 for row in record.requests),
            output_tokens=sum(row.output_tokens or 0 for row in record.requests),
        )
    ]  # fmt: skip


def of_jobs_last(uses: Iterable[Use]) -> list[Use]:
    """The uses without those of a batch's earlier records: each tells all that was done up to it."""
    newest: dict[str, str] = {}
    listed = list(uses)
    for use in listed:
        if use.job is not None:
            newest[use.job] = max(newest.get(use.job, ""), use.run_id)
    return [use for use in listed if use.job is None or newest[use.job] == use.run_id]


def serving(uses: Iterable[Use]) -> list[Use]:
    """Of each instance the last that a deployment left, where that serves."""
    last: dict[tuple[str | None, str], Use] = {}
    for use in sorted(uses, key=lambda use: use.started_at):
        if use.kind == "deployment":
            last[use.host, use.instance] = use
    return [use for use in last.values() if use.serves]


def _deployed(record: DeploymentRecord, host: str, row: InstanceRow) -> Use:
    proof = row.restored if row.state == "restored" and row.restored is not None else row
    model = proof.model
    serves = not row.removed and row.state in SERVING and model is not None
    return Use(
        run_id=record.run_id, kind="deployment", started_at=record.header.started_at, host=host, instance=row.name,
        model=model.name if model else None, sha256=model.sha256 if model else None,
        loads=int(row.changed and serves), serves=serves,
    )  # fmt: skip


def _of_batch(record: BatchRecord, endpoint: EndpointRow) -> Use:
    host, instance = _place(endpoint.endpoint)
    job = record.header.job
    return Use(
        run_id=record.run_id, kind="batch", started_at=record.header.started_at, host=host, instance=instance,
        model=endpoint.model, requests=endpoint.answered, prompt_tokens=endpoint.prompt_tokens or 0,
        output_tokens=endpoint.output_tokens or 0, job=msgspec.json.encode([job.name, job.created_at]).decode(),
    )  # fmt: skip


def _place(target: str) -> tuple[str | None, str]:
    """Host and instance of ``HOST/INSTANCE``; of an address no host, and the address."""
    host, slash, instance = target.partition("/")
    return (host, instance) if slash and instance and not host.endswith(":") else (None, target)
