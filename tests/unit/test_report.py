"""Which records are rendered, and what is said about bad input; no notebook runs here."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from nexus_tasks import report
from nexus_tasks.records import store
from nexus_tasks.reports import index, rendering, site
from tests import deployment_records, plan_records
from tests.batch_runs import Run, Server, recorded
from tests.damaged_records import DAMAGES, damage
from tests.report_pages import pretend_all_rendered, pretend_rendered
from tests.report_records import NOON, simulate, write

HOUR = timedelta(hours=1)


def _main(tmp_path: Path, *arguments: str) -> int:
    return report.main(["--results", str(tmp_path / "results"), "--reports", str(tmp_path / "reports"), *arguments])


def test_an_empty_results_folder_is_an_error_that_says_how_to_fill_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _main(tmp_path) == 1
    message = capsys.readouterr().err
    assert f"no benchmark records in {tmp_path / 'results' / 'benchmark'}" in message
    assert "nox -s benchmark" in message


def test_results_that_are_no_folder_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "results").write_text("")
    assert _main(tmp_path) == 1
    assert "cannot list" in capsys.readouterr().err


def test_an_unknown_run_is_an_error_that_lists_the_latest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = [write(tmp_path / "results", NOON + n * HOUR).stem for n in range(7)]
    old = recorded(tmp_path, [], 1).path
    old.rename(old.with_stem("20200101T000000000Z-job-0000"))
    assert _main(tmp_path, "--run", "20200101T000000Z-nowhere-0000") == 1
    message = capsys.readouterr().err
    assert "no run '20200101T000000Z-nowhere-0000'" in message
    assert f"the latest are {', '.join(reversed(made[2:]))}\n" in message


def test_an_unknown_kind_is_an_error_that_lists_the_kinds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _main(tmp_path, "benchmrk") == 1
    assert capsys.readouterr().err == (
        "error: unknown kind of record 'benchmrk'\n"
        " hint: there is benchmark, deployment, batch, plan, usage, compare, tuning, models, history\n"
    )


@pytest.mark.parametrize(
    ("name", "value", "message", "hint"),
    [
        ("nosuch", "1", "has no parameter 'nosuch'", "it has agreement_limit_percent, history_runs"),
        ("record_path", "/etc/passwd", "has no parameter 'record_path'", "agreement_limit_percent"),
        ("history_runs", "many", "history_runs of benchmark.ipynb must be a whole number, not 'many'", "-p history"),
    ],
)
def test_a_bad_notebook_parameter_is_refused_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, value: str, message: str, hint: str
) -> None:
    write(tmp_path / "results")
    assert _main(tmp_path, "-p", name, value) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert hint in captured.err
    assert "rendering" not in captured.out
    assert not list((tmp_path / "reports").rglob("*.ipynb"))


# The kernel makes /proc unwritable for root too, and a file can't hold files.
@pytest.mark.parametrize("place", ["/proc/reports", "a-file"])
def test_a_reports_folder_that_cannot_be_written_is_an_error_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    write(tmp_path / "results")
    (tmp_path / "a-file").write_text("")
    folder = str(tmp_path / place)
    assert report.main(["--results", str(tmp_path / "results"), "--reports", folder]) == 1
    captured = capsys.readouterr()
    assert f"cannot write reports to {folder}" in captured.err
    assert "--reports" in captured.err
    assert "rendering" not in captured.out


def test_reports_that_are_up_to_date_are_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = pretend_rendered(tmp_path, write(tmp_path / "results"))
    before = page.stat().st_mtime_ns
    assert _main(tmp_path) == 0
    assert page.stat().st_mtime_ns == before
    out = capsys.readouterr().out.splitlines()
    assert out == ["1 report: 0 rendered, 1 up to date already", str(tmp_path / "reports" / "index.html")]


def test_a_damaged_record_is_named_with_its_line_and_the_exit_status_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = write(tmp_path / "results", NOON)
    pretend_rendered(tmp_path, good)
    damaged = write(tmp_path / "results", NOON + HOUR)
    lines = damaged.read_text().splitlines()
    damaged.write_text("\n".join([*lines[:2], '{"type": "requ', *lines[2:]]))
    assert _main(tmp_path) == 1
    captured = capsys.readouterr()
    assert f"warning: {damaged}, line 3: it is not JSON: skipped" in captured.err
    assert "2 reports: 0 rendered, 1 up to date already, 1 failed" in captured.out
    assert good.stem in (tmp_path / "reports" / "index.html").read_text()


@pytest.mark.parametrize("how", DAMAGES)
def test_a_history_goes_on_past_a_damaged_record_and_names_it(
    tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Path] = []
    monkeypatch.setattr(rendering, "render", lambda page: shown.extend(page.records))
    good, damaged = [write(tmp_path / "results", NOON + hour * HOUR) for hour in range(2)]
    damage(damaged, how)
    assert _main(tmp_path, "history", "localhost/main") == 0
    assert shown == [good]
    assert f"warning: {damaged}" in capsys.readouterr().err


def test_the_reports_of_all_deployments_are_up_to_date_until_there_is_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deployment_records.write(tmp_path / "results", NOON)
    deployment_records.write(tmp_path / "results", NOON + HOUR)
    pages = pretend_all_rendered(tmp_path)
    assert _main(tmp_path) == 0
    assert capsys.readouterr().out.startswith("2 reports: 0 rendered, 2 up to date already\n")
    deployment_records.write(tmp_path / "results", NOON + 2 * HOUR)
    records = store.paths("deployment", tmp_path / "results")
    for page in pages:
        inputs = rendering.fingerprint(records, site.NOTEBOOKS / f"{page.stem}.ipynb", {})
        assert not rendering.is_current(page, inputs)


def test_a_kind_that_was_asked_for_and_has_no_records_says_how_to_make_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "results")
    assert _main(tmp_path, "deployment") == 1
    message = capsys.readouterr().err
    assert "no deployment records in" in message
    assert "deploy something first: ansible-playbook deploy.yml -l gpu-hosts" in message


def test_one_deployment_has_no_report_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = deployment_records.write(tmp_path / "results")
    assert _main(tmp_path, "--run", made.stem) == 1
    assert "deployments are reported on together: nox -s report -- deployment" in capsys.readouterr().err


def test_of_a_job_its_last_record_is_rendered_and_any_that_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Path] = []
    monkeypatch.setattr(rendering, "render", lambda page: shown.extend(page.records))
    run = Run({"rig/main": Server()})
    left = run.work(range(40), seconds=3.0, ended="interrupted")
    first = recorded(tmp_path, run.entries, 40).path
    run.work(left)
    last = recorded(tmp_path, run.entries, 40).path
    assert _main(tmp_path) == 0
    assert shown == [last]
    assert _main(tmp_path, "--run", first.stem) == 0
    assert shown == [last, first]
    damaged = first.with_stem(f"{first.stem}-damaged")
    damaged.write_text(first.read_text().replace('"latency_ms":', '"latency":', 1))
    assert _main(tmp_path, "batch") == 1
    assert f"warning: {damaged}, line " in capsys.readouterr().err


def test_plans_are_shown_together_with_what_deployments_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[rendering.Page] = []
    monkeypatch.setattr(rendering, "render", shown.append)
    plan = plan_records.write_record(tmp_path / "results", [], "1-a")
    deployed = deployment_records.write(tmp_path / "results")
    assert _main(tmp_path, "plan") == 0
    (page,) = shown
    assert (page.path, page.records) == (tmp_path / "reports/capacity/capacity.html", (plan, deployed))
    assert _main(tmp_path, "--run", "1-a") == 1
    assert "plans are reported on together: nox -s report -- plan" in capsys.readouterr().err


def test_a_parameter_goes_to_the_notebook_that_has_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write(tmp_path / "results")
    deployment_records.write(tmp_path / "results")
    pretend_rendered(tmp_path, run)
    pretend_all_rendered(tmp_path, fleet={"listed_deployments": "5"})
    assert _main(tmp_path, "-p", "listed_deployments", "5") == 0
    assert "3 reports: 0 rendered, 3 up to date already" in capsys.readouterr().out
    assert _main(tmp_path, "-p", "nosuch", "5") == 1
    message = capsys.readouterr().err
    assert "no notebook has a parameter 'nosuch'" in message
    assert "benchmark.ipynb has agreement_limit_percent, history_runs; fleet.ipynb has history_deployments" in message
    assert _main(tmp_path, "-p", "listed_deployments", "few") == 1
    assert "parameter listed_deployments of fleet.ipynb must be a whole number, not 'few'" in capsys.readouterr().err


def test_a_damaged_deployment_record_is_named_and_the_fleet_shown_without_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deployment_records.write(tmp_path / "results", NOON)
    damaged = deployment_records.write(tmp_path / "results", NOON + HOUR)
    damaged.write_text("no record\n")
    pretend_all_rendered(tmp_path)
    assert _main(tmp_path) == 1
    captured = capsys.readouterr()
    assert f"warning: {damaged}, line 1: it is not JSON: skipped" in captured.err
    assert "3 reports: 0 rendered, 2 up to date already, 1 failed" in captured.out
    assert "The fleet has 1 host" in (tmp_path / "reports" / "index.html").read_text()


def _pretend_history(tmp_path: Path, target: str) -> Path:
    """A target's history, such as rendering makes it, without what it shows."""
    records = store.paths("benchmark", tmp_path / "results")
    page = index.history_page(target, tmp_path / "reports")
    page.parent.mkdir(parents=True, exist_ok=True)
    inputs = rendering.fingerprint(records, site.NOTEBOOKS / "history.ipynb", {})
    page.write_text(f'<meta content="{inputs}" name="llama-nexus-inputs"/>')
    return page


