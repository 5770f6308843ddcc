"""Index of all pages."""

from __future__ import annotations

import dataclasses
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

from nexus_tasks.core.text import SPACE, number
from nexus_tasks.records import store
from nexus_tasks.reports import index
from tests import browser, deployment_records
from tests.batch_runs import Run, Server, recorded
from tests.report_pages import pretend_all_rendered, pretend_rendered
from tests.report_records import NOON, fixed, request, simulate, write

HOUR = timedelta(hours=1)


def test_the_index_lists_rendered_runs_newest_first_with_relative_links(tmp_path: Path) -> None:
    made = [write(tmp_path / "results", NOON + n * HOUR) for n in (3, 0, 4, 1, 2)]
    made.sort()
    for record in made:
        pretend_rendered(tmp_path, record)
    write(tmp_path / "results", NOON + 9 * HOUR)  # has no report yet
    html = index.write(tmp_path / "results", tmp_path / "reports").read_text()
    runs = html[html.index("Benchmarks</h2>") :]
    places = [runs.index(f'href="benchmark/{record.stem}.html?') for record in reversed(made)]
    assert places == sorted(places)
    assert runs.count("<a href=") == 5


def test_the_index_shows_medians_and_verdicts(tmp_path: Path) -> None:
    rows = [request(0), *(request(i, ttft_ms=t) for i, t in enumerate((50.0, 77.7, 90.0), start=1))]
    pretend_rendered(tmp_path, write(tmp_path / "results", NOON, requests=rows))
    pretend_rendered(tmp_path, write(tmp_path / "results", NOON + HOUR, finished=False))
    html = index.write(tmp_path / "results", tmp_path / "reports").read_text()
    for shown in ("77.7", "quick 128/5", "concurrency 1", '<td class="good">ok', '<td class="bad">cut short'):
        assert shown in html


def test_the_index_opens_with_the_fleet_and_the_builds(tmp_path: Path) -> None:
    pretend_rendered(tmp_path, write(tmp_path / "results", NOON))
    deployment_records.write(tmp_path / "results", NOON)
    before = index.write(tmp_path / "results", tmp_path / "reports").read_text()
    assert "fleet.html" not in before  # there is no such page yet
    pretend_all_rendered(tmp_path)
    html = index.write(tmp_path / "results", tmp_path / "reports").read_text()
    links = ('href="fleet/fleet.html?', 'href="builds/builds.html?', 'href="benchmark/')
    assert sorted(links, key=html.index) == list(links)
    assert "The fleet has 1 host with 1 instance. The one instance is verified. No deployment has failed." in html
    assert "1 host runs 1 release of llama.cpp b11434. No record tells of a build." in html
    assert html.count("<a href=") == 4  # the run, in the list of targets too


def test_batches_are_listed_once_a_job_as_the_last_record_with_a_page_tells_them(tmp_path: Path) -> None:
    run = Run({"rig/main": Server()})
    left = run.work(range(40), seconds=3.0, ended="interrupted")
    first = recorded(tmp_path, run.entries, 40)
    run.work(left)
    recorded(tmp_path, run.entries, 40)
    other = recorded(tmp_path, run.entries, 40, name="other<b>")
    results, reports = tmp_path / "results", tmp_path / "reports"
    for record in (first, other):
        pretend_rendered(tmp_path, record.path)
    html = index.write(results, reports).read_text()
    assert html.count('<a href="batch/') == 2
    assert html.index("other&lt;b&gt;") < html.index("prompts-20261122-1200")
    assert f'<td class="muted">{(40 - len(left)) * 100 // 40}{SPACE}% done</td>' in html
    assert '<td class="good">ok</td>' in html
    assert "Benchmarks</h2>" not in html


def test_targets_that_differ_in_punctuation_alone_have_histories_of_their_own(tmp_path: Path) -> None:
    pages = {index.history_page(target, tmp_path).name for target in ("gpu/main", "gpu-main", "http://gpu:main/")}
    assert len(pages) == 3


def test_a_page_that_was_rendered_anew_has_another_address_in_the_index(tmp_path: Path) -> None:
    record = write(tmp_path / "results")
    page = pretend_rendered(tmp_path, record)
    pattern = rf'href="(benchmark/{record.stem}\.html\?\w+)"'
    before = re.findall(pattern, index.write(tmp_path / "results", tmp_path / "reports").read_text())
    page.write_text('<meta content="0123456789abcdef" name="llama-nexus-inputs"/>')
    after = re.findall(pattern, index.write(tmp_path / "results", tmp_path / "reports").read_text())
    assert before
    assert after == [f"benchmark/{record.stem}.html?0123456789ab"] * 2
    assert not set(before) & set(after)


def test_the_index_knows_the_throughput_of_rounds_whose_requests_were_not_read(tmp_path: Path) -> None:
    plans = [{"concurrency": 2, "requests": 10}] * 3
    record = store.load(write(tmp_path, **simulate(plans, output_tokens=16), prompt_tokens=fixed(512)))
    page = tmp_path / "reports" / "benchmark" / f"{record.path.stem}.html"
    page.parent.mkdir(parents=True)
    page.write_text("<p>a page</p>")
    listed = index.write(tmp_path, tmp_path / "reports", [dataclasses.replace(record, requests=[])]).read_text()
    assert record.summary is not None
    assert record.summary.throughput is not None
    assert f">{number(record.summary.throughput.output_tps)}<" in listed


def test_only_a_target_with_a_page_of_its_history_is_said_to_lead_to_it(tmp_path: Path) -> None:
    pretend_rendered(tmp_path, write(tmp_path / "results", NOON))
    html = index.write(tmp_path / "results", tmp_path / "reports").read_text()
    assert "history" not in html
    assert "<svg" not in html
    pretend_rendered(tmp_path, write(tmp_path / "results", NOON + HOUR))
    page = index.history_page("localhost/main", tmp_path / "reports")
    page.parent.mkdir()
    page.touch()
    html = index.write(tmp_path / "results", tmp_path / "reports").read_text()
    assert f'<a href="history/{page.name}">localhost/main</a><svg class="spark"' in html
    assert "A name that is a link leads to the target&#39;s history. Lines:" in html


@browser.needed
def test_an_index_of_urls_and_long_names_fits_a_window_of_1280_pixels(tmp_path: Path) -> None:
    for place, target in enumerate(("https://gateway.internal.example-company.com:8443/openai/deployments/llama/v1",
                                    "gpu-01/a-rather-long-name-of-an-instance", "x" * 300)):  # fmt: skip
        model = {"name": "Meta-Llama-3.1-70B-Instruct-abliterated-IQ2_XXS-imatrix"}
        for hour in (0, 1):
            told: dict[str, Any] = {"target": target, "model": model, "header": {"tag": "a tag of some words"}}
            pretend_rendered(tmp_path, write(tmp_path / "results", NOON + (2 * place + hour) * HOUR, **told))
    run = Run({"gpu-01/main": Server(model="Meta-Llama-3.1-70B-Instruct-abliterated-IQ2_XXS-imatrix")})
    run.work(range(3))
    job = recorded(tmp_path, run.entries, 3, name="prompts-of-a-rather-long-name-that-somebody-gave-20261122T120000Z")
    pretend_rendered(tmp_path, job.path)
    page = index.write(tmp_path / "results", tmp_path / "reports")
    assert browser.too_wide(page, tmp_path, 1280) == ""
