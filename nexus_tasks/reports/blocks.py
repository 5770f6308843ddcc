"""The tables and notes of a report, as HTML blocks that a notebook cell shows.

    blocks.head(record, past)
    blocks.generator(record)
    blocks.fleet_head(state)

Each takes a record, or the history that :func:`nexus_tasks.reports.frames.history` makes of it; those of the fleet
take what :func:`nexus_tasks.fleet.deployments.read` makes of all deployments.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from nexus_tasks.core.text import MISSING, SPACE, interval, memory, minute, moment, number, percent, plural, span, whole
from nexus_tasks.fleet import deployments
from nexus_tasks.fleet.deployments import Deployment, Fleet, Instance
from nexus_tasks.load.generator import MAX_CPU, MAX_LAG_P99_MS, MIN_IN_FLIGHT
from nexus_tasks.records import runs
from nexus_tasks.records.store import Record, Row
from nexus_tasks.reports import frames, stories
from nexus_tasks.reports.frames import Change, History
from nexus_tasks.reports.markup import Block, Cell, Column, Rows, fill, note, table

# What the report calls a metric, its unit, and whether more of it is better.
METRICS: dict[str, tuple[str, str, bool]] = {
    "ttft_ms": ("Time to first token", "ms", False),
    "ttft_visible_ms": ("Time to first visible token", "ms", False),
    "queue_ms": ("TTFT that was not prefill", "ms", False),
    "itl_ms": ("Inter-token latency", "ms", False),
    "tpot_ms": ("Time per output token", "ms", False),
    "total_ms": ("Whole request", "ms", False),
    "decode_tps": ("Decode rate of a request", "tokens/s", True),
    "prefill_tps": ("Prefill rate (server)", "tokens/s", True),
    "late_ms": ("Sent too late", "ms", False),
}
TILES = {"ttft_ms": "TTFT", "itl_ms": "ITL", "decode_tps": "Decode", "prefill_tps": "Prefill"}
RATES = {"output_tps": ("Output", "tokens/s"), "requests_per_s": ("Requests", "requests/s")}
LISTED_REQUESTS = 40  # more requests than this, and the table has those that stand out
HELD_BACK_MAX_PERCENT = 5.0  # a few wait for the rest of a character; more were lost on the way


def head(record: Record, past: History) -> Block:
    """The top of the page: what was measured, what happened in three sentences, and the main numbers."""
    return page_head(record, past, stories.benchmark(record), "Benchmark")


def page_head(record: Record, past: History, sentences: Sequence[str], kind: str) -> Block:
    """The top of a page about one run."""
    tone, _ = runs.verdict(record)
    return fill(
        "blocks/head.html",
        kicker=" · ".join(filter(None, [kind, moment(record.started_at), record.header["tag"]])),
        target=record.header["target"],
        title=runs.model_name(record),
        subtitle=f"on {record.header['target']}",
        subject=f"{runs.sizes(record)} tokens, {runs.load_name(record)}",
        tone=tone,
        badge=runs.badge(record),
        sentences=sentences,
        tiles=tiles(record, past),
        since="the last like it",
    )


def tiles(record: Record, past: History) -> list[dict[str, Any]]:
    """The main numbers of a run with interval, tail, and how they moved; of several levels, those of the one that the
    first sentence names."""
    stages = runs.stages(record)
    several = len(stages) > 1
    stage = stories.told(record)
    at = f"at {stage['level']}"
    found = stage["metrics"] if several else runs.metrics(record)
    found = {name: stats for name, stats in found.items() if stats}
    rates = stage["throughput"] or {}
    made: list[dict[str, Any]] = []
    for name, (label, unit) in RATES.items():
        if (rates.get(name) or 0) > 0 and (name == "output_tps" or not rates["output_tps"]):
            made.append(_tile(f"{label}, all requests", number(rates[name]), unit, at))
    for name, label in (TILES if found.keys() & TILES.keys() else {"total_ms": "Whole request"}).items():
        if name in found:
            stats, unit = found[name], METRICS[name][1]
            sure = interval((stats.get("ci") or {}).get("median"))
            count = f"n{SPACE}={SPACE}{stats['n']}"
            tail = f"p99{SPACE}{number(stats['p99'])}" if stats["p99"] is not None else count
            ends = f"95{SPACE}%:{SPACE}{sure}" if sure else f"{number(stats['min'])} to {number(stats['max'])}"
            change = None if several else _change_cell(name, past.changes.get(name))
            detail = f"{ends}; {tail}" if stats["n"] > 1 else count
            made.append(_tile(f"{label}, median", number(stats["median"]), unit, detail, change))
    goodput = stage["goodput"]
    if goodput and goodput["share"] is not None:
        detail = f"{number(goodput['requests_per_s'], 'requests/s')} met the SLOs"
        made.append(_tile("Goodput", f"{goodput['share'] * 100:.0f}", "%", detail))
    energy = (record.summary or {}).get("energy")
    if energy and energy["joules_per_token"] is not None:
        detail = f"{number(energy['joules'], 'J')} in all"
        made.append(_tile("Energy", number(energy["joules_per_token"]), "J/token", detail))
    return made


def _tile(label: str, value: str, unit: str, detail: str, change: Cell | None = None) -> dict[str, Any]:
    return {"label": label, "value": value, "unit": unit, "detail": detail, "change": change}


def measured(record: Record) -> Block:
    """What was measured, with what, on what."""
    header = record.header
    endpoint, model, server = header["endpoint"], header["model"], header["server"]
    client, git, workload, load = header["client"], header["git"], header["workload"], header["load"]
    state, size = header["host_state"], model["size_bytes"]
    counts = [plan.get("requests") for plan in load["planned"]]
    groups: dict[str, dict[str, Any]] = {
        "Server": {
            "Address": endpoint["base_url"],
            "Reached": f"by an ssh tunnel to {endpoint['tunnel']['host']}" if endpoint["tunnel"] else None,
            "Engine": endpoint["engine"],
            "Build": server["build"],
            "Release": server["release"],
            "Context": whole(server["n_ctx"], "tokens"),
            "Slots": whole(server["total_slots"]),
            "Driver": runs.driver_name(record),
            "Power limit": ", ".join(f"{watts:g} W" for watts in state["power_limit_w"] or []) or None,
            "Clocks, at most": ", ".join(f"{mhz:g} MHz" for mhz in state["clocks_max_mhz"] or []) or None,
            "Governor": state["governor"],
        },
        "Model": {
            "Name": runs.model_name(record),
            "File": model["path"],
            "Size": f"{size / 2**20:,.1f} MiB" if size else None,
            "Parameters": whole(model["n_params"]),
            "Trained context": whole(model["n_ctx_train"], "tokens"),
            "SHA-256": model["sha256"],
        },
        "Hardware of the client" + (", which is the server's" if client["local"] else ""): {
            "Host": client["hostname"],
            "Processor": f"{client.get('cpu') or 'unknown'}, {client.get('cpu_count')} cores",
            "Memory": whole(client["memory_mib"], "MiB"),
            "GPU": "; ".join(_gpu(gpu) for gpu in header["gpus"]) or "none",
            "System": client["os"],
            "Python": client["python"],
        },
        "Workload": {
            "Preset": workload["preset"] or ("explicit sizes" if workload["kind"] == "synthetic" else None),
            "Kind": workload["kind"],
            "File": _file(workload["file"]),
            "Prompt": _length(workload["prompt_tokens"], _prompts(workload)),
            "Prompts": ", ".join(f"{length:,}" for length in workload.get("lengths") or []) + " tokens"
            if workload.get("lengths")
            else None,
            "Output": _length(workload["output_tokens"], ", end of text ignored" if workload["ignore_eos"] else ""),
            "Turns": workload["turns"] if workload["turns"] > 1 else None,
            "API": workload["api"],
            "Temperature": _plain(workload["temperature"]),
            "Seed": workload["seed"],
        },
        "Load": {
            "Load": runs.load_name(record),
            "Requests": f"{sum(counts):,} that count" if all(counts) and counts else None,
            "Until": f"{load['until']['metric']} is known to {load['until']['percent']:g} %" if load["until"] else None,
            "SLO": ", ".join(runs.objective_text(*one) for one in load["slo"].items()) or None,
            "Processes": load["processes"] if load["processes"] > 1 else None,
            "Interleaved with": load["interleaved_with"],
            "Git revision": _revision(git),
        },
    }
    argv = server["argv"]
    return fill(
        "blocks/measured.html",
        groups={
            title: {key: value for key, value in facts.items() if value not in (None, MISSING, "")}
            for title, facts in groups.items()
        },
        command=_command(argv) if argv else None,
    )


def generator(record: Record) -> Block:
    """Whether the generator was the bottleneck: what it says of itself at each level, against its bounds."""
    found = [row for row in runs.stages(record) if row["watch"]]
    if record.header["load"]["engine"] != "http":
        return note("llama.cpp's own tool measured on the host itself, so there was no load generator to be too slow.")
    if not found:
        return note(
            "This record is older than the generator's watch over itself, or was cut short before a level ended."
        )
    rows: Rows = []
    for row in found:
        watch = row["watch"]
        asked = watch["in_flight_asked"]
        late = (watch["lag_ms"]["p99"] or 0) > MAX_LAG_P99_MS and not watch["valid"]
        low = asked and watch["in_flight"] is not None and watch["in_flight"] < MIN_IN_FLIGHT * asked
        rows.append(
            [
                row["level"],
                Cell(number(watch["in_flight"]) + (f" of {asked:g}" if asked else ""), "bad" if low else ""),
                Cell(number(watch["cpu_per_process"]), "bad" if watch["cpu_per_process"] >= MAX_CPU else ""),
                Cell(number(watch["lag_ms"]["p99"]), "bad" if late else ""),
                number(watch["late_ms"]["p50"]),
                number(watch["late_ms"]["p99"]),
                number(watch["late_ms"]["max"]),
                {"enough": "known well enough", "errors": "too many errors", "exhausted": "no more prompts"}.get(
                    watch["stopped"] or "", "done"
                ),
                Cell("yes", "good") if watch["valid"] else Cell("no", "bad"),
            ]
        )
    columns = [
        Column("Level", numeric=False),
        Column("In flight", "mean"),
        Column("CPU", "cores a process"),
        Column("Loop lag", "p99, ms"),
        Column("Late", "median, ms"),
        Column("Late", "p99, ms"),
        Column("Late", "most, ms"),
        Column("Ended", numeric=False),
        Column("Valid", numeric=False),
    ]
    caption = (
        f"Valid: at least {MIN_IN_FLIGHT * 100:.0f} % of the requests asked for in flight, less than {MAX_CPU:g} of a "
        f"core in each process, and at most {MAX_LAG_P99_MS:g} ms of lag. Late is from the moment at which a request "
        "was due to that at which it was sent; its latency counts from the former."
    )
    reasons = [f"{row['level']}: {reason}." for row in found for reason in row["watch"]["reasons"]]
    said = fill("blocks/tally.html", lines=[(reason, "bad") for reason in reasons]).html if reasons else ""
    return Block(said + table(columns, rows, caption).html)


def _held_back(record: Record) -> tuple[int, int]:
    """Tokens that llama-server generated in good answers, and how many of them came without a moment of their own.

    Only its own completions say with each event how many tokens there are.
    """
    if record.header["workload"]["api"] != "completion" or record.header["endpoint"]["engine"] != "llama.cpp":
        return 0, 0
    generated = arrived = 0
    for row in stories.counted(record):
        if row["server"] and row["server"]["predicted_n"] is not None and row["ttft_ms"] is not None:
            generated += int(row["server"]["predicted_n"])
            arrived += len(row["itl_ms"]) + 1
    return generated, generated - arrived


def tally(record: Record) -> Block:
    """What was asked against what the server says it worked on, and which backends answered."""
    counted = frames.counted(frames.requests(record))
    lines = []
    prompts = [
        row for row in record.requests if row["phase"] == "run" and (row["server"] or {}).get("prompt_n") is not None
    ]
    if prompts and record.header["workload"]["prompt_tokens"]:
        off = sum(not row["ok"] and row["error"]["message"].startswith("the server saw") for row in prompts)
        lines.append(
            (f"{off} of {len(prompts):,} prompts had another number of tokens than asked.", "bad")
            if off
            else (f"All {len(prompts):,} prompts had as many tokens at the server as asked.", "good")
        )
    generated, late = _held_back(record)
    if generated:
        share = late / generated * 100
        lines.append(
            (
                f"{late:,} of {generated:,} tokens came with the end of their answers ({share:.2g} %): they have no "
                "moment of their own, and no part in the speeds.",
                "bad" if share > HELD_BACK_MAX_PERCENT else "muted",
            )
            if late
            else (f"All {generated:,} tokens that the server generated arrived, each with its moment.", "good")
        )
    cached = int((counted["cached_tokens"] > 0).sum())
    if cached:
        share = counted["cached_tokens"].sum() / counted["prompt_tokens"].sum() * 100
        told = (
            f"{cached:,} of {len(counted):,} prompts came from the server's cache in part ({share:.0f} % of all tokens)"
        )
        lines.append((f"{told}: they count in every figure but the prefill rate.", "muted"))
    drafts = [row["draft"] for row in stories.counted(record) if row.get("draft") and row["draft"]["n"]]
    if drafts:
        share = sum(draft["accepted"] for draft in drafts) / sum(draft["n"] for draft in drafts) * 100
        lines.append((f"{share:.0f} % of the drafted tokens were accepted.", "muted"))
    reasoning = counted["reasoning_tokens"].sum()
    if reasoning > 0:
        share = reasoning / counted["output_tokens"].sum() * 100
        lines.append((f"{share:.0f} % of the output tokens were reasoning, which a user doesn't see.", "muted"))
    share, why = frames.throttled(record)
    if share:
        lines.append((f"A GPU was slowed down in {share * 100:.0f} % of the samples: {', '.join(why)}.", "bad"))
    backends = counted["backend"].dropna().value_counts()
    if len(backends):
        told = ", ".join(f"{name} ({plural(count, 'request')})" for name, count in backends.items())
        lines.append((f"Answered by: {told}.", "muted"))
    return fill("blocks/tally.html", lines=lines) if lines else Block("")


def summary(record: Record) -> Block:
    """The statistics of each metric, as the record's trailer has them, with intervals."""
    found = runs.metrics(record)
    if not found:
        return note("No statistics: no request succeeded.", "bad")
    parts = ("min", "median", "mean", "p90", "p95", "p99", "max", "stdev")
    columns = [Column("Metric", numeric=False), Column("n"), *(Column(part) for part in parts)]
    rows: Rows = []
    if (found.get("ttft_visible_ms") or {}).get("mean") == (found.get("ttft_ms") or {}).get("mean"):
        found.pop("ttft_visible_ms", None)  # every token was visible: the line would be the same
    if not (found.get("late_ms") or {}).get("max"):
        found.pop("late_ms", None)  # in a closed loop a request is due when it is sent
    for name, (title, unit, _) in METRICS.items():
        if name in found:
            stats, sure = found[name], found[name].get("ci") or {}
            values = [Cell(number(stats.get(part)), detail=interval(sure.get(part))) for part in parts]
            rows.append([f"{title}, {unit}", f"{stats['n']:,}", *values])
    several = " Requests of all levels together." if len(runs.stages(record)) > 1 else ""
    return table(
        columns,
        rows,
        "Below a figure is its interval at 95 % of confidence, by bootstrap over the requests. Percentiles are given "
        f"from 20 points on. Warm-up, ramp and failures don't count.{several}",
    )


