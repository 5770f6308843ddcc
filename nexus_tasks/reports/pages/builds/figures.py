"""Figure of the builds' page: how long the last builds took, and how much the compiler's cache spared.

figures.build_times(state, 30)
"""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from nexus_tasks.core.text import duration, minute, plural
from nexus_tasks.fleet import builds
from nexus_tasks.fleet.builds import Build, Builds
from nexus_tasks.reports.drawing import BLUE, GREEN, WIDE_IN, block, drawing
from nexus_tasks.reports.markup import Block, note

BUILDS_NAMED = 4  # more of them, and whoever hears the text waits long


def build_times(state: Builds, limit: int) -> Block:
    """A bar a build: how long it took, and how much of it the compiler's cache spared; the newest at the top."""
    shown = state.builds[-limit:][::-1] if limit > 0 else []
    if not shown:
        return note("No record tells of a build.")
    scale, unit = (60, "min") if max(build.seconds for build in shown) >= 120 else (1, "s")
    with drawing(WIDE_IN, 0.95 + 0.3 * len(shown)) as figure:
        times, shares = figure.subplots(1, 2, sharey=True, gridspec_kw={"width_ratios": [1.6, 1]})
        places = range(len(shown))
        times.barh(places, [build.seconds / scale for build in shown], height=0.66, color=BLUE)
        cached = [(place, build.cached) for place, build in enumerate(shown) if build.cached is not None]
        if cached:
            shares.barh(
                places, [100 * (build.cached is not None) for build in shown], height=0.66, color=GREEN, alpha=0.2
            )
            shares.barh([place for place, _ in cached], [100 * share for _, share in cached], height=0.66, color=GREEN)
        for place, build in enumerate(shown):
            _label(times, build.seconds / scale, place, duration(build.seconds))
            _label(shares, 100 if build.cached is not None else 0, place, _hits(state, build))
        times.set_yticks(
            list(places), [f"{build.release}\n{build.place}, {minute(build.at)}" for build in shown], fontsize=7
        )
        times.set_ylim(len(shown) - 0.4, -0.6)
        times.set_xlim(0, max(build.seconds for build in shown) / scale * 1.22 or 1)
        shares.set_xlim(0, 165)
        shares.set_xticks([0, 50, 100])
        for axes, title in ((times, f"Build time, {unit}"), (shares, "Compilations, % from the cache")):
            axes.set_title(title)
            axes.grid(False, axis="y")
            axes.tick_params(left=False)
        keys = [Patch(color=GREEN, label="from the cache"), Patch(color=GREEN, alpha=0.2, label="compiled")]
        if cached:
            figure.legend(handles=keys, loc="outside lower right", ncols=2, handlelength=1)
        named = [f"{build.release} on {build.place} {duration(build.seconds)}" for build in shown[:BUILDS_NAMED]]
        left_out = len(state.builds) - len(shown)
        return block(
            figure,
            "build-times",
            alt=f"{plural(len(shown), 'build')}: {', '.join(named)}{' and more' if len(shown) > len(named) else ''}.",
            caption="From the fetching of the source to the release in place, times in UTC. A build that was cut off "
            "and taken up again counts its last try."
            + (f" {left_out} earlier ones are not drawn." if left_out else ""),
        )


def _label(axes: Axes, end: float, place: int, text: str) -> None:
    axes.annotate(text, (end, place), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8.5)


def _hits(state: Builds, build: Build) -> str:
    if build.cached is None:
        return builds.cache(state, build)
    return f"{build.row.ccache.hits if build.row.ccache else 0:,} of {build.compilations:,}"
