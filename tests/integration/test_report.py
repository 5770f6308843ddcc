"""Real runs rendered by the real notebook, and looked at in a browser."""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta
from pathlib import Path

import pytest

from nexus_tasks import benchmark, frames, markup, report, results
from nexus_tasks.errors import ReportError
from tests import browser
from tests.conftest import RunningServer
from tests.report_records import NOON, failure, request, write

SOURCE = report.NOTEBOOKS / "benchmark.ipynb"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, server: RunningServer) -> Path:
    """Results of two real runs, and the reports that one command made of them."""
    root = tmp_path_factory.mktemp("reports")
    target = benchmark.Target("localhost/main", server.base_url)
    workload = benchmark.Workload(32, 24, runs=2, warmup=1)
    for _ in range(2):
        benchmark.run(target, workload, root=root / "results")
    before = _digest(SOURCE)
    arguments = ["--results", str(root / "results"), "--reports", str(root / "reports")]
    assert report.main(arguments) == 0
    assert _digest(SOURCE) == before, "the notebook's source was modified"
    return root


@pytest.fixture(scope="module")
def newest(folder: Path) -> results.Record:
    """The second of the two runs."""
    return results.load(results.paths("benchmark", folder / "results")[-1])


@pytest.fixture(scope="module")
def page(folder: Path, newest: results.Record) -> str:
    """The second run's report."""
    return (folder / "reports" / "benchmark" / f"{newest.run_id}.html").read_text()


def test_each_run_has_a_page_and_its_executed_notebook(folder: Path) -> None:
    made = {path.name for path in (folder / "reports" / "benchmark").iterdir()}
    stems = [path.stem for path in results.paths("benchmark", folder / "results")]
    assert made == {f"{stem}{suffix}" for stem in stems for suffix in (".html", ".ipynb")}
    for stem in stems:
        assert f'href="benchmark/{stem}.html"' in (folder / "reports" / "index.html").read_text()


def test_the_numbers_of_a_page_are_those_of_its_record(newest: results.Record, page: str) -> None:
    assert newest.summary is not None
    metrics = newest.summary["metrics"]
    for name in ("ttft_ms", "itl_ms", "decode_tps"):
        for part in ("median", "max"):
            assert f">{markup.number(metrics[name][part])}<" in page, (name, part)
    difference = newest.summary["agreement"]["difference_percent"]
    assert f"by the server's: {markup.percent(difference)}" in page
    for row in newest.requests:
        assert f"{markup.number(row['total_ms'])} ms, {markup.number(row['decode_tps'])} tokens/s</text>" in page


def test_a_page_compares_with_the_run_before(folder: Path, newest: results.Record, page: str) -> None:
    change = frames.history(newest, folder / "results").changes["decode_tps"]
    assert f"{markup.percent(change.percent)} since the last like it" in page
    first = results.load(results.paths("benchmark", folder / "results")[0])
    assert "No earlier run of this target." in (folder / "reports" / "benchmark" / f"{first.run_id}.html").read_text()


def test_pages_load_nothing_and_run_nothing(folder: Path) -> None:
    for path in (folder / "reports").rglob("*.html"):
        loads = browser.Loads()
        loads.feed(path.read_text())
        assert loads.found == [], path.name
        assert path.stat().st_size < 300_000


@browser.needed
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_a_page_without_errors_or_requests(
    tmp_path: Path, folder: Path, newest: results.Record, dark: bool
) -> None:
    path = folder / "reports" / "benchmark" / f"{newest.run_id}.html"
    seen = browser.show(path, tmp_path, dark=dark)
    assert "CONSOLE" not in seen.stderr
    assert browser.requests(tmp_path / "net.json") == set()
    for shown in ("localhost/main", "History of this target", "All 4 requests", "viewBox=", "<clipPath"):
        # viewBox and clipPath in their own spelling: the browser took the figures for SVG.
        assert shown.replace("4", str(len(newest.requests))) in seen.stdout, shown