def objectives(record: Record) -> Block:
    """The SLOs, each with the share of the requests that met it; empty where none was given."""
    slo: Mapping[str, float] = record.header["load"]["slo"]
    counted = [row for row in record.requests if row["phase"] == "run"]
    if not slo or not counted:
        return Block("")
    columns = [
        Column("SLO", numeric=False),
        Column("Met by", "of the requests"),
        Column("Worst"),
        Column("Unit", numeric=False),
    ]
    rows: Rows = []
    for name, limit in slo.items():
        values = [frames.value(row, name) for row in counted if row["ok"]]
        known = [value for value in values if value is not None]
        better = METRICS.get(runs.objective(name)[0], ("", "", False))[2]
        met = sum(value >= limit if better else value <= limit for value in known)
        unit = METRICS.get(runs.objective(name)[0], ("", MISSING, False))[1]
        worst = (min(known) if better else max(known)) if known else None
        rows.append([runs.objective_text(name, limit), f"{met / len(counted) * 100:.1f} %", number(worst), unit])
    return table(columns, rows, "A request that failed met none.")


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
        for row in failed[:LISTED_REQUESTS]
    ]
    columns = [
        Column("Request", numeric=False),
        Column("Sent at", "s"),
        Column("Cause", numeric=False),
        Column("Message", numeric=False),
    ]
    return fill("blocks/failures.html", table=table(columns, rows).html, count=len(failed), shown=len(rows))


