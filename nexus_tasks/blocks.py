"""The tables and notes of a report, as HTML blocks that a notebook cell shows.

    blocks.head(record, past)
    blocks.summary(record)
    blocks.fleet_head(state)

Each takes a record, or the history that :func:`nexus_tasks.frames.history` makes of it; those of the fleet take what
:func:`nexus_tasks.fleet.read` makes of all deployments.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from nexus_tasks import fleet, frames, runs
from nexus_tasks.fleet import Deployment, Fleet, Instance
from nexus_tasks.frames import Change, History
from nexus_tasks.markup import MISSING, Block, Cell, Column, Rows, fill, moment, note, number, percent, table
from nexus_tasks.results import Record, Row

# What the report calls a metric, its unit, and whether more of it is better.
METRICS: dict[str, tuple[str, str, bool]] = {
    "ttft_ms": ("Time to first token", "ms", False),
    "itl_ms": ("Inter-token latency", "ms", False),
    "total_ms": ("Whole request", "ms", False),
    "decode_tps": ("Decode rate", "tokens/s", True),
    "prefill_tps": ("Prefill rate (server)", "tokens/s", True),
}
TILES = {"ttft_ms": "TTFT", "decode_tps": "Decode", "itl_ms": "ITL", "prefill_tps": "Prefill"}


def head(record: Record, past: History) -> Block:
    """The top of the page: what was measured, the verdict, and the main numbers."""
    tone, sentence = runs.verdict(record)
    measured = runs.metrics(record)
    tiles = []
    for name, label in TILES.items():
        if name in measured:
            stats, unit = measured[name], METRICS[name][1]
            tail = f"p99 {number(stats['p99'])}" if stats["p99"] is not None else f"n = {stats['n']}"
            tiles.append(
                {
                    "label": f"{label}, median",
                    "value": number(stats["median"]),
                    "unit": unit,
                    "detail": f"{number(stats['min'])} to {number(stats['max'])}, {tail}",
                    "change": _change_cell(name, past.changes.get(name)),
                }
            )
    agreed = frames.agreement(record)
    if agreed is not None:
        tiles.append(
            {
                "label": "Client against server",
                "value": percent(agreed[2]).rstrip("%").rstrip(),
                "unit": "%",
                "detail": f"decode {number(agreed[0])} against {number(agreed[1])} ms",
                "change": None,
            }
        )
    return fill(
        "blocks/head.html",
        target=record.header["target"],
        model=runs.model_name(record),
        when=moment(record.started_at),
        workload=_workload(record),
        partial=record.summary is None,
        tone=tone,
        verdict=sentence,
        tiles=tiles,
    )


def measured(record: Record) -> Block:
    """What was measured, with what, on what."""
    header = record.header
    endpoint, model, server = header["endpoint"], header["model"], header["server"]
    client, git, workload = header["client"], header["git"], header["workload"]
    size = model["size_bytes"]
    groups: dict[str, dict[str, Any]] = {
        "Server": {
            "Address": endpoint["base_url"],
            "Engine": endpoint["engine"],
            "Build": server["build"],
            "Release": server["release"],
            "Context": _count(server["n_ctx"], "tokens"),
            "Slots": _count(server["total_slots"]),
        },
        "Model": {
            "Name": model["name"] or endpoint["model"],
            "File": model["path"],
            "Size": f"{size / 2**20:,.1f} MiB" if size else None,
            "Parameters": _count(model["n_params"]),
            "Trained context": _count(model["n_ctx_train"], "tokens"),
            "SHA-256": model["sha256"],
        },
        "Hardware of the client" + (", which is the server's" if client["local"] else ""): {
            "Host": client["hostname"],
            "Processor": f"{client.get('cpu') or 'unknown'}, {client.get('cpu_count')} cores",
            "Memory": _count(client["memory_mib"], "MiB"),
            "GPU": "; ".join(_gpu(gpu) for gpu in header["gpus"]) or "none",
            "System": client["os"],
            "Python": client["python"],
        },
        "Workload": {
            "Preset": workload["preset"] or "explicit sizes",
            "Prompt": _count(workload["prompt_tokens"], "tokens")
            + (", the same each time" if workload["prompts"] == "same" else ", different each time"),
            "Output": _count(workload["output_tokens"], "tokens")
            + (", end of text ignored" if workload["ignore_eos"] else ""),
            "Requests": f"{workload.get('runs')} after {workload.get('warmup')} to warm up",
            "API": workload["api"],
            "Temperature": workload["temperature"],
            "Git revision": _revision(git),
        },
    }
    argv = server["argv"]
    return fill(
        "blocks/measured.html",
        groups={
            title: {key: value for key, value in facts.items() if value not in (None, MISSING)}
            for title, facts in groups.items()
        },
        command=_command(argv) if argv else None,
    )


def summary(record: Record) -> Block:
    """The statistics of each metric, as the record's trailer has them."""
    measured = runs.metrics(record)
    if not measured:
        return note("No statistics: no request succeeded.", "bad")
    parts = ("min", "median", "mean", "p90", "p95", "p99", "max", "stdev")
    columns = [Column("Metric", numeric=False), Column("n"), *(Column(part) for part in parts)]
    rows = [
        [f"{title}, {unit}", f"{measured[name]['n']:,}", *(number(measured[name].get(p)) for p in parts)]
        for name, (title, unit, _) in METRICS.items()
        if name in measured
    ]
    return table(
        columns,
        rows,
        "Percentiles are given from 20 points on; below that, the points themselves are drawn further down. "
        "Warm-up requests don't count.",
    )