@browser.needed
def test_the_browser_check_notices_a_page_that_loads_something(tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text('<img src="http://127.0.0.1:18999/x.png"><script>console.error("no")</script>')
    seen = browser.show(page, tmp_path)
    assert "CONSOLE" in seen.stderr
    assert "http://127.0.0.1:18999/x.png" in browser.requests(tmp_path / "net.json")


def test_deleting_the_reports_and_rendering_again_gives_the_same_pages(tmp_path: Path, folder: Path) -> None:
    kept = {path.name: path.read_text() for path in (folder / "reports" / "benchmark").glob("*.html")}
    again, failures = report.report(results_dir=folder / "results", reports_dir=tmp_path / "reports")
    assert failures == 0
    made = {path.name: path.read_text() for path in (again.parent / "benchmark").glob("*.html")}
    assert made == kept


def test_failed_and_interrupted_runs_are_rendered_beside_a_damaged_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "results"
    rows = [request(0), request(1), failure(2, "timeout", "no token within <30> s")]
    failing = write(root, NOON, requests=rows)
    cut = write(root, NOON + timedelta(hours=1), requests=rows[:2], finished=False)
    damaged = write(root, NOON + timedelta(hours=2))
    damaged.write_text("no record\n")
    assert report.main(["--results", str(root), "--reports", str(tmp_path / "reports")]) == 1
    assert f"warning: {damaged}, line 1" in capsys.readouterr().err
    folder = tmp_path / "reports" / "benchmark"
    assert sorted(path.stem for path in folder.glob("*.html")) == [failing.stem, cut.stem]
    assert "1 of 3 requests failed" in (folder / f"{failing.stem}.html").read_text()
    assert "no token within &lt;30&gt; s" in (folder / f"{failing.stem}.html").read_text()
    assert "Interrupted: the run was cut short" in (folder / f"{cut.stem}.html").read_text()


def test_a_failing_cell_is_named_and_the_notebook_kept_while_the_old_page_stays(tmp_path: Path) -> None:
    record = write(tmp_path / "results")
    reports = tmp_path / "reports"
    page = reports / "benchmark" / f"{record.stem}.html"
    page.parent.mkdir(parents=True)
    page.write_text("the old page")
    notebooks = _notebook_with(tmp_path, "blocks.head(record, past)", "print('so far')\nrecord.header['nosuch']")
    with pytest.raises(ReportError) as raised:
        report.render(record, results_dir=tmp_path / "results", reports_dir=reports, notebooks_dir=notebooks)
    assert raised.value.message == ("cell [4] of benchmark.ipynb (`print('so far')`) failed: KeyError: 'nosuch'")
    kept = page.with_suffix(".failed.ipynb")
    assert str(kept) in raised.value.hint
    assert "so far\\n" in json.dumps([cell.get("outputs") for cell in json.loads(kept.read_text())["cells"]])
    assert page.read_text() == "the old page"


def test_a_kernel_that_dies_is_an_error_and_no_traceback(tmp_path: Path) -> None:
    record = write(tmp_path / "results")
    notebooks = _notebook_with(tmp_path, "blocks.head(record, past)", "import os; os._exit(3)")
    with pytest.raises(ReportError, match=r"the kernel of benchmark\.ipynb stopped"):
        report.render(
            record, results_dir=tmp_path / "results", reports_dir=tmp_path / "reports", notebooks_dir=notebooks
        )


def test_a_notebook_parameter_reaches_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Rendered from elsewhere with relative paths, and with a kernel spec of the user's that leads nowhere.
    monkeypatch.chdir(tmp_path)
    spec = tmp_path / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(json.dumps({"argv": ["/nonexistent"], "display_name": "", "language": ""}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    record = write(Path("results"))
    assert report.main(["-p", "agreement_limit_percent", "0.25"]) == 0
    page = Path("reports") / "benchmark" / f"{record.stem}.html"
    assert "outside the mark of ±0.25 %" in page.read_text()


def _notebook_with(tmp_path: Path, old: str, new: str) -> Path:
    """A folder with a copy of the notebook in which one cell is another."""
    notebook = json.loads(SOURCE.read_text())
    (cell,) = (cell for cell in notebook["cells"] if "".join(cell["source"]) == old)
    cell["source"] = new
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (folder / SOURCE.name).write_text(json.dumps(notebook))
    return folder


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