def test_a_target_with_more_than_one_run_has_a_history_that_is_renewed_with_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for hours in range(2):
        pretend_rendered(tmp_path, write(tmp_path / "results", NOON + hours * HOUR))
    page = _pretend_history(tmp_path, "localhost/main")
    assert _main(tmp_path) == 0
    assert capsys.readouterr().out.startswith("3 reports: 0 rendered, 3 up to date already\n")
    html = (tmp_path / "reports" / "index.html").read_text()
    assert f'<a href="history/{page.name}?' in html[: html.index("Benchmarks</h2>")]
    write(tmp_path / "results", NOON + 2 * HOUR)
    inputs = rendering.fingerprint(store.paths("benchmark", tmp_path / "results"), site.NOTEBOOKS / "history.ipynb", {})
    assert not rendering.is_current(page, inputs)


def test_a_sweep_has_a_page_of_its_own_kind(tmp_path: Path) -> None:
    plans = [{"concurrency": users, "requests": 4} for users in (1, 2)]
    record = write(tmp_path / "results", **simulate(plans, output_tokens=4), mode="sweep", axis="concurrency")
    page = tmp_path / "reports" / "benchmark" / f"{record.stem}.html"
    page.parent.mkdir(parents=True)
    inputs = rendering.fingerprint([record], site.NOTEBOOKS / "sweep.ipynb", {})
    page.write_text(f'<meta content="{inputs}" name="llama-nexus-inputs"/>')
    before = page.read_bytes()
    assert _main(tmp_path) == 0
    assert page.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compare", "last"], "compare needs two runs or more, not 1"),
        (["tuning", "a", "b", "c"], "tuning needs two runs, before and after, not 3"),
        (["models", "nosuch", "a"], "no run, tag or baseline 'nosuch'"),
        (["compare", "a", "b"], "asked different things: temperature 0 against 1"),
        (["history"], "a history needs one target, not 0"),
        (["history", "gpu9/main"], "no run of target 'gpu9/main'"),
    ],
)
def test_records_that_make_no_page_are_refused_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    for place, tag in enumerate("abc"):
        write(tmp_path / "results", NOON + place * HOUR, header={"tag": tag}, temperature=int(tag == "b"))
    assert _main(tmp_path, *words) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert "rendering" not in captured.out


