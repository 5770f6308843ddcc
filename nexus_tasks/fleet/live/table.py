"""The table of what is watched, for a terminal.

console.print(table.picture(shown))
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nexus_tasks.fleet.live.rows import NOT_YET, Row, host_row, instance_row
from nexus_tasks.fleet.live.watching import WatchedFleet
from nexus_tasks.telemetry import sampling

GIB = 1024  # MiB


def picture(shown: WatchedFleet) -> RenderableType:
    """Everything that is known now, for people; 80 columns are enough."""
    instances = [instance_row(watch) for watch in shown.instances]
    hosts = [host_row(watch) for watch in shown.hosts]
    parts: list[RenderableType] = [_headline(instances), _instances(instances)]
    if hosts:
        parts.append(_hosts(hosts))
    for row in (*instances, *hosts):
        if row["problem"]:
            name = row.get("instance") or f"exporter of {row['host']}"
            style = "red" if _is_down(row) else "dim"
            parts.append(Text(f"{name}: {row['problem']}", style=style, overflow="fold"))
    parts += [
        Text(f"GPUs of {row['host']}: {row['nvml_error']}", style="red", overflow="fold")
        for row in hosts
        if row["nvml_error"] not in (None, sampling.NO_LIBRARY)
    ]
    if any(row["rates_are_lower_bounds"] for row in instances):
        parts.append(Text("≥: of the requests in its slots; metrics: true gives the server counters", style="dim"))
    if shown.without:
        hint = "no exporter, so no row for its GPUs: set telemetry_exporter and deploy"
        parts.append(Text(f"{', '.join(shown.without)}: {hint}", style="dim"))
    return Group(*parts)


def _headline(rows: Sequence[Row]) -> Text:
    """First, because of a long list the end may not be on the screen."""
    down = [row["instance"] for row in rows if _is_down(row)]
    text = Text(f"{datetime.now():%H:%M:%S}  {len(rows)} instance{'' if len(rows) == 1 else 's'}")
    if down:
        text.append(f", {len(down)} down: {', '.join(down)}", style="bold red")
    return text


def _instances(rows: Sequence[Row]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", expand=False)
    table.add_column("INSTANCE", no_wrap=True, overflow="ellipsis", max_width=28)
    for column in ("SLOTS", "WAIT", "PROMPT t/s", "DECODE t/s", "KV tokens"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        if not row["up"]:
            style = "bold red" if _is_down(row) else "dim"
            table.add_row(Text(row["instance"], style), Text("DOWN" if _is_down(row) else "...", style))
            continue
        slots = "-" if row["slots_busy"] is None else str(row["slots_busy"])
        slots += f"/{row['slots']}" if row["slots"] is not None else ""
        at_least = "≥" if row["rates_are_lower_bounds"] else ""
        waiting = Text(_number(row["waiting"]), style="yellow" if row["waiting"] else "")
        rates = (
            f"{at_least if row[name] is not None else ''}{_number(row[name])}" for name in ("prompt_tps", "decode_tps")
        )
        table.add_row(Text(row["instance"]), slots, waiting, *rates, _number(row["cached_tokens"]))
    return table


def _is_down(row: Row) -> bool:
    """It is known to be down; else nothing is known yet, or it is up."""
    return bool(row["problem"]) and row["problem"] != NOT_YET


def _hosts(rows: Sequence[Row]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", expand=False)
    table.add_column("HOST", no_wrap=True, overflow="ellipsis", max_width=16)
    table.add_column("DEVICE", no_wrap=True, overflow="ellipsis", max_width=20)
    for column in ("BUSY", "MEMORY GiB", "°C", "POWER W"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, overflow="ellipsis")
    for row in rows:
        if not row["up"]:
            style = "bold red" if _is_down(row) else "dim"
            table.add_row(Text(row["host"], style), Text("DOWN" if _is_down(row) else "...", style))
            continue
        memory = _share(row["memory_used_mib"], row["memory_total_mib"])
        table.add_row(Text(row["host"]), "processor", _percent(row["cpu_percent"]), memory, "", "", "")
        for gpu in row["gpus"]:
            limit = "" if gpu["power_limit_w"] is None else f"/{gpu['power_limit_w']:.0f}"
            power = "-" if gpu["power_w"] is None else f"{gpu['power_w']:.0f}{limit}"
            table.add_row(
                "", Text(f"{gpu['index']} {gpu.get('name') or 'GPU'}".replace("NVIDIA ", "")),
                _percent(gpu["utilization_percent"]), _share(gpu["memory_used_mib"], gpu.get("memory_total_mib")),
                _number(gpu["temperature_c"]), power, Text(" ".join(gpu["throttled"] or ()), style="yellow"),
            )  # fmt: skip
    return table


def _share(used_mib: int | None, total_mib: int | None) -> str:
    if used_mib is None:
        return "-"
    return f"{used_mib / GIB:.1f}" + ("" if total_mib is None else f"/{total_mib / GIB:.0f}")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} %"


def _number(value: float | None) -> str:
    """At most seven characters, so that columns stay narrow."""
    if value is None:
        return "-"
    if value >= 1_000_000:
        return f"{value / 1_000_000:.1f}M"
    if value >= 10_000:
        return f"{value / 1000:.1f}k"
    return f"{value:.1f}" if isinstance(value, float) and value < 100 else f"{value:.0f}"
