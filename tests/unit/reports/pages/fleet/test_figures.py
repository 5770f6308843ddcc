"""Figures of the fleet's page."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from nexus_tasks.fleet import deployments
from nexus_tasks.reports.pages.fleet import figures
from tests.deployment_records import NOON, host, instance, lost, restored, write

HOUR = timedelta(hours=1)


def test_the_timeline_marks_what_became_of_each_host(tmp_path: Path) -> None:
    write(tmp_path, NOON, host("a", instance()), host("b", instance(changed=False)))
    write(tmp_path, NOON + HOUR, host("a", restored()), lost("b"), interrupted=True)
    write(tmp_path, NOON + 2 * HOUR, lost("a"), check=True)
    state = deployments.read(tmp_path)
    html = figures.timeline(state, 40).html
    assert "2 deployments to 2 hosts: 1 verified, 1 unchanged, 1 restored, 1 failed." in html
    assert "A dotted line: it was interrupted." in html
    assert "1 deployment to 2 hosts: 1 restored, 1 failed." in figures.timeline(state, 1).html


def test_the_decode_figure_has_a_panel_an_instance(tmp_path: Path) -> None:
    write(tmp_path, NOON, host("a", instance(release="old"), instance("embed", tokens_per_second=None)))
    write(tmp_path, NOON + HOUR, host("a", restored(before=instance(tokens_per_second=99.0, release="old"))))
    write(tmp_path, NOON + 2 * HOUR, host("a", instance()))
    html = figures.decode(deployments.read(tmp_path), 40).html
    assert "a/main 212" in html
    assert "a/main, tokens/s</text>" in html
    assert "embed" not in html
    assert html.count("stroke-dasharray") == 1  # one change of release
    many = [host(f"host-{n:02}", instance()) for n in range(15)]
    write(tmp_path, NOON + 3 * HOUR, *many)
    assert "4 more instances are not drawn." in figures.decode(deployments.read(tmp_path), 40).html


def test_figures_of_the_fleet_share_no_ids_and_name_their_colours(tmp_path: Path) -> None:
    write(tmp_path, NOON, host("a", instance(), restored("b")), lost("c"))
    state = deployments.read(tmp_path)
    one, other = figures.timeline(state, 40).html, figures.decode(state, 40).html
    assert set(_ids(one)).isdisjoint(_ids(other))
    assert "var(--bad, " in one
    assert "var(--blue, " in other


def _ids(html: str) -> list[str]:
    return [part.partition('"')[0] for part in html.split(' id="')[1:]]


def test_each_outcome_of_a_host_has_a_mark() -> None:
    assert set(figures.MARKS) == set(deployments.OUTCOMES)
