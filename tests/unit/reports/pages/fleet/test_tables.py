"""Tables of the fleet's page."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from nexus_tasks.fleet import deployments
from nexus_tasks.reports.pages.fleet import figures, tables
from tests.deployment_records import NOON, SLOW, host, instance, lost, restored, write
from tests.report_pages import joined_words

HOUR = timedelta(hours=1)


def test_what_is_wrong_is_shown_with_the_checks_that_did_not_hold_first(tmp_path: Path) -> None:
    write(tmp_path, NOON, host("a", restored(checks=[{**SLOW, "ok": True, "check": "held"}, SLOW], log_tail=["<end>"])))
    html = tables.trouble(deployments.read(tmp_path)).html
    assert html.index("decode speed") < html.index("held")
    assert '<td class="bad">41.5</td><td class="">layers were left on the processor</td>' in html
    assert "&lt;end&gt;" in html
    assert "It serves what it served before: gpt-oss-20b-mxfp4, b11434-0c1e57098, b11434-cuda-89-1a2b3c4d." in html


def test_where_all_is_well_there_is_no_section_about_what_is_not(tmp_path: Path) -> None:
    write(tmp_path, NOON)
    assert tables.trouble(deployments.read(tmp_path)).html == ""


def test_the_table_shows_each_fact_of_an_instance(tmp_path: Path) -> None:
    write(tmp_path, NOON, host("gpu-01", instance()))
    html = tables.instances(deployments.read(tmp_path)).html
    for shown in (
        "gpu-01/<wbr>main", "systemd", "verified<small>2026-11-22 12:00", "gpt-oss-20b-mxfp4", "ab12cd34ab12<",
        "b11434-0c1e57098", "b11434-cuda-89-1a2b3c4d", ">212<", "32,768<small>4 slots", "25/25",
        "CUDA0&nbsp;<b>13.7\N{NO-BREAK SPACE}GiB", "CPU&nbsp;<b>614\N{NO-BREAK SPACE}MiB",
    ):  # fmt: skip
        assert shown in html, shown


def test_an_instance_of_which_little_is_known_has_its_row_too(tmp_path: Path) -> None:
    known = {"name": "main", "state": "failed", "checks": [], "changed": False, "error": None}
    models = {"check": "models", "expected": ["one", "two"], "found": ["one", "two"], "ok": True, "cause": None}
    router = instance("router", model=None, checks=[models], buffers_mib={}, offloaded=None)
    router["gpu_processes_mib"] = {"GPU-0a1b": 14320, "GPU-2c3d": None}  # the driver would not say
    write(tmp_path, NOON, host("a", known, router))
    state = deployments.read(tmp_path)
    html = tables.instances(state).html
    assert "failed<small>never" in html
    assert "one, two" in html
    assert "GPU-0a1b&nbsp;<b>14.0" in html  # the driver's number, where the server's are unknown
    assert "GPU-2c3d" not in html
    assert "no reason was given" in tables.trouble(state).html


def test_the_last_deployments_are_listed_newest_first_and_told_apart(tmp_path: Path) -> None:
    write(tmp_path, NOON, host("a", instance()))
    write(tmp_path, NOON + HOUR, host("a", instance(changed=False), changed=0), git={"commit": None, "dirty": None})
    write(tmp_path, NOON + 2 * HOUR, host("a", instance(state="planned"), changed=2), check=True)
    write(tmp_path, NOON + 3 * HOUR, lost("a", "<no room>"), limit="a", git={"commit": "0a" * 20, "dirty": True})
    damaged = write(tmp_path, NOON + 4 * HOUR)
    damaged.write_text("no record\n")
    state = deployments.read(tmp_path)
    html = tables.listed(state, 3).html
    places = [html.index(shown) for shown in ("a: &lt;no room&gt;", "check: 1 host would change", "1 unchanged")]
    assert places == sorted(places)
    assert "1 verified" not in html
    assert "The last 3 of 4." in html
    assert "0a0a0a0a+" in html
    assert f"Left out, unreadable: {damaged}, line 1" in joined_words(html)


def test_a_fleet_without_an_instance_still_has_every_block(tmp_path: Path) -> None:
    write(tmp_path, NOON, host("a"))
    state = deployments.read(tmp_path)
    shown = [
        tables.head(state), tables.instances(state), tables.trouble(state),
        figures.timeline(state, 40), figures.decode(state, 40), tables.listed(state, 20),
        tables.footer(state),
    ]  # fmt: skip
    assert "No deployment has come as far as an instance." in "".join(block.html for block in shown)
    only_checks = tmp_path / "checks"
    write(only_checks, NOON, check=True)
    assert "Nothing has been deployed yet." in tables.head(deployments.read(only_checks)).html


def test_a_restored_instance_shows_what_it_serves(tmp_path: Path) -> None:
    write(tmp_path, NOON, host("a", restored(before=instance(release="before", tokens_per_second=99.0), release="new")))
    html = tables.instances(deployments.read(tmp_path)).html
    assert "before" in html
    assert "99.0" in html
    assert '<td class="bad">restored' in html