def failures(record: Record) -> Block:
    """The requests that failed, with their causes; empty when none did."""
    failed = [row for row in frames.requests(record).to_dict("records") if not row["ok"]]
    if not failed:
        return Block("")
    rows: Rows = [
        [
            _request_name(row),
            number(row["start_s"]),
            Cell(str(row["error_kind"]), "bad"),
            str(row["error_message"]),
        ]
        for row in failed
    ]
    columns = [
        Column("Request", numeric=False),
        Column("Sent at", "s"),
        Column("Cause", numeric=False),
        Column("Message", numeric=False),
    ]
    return fill("blocks/failures.html", table=table(columns, rows).html, count=len(rows))


def requests(record: Record) -> Block:
    """Every request, warm-ups and failures too."""
    frame = frames.requests(record)
    if frame.empty:
        return note("No request was completed.", "bad")
    columns = [
        Column("Request", numeric=False),
        Column("Sent at", "s"),
        Column("Prompt", "tokens"),
        Column("Output", "tokens"),
        Column("TTFT", "ms"),
        Column("Decode", "ms"),
        Column("Total", "ms"),
        Column("Decode", "tokens/s"),
        Column("Prefill", "tokens/s"),
        Column("ITL median", "ms"),
        Column("ITL max", "ms"),
        Column("End", numeric=False),
    ]
    measures = (
        "ttft_ms", "decode_ms", "total_ms", "decode_tps", "prefill_tps", "itl_median_ms", "itl_max_ms",
    )  # fmt: skip
    rows = []
    for row in frame.to_dict("records"):
        tone = "muted" if row["phase"] == "warmup" else "" if row["ok"] else "bad"
        texts = [
            _request_name(row),
            number(row["start_s"]),
            *(_count(row[key]) for key in ("prompt_tokens", "output_tokens")),
            *(number(row[key]) for key in measures),
            str((row["finish_reason"] if row["ok"] else row["error_kind"]) or MISSING),
        ]
        rows.append([Cell(text, tone) for text in texts])
    return table(columns, rows)


def agreement(record: Record, limit_percent: float) -> Block:
    """The client's decode times beside the server's own, and whether they agree."""
    agreed = frames.agreement(record)
    if agreed is None:
        return note("This server reports no timings of its own, so there is nothing to hold the client's against.")
    client, server, difference = agreed
    within = abs(difference) <= limit_percent
    return note(
        f"Decoding took {number(client)} ms by the client's clock and {number(server)} ms by the server's: "
        f"{percent(difference)}, {'within' if within else 'outside'} the mark of ±{limit_percent:g} %.",
        "good" if within else "bad",
    )


