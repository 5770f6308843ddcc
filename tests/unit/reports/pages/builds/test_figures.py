"""Figure of the builds' page."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from nexus_tasks.fleet import builds
from nexus_tasks.reports.pages.builds import figures
from tests.deployment_records import NOON, host, instance, release, write

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
NEW = "b11434-cuda89-1f3a90c2"


def one(name: str, served: str = NEW, **more: Any) -> dict[str, Any]:
    """A host whose instance serves a release."""
    return host(name, instance(release=served), **more)


def test_the_figure_has_a_bar_a_build_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    rows = [
        release(f"b{n}-cpu-0a", f"host-{n}", "built", at=NOON + n * HOUR, build_seconds=60.0 * n) for n in range(1, 6)
    ]
    write(tmp_path, NOON + DAY, *(one(row["host"], row["name"]) for row in rows), releases=rows)
    html = figures.build_times(builds.read(tmp_path), 3).html
    assert (
        'aria-label="3 builds: b5-cpu-0a on host-5 5 min, b4-cpu-0a on host-4 4 min, b3-cpu-0a on host-3 3 min."'
        in html
    )
    assert "2 earlier ones are not drawn." in html
    assert "b2-cpu-0a" not in html
    assert "779 of 820" in html
    assert "var(--blue, " in html
