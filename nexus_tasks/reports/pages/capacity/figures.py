"""Figures of the capacity page: memory by part of each GPU, and context against memory.

figures.by_part(state, 30)
figures.curves(state)
"""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from nexus_tasks.core.text import memory, plural
from nexus_tasks.fleet.capacity import PARTS, Capacity, Host
from nexus_tasks.model_store.memory import GPU_OVERHEAD_MIB
from nexus_tasks.records.plan_rows import CurveRow, ModelRow
from nexus_tasks.reports.drawing import BAD, BLUE, GREEN, INK, ORANGE, SERIES, WIDE_IN, block, drawing, log_ticks
from nexus_tasks.reports.markup import Block, note, shortened
from nexus_tasks.reports.pages.capacity.tables import alike

COLOURS = dict(zip(PARTS, (BLUE, GREEN, ORANGE, INK), strict=True))
NAMES = {"weights": "weights", "kv": "KV", "compute": "compute", "other": "other"}
CURVES_DRAWN = 8
LIMITS_DRAWN = 5
BARS_NAMED = 4
LETTERS = 38
GIB = 1024.0


def by_part(state: Capacity, limit: int) -> Block:
    """A bar a GPU, and one of a host's own memory: what all servers take of it by part, and how large it is."""
    bars = [
        (_label(hosts, number), hosts[0].taken(number), size)
        for hosts in alike(state) for number, size in hosts[0].sizes() if hosts[0].servers
    ]  # fmt: skip
    shown = sorted(bars, key=lambda bar: -sum(bar[1].values()) / (bar[2] or 1.0))[: max(limit, 0)]
    if not shown:
        return note("No plan is of a host whose memory is known.")
    with drawing(WIDE_IN, 1.0 + 0.34 * len(shown)) as figure:
        axes = figure.subplots()
        _bars(axes, shown)
        figure.legend(
            handles=[Patch(color=COLOURS[part], label=NAMES[part]) for part in PARTS],
            loc="outside upper left", ncols=len(PARTS), handlelength=1,
        )  # fmt: skip
        named = [
            f"{label} {memory(sum(taken.values()))} of {memory(size)}" for label, taken, size in shown[:BARS_NAMED]
        ]
        left_out = len(bars) - len(shown)
        return block(
            figure,
            "capacity-by-part",
            alt=f"{plural(len(shown), 'device')}, the fullest first: {', '.join(named)}"
            f"{' and more' if len(shown) > len(named) else ''}.",
            caption="GiB that all servers of a host take of its GPUs and of its own memory, the fullest first; the "
            "dark line is the size, and a bar beyond it does not fit. Other is what the driver takes of a GPU for each "
            "server, and of the host what caches of prompts and checkpoints may grow to. Hosts that are alike are one."
            + (f" {left_out} that are less full are not drawn." if left_out else ""),
        )


def _bars(axes: Axes, shown: list[tuple[str, dict[str, float], float]]) -> None:
    for place, (_, taken, size) in enumerate(shown):
        left = 0.0
        for part in PARTS:
            axes.barh(place, taken[part] / GIB, left=left, height=0.62, color=COLOURS[part])
            left += taken[part] / GIB
        fits = left * GIB <= size
        axes.plot([size / GIB] * 2, [place - 0.42, place + 0.42], color=INK if fits else BAD, linewidth=2.5)
        share = f"{100 * left * GIB / size:.0f} %" if size else ""
        axes.annotate(
            share, (max(left, size / GIB), place), xytext=(6, 0), textcoords="offset points", va="center", fontsize=8.5,
            color=INK if fits else BAD,
        )  # fmt: skip
    axes.set_yticks(range(len(shown)), [label for label, _, _ in shown], fontsize=8)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(0, max(max(sum(taken.values()), size) for _, taken, size in shown) / GIB * 1.1 or 1)
    axes.set_title("Memory by part, GiB")
    axes.grid(False, axis="y")
    axes.tick_params(left=False)


def _label(hosts: list[Host], number: int | None) -> str:
    name = shortened(hosts[0].machine.host, LETTERS)
    more = f" and {len(hosts) - 1} more" if len(hosts) > 1 else ""
    return f"{name}{more}, {'memory' if number is None else f'GPU {number}'}"


def curves(state: Capacity) -> Block:
    """Memory of each planned model against its context, with the sizes of the fleet's GPUs."""
    shown = sorted(state.curves, key=lambda one: -_gib(one[1])[-1])[:CURVES_DRAWN]
    if not shown:
        return note("No plan has a curve of memory against context.")
    limits = state.gpu_sizes()[-LIMITS_DRAWN:]
    with drawing(WIDE_IN, 3.6) as figure:
        axes = figure.subplots()
        for place, (model, curve) in enumerate(shown):
            style = "-" if place < len(SERIES) else "--"
            axes.plot(
                [point.n_ctx for point in curve.points], _gib(curve), style, marker="o", markersize=3.5,
                color=SERIES[place % len(SERIES)], label=_named(model, curve),
            )  # fmt: skip
        top = max(max(_gib(curve)) for _, curve in shown)
        drawn = [size for size in limits if size / GIB < 2 * top] or limits[:1]
        for size in drawn:
            axes.axhline(size / GIB, color=BAD, linewidth=1, linestyle=":")
            axes.annotate(
                f"{memory(size)} GPU", (1, size / GIB), xycoords=("axes fraction", "data"), xytext=(4, 0),
                textcoords="offset points", va="center", fontsize=8, color=BAD, annotation_clip=False,
            )  # fmt: skip
        contexts = [point.n_ctx for _, curve in shown for point in curve.points]
        axes.set_xscale("log")
        log_ticks(axes.xaxis, min(contexts), max(contexts))
        axes.set_xlim(min(contexts) * 0.9, max(contexts) * 1.1)
        axes.set_ylim(0, max([top, *(size / GIB for size in drawn)]) * 1.06)
        axes.set_xlabel("context of all slots, tokens")
        axes.set_title("Memory of one GPU, GiB")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=1, handlelength=3)
        ends = [
            f"{model.profile or model.name} {_gib(curve)[0]:.1f} to {_gib(curve)[-1]:.1f}" for model, curve in shown
        ]
        left_out = len(state.curves) - len(shown)
        return block(
            figure,
            "capacity-curves",
            alt=f"GiB from the smallest context to that of the training: {', '.join(ends[:BARS_NAMED])}"
            f"{' and more' if len(ends) > BARS_NAMED else ''}.",
            caption="All of it on one GPU with room, the driver's share included; red lines are the sizes of the "
            "fleet's GPUs." + (f" {plural(left_out, 'smaller curve')} left out." if left_out else ""),
        )


def _gib(curve: CurveRow) -> list[float]:
    return [
        (point.weights_mib + point.kv_mib + point.compute_mib + GPU_OVERHEAD_MIB) / GIB for point in curve.points
    ]  # fmt: skip


def _named(model: ModelRow, curve: CurveRow) -> str:
    """A curve's name: the model, and the options that it was planned with."""
    return shortened(" ".join([model.profile or model.name or model.file, *curve.options]), 80)
