"""What was built where: which host runs which, sentences, differences, tables and the figure."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from nexus_tasks.fleet import builds
from nexus_tasks.fleet.builds import Builds
from nexus_tasks.reports.pages.builds import figures, tables
from tests.deployment_records import NOON, host, instance, lost, release, restored, write

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
OLD, NEW = "b11401-cuda89-77aa00ff", "b11434-cuda89-1f3a90c2"
CPU: dict[str, Any] = {
    "backend": "cpu",
    "cuda_architectures": [],
    "cuda_toolkit": None,
    "fa_quants": [],
    "cpu": "6a93d771",
}


def one(name: str, served: str = NEW, **more: Any) -> dict[str, Any]:
    """A host whose instance serves a release."""
    return host(name, instance(release=served), **more)


def runs(state: Builds) -> dict[str, str]:
    return {host.name: host.release for host in state.hosts}


def late(state: Builds) -> dict[str, list[str]]:
    return {behind.host.name: behind.words for behind in builds.behind(state)}


def test_a_host_runs_the_release_of_its_last_deployment_that_succeeded(tmp_path: Path) -> None:
    write(tmp_path, NOON, one("a", OLD), one("b", OLD), releases=[release(OLD, "a", "built"), release(OLD, "b")])
    broken = host("a", restored(before=instance(release=OLD), release=NEW))
    write(tmp_path, NOON + HOUR, broken, one("b"), releases=[release(NEW, "a", "built"), release(NEW, "b", "taken")])
    state = builds.read(tmp_path)
    assert runs(state) == {"a": OLD, "b": NEW}
    assert [host.succeeded for host in state.hosts] == [True, True]
    assert state.hosts[0].serves == {OLD: ["main"]}
    assert [host.came for host in state.hosts] == ["built", "taken"]


def test_a_host_of_which_no_deployment_succeeded_shows_what_the_last_left_there(tmp_path: Path) -> None:
    failed = host("a", instance(state="failed", release=NEW))
    write(tmp_path, NOON, failed, releases=[release(NEW, "a", "built")])
    state = builds.read(tmp_path)
    assert runs(state) == {"a": NEW}
    assert "no deployment with it has succeeded" in tables.hosts(state).html


def test_a_check_and_a_plan_build_nothing(tmp_path: Path) -> None:
    write(tmp_path, NOON, one("a", OLD), releases=[release(OLD, "a", "built")])
    checked = [release(NEW, "a", at=NOON + HOUR), release(NEW, "b", "failed")]
    write(tmp_path, NOON + HOUR, one("a"), lost("b"), releases=checked, check=True)
    write(tmp_path, NOON + 2 * HOUR, host("a"), releases=[release(NEW, "a", "planned", releases=[OLD])])
    state = builds.read(tmp_path)
    assert runs(state) == {"a": OLD}
    assert [build.release for build in state.builds] == [OLD]
    assert not state.failures


def test_older_records_tell_the_name_of_a_release_and_no_more(tmp_path: Path) -> None:
    write(tmp_path, NOON, host("a", instance(release=OLD), release=OLD))
    state = builds.read(tmp_path)
    assert runs(state) == {"a": OLD}
    assert builds.sentences(state) == [
        "1 host runs 1 release of llama.cpp b11401.",
        "No record tells of a build.",
        "No build has failed.",
    ]
    pages = [tables.hosts(state), tables.releases(state), tables.space(state)]
    assert "only its name is on record" in pages[1].html
    assert all(OLD in page.html or "<td" in page.html for page in pages)
    write(tmp_path, NOON + DAY, one("a"), releases=[release(NEW, "a", "built", at=NOON + DAY, releases=[NEW, OLD])])
    assert "and 1 unknown" in tables.space(builds.read(tmp_path)).html


def test_a_build_counts_once_however_many_hosts_have_it_and_names_the_host_that_made_it(tmp_path: Path) -> None:
    write(tmp_path, NOON, one("a"), one("rig"), releases=[release(NEW, "rig", "built"), release(NEW, "a", "taken")])
    write(tmp_path, NOON + HOUR, one("a"), one("b"), releases=[release(NEW, "a"), release(NEW, "b")])
    state = builds.read(tmp_path)
    assert [(build.release, build.place) for build in state.builds] == [(NEW, "rig")]
    write(tmp_path, NOON + DAY, one("c"), releases=[release(NEW, "c", at=NOON - DAY)])
    # Of one that was there before the records begin, what its machine calls itself is known.
    assert [build.place for build in builds.read(tmp_path).builds] == ["rig.example.org", "rig"]
    write(tmp_path, NOON + 2 * DAY, one("d"), releases=[release(OLD, "d", at=NOON + DAY)])
    assert builds.sentences(builds.read(tmp_path))[1].endswith(" 12 min, 95 % of 820 compilations from the cache.")


def test_a_failure_is_told_until_the_host_has_a_release_again(tmp_path: Path) -> None:
    write(tmp_path, NOON, lost("a"), lost("b"), releases=[release(NEW, "a", "failed"), release(NEW, "b", "failed")])
    write(tmp_path, NOON + HOUR, lost("a"), releases=[release(NEW, "a", "failed", error="no room\nmore")])
    write(tmp_path, NOON + 2 * HOUR, one("b"), releases=[release(NEW, "b", "taken")])
    state = builds.read(tmp_path)
    assert [(failure.host, failure.mended) for failure in state.failures] == [("a", False), ("b", True), ("a", False)]
    assert builds.sentences(state)[2] == f"a did not get {NEW} (2026-11-22 13:00 UTC): no room."
    assert builds.tone(state) == "bad"
    write(tmp_path, NOON + 3 * HOUR, one("a"), releases=[release(NEW, "a", "taken")])
    state = builds.read(tmp_path)
    assert builds.sentences(state)[2] == (
        "Nothing is amiss now; the last failure was on a (2026-11-22 13:00 UTC): no room."
    )
    assert builds.tone(state) == "good"


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"ref": "b11401", "commit": "9f1e2d3c4" + "0" * 31}, ["b11401 instead of b11434"]),
        ({"commit": "9f1e2d3c4" + "0" * 31}, ["commit 9f1e2d3c4 instead of 0c1e57098"]),
        ({"cuda_toolkit": "12.4"}, ["CUDA toolkit 12.4 instead of 12.9"]),
        (
            {"cmake_options": {"FLAG": "1", "MORE": "x"}, "web_page": "npm"},
            ["CMake options FLAG=1, MORE=x instead of none", "web page npm instead of off"],
        ),
        ({"fa_quants": ["all"]}, ["FlashAttention for all instead of f16-f16, q8_0-q8_0"]),
        ({"cpu": "6a93d771"}, ["native instead of portable"]),
        ({"targets": ["llama-server"]}, ["programs llama-server instead of llama-bench, llama-server"]),
        # Another source of the same commit makes the same.
        ({"source": {"kind": "pypi", "package": "llama-cpp-python", "version": "0.3.36", "sha256": "ab"}}, None),
        # Of another kind only the version is compared: what hosts have in them decides the rest.
        ({**CPU, "web_page": "npm"}, None),
        ({**CPU, "ref": "b11401"}, ["b11401 instead of b11434"]),
        ({"cuda_architectures": ["120"], "cuda_toolkit": "13.0"}, None),
    ],
)
def test_a_host_is_behind_where_it_differs_from_what_was_built_later_for_others(
    tmp_path: Path, own: dict[str, Any], words: list[str] | None
) -> None:
    rows = [release("b-own", "a", "built", **{"ref": "b11434", **own}), release(NEW, "b", "built", at=NOON + DAY)]
    write(tmp_path, NOON, one("a", "b-own"), one("b"), releases=rows)
    state = builds.read(tmp_path)
    assert late(state) == ({"a": words} if words else {})
    assert builds.tone(state) == ("muted" if words else "good")
    if words:
        assert builds.sentences(state)[2] == f"Behind what was built last for the others: a ({', '.join(words)})."
        assert "; ".join(words) in tables.amiss(state).html
    else:
        assert "Behind the others" not in tables.amiss(state).html


def test_two_native_releases_of_one_version_are_not_behind_each_other(tmp_path: Path) -> None:
    rows = [release("b1-x", "a", "built", cpu="6a93d771"), release("b1-y", "b", "built", cpu="1b7c22d0", at=NOON + DAY)]
    write(tmp_path, NOON, one("a", "b1-x"), one("b", "b1-y"), releases=rows)
    state = builds.read(tmp_path)
    assert late(state) == {}
    assert builds.apart(state)[0] == {"b1-y": [], "b1-x": ["instruction sets 6a93d771, not 1b7c22d0"]}


def test_what_sets_a_release_apart_is_said_against_what_most_have(tmp_path: Path) -> None:
    rows = [
        release(NEW, "a", "built", at=NOON),
        release(OLD, "b", "built", at=NOON - DAY, commit="9f1e2d3c4" + "0" * 31, cuda_toolkit="12.4"),
        release("b11434-cpu-0a", "c", "built", at=NOON + DAY, **CPU),
        release("b11434-dist-0b", "d", "built", at=NOON, source={"kind": "binary", "archives": []}, web_page="npm"),
    ]
    write(tmp_path, NOON, *(one(row["host"], row["name"]) for row in rows), releases=rows)
    state = builds.read(tmp_path)
    words, same = builds.apart(state)
    assert list(words) == ["b11434-cpu-0a", "b11434-dist-0b", NEW, OLD]  # the newest build first
    assert words[NEW] == []
    assert words[OLD] == ["b11401, not b11434", "CUDA toolkit 12.4, not 12.9"]
    assert words["b11434-cpu-0a"] == ["CPU, not CUDA", "native, not portable"]
    assert words["b11434-dist-0b"] == [
        "web page npm, not off",
        "source upstream's binaries, not git https://github.com/ggml-org/llama.cpp.git",
    ]
    assert same == ["x86_64", "CMake options none", "programs llama-bench, llama-server"]
    html = tables.releases(state).html
    assert "<div>CUDA toolkit 12.4, not 12.9</div>" in html
    assert "The same in all: x86_64, CMake options none," in html


def test_three_sentences_say_what_runs_how_the_last_build_went_and_what_is_amiss(tmp_path: Path) -> None:
    rows = [
        *(release(NEW, name, "taken", at=NOON + DAY) for name in ("a", "b")),
        release(OLD, "c", "built"),
        release("b11434-cpu-0a", "d", "built", **{**CPU, "ccache": None}),
    ]
    write(tmp_path, NOON + DAY, *(one(row["host"], row["name"]) for row in rows), lost("e"), releases=[
        *rows, release(NEW, "e", "failed", name=None, inputs=None, error="x" * 300)
    ])  # fmt: skip
    assert builds.sentences(builds.read(tmp_path)) == [
        "4 hosts run 3 releases of llama.cpp: b11434 on 3, b11401 on 1.",
        f"The last build was {NEW} on rig (2026-11-23 12:00 UTC): 12 min, 95 % of 820 compilations from the cache; "
        "2 hosts took it.",
        f"e did not get a release (2026-11-23 12:00 UTC): {'x' * 119}… "
        "Behind what was built last for the others: c (b11401 instead of b11434).",
    ]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"ccache": None}, "12 min, without a cache."),
        ({"ccache": {"hits": 0, "misses": 3}}, "12 min, 0 % of 3 compilations from the cache."),
        ({"ccache": None, "source": {"kind": "binary"}, "build_seconds": 6.2}, "6.2 s, not compiled."),
    ],
)
def test_what_the_cache_spared_a_build_is_said(tmp_path: Path, more: dict[str, Any], told: str) -> None:
    write(tmp_path, NOON, one("a"), releases=[release(NEW, "a", "built", **more)])
    state = builds.read(tmp_path)
    assert builds.sentences(state)[1] == f"The last build was {NEW} on a (2026-11-22 12:00 UTC): {told}"
    assert told.split(", ")[0] in figures.build_times(state, 30).html


def test_space_adds_up_the_releases_on_a_host_and_names_those_that_were_removed(tmp_path: Path) -> None:
    write(tmp_path, NOON, one("a", OLD), releases=[release(OLD, "a", "built", size=300 << 20)])
    there: dict[str, Any] = {"at": NOON + DAY, "size": 800 << 20, "releases": [NEW, OLD]}
    built = release(NEW, "a", "built", removed=["b11100-cuda89-0b"], **there)
    write(tmp_path, NOON + DAY, one("a"), releases=[built])
    write(tmp_path, NOON + 2 * DAY, one("a"), releases=[release(NEW, "a", **there)])
    state = builds.read(tmp_path)
    assert builds.space(state, state.hosts[0].releases or []) == (1100 << 20, [])
    html = tables.space(state).html
    for shown in (">2<", "1.07\N{NO-BREAK SPACE}GiB", OLD, "b11100-cuda89-0b"):
        assert shown in html, shown


def test_a_host_that_only_builds_for_others_is_listed_with_what_it_built(tmp_path: Path) -> None:
    write(tmp_path, NOON, one("a", OLD), releases=[release(OLD, "a", "taken", size=300 << 20)])
    write(tmp_path, NOON + DAY, one("a"), one("b"), releases=[
        release(NEW, "a", "taken", at=NOON + DAY), release(NEW, "b", "taken", at=NOON + DAY)
    ])  # fmt: skip
    state = builds.read(tmp_path)
    assert state.builders == {"rig": [NEW, OLD]}
    assert "<small>builds for a, b</small>" in tables.hosts(state).html
    shown = re.sub(r"<[^>]*>|\s", " ", tables.space(state).html)
    assert re.search(rf"rig +2 +1,000 MiB +{NEW}, {OLD} ", shown)
    write(tmp_path, NOON + 2 * DAY, one("rig"), releases=[release(NEW, "rig", at=NOON + DAY)])
    assert builds.read(tmp_path).builders == {}  # it has a row of its own now


@pytest.mark.parametrize(
    ("span", "told"), [(-HOUR, "0 h"), (3 * HOUR, "3 h"), (DAY, "1 day"), (12 * DAY + HOUR, "12 days")]
)
def test_ages_are_whole_hours_or_days(span: timedelta, told: str) -> None:
    assert builds.age(span) == told


def test_a_published_vulnerability_of_what_runs_is_told_first_and_makes_the_page_bad(tmp_path: Path) -> None:
    rows = [release("b11312-cpu-0a", "a", "built", **{**CPU, "ref": "b11312"}), release(NEW, "b", "built", at=NOON)]
    write(tmp_path, NOON, one("a", "b11312-cpu-0a"), one("b"), releases=rows)
    state = builds.read(tmp_path)
    severe = [one for one in builds.vulnerable(state) if one.is_severe]
    assert [(one.version, one.hosts, one.advisory["id"]) for one in severe] == [("b11312", ["a"], "CVE-2026-107183")]
    assert builds.sentences(state)[2].startswith("Open to any client: b11312 on a has CVE-2026-107183.")
    assert builds.tone(state) == "bad"
    html = tables.amiss(state).html
    assert "Published vulnerabilities" in html
    assert "whoever sends it a request" in html
    write(tmp_path, NOON + DAY, one("a"), one("b"), releases=[release(NEW, "a", "built"), release(NEW, "b")])
    assert not [one for one in builds.vulnerable(builds.read(tmp_path)) if one.is_severe]
