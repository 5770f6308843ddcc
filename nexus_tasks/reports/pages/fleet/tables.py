"""Tables of the fleet's page: its top, every instance, what is not as it should be, the last deployments.

    tables.head(state)
    tables.instances(state)

Each takes what :func:`nexus_tasks.fleet.deployments.read` makes of all deployments.
"""

from __future__ import annotations

import json
from typing import Any

from nexus_tasks.core.text import MISSING, memory, minute, moment, number, plural, whole
from nexus_tasks.fleet import deployments
from nexus_tasks.fleet.deployments import Deployment, Fleet, Instance
from nexus_tasks.records.deployment_rows import ProofRow
from nexus_tasks.reports.markup import Block, Cell, Column, Rows, fill, note, table


def head(state: Fleet) -> Block:
    """The top of the fleet's page: three sentences, and the numbers behind them."""
    last = state.real[-1] if state.real else None
    verified = sum(1 for instance in state.instances if instance.state == "verified")
    failed = sum(1 for deployment in state.real if deployment.tone == "bad")
    return fill(
        "blocks/fleet_head.html",
        hosts=plural(len(state.hosts), "host"),
        tone="good" if state.well else "bad",
        when=moment(last.record.started_at) if last else None,
        sentences=deployments.sentences(state),
        tiles={
            "Hosts": (
                str(len(state.hosts)),
                f"{len(state.troubles)} in trouble" if state.troubles else "none in trouble",
            ),
            "Verified": (f"{verified}/{len(state.instances)}", "instances"),
            "Deployments": (str(len(state.real)), f"{failed} failed" if failed else "none failed"),
            "Last deployment": (f"{last.record.started_at:%d %b %H:%M}" if last else MISSING, _done(last)),
        },
    )


def instances(state: Fleet) -> Block:
    """Every instance as its last deployment left it."""
    if not state.instances:
        return note("No deployment has come as far as an instance.")
    return fill("blocks/fleet.html", instances=[_instance(instance) for instance in state.instances])


def trouble(state: Fleet) -> Block:
    """The section about what is not as it should be, with the checks that did not hold; empty where all is well."""
    broken = [
        {
            "label": instance.label,
            "state": instance.state,
            "when": moment(instance.at),
            "error": deployments.cause(instance.row),
            "aftermath": deployments.aftermath(instance.row),
            "checks": _checks(instance.row),
            "log": "\n".join(map(str, instance.row.log_tail or [])),
            "run_id": instance.run_id,
        }
        for instance in state.broken
    ]
    hosts = [
        {"host": one.host, "what": one.what, "when": moment(one.at), "message": one.message, "run_id": one.run_id}
        for one in state.troubles
    ]
    return fill("blocks/fleet_trouble.html", broken=broken, hosts=hosts) if broken or hosts else Block("")


def listed(state: Fleet, limit: int) -> Block:
    """The last deployments, newest first, checks too."""
    columns = [
        Column("When", "UTC", numeric=False),
        Column("Target", numeric=False),
        Column("Playbook", numeric=False),
        Column("Hosts"),
        Column("Changed"),
        Column("Took", "s"),
        Column("Revision", numeric=False),
        Column("What became of it", numeric=False),
    ]
    rows: Rows = []
    for deployment in reversed(state.deployments[-limit:] if limit > 0 else []):
        header, summary = deployment.record.header, deployment.record.summary
        commit = header.git.commit
        texts = [
            minute(deployment.record.started_at),
            header.target,
            f"{header.playbook}{', check' if deployment.check else ''}",
            str(len(deployment.record.hosts)),
            str(sum(1 for host in deployment.record.hosts if host.changed)),
            number(summary.wall_s if summary else None),
            f"{commit[:8]}{'+' if header.git.dirty else ''}" if commit else MISSING,
        ]
        muted = "muted" if deployment.check else ""
        rows.append([*(Cell(text, muted) for text in texts), Cell(deployment.verdict, deployment.tone)])
    left_out = len(state.deployments) - len(rows)
    captions = [f"The last {len(rows)} of {len(state.deployments)}."] if left_out else []
    captions += ["Changed counts hosts. A revision with + had local changes. A check changed nothing."]
    unread = "".join(note(f"Left out, unreadable: {line}").html for line in state.unread)
    return Block(unread + table(columns, rows, " ".join(captions)).html)


def footer(state: Fleet) -> Block:
    """The foot: where the page comes from."""
    return fill("blocks/fleet_footer.html", count=len(state.deployments))


def _done(last: Deployment | None) -> str:
    """The target of the last deployment and how it ended, in a few letters."""
    if last is None:
        return "none yet"
    return f"{last.record.header.target}: {'failed' if last.tone == 'bad' else 'done'}"


def _instance(instance: Instance) -> dict[str, Any]:
    """An instance's cells: what runs there, and where that is another than was declared, so marked by its state."""
    row = instance.serving
    layers = row.offloaded
    state = instance.state
    return {
        "host": instance.host,
        "name": instance.name,
        "runtime": row.runtime or "",
        "state": state,
        "tone": {"verified": "good", "restored": "bad", "failed": "bad"}.get(state, "muted"),
        "verified_at": moment(instance.verified_at) if instance.verified_at else "never",
        "model": deployments.model_name(row) or MISSING,
        "sha256": (row.model.sha256 or "")[:12] if row.model else "",
        "build": row.build or MISSING,
        "release": row.release or "",
        "decode_tps": number(row.tokens_per_second),
        "n_ctx": whole(row.n_ctx),
        "slots": plural(row.slots, "slot") if row.slots else "",
        "layers": f"{layers[0]}/{layers[1]}" if layers else MISSING,
        "memory": {device: memory(size) for device, size in deployments.device_memory_mib(row).items()},
    }


def _checks(row: ProofRow) -> str:
    """The checks of a proof, those that did not hold first."""
    checks = sorted(row.checks or [], key=lambda check: bool(check.ok))
    if not checks:
        return ""
    columns = [Column(title, numeric=False) for title in ("Check", "Expected", "Found", "Likely cause")]
    rows: Rows = []
    for check in checks:
        tone = "muted" if check.ok else "bad"
        texts = (check.check, check.expected, check.found, check.cause or "")
        rows.append([Cell(_text(texts[0]), tone), _text(texts[1]), Cell(_text(texts[2]), tone), _text(texts[3])])
    return table(columns, rows).html


def _text(value: Any) -> str:
    """A value of any type as a reader knows it."""
    if value is None:
        return MISSING
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