def _pretend_compared(tmp_path: Path, records: list[Path]) -> Path:
    """A page of chosen records, such as rendering makes it, with its first sentence alone."""
    page = tmp_path / "reports" / "compare" / f"{'--'.join(record.stem for record in records)}.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    inputs = rendering.fingerprint(records, site.NOTEBOOKS / "compare.ipynb", {})
    sides = json.dumps([[record.stem] for record in records])
    page.write_text(
        f'<meta content=\'{sides}\' name="llama-nexus-sides"/><meta content="{inputs}" name="llama-nexus-inputs"/>'
        '<title>Comparison: a &amp; b</title><p class="note bad"><b>B is worse in decode &lt;1&gt;.</b> And so on.</p>'
    )
    return page


def test_a_comparison_is_kept_up_to_date_and_listed_with_its_first_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [write(tmp_path / "results", NOON + place * HOUR) for place in range(2)]
    for record in records:
        pretend_rendered(tmp_path, record)
    _pretend_history(tmp_path, "localhost/main")
    page = _pretend_compared(tmp_path, records)
    assert _main(tmp_path) == 0
    assert capsys.readouterr().out.startswith("4 reports: 0 rendered, 4 up to date already\n")
    assert _main(tmp_path, "compare", records[0].stem, "last") == 0
    assert capsys.readouterr().out == f"{page}\n"
    html = (tmp_path / "reports" / "index.html").read_text()
    assert f'<a href="compare/{page.name}?' in html
    assert ">Comparison: a &amp; b</a>" in html
    assert '<td class="bad">B is worse in decode &lt;1&gt;.</td>' in html
