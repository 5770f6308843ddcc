"""Usage of the fleet's gateways: asked of their hosts, kept as a record.

found = collecting.collect(None, since, until)
path = collecting.write(found, Path("results"))

Each record is made from the gateways' logs anew, and can be thrown away as long as those are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from nexus_tasks.accounting import totals
from nexus_tasks.core import provenance
from nexus_tasks.core.errors import DeployError
from nexus_tasks.fleet import inventory
from nexus_tasks.records import header, store
from nexus_tasks.records.benchmark_rows import Machine
from nexus_tasks.records.usage_rows import UsageHeader, UsageRow, UsageSummary

GATEWAYS = "gateways:local"


@dataclass(frozen=True)
class Usage:
    """Usage of some gateways from ``since`` to ``until``; ``lost`` says why others could not be asked."""

    pattern: str
    since: datetime
    until: datetime
    gateways: list[str]
    rows: list[UsageRow]
    bounds_ms: list[int]
    damaged: int
    lost: Mapping[str, str] = field(default_factory=dict)


def collect(pattern: str | None, since: datetime, until: datetime) -> Usage:
    """Ask the gateways of a pattern, by default all.

    Raises:
        DeployError: no host has a gateway's log, or none could be asked.
        UsageError: the pattern matches no host.
    """
    chosen = pattern or GATEWAYS
    variables = {"usage_since": since.timestamp(), "usage_until": until.timestamp()}
    told, lost = inventory.answer(chosen, "playbooks/usage.yml", "usage_file", variables)
    there = [one for one in told if one["there"]]
    if not there:
        where = ", ".join(one["host"] for one in told) or chosen
        said = "".join(f"\n{host}: {why}" for host, why in lost.items())
        raise DeployError(
            f"no gateway has a log on {where}{said}",
            hint="deploy one: name its host in group gateways, or set gateway_enabled: true for it (docs/gateway.md)",
        )
    return Usage(
        pattern=chosen,
        since=since,
        until=until,
        gateways=[one["host"] for one in there],
        rows=[_row(one["host"], row) for one in there for row in one["rows"]],
        bounds_ms=list(there[0]["bounds_ms"]),
        damaged=sum(one["damaged"] for one in there),
        lost=lost,
    )


def _row(host: str, row: Mapping[str, Any]) -> UsageRow:
    return msgspec.convert({**row, "type": "usage", "gateway": host}, UsageRow)


def write(usage: Usage, results: Path) -> Path:
    """Write a record of usage, and return its path.

    Raises:
        RecordError: it can't be written.
    """
    total = totals.overall(usage.rows, usage.bounds_ms)
    first = UsageHeader(
        target=usage.pattern,
        git=header.git(),
        gateways=usage.gateways,
        since=usage.since.isoformat(timespec="seconds"),
        until=usage.until.isoformat(timespec="seconds"),
        bounds_ms=usage.bounds_ms,
        client=msgspec.convert(provenance.client(), Machine),
    )
    with store.create(first, root=results) as record:
        for row in usage.rows:
            record.append(row)
        record.finish(
            UsageSummary(
                requests=total.requests,
                answered=total.answered,
                prompt_tokens=total.prompt_tokens,
                cached_tokens=total.cached_tokens,
                completion_tokens=total.completion_tokens,
                damaged=usage.damaged,
                lost=dict(usage.lost),
            )
        )
        return record.path
