"""Tables of the builds' page."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from nexus_tasks.fleet import builds
from nexus_tasks.reports.pages.builds import figures, tables
from tests.deployment_records import NOON, host, instance, lost, release, write
from tests.report_pages import joined_words

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
OLD, NEW = "b11401-cuda89-77aa00ff", "b11434-cuda89-1f3a90c2"


def one(name: str, served: str = NEW, **more: Any) -> dict[str, Any]:
    """A host whose instance serves a release."""
    return host(name, instance(release=served), **more)


def test_the_table_shows_each_fact_of_a_hosts_release(tmp_path: Path) -> None:
    write(tmp_path, NOON, one("gpu-01"), releases=[release(NEW, "gpu-01", "taken", at=NOON - 3 * DAY)])
    html = tables.hosts(builds.read(tmp_path)).html
    for shown in (
        "<span>gpu-01</span>", "<small>main</small>", NEW, "from rig 2026-11-22", "b11434</span>", "0c1e57098",
        "CUDA 12.9", "<small>89</small>", "portable<small>x86_64", "<td>off</td>",
        "700\N{NO-BREAK SPACE}MiB", ">3 days<",
    ):  # fmt: skip
        assert shown in html, shown
    assert "serves" not in html


def test_an_instance_that_serves_another_release_than_its_host_has_is_named(tmp_path: Path) -> None:
    write(tmp_path, NOON, one("a", OLD), releases=[release(OLD, "a", "built")])
    write(tmp_path, NOON + HOUR, one("a"), releases=[release(NEW, "a", "built", at=NOON + HOUR, releases=[NEW, OLD])])
    write(tmp_path, NOON + DAY, host("a", instance(release=OLD), release=None), playbook="rollback.yml")
    assert f'<small class="bad">main serves {OLD}</small>' in tables.hosts(builds.read(tmp_path)).html


def test_failures_are_listed_newest_first_and_mended_ones_told_apart(tmp_path: Path) -> None:
    write(tmp_path, NOON, lost("a"), releases=[release(NEW, "a", "failed", error="<first>")])
    write(tmp_path, NOON + HOUR, one("a"), releases=[release(NEW, "a", "built")])
    elsewhere: dict[str, Any] = {"from": "rig"}
    write(tmp_path, NOON + DAY, lost("b"), releases=[release(NEW, "b", "failed", error="second\nline", **elsewhere)])
    state = builds.read(tmp_path)
    html = tables.failures(state, 20).html
    assert html.index("b, on rig") < html.index("&lt;first&gt;")
    assert (html.count('<td class="good">since then'), html.count('<td class="bad">no<')) == (1, 1)
    assert "The last 1 of 2." in tables.failures(state, 1).html
    amiss = tables.amiss(state).html
    assert "second\nline" in amiss
    assert "first" not in amiss


def test_records_without_a_release_still_have_every_block(tmp_path: Path) -> None:
    write(tmp_path, NOON, host("a", release=None))
    damaged = write(tmp_path, NOON + HOUR)
    damaged.write_text("no record\n")
    state = builds.read(tmp_path)
    shown = [
        tables.head(state), tables.hosts(state), tables.amiss(state),
        tables.releases(state), figures.build_times(state, 30), tables.space(state),
        tables.failures(state, 20), tables.footer(state),
    ]  # fmt: skip
    html = "".join(block.html for block in shown)
    assert "No deployment has come as far as a release of llama.cpp." in html
    assert f"Left out, unreadable: {damaged}, line 1" in joined_words(html)