def requests(record: Record) -> Block:
    """Every request, those that don't count too; of many, those that failed, stalled or took longest."""
    frame = frames.requests(record).sort_values("index", ignore_index=True)
    if frame.empty:
        return Block("")  # the figure above says so
    caption = ""
    if len(frame) > LISTED_REQUESTS:
        apart = frame[~frame["ok"] | (frame["stalls"] > 0)].head(LISTED_REQUESTS // 2)
        slow = frame.drop(index=apart.index).nlargest(LISTED_REQUESTS // 2, "total_ms")
        caption = (
            f"{len(apart) + len(slow)} of {len(frame):,}: what failed or stalled, and the slowest of the others. An "
            "export has all of them."
        )
        frame = frame.loc[sorted([*apart.index, *slow.index])]
    measures = {
        "queue_ms": ("Queue", "ms"),
        "ttft_ms": ("TTFT", "ms"),
        "decode_ms": ("Decode", "ms"),
        "total_ms": ("Total", "ms"),
        "decode_tps": ("Decode", "tokens/s"),
        "prefill_tps": ("Prefill", "tokens/s"),
        "itl_median_ms": ("ITL", "median, ms"),
        "itl_max_ms": ("ITL", "most, ms"),
    }
    shown = {key: title for key, title in measures.items() if frame[key].notna().any()}
    levels = {int(row["stage"]): runs.level(row) for row in record.stages}
    several = len(set(levels.values())) > 1
    columns = [
        Column("Request", numeric=False),
        *([Column("Level")] if several else []),
        Column("Sent", "s"),
        Column("Prompt", "tokens"),
        Column("Output", "tokens"),
        *(Column(*title) for title in shown.values()),
        Column("End", numeric=False),
    ]
    rows: Rows = []
    for row in frame.to_dict("records"):
        tone = "bad" if not row["ok"] else "muted" if row["phase"] != "run" else ""
        end = str((row["finish_reason"] if row["ok"] else row["error_kind"]) or MISSING)
        phase = "" if row["phase"] == "run" else row["phase"].replace("warmup", "warm-up")
        texts = [
            *([f"{levels[row['stage']]:,g}" if row["stage"] in levels else MISSING] if several else []),
            number(row["start_s"]),
            *(whole(row[key]) for key in ("prompt_tokens", "output_tokens")),
            *(number(row[key]) for key in shown),
        ]
        stalled = plural(int(row["stalls"]), "stall") if row["stalls"] > 0 else ""
        name = Cell(f"{row['index']}", tone, detail=phase)
        rows.append([name, *(Cell(text, tone) for text in texts), Cell(end, tone, detail=stalled)])
    return table(columns, rows, caption)


def agreement(record: Record, limit_percent: float) -> Block:
    """The client's decode times beside the server's own, and whether they agree."""
    agreed = frames.agreement(record)
    if agreed is None and not stories.counted(record):
        return Block("")
    if agreed is None:
        return note("This server reports no timings of its own, so there is nothing to hold the client's against.")
    client, server, difference = agreed
    within = abs(difference) <= limit_percent
    return note(
        f"Decoding took {span(client)} in all by the client's clock and {span(server)} by the server's: "
        f"{percent(difference)}, {'within' if within else 'outside'} the mark of ±{limit_percent:g} %.",
        "good" if within else "bad",
    )


def history(past: History) -> Block:
    """This run and earlier ones of its target, and how this one moved."""
    if len(past.runs) == 1:
        lines = ["No earlier run of this target."]
    elif not past.changes:
        lines = [_nothing_to_compare(past)]
    else:
        lines = []
    measures = ("output_tps", "ttft_ms", "itl_ms", "decode_tps", "prefill_tps")
    columns = [
        Column("Run", "UTC", numeric=False),
        Column("Workload", numeric=False),
        Column("Load", numeric=False),
        Column("Model", numeric=False),
        Column("Build", numeric=False),
        Column("Output", "tokens/s"),
        Column("TTFT", "ms"),
        Column("ITL", "ms"),
        Column("Decode", "tokens/s"),
        Column("Prefill", "tokens/s"),
    ]
    rows: Rows = []
    for position, row in enumerate(past.runs.to_dict("records")):
        tone = "" if row["comparable"] else "muted"
        which = ["this run"] if position == 0 else []
        which += [] if row["ok"] else ["not ok"]
        texts = [
            row["workload"],
            row["load"],
            row["model"],
            row["build"] + (" (other options)" if row["argv_changed"] else ""),
            *(number(row[name] if name in row else row[f"{name}_median"]) for name in measures),
        ]
        when = Cell(minute(row["started_at"]), tone, detail=", ".join(which))
        rows.append([when, *(Cell(text, tone) for text in texts)])
        if position == 0 and past.changes:
            changes = [_change_cell(name, past.changes.get(name)) or Cell(MISSING, "muted") for name in measures]
            rows.append([Cell("change since the last like it", "muted"), *[Cell("")] * 4, *changes])
    lines += [f"Left out, unreadable: {line}" for line in past.unread]
    caption = (
        "Medians, and the best throughput. Grey runs had another workload, load or model. A change is coloured when "
        "the intervals of the two medians, each widened by the drift that comparisons assume, don't overlap; otherwise "
        "it may be noise."
    )
    return Block("".join(note(line).html for line in lines) + table(columns, rows, caption).html)


def _nothing_to_compare(past: History) -> str:
    if not past.runs["comparable"].iloc[1:].any():
        return "No earlier run of this target had the same workload, load and model."
    return "Of this run and the earlier ones like it no two are valid and finished, so no change is told."


def serving(record: Record, past: History) -> Block:
    """What serving costs: the decode rate of this run beside that of llama.cpp's own tools on the same host.

    Empty where none of them was run with this model before.
    """
    mine = runs.metrics(record).get("decode_tps")
    raw = [
        row
        for row in past.runs.to_dict("records")
        if row["engine"] != "http" and row["model"] == runs.model_name(record) and row["decode_tps_median"] > 0
    ]
    if record.header["load"]["engine"] != "http" or not mine or not raw:
        return Block("")
    newest = raw[0]
    share = mine["median"] / newest["decode_tps_median"] * 100
    raw_speed = number(newest["decode_tps_median"], "tokens/s")
    raw_load = newest["load"].removesuffix(f", {newest['engine']}")
    return note(
        f"{newest['engine']} decoded {raw_speed} on this host at {raw_load} ({moment(newest['started_at'])}). "
        f"A request that was served here reached {number(mine['median'])}, {share:.0f} % of that, at "
        f"{runs.load_name(record)}."
    )


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
            "error": deployments.cause(instance.row),
            "aftermath": deployments.aftermath(instance.row),
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
            minute(deployment.record.started_at),
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


def _length(length: Mapping[str, Any] | None, suffix: str) -> str | None:
    """``512 tokens, different each time``."""
    if length is None:
        return None
    how = {"uniform": ", evenly spread", "lognormal": ", log-normal"}.get(length["kind"], "")
    return f"{runs.tokens(length)} tokens{how}{suffix}"


def _prompts(workload: Mapping[str, Any]) -> str:
    if workload["prefix_tokens"]:
        return f", after {workload['prefix_tokens']:,} that are the same each time"
    return ", the same each time" if workload["prompts"] == "same" else ", different each time"


def _file(file: Mapping[str, Any] | None) -> str | None:
    return f"{file['name']}, {file['entries']:,} entries, SHA-256 {file['sha256'][:12]}" if file else None


def _plain(value: float | None) -> str | None:
    return None if value is None else f"{value:g}"


def _request_name(row: Mapping[Hashable, Any]) -> str:
    return f"{row['index']}" if row["phase"] == "run" else f"{row['index']} {row['phase'].replace('warmup', 'warm-up')}"


def _gpu(gpu: Mapping[str, Any]) -> str:
    capacity = gpu["memory_total_mib"] and whole(gpu["memory_total_mib"], "MiB")
    driver = gpu["driver"] and f"driver {gpu['driver']}"
    return ", ".join(filter(None, [gpu["name"] or "unnamed", capacity, driver]))


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
        "model": deployments.model_name(row) or MISSING,
        "sha256": (model.get("sha256") or "")[:12],
        "build": row.get("build") or MISSING,
        "release": row.get("release") or "",
        "decode_tps": number(row.get("tokens_per_second")),
        "n_ctx": whole(row.get("n_ctx")),
        "slots": plural(row["slots"], "slot") if row.get("slots") else "",
        "layers": f"{layers[0]}/{layers[1]}" if layers else MISSING,
        "memory": {device: memory(size) for device, size in deployments.device_memory_mib(row).items()},
    }


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