def history(past: History) -> Block:
    """This run and earlier ones of its target, and how this one moved."""
    if len(past.runs) == 1:
        lines = ["No earlier run of this target."]
    elif not past.changes:
        lines = ["No earlier run of this target had the same workload and the same model."]
    else:
        lines = []
    columns = [
        Column("Run", numeric=False),
        Column("Workload", numeric=False),
        Column("Model", numeric=False),
        Column("Build", numeric=False),
        Column("TTFT", "ms"),
        Column("ITL", "ms"),
        Column("Decode", "tokens/s"),
        Column("Prefill", "tokens/s"),
    ]
    rows = []
    for position, row in enumerate(past.runs.to_dict("records")):
        tone = "" if row["comparable"] else "muted"
        texts = [
            moment(row["started_at"]) + (" (this run)" if position == 0 else "" if row["ok"] else " (not ok)"),
            row["workload"],
            row["model"],
            row["build"] + (" (other options)" if row["argv_changed"] else ""),
            *(number(row[f"{name}_median"]) for name in ("ttft_ms", "itl_ms", "decode_tps", "prefill_tps")),
        ]
        rows.append([Cell(text, tone) for text in texts])
        if position == 0 and past.changes:
            changes = [
                _change_cell(name, past.changes.get(name)) or Cell(MISSING, "muted")
                for name in ("ttft_ms", "itl_ms", "decode_tps", "prefill_tps")
            ]
            rows.append([Cell("change since the last like it", "muted"), Cell(""), Cell(""), Cell(""), *changes])
    lines += [f"Left out, unreadable: {line}" for line in past.unread]
    caption = (
        "Medians. Grey runs had another workload or another model. A change is coloured when the ranges of "
        "the two runs don't overlap; otherwise it may be noise."
    )
    return Block("".join(note(line).html for line in lines) + table(columns, rows, caption).html)


def footer(record: Record) -> Block:
    """Where the numbers come from."""
    return fill("blocks/footer.html", run_id=record.run_id, kind=record.header["kind"])


