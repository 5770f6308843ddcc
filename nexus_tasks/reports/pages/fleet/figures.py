"""Figures of the fleet's page: what became of each host, and the decode speed of each instance.

    figures.timeline(state, 40)

Each takes what :func:`nexus_tasks.fleet.deployments.read` makes of all deployments.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from nexus_tasks.core.text import number, plural
from nexus_tasks.fleet import deployments
from nexus_tasks.fleet.deployments import Deployment, Fleet
from nexus_tasks.reports.drawing import BAD, BLUE, GREEN, INK, ORANGE, PURPLE, WIDE_IN, block, drawing
from nexus_tasks.reports.markup import Block, note

MARKS = {  # of a host in a deployment: shape, colour, filled
    "verified": ("o", GREEN, True),
    "unchanged": ("o", INK, False),
    "restored": ("D", ORANGE, True),
    "failed": ("X", BAD, True),
    "stopped": ("s", INK, False),
}
PANELS = 12  # more instances than this, and their decode speeds fill the page


def timeline(state: Fleet, limit: int) -> Block:
    """The outcome of each host in the last deployments: one column a deployment, oldest first."""
    shown = state.real[-limit:] if limit > 0 else []
    hosts = [host for host in state.hosts if any(deployment.outcomes.get(host) for deployment in shown)]
    if not hosts:
        return note("No deployment has come as far as an instance.")
    with drawing(WIDE_IN, 1.15 + 0.3 * len(hosts)) as figure:
        axes = figure.subplots()
        drawn = []
        for name, (marker, colour, filled) in MARKS.items():
            points = [
                (column, hosts.index(host))
                for column, deployment in enumerate(shown)
                for host, became in deployment.outcomes.items()
                if became == name
            ]
            if points:
                drawn.append(f"{len(points)} {name}")
                axes.plot(
                    *zip(*points, strict=True), marker, color=colour, markersize=7.5, label=name, markeredgewidth=1.3,
                    markerfacecolor=colour if filled else "none", markeredgecolor=colour,
                )  # fmt: skip
        for column, deployment in enumerate(shown):
            if deployments.interrupted(deployment.record):
                axes.axvline(column, color=BAD, linewidth=0.9, linestyle=":")
        axes.set_yticks(range(len(hosts)), hosts)
        axes.set_ylim(len(hosts) - 0.4, -0.6)
        _deployment_ticks(axes, shown)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(drawn), handletextpad=0.2)
        cut = sum(1 for deployment in shown if deployments.interrupted(deployment.record))
        return block(
            figure,
            "fleet-timeline",
            alt=f"{plural(len(shown), 'deployment')} to {plural(len(hosts), 'host')}: {', '.join(drawn)}.",
            caption="One column a deployment, times in UTC. No mark: the deployment didn't concern the host, or "
            "didn't come as far as its instances." + (" A dotted line: it was interrupted." if cut else ""),
        )  # fmt: skip


def decode(state: Fleet, limit: int) -> Block:
    """Decode speed of each instance at every proof of the last deployments."""
    shown = state.real[-limit:] if limit > 0 else []
    lines: dict[str, list[tuple[int, float, str, str]]] = {}
    for column, deployment in enumerate(shown):
        for host in deployment.record.hosts:
            for row in deployments.reported(host):
                speed = deployments.served(row).tokens_per_second
                if row.state in deployments.PROVEN and speed:
                    release = str(deployments.served(row).release or "")
                    line = lines.setdefault(f"{host.host}/{row.name}", [])
                    line.append((column, speed, release, row.state))
    if not lines:
        return Block("")
    names = sorted(lines)[:PANELS]
    rows = -(-len(names) // 2)
    with drawing(WIDE_IN, 0.5 + 1.35 * rows) as figure:
        grid = figure.subplots(rows, 2, sharex=True, squeeze=False)
        for axes, name in zip(grid.flat, names, strict=False):
            columns, speeds, releases, states = zip(*lines[name], strict=True)
            axes.plot(columns, speeds, "-o", color=BLUE, markersize=3.5)
            restored = [index for index, one in enumerate(states) if one == "restored"]
            axes.plot([columns[i] for i in restored], [speeds[i] for i in restored], "D", color=ORANGE, markersize=5.5)
            for before, (column, release) in zip(releases, list(zip(columns, releases, strict=True))[1:], strict=False):
                if release != before:
                    axes.axvline(column, color=PURPLE, linewidth=1, linestyle="--")
            axes.set_ylim(0, max(speeds) * 1.2)
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.set_title(f"{name}, tokens/s")
            _deployment_ticks(axes, shown, 4)
        for axes in grid.flat[len(names) :]:
            axes.set_axis_off()
        if len(names) % 2 and rows > 1:
            grid[-2, 1].tick_params(labelbottom=True)
        parts = ", ".join(f"{name} {number(lines[name][-1][1])}" for name in names)
        left_out = len(lines) - len(names)
        return block(
            figure,
            "fleet-decode",
            alt=f"Decode speed at the last proof, in tokens per second: {parts}.",
            caption="Of the timed completion in each proof; a short one, so small changes are noise. A dashed "
            "line: the first proof with another release. A diamond: what serves on after a deployment that failed."
            + (f" {left_out} more instances are not drawn." if left_out else ""),
        )


def _deployment_ticks(axes: Axes, shown: Sequence[Deployment], most: int = 8) -> None:
    """Columns are deployments: dates under some of them, the last one among these."""
    step = -(-len(shown) // most)
    marked = list(range((len(shown) - 1) % step, len(shown), step))
    axes.set_xticks(marked, [f"{shown[column].record.started_at:%d %b\n%H:%M}" for column in marked])
    axes.set_xlim(-0.6, len(shown) - 0.4)
    axes.grid(False, axis="x")
