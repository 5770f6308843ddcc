"""Show a fleet live in the terminal: what its servers and GPUs do now.

    python -m nexus_tasks.monitor                       # gpu-hosts, or local while that is empty; Ctrl-C ends it
    python -m nexus_tasks.monitor rig-1/main http://...
    python -m nexus_tasks.monitor --once --json

Each instance and each host is asked in a thread of its own, so one that hangs holds nothing up. Servers on loopback of
a remote host are reached through ssh. Nothing is written anywhere.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import httpx
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from nexus_tasks.core.errors import NexusError, UsageError, command_line
from nexus_tasks.fleet import inventory, targets
from nexus_tasks.servers import endpoint, scrape
from nexus_tasks.servers.scrape import Look
from nexus_tasks.telemetry import sampling

INTERVAL_S = 1.0
FIRST_S = 30.0
"""How long ``--once`` waits for the slowest, ssh included."""
LATE_S = 10.0
"""How long a look may take: NVML, or a server that sends a byte now and then, can hold one up for any time."""
GIB = 1024  # MiB
NOT_YET = "has not answered yet"

Row = dict[str, Any]


class Looking(Protocol):
    """What can be looked at again and again, such as :class:`scrape.Source`."""

    def look(self) -> Look: ...


Way = Callable[[], AbstractContextManager[tuple[Looking, bool]]]
"""Gets there for as long as a block lasts; whether it is through a tunnel, which may break."""


@dataclass
class Watch:
    """One thing that is watched: its last look, and the good one before it."""

    host: str
    name: str
    way: Way
    now: Look | None = None
    before: Look | None = None
    late_at: float = math.inf
    """When, on ``time.monotonic``, the last look is no longer what is the case."""

    def follow(self, stop: threading.Event, interval_s: float) -> None:
        """Look until told to stop; what goes wrong is the last look's problem, and is tried again."""
        while not stop.is_set():
            try:
                with self.way() as (there, tunnelled):
                    while not stop.is_set():
                        self.keep(there.look(), time.monotonic() + interval_s + LATE_S)
                        stop.wait(interval_s)
                        if tunnelled and self.now and self.now.problem:
                            break  # through another one: ssh may have died
            except NexusError as error:
                self.keep(Look(time.monotonic(), problem=error.message))
                stop.wait(interval_s)

    def keep(self, look: Look, late_at: float = math.inf) -> None:
        """Make this the last look."""
        self.before, self.now = (None if self.now is None or self.now.problem else self.now), look
        self.late_at = late_at

    def last(self) -> Look | None:
        """The last look, or that there has been none for too long."""
        late_s = time.monotonic() - self.late_at + LATE_S
        if self.now and not self.now.problem and late_s > LATE_S:
            return Look(self.now.at, problem=f"has not answered for {late_s:.0f} s")
        return self.now

    @property
    def settled(self) -> bool:
        """Whether a second look, or none, is to be had."""
        return self.now is not None and (self.now.problem is not None or self.before is not None)


class Here:
    """This machine, without an exporter."""

    def __init__(self, gpus: sampling.Gpus) -> None:
        self._gpus = gpus

    def look(self) -> Look:
        return Look(time.monotonic(), machine=scrape.this_machine(self._gpus))