def fleet_head(state: Fleet) -> Block:
    """The top of the fleet's page: three sentences, and the numbers behind them."""
    last = state.real[-1] if state.real else None
    verified = sum(1 for instance in state.instances if instance.state == "verified")
    failed = sum(1 for deployment in state.real if deployment.tone == "bad")
    return fill(
        "blocks/fleet_head.html",
        hosts=_count(len(state.hosts), "host" if len(state.hosts) == 1 else "hosts"),
        tone="good" if state.well else "bad",
        when=moment(last.record.started_at) if last else None,
        sentences=fleet.sentences(state),
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


def fleet_instances(state: Fleet) -> Block:
    """Every instance as its last deployment left it."""
    if not state.instances:
        return note("No deployment has come as far as an instance.")
    return fill("blocks/fleet.html", instances=[_instance(instance) for instance in state.instances])


def fleet_trouble(state: Fleet) -> Block:
    """What is not as it should be, with the checks that did not hold; empty where all is well."""
    broken = [
        {
            "label": instance.label,
            "state": instance.state,
            "when": moment(instance.at),
            "error": fleet.cause(instance.row),
            "aftermath": fleet.aftermath(instance.row),
            "checks": _checks(instance.row),
            "log": "\n".join(map(str, instance.row.get("log_tail") or [])),
            "run_id": instance.run_id,
        }
        for instance in state.broken
    ]
    hosts = [
        {"host": one.host, "what": one.what, "when": moment(one.at), "message": one.message, "run_id": one.run_id}
        for one in state.troubles
    ]
    return fill("blocks/fleet_trouble.html", broken=broken, hosts=hosts) if broken or hosts else Block("")


def fleet_deployments(state: Fleet, limit: int) -> Block:
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
        header, summary = deployment.record.header, deployment.record.summary or {}
        commit = header["git"]["commit"]
        texts = [
            f"{deployment.record.started_at:%Y-%m-%d %H:%M}",
            str(header["target"]),
            f"{header['playbook']}{', check' if deployment.check else ''}",
            str(len(deployment.record.hosts)),
            str(sum(1 for host in deployment.record.hosts if host["changed"])),
            number(summary.get("wall_s")),
            f"{commit[:8]}{'+' if header['git']['dirty'] else ''}" if commit else MISSING,
        ]
        muted = "muted" if deployment.check else ""
        rows.append([*(Cell(text, muted) for text in texts), Cell(deployment.verdict, deployment.tone)])
    left_out = len(state.deployments) - len(rows)
    captions = [f"The last {len(rows)} of {len(state.deployments)}."] if left_out else []
    captions += ["Changed counts hosts. A revision with + had local changes. A check changed nothing."]
    unread = "".join(note(f"Left out, unreadable: {line}").html for line in state.unread)
    return Block(unread + table(columns, rows, " ".join(captions)).html)


def fleet_footer(state: Fleet) -> Block:
    """Where the page comes from."""
    return fill("blocks/fleet_footer.html", count=len(state.deployments))


def _change_cell(name: str, change: Change | None) -> Cell | None:
    if change is None:
        return None
    better = (change.percent > 0) == METRICS[name][2]
    return Cell(percent(change.percent), ("good" if better else "bad") if change.distinct else "muted")


def _workload(record: Record) -> str:
    workload: Mapping[str, Any] = record.header["workload"]
    sizes = f"{workload.get('prompt_tokens')} prompt and {workload.get('output_tokens')} output tokens"
    return f"{workload['preset']}: {sizes}" if workload["preset"] else sizes


def _count(value: float | None, unit: str = "") -> str:
    return MISSING if value is None or value != value else f"{value:,.0f} {unit}".rstrip()


def _request_name(row: Mapping[Hashable, Any]) -> str:
    return f"{row['index']} warm-up" if row["phase"] == "warmup" else f"{row['index']}"


def _gpu(gpu: Mapping[str, Any]) -> str:
    memory = gpu["memory_total_mib"] and _count(gpu["memory_total_mib"], "MiB")
    driver = gpu["driver"] and f"driver {gpu['driver']}"
    return ", ".join(filter(None, [gpu["name"] or "unnamed", memory, driver]))


def _revision(git: Mapping[str, Any]) -> str | None:
    commit = git["commit"]
    return f"{commit[:12]}{' with local changes' if git.get('dirty') else ''}" if commit else None


def _command(argv: Sequence[str]) -> str:
    """One flag a line with its values, quoted as a shell reads them."""
    lines: list[list[str]] = []
    for word in argv:
        if not lines or word.startswith("--") or (word.startswith("-") and word[1:2].isalpha()):
            lines.append([word])
        else:
            lines[-1].append(word)
    return " \\\n    ".join(shlex.join(line) for line in lines)


def _done(last: Deployment | None) -> str:
    """Where the last deployment went and how it ended, in a few letters."""
    if last is None:
        return "none yet"
    return f"{last.record.header['target']}: {'failed' if last.tone == 'bad' else 'done'}"


def _instance(instance: Instance) -> dict[str, Any]:
    """An instance's cells: what runs there, and where that is another than was declared, so marked by its state."""
    row = instance.serving
    model = row.get("model") or {}
    layers = row.get("offloaded")
    state = instance.state
    return {
        "host": instance.host,
        "name": instance.name,
        "runtime": row.get("runtime") or "",
        "state": state,
        "tone": {"verified": "good", "restored": "bad", "failed": "bad"}.get(state, "muted"),
        "verified_at": moment(instance.verified_at) if instance.verified_at else "never",
        "model": fleet.model_name(row) or MISSING,
        "sha256": (model.get("sha256") or "")[:12],
        "build": row.get("build") or MISSING,
        "release": row.get("release") or "",
        "decode_tps": number(row.get("tokens_per_second")),
        "n_ctx": _count(row.get("n_ctx")),
        "slots": f"{row['slots']} slot{'' if row['slots'] == 1 else 's'}" if row.get("slots") else "",
        "layers": f"{layers[0]}/{layers[1]}" if layers else MISSING,
        "memory": {device: _memory(size) for device, size in fleet.device_memory_mib(row).items()},
    }


def _memory(mib: float) -> str:
    return number(mib / 1024, "GiB") if mib >= 1024 else number(mib, "MiB")


def _checks(row: Row) -> str:
    """The checks of a proof, those that did not hold first."""
    checks = sorted(row.get("checks") or [], key=lambda check: bool(check.get("ok")))
    if not checks:
        return ""
    columns = [Column(title, numeric=False) for title in ("Check", "Expected", "Found", "Likely cause")]
    rows: Rows = []
    for check in checks:
        tone = "muted" if check.get("ok") else "bad"
        texts = (check.get("check"), check.get("expected"), check.get("found"), check.get("cause") or "")
        rows.append([Cell(_text(texts[0]), tone), _text(texts[1]), Cell(_text(texts[2]), tone), _text(texts[3])])
    return table(columns, rows).html


def _text(value: Any) -> str:
    """A value of any type as a reader knows it."""
    if value is None:
        return MISSING
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
