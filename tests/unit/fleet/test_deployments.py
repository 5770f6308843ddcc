"""The fleet as its deployments left it: states, sentences, tables and figures."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from nexus_tasks.fleet import deployments
from nexus_tasks.fleet.deployments import Fleet
from nexus_tasks.reports.pages.fleet import figures, tables
from tests.deployment_records import NOON, SLOW, Row, host, instance, lost, restored, write

HOUR = timedelta(hours=1)


def states(state: Fleet) -> dict[str, str]:
    return {one.label: one.state for one in state.instances}


def test_an_instance_is_as_the_last_deployment_left_it_that_reported_it(tmp_path: Path) -> None:
    write(tmp_path, NOON, host("a", instance(release="old"), instance("second")), host("b", instance()))
    write(tmp_path, NOON + HOUR, host("a", instance(release="new")), limit="a")
    state = deployments.read(tmp_path)
    assert states(state) == {"a/main": "verified", "a/second": "verified", "b/main": "verified"}
    assert [one.row["release"] for one in state.instances] == ["new", *[instance()["release"]] * 2]
    assert [one.verified_at for one in state.instances] == [NOON + HOUR, NOON, NOON]
    assert state.well


def test_a_check_and_a_plan_change_nothing(tmp_path: Path) -> None:
    write(tmp_path, NOON, host("a", instance()))
    write(tmp_path, NOON + HOUR, host("a", instance(state="failed"), instance("new", "planned")), check=True)
    write(tmp_path, NOON + 2 * HOUR, host("a", instance(state="planned")))
    state = deployments.read(tmp_path)
    assert states(state) == {"a/main": "verified"}
    assert state.instances[0].at == NOON
    assert state.well
    assert len(state.deployments) == 3
    assert len(state.real) == 2


def test_a_restored_instance_shows_what_it_serves_and_is_not_well(tmp_path: Path) -> None:
    write(tmp_path, NOON, host("a", restored(before=instance(release="before", tokens_per_second=99.0), release="new")))
    (one,) = deployments.read(tmp_path).instances
    assert one.serving["release"] == "before"
    assert one.verified_at == NOON
    assert deployments.read(tmp_path).broken == [one]
    html = tables.instances(deployments.read(tmp_path)).html
    assert "before" in html
    assert "99.0" in html
    assert '<td class="bad">restored' in html


def test_a_failed_instance_keeps_the_time_of_its_last_proof(tmp_path: Path) -> None:
    write(tmp_path, NOON, host("a", instance()))
    write(tmp_path, NOON + HOUR, host("a", instance(state="failed", error="it died while loading.\nsecond line")))
    (one,) = deployments.read(tmp_path).instances
    assert (one.state, one.verified_at, deployments.cause(one.row)) == ("failed", NOON, "it died while loading")


def test_an_instance_that_was_stopped_or_is_no_longer_declared_keeps_its_facts(tmp_path: Path) -> None:
    write(tmp_path, NOON, host("a", instance(), instance("second"), instance("third")))
    facts: Row = {"changed": False, "checks": [], "error": None}
    brief = [{"name": "second", "state": "undeclared", **facts}, {"name": "third", "state": "stopped", **facts}]
    write(tmp_path, NOON + HOUR, host("a", instance(changed=False), *brief))
    state = deployments.read(tmp_path)
    assert states(state) == {"a/main": "verified", "a/second": "undeclared", "a/third": "stopped"}
    assert [one.row["n_ctx"] for one in state.instances] == [32768] * 3
    assert state.well


def test_an_instance_that_was_removed_is_gone(tmp_path: Path) -> None:
    write(tmp_path, NOON, host("a", instance(), instance("second")))
    gone = {"name": "second", "state": "stopped", "changed": True, "checks": [], "error": None, "removed": True}
    write(tmp_path, NOON + HOUR, host("a", instance(changed=False), gone))
    assert states(deployments.read(tmp_path)) == {"a/main": "verified"}


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (restored(), "It serves what it served before: gpt-oss-20b-mxfp4, b11434-0c1e57098, b11434-cuda-89-1a2b3c4d."),
        (
            restored(trial=True, changed=False, before={"name": "main"}),
            "It serves what it served before: proven again.",
        ),
        (
            instance(state="failed", changed=True, restored={"error": "it died too"}),
            "What it served before does not serve either: it died too.",
        ),
        (instance(state="failed", changed=False), "It was left running."),
        (instance(state="failed", changed=True), "Nothing that was proven runs there."),
    ],
)
def test_what_is_there_after_a_failed_proof_is_said(row: Row, told: str) -> None:
    assert deployments.aftermath(row) == told


def test_a_host_that_failed_before_its_instances_is_in_trouble_until_it_is_deployed_again(tmp_path: Path) -> None:
    write(tmp_path, NOON, host("a", instance()), host("b", instance()))
    write(tmp_path, NOON + HOUR, lost("a"), lost("b", "No route to host", unreachable=True))
    state = deployments.read(tmp_path)
    assert states(state) == {"a/main": "verified", "b/main": "verified"}
    assert [(one.host, one.what) for one in state.troubles] == [
        ("a", "llama_cpp: Follow the build"),
        ("b", "not reached"),
    ]
    assert not state.well
    write(tmp_path, NOON + 2 * HOUR, host("a", instance(changed=False)), limit="a")
    assert [one.host for one in deployments.read(tmp_path).troubles] == ["b"]


@pytest.mark.parametrize("how", [{"finished": False}, {"interrupted": True}])
def test_an_interrupted_deployment_is_told_of(tmp_path: Path, how: dict[str, bool]) -> None:
    write(tmp_path, NOON, host("a", instance()), host("b", instance()), **how)
    state = deployments.read(tmp_path)
    assert not state.troubles  # both came to their instances
    assert not state.well
    assert deployments.sentences(state)[2] == (
        "Not as it should be: the last deployment (all, 2026-11-22 12:00 UTC) was interrupted."
    )
    assert state.deployments[0].verdict == "interrupted"
    write(tmp_path, NOON + HOUR, host("a", instance()), host("b"), **how)
    assert [one.host for one in deployments.read(tmp_path).troubles] == ["b"]


@pytest.mark.parametrize(
    ("row", "became"),
    [
        (host("a", instance(), instance("b", changed=False)), "verified"),
        (host("a", instance(changed=False)), "unchanged"),
        (host("a", instance(), restored("b")), "restored"),
        (host("a", restored(), instance("b", "failed")), "failed"),
        (host("a", instance(), ok=False, failed=True), "failed"),
        (lost("a"), "failed"),
        (lost("a", unreachable=True), "failed"),
        (host("a", instance(state="stopped")), "stopped"),
        (host("a", instance(state="planned")), ""),
        (host("a"), ""),
    ],
)
def test_a_host_shows_the_worst_that_became_of_its_instances(row: Row, became: str) -> None:
    assert deployments.outcome(row) == became
    assert not became or became in figures.MARKS


@pytest.mark.parametrize(
    ("hosts", "told"),
    [
        (
            [host("a", instance())],
            ["The fleet has 1 host with 1 instance.", "The one instance is verified.", "No deployment has failed."],
        ),
        (
            [host("a", instance(), instance("b")), host("b", instance())],
            ["The fleet has 2 hosts with 3 instances.", "All 3 instances are verified.", "No deployment has failed."],
        ),
        (
            [host("a", instance(), instance("b", "stopped"), instance("c", "undeclared"))],
            [
                "The fleet has 1 host with 3 instances.",
                "1 instance of 3 verified, 1 is stopped, 1 is no longer declared.",
                "No deployment has failed.",
            ],
        ),
        (
            [host("a", instance(), restored("b")), host("b", instance(state="failed", error="it died"))],
            [
                "The fleet has 2 hosts with 3 instances.",
                "1 of 3 instances verified, 1 restored, 1 failed.",
                "Not as it should be: a/b serves what it served before (2026-11-22 12:00 UTC): main is slower "
                "than declared; b/main failed (2026-11-22 12:00 UTC): it died.",
            ],
        ),
        (
            [lost("a"), *(lost(name, "gone", unreachable=True) for name in "bcde")],
            [
                "The fleet has 5 hosts, and no instance yet.",
                "No instance has been verified.",
                "Not as it should be: a (llama_cpp: Follow the build, 2026-11-22 12:00 UTC): the build failed; "
                "b (not reached, 2026-11-22 12:00 UTC): gone; c (not reached, 2026-11-22 12:00 UTC): gone; and 2 more.",
            ],
        ),
    ],
)
def test_three_sentences_say_what_there_is_and_what_is_wrong(tmp_path: Path, hosts: list[Row], told: list[str]) -> None:
    write(tmp_path, NOON, *hosts)
    assert deployments.sentences(deployments.read(tmp_path)) == told


def test_a_failure_that_was_mended_is_told_as_the_last_one(tmp_path: Path) -> None:
    write(tmp_path, NOON, host("a", restored(error=None)))
    write(tmp_path, NOON + HOUR, host("a", instance()))
    assert deployments.sentences(deployments.read(tmp_path))[2] == (
        "Nothing is amiss now; the last failure was on 2026-11-22 12:00 UTC: a/main restored: decode speed: expected "
        "at least 180 tokens/s, found 41.5 (layers were left on the processor)."
    )


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


def test_mapped_and_pinned_buffers_count_as_the_hosts_memory() -> None:
    parts = {"CUDA0": 8.0, "CPU_Mapped": 4.0, "CPU": 2.0, "CUDA_Host": 1.0}
    buffers = {name: {"model": size, "kv": None} for name, size in parts.items()}
    assert deployments.device_memory_mib({"buffers_mib": buffers}) == {"CUDA0": 8.0, "CPU": 7.0}


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
    assert f"Left out, unreadable: {damaged}, line 1" in html


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


def _ids(html: str) -> list[str]:
    return [part.partition('"')[0] for part in html.split(' id="')[1:]]