@dataclass
class Fleet:
    """What is watched. ``without`` names the hosts whose GPUs nobody tells of."""

    instances: list[Watch]
    hosts: list[Watch]
    without: list[str] = field(default_factory=list)

    @property
    def watches(self) -> list[Watch]:
        return [*self.instances, *self.hosts]

    @contextlib.contextmanager
    def followed(self, interval_s: float) -> Iterator[None]:
        """Watch everything for as long as the block lasts."""
        stop = threading.Event()
        threads = [
            threading.Thread(target=watch.follow, args=(stop, interval_s), name=watch.name, daemon=True)
            for watch in self.watches
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            deadline = time.monotonic() + scrape.TIMEOUT_S + 1
            for thread in threads:  # tunnels are closed by their threads
                thread.join(max(0.0, deadline - time.monotonic()))


def fleet(texts: Sequence[str]) -> Fleet:
    """What the TARGETs of the command name.

    Raises:
        UsageError, DeployError: as :func:`targets.find` does.
    """
    found = targets.find(texts)
    instances = [Watch(target.instance.host if target.instance else "", target.name, _to_server(target))
                 for target in found]  # fmt: skip
    deployed = {target.instance.host: target.instance for target in found if target.instance}
    exporters = scrape.exporters(",".join(deployed)) if deployed else {}
    hosts, without = [], []
    for host, instance in sorted(deployed.items()):
        if host in exporters:
            hosts.append(Watch(host, host, _to_exporter(exporters[host])))
        elif instance.ssh is None and endpoint.is_loopback(httpx.URL(instance.base_url).host):
            hosts.append(Watch(host, host, _to_this_machine))
        else:
            without.append(host)
    return Fleet(instances, hosts, without)


def _to_server(target: targets.Target) -> Way:
    @contextlib.contextmanager
    def way() -> Iterator[tuple[Looking, bool]]:
        with (
            targets.reach(target) as reached,
            scrape.Source(target.name, reached.base_url, reached.api_key, wants=scrape.Server) as source,
        ):
            yield source, reached.tunnel is not None

    return way


def _to_exporter(exporter: scrape.Exporter) -> Way:
    @contextlib.contextmanager
    def way() -> Iterator[tuple[Looking, bool]]:
        with exporter.reach() as base_url, scrape.Source(exporter.host, base_url, wants=scrape.Machine) as source:
            yield source, exporter.ssh is not None

    return way


@contextlib.contextmanager
def _to_this_machine() -> Iterator[tuple[Looking, bool]]:
    with sampling.Gpus() as gpus:
        yield Here(gpus), False


# --- what there is to show


def instance_row(watch: Watch) -> Row:
    """An instance as JSON has it. Rates are tokens per second since the look before.

    ``rates_are_lower_bounds`` where the server has no counters (``--metrics``): then they are of the requests in its
    slots, and what a request generated between the last look at it and its end is missing.
    """
    now = watch.last()
    row: Row = {
        "host": watch.host or None, "instance": watch.name, "up": now is not None and not now.problem,
        "problem": now.problem if now else NOT_YET,
        "slots_busy": None, "slots": None, "waiting": None, "prompt_tps": None, "decode_tps": None,
        "rates_are_lower_bounds": False, "cached_tokens": None,
    }  # fmt: skip
    if now is None or now.server is None:
        return row
    server, before = now.server, watch.before.server if watch.before else None
    row |= {name: getattr(server, name) for name in ("slots_busy", "slots", "waiting", "cached_tokens")}
    if before is None or watch.before is None:
        return row
    seconds = now.at - watch.before.at
    totals = (
        (before.prompt_tokens_total, server.prompt_tokens_total),
        (before.predicted_tokens_total, server.predicted_tokens_total),
    )
    for number, (name, (earlier, later)) in enumerate(zip(("prompt_tps", "decode_tps"), totals, strict=True)):
        if earlier is not None and later is not None:
            if later >= earlier:  # else the server was started again
                row[name] = round((later - earlier) / seconds, 1)
        elif server.slots is not None:
            row["rates_are_lower_bounds"] = True
            row[name] = round(_by_tasks(before, server, number) / seconds, 1)
    return row


def _by_tasks(before: scrape.Server, now: scrape.Server, number: int) -> int:
    """The tokens that were processed (0) or generated (1) by what the slots work on now."""
    return sum(counts[number] - before.tasks.get(task, (0, 0))[number] for task, counts in now.tasks.items())


def host_row(watch: Watch) -> Row:
    """A host as JSON has it, with its GPUs as in ``sample`` rows and their names and sizes."""
    now = watch.last()
    row: Row = {
        "host": watch.host, "up": now is not None and not now.problem,
        "problem": now.problem if now else NOT_YET,
        "cpu_percent": None, "memory_used_mib": None, "memory_total_mib": None, "gpus": [], "nvml_error": None,
    }  # fmt: skip
    if now is None or now.machine is None:
        return row
    machine = now.machine
    known = {gpu["index"]: gpu for gpu in machine.inventory}
    return row | {
        "cpu_percent": scrape.cpu_percent(watch.before.machine if watch.before else None, machine),
        "memory_used_mib": machine.memory_used_mib,
        "memory_total_mib": machine.memory_total_mib,
        "gpus": [{**known.get(gpu["index"], {}), **gpu} for gpu in machine.gpus],
        "nvml_error": machine.nvml_error,
    }


def as_json(shown: Fleet) -> Row:
    """Everything that is known now."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "instances": [instance_row(watch) for watch in shown.instances],
        "hosts": [host_row(watch) for watch in shown.hosts],
    }


def picture(shown: Fleet) -> RenderableType:
    """Everything that is known now, for people; 80 columns are enough."""
    instances = [instance_row(watch) for watch in shown.instances]
    hosts = [host_row(watch) for watch in shown.hosts]
    parts: list[RenderableType] = [_headline(instances), _instances(instances)]
    if hosts:
        parts.append(_hosts(hosts))
    for row in (*instances, *hosts):
        if row["problem"]:
            name = row.get("instance") or f"exporter of {row['host']}"
            style = "red" if _waited(row) else "dim"
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
    down = [row["instance"] for row in rows if _waited(row)]
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
            style = "bold red" if _waited(row) else "dim"
            table.add_row(Text(row["instance"], style), Text("DOWN" if _waited(row) else "...", style))
            continue
        slots = "-" if row["slots_busy"] is None else str(row["slots_busy"])
        slots += f"/{row['slots']}" if row["slots"] is not None else ""
        least = "≥" if row["rates_are_lower_bounds"] else ""
        waiting = Text(_number(row["waiting"]), style="yellow" if row["waiting"] else "")
        rates = (
            f"{least if row[name] is not None else ''}{_number(row[name])}" for name in ("prompt_tps", "decode_tps")
        )
        table.add_row(Text(row["instance"]), slots, waiting, *rates, _number(row["cached_tokens"]))
    return table


def _waited(row: Row) -> bool:
    """Whether it is known to be down; else nothing is known yet."""
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
            style = "bold red" if _waited(row) else "dim"
            table.add_row(Text(row["host"], style), Text("DOWN" if _waited(row) else "...", style))
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


# --- the command


def show(shown: Fleet, console: Console, *, interval_s: float, once: bool, as_lines: bool) -> None:
    """Show it until Ctrl-C, or once."""
    with shown.followed(interval_s), ExitStack() as stack:
        if once:
            deadline = time.monotonic() + FIRST_S
            while time.monotonic() < deadline and not all(watch.settled for watch in shown.watches):
                time.sleep(0.05)
            _print(shown, console, as_lines)
            return
        live = None
        if console.is_terminal and not as_lines:
            live = stack.enter_context(Live(console=console, auto_refresh=False, get_renderable=lambda: picture(shown)))
        while True:
            time.sleep(interval_s)
            if live:
                live.refresh()
            else:
                _print(shown, console, as_lines)


def _print(shown: Fleet, console: Console, as_lines: bool) -> None:
    if as_lines:
        sys.stdout.write(json.dumps(as_json(shown)) + "\n")
        sys.stdout.flush()
    else:
        console.print(picture(shown))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nox -s monitor --", description="Show the fleet live; Ctrl-C ends it.")
    parser.add_argument(
        "targets", metavar="TARGET", nargs="*",
        help="an inventory pattern, HOST/INSTANCE, a base URL, or @NAME "
        f"(default: all on {inventory.FLEET}, or on {inventory.HERE} while that is empty)",
    )  # fmt: skip
    parser.add_argument(
        "--interval", type=float, default=INTERVAL_S, metavar="S", help="seconds between looks (default: %(default)g)"
    )
    parser.add_argument("--once", action="store_true", help="show it once; exit status 1 when an instance is down")
    parser.add_argument("--json", action="store_true", help="print a line of JSON each time, for programs")
    return parser


@command_line
def main(argv: Sequence[str] | None = None) -> int:
    """Show it; with ``--once``, 1 when anything is down."""
    options = _parser().parse_args(argv)
    if not 0.1 <= options.interval <= threading.TIMEOUT_MAX:
        wrong = "too short" if options.interval < 0.1 else "no time"
        raise UsageError(f"--interval {options.interval:g} is {wrong}", hint="0.1 seconds or more")
    shown = fleet(options.targets)
    with contextlib.suppress(KeyboardInterrupt):  # which is how it is meant to end
        try:
            show(shown, Console(), interval_s=options.interval, once=options.once, as_lines=options.json)
        except BrokenPipeError:  # who reads it has enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
    return 1 if options.once and not all(instance_row(watch)["up"] for watch in shown.instances) else 0


if __name__ == "__main__":
    sys.exit(main())
