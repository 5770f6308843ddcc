"""Real runs rendered by the real notebook, and looked at in a browser."""

from __future__ import annotations

import functools
import hashlib
import html
import json
import threading
from datetime import timedelta
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from nexus_tasks import benchmark, report
from nexus_tasks.comparison import verdicts
from nexus_tasks.core import text
from nexus_tasks.core.errors import ReportError
from nexus_tasks.records import store
from nexus_tasks.reports import frames, index, site
from nexus_tasks.reports.pages.compare import sentences
from nexus_tasks.reports.pages.compare.sides import Compared
from nexus_tasks.views import runs
from tests import browser
from tests.conftest import RunningServer
from tests.report_records import NOON, failure, fixed, request, simulate, write

SOURCE = site.NOTEBOOKS / "benchmark.ipynb"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, server: RunningServer) -> Path:
    """Results of two real runs, and the reports that one command made of them."""
    root = tmp_path_factory.mktemp("reports")
    sizes = ["--prompt-tokens", "32", "--output-tokens", "24", "--requests", "2", "--warmup", "1"]
    for tag in ("before", "after"):
        command = [server.base_url, *sizes, "--tag", tag, "--results", str(root / "results")]
        # Other work may keep the load generator from its own: only what is valid has a history.
        while benchmark.main(command):
            store.paths("benchmark", root / "results")[-1].unlink()
    before = _digest(SOURCE)
    arguments = ["--results", str(root / "results"), "--reports", str(root / "reports")]
    assert report.main(arguments) == 0
    assert _digest(SOURCE) == before, "the notebook's source was modified"
    return root


@pytest.fixture(scope="module")
def newest(folder: Path) -> store.BenchmarkRecord:
    """The second of the two runs."""
    return store.load(store.paths("benchmark", folder / "results")[-1])


@pytest.fixture(scope="module")
def page(folder: Path, newest: store.BenchmarkRecord) -> str:
    """The second run's report."""
    return (folder / "reports" / "benchmark" / f"{newest.run_id}.html").read_text()


def test_each_run_has_a_page_and_its_executed_notebook(folder: Path) -> None:
    made = {path.name for path in (folder / "reports" / "benchmark").iterdir()}
    stems = [path.stem for path in store.paths("benchmark", folder / "results")]
    assert made == {f"{stem}{suffix}" for stem in stems for suffix in (".html", ".ipynb")}
    for stem in stems:
        assert f'href="benchmark/{stem}.html?' in (folder / "reports" / "index.html").read_text()


def test_the_numbers_of_a_page_are_those_of_its_record(newest: store.BenchmarkRecord, page: str) -> None:
    assert newest.summary is not None
    metrics = newest.summary.metrics
    for name in ("ttft_ms", "itl_ms", "decode_tps"):
        for part in ("median", "max"):
            assert f">{text.number(getattr(metrics[name], part))}<" in page, (name, part)
    assert newest.summary.agreement
    difference = newest.summary.agreement.difference_percent
    assert f"by the server's: {text.percent(difference)}" in page
    for row in newest.requests:
        assert f"{text.number(row.total_ms)} ms, {text.number(row.decode_tps)} tokens/s</text>" in page


def test_a_page_compares_with_the_run_before(folder: Path, newest: store.BenchmarkRecord, page: str) -> None:
    change = frames.history(newest, folder / "results").changes["decode_tps"]
    assert f"{text.percent(change.percent)} since the last like it" in page
    first = store.load(store.paths("benchmark", folder / "results")[0])
    assert "No earlier run of this target." in (folder / "reports" / "benchmark" / f"{first.run_id}.html").read_text()


def test_pages_load_nothing_and_run_nothing(folder: Path) -> None:
    for path in (folder / "reports").rglob("*.html"):
        loads = browser.Loads()
        loads.feed(path.read_text())
        # The index looks behind a web server whether it is the newest; it loads nothing else.
        assert loads.found == (["script"] if path.name == "index.html" else []), path.name
        assert path.stat().st_size < 300_000


@browser.needed
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_a_page_without_errors_or_requests(
    tmp_path: Path, folder: Path, newest: store.BenchmarkRecord, dark: bool
) -> None:
    path = folder / "reports" / "benchmark" / f"{newest.run_id}.html"
    seen = browser.show(path, tmp_path, dark=dark)
    assert "CONSOLE" not in seen.stderr
    assert browser.requests(tmp_path / "net.json") == set()
    for shown in (
        newest.header.target,
        "History of this target",
        runs.verdict(newest)[1][:20],
        "viewBox=",
        "<clipPath",
    ):
        # viewBox and clipPath in their own spelling: the browser took the figures for SVG.
        assert shown in seen.stdout, shown


@browser.needed
def test_the_browser_check_notices_a_page_that_loads_something(tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text('<img src="http://127.0.0.1:18999/x.png"><script>console.error("no")</script>')
    seen = browser.show(page, tmp_path)
    assert "CONSOLE" in seen.stderr
    assert "http://127.0.0.1:18999/x.png" in browser.requests(tmp_path / "net.json")


def test_the_target_has_a_history_with_both_runs(folder: Path, newest: store.BenchmarkRecord) -> None:
    page = index.history_page(newest.header.target, folder / "reports").read_text()
    assert "2 runs of " in page
    for path in store.paths("benchmark", folder / "results"):
        assert f'href="../benchmark/{path.stem}.html"' in page


@browser.needed
def test_two_runs_are_compared_on_a_page_that_fits_narrow_and_wide_windows(tmp_path: Path) -> None:
    root, paths = tmp_path / "results", []
    for place, tag in enumerate(("before", "after")):
        made = simulate([{"concurrency": 2, "requests": 40}], output_tokens=16, itl_ms=8.0 + 2 * place, seed=place)
        paths.append(write(root, NOON + place * timedelta(hours=1), **made, header={"tag": tag}))
    assert (
        report.main(["compare", "before", "after", "--results", str(root), "--reports", str(tmp_path / "reports")]) == 0
    )
    [page] = (tmp_path / "reports" / "compare").glob("*.html")
    sides = [[store.load(path)] for path in paths]
    shown = html.unescape(page.read_text())
    for sentence in sentences.opening(Compared(sides, [verdicts.judge(*sides)])):
        assert sentence in shown
    for path in paths:
        assert f'href="../benchmark/{path.stem}.html"' in shown
    for width in (500, 1280):
        assert not browser.too_wide(page, tmp_path, width).replace("DIV scroll", "").strip(", ")


def test_pages_of_every_kind_are_rendered_by_one_command_and_stay_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "results"
    sizes: dict[str, Any] = {"prompt_tokens": fixed(512), "output_tokens": fixed(16)}
    swept = [{"concurrency": users, "requests": 4 * users} for users in (1, 2, 4, 8)]
    made = simulate(swept, slots=2, output_tokens=16)
    sweep = write(root, NOON, **made, **sizes, mode="sweep", axis="concurrency", target="gpu1/main")
    for place, name in enumerate(("one", "other")):
        made = simulate([{"concurrency": 2, "requests": 20}], output_tokens=16, itl_ms=8.0 - place, seed=place)
        for row in made["requests"]:
            row["answer"] = f"says {name}"
        told: dict[str, Any] = {"model": {"name": name}, "sha256": f"{place}{place}" * 32, "header": {"tag": name}}
        write(root, NOON + (place + 1) * timedelta(hours=1), **made, **sizes, **told, target=f"gpu2/{name}")
    arguments = ["--results", str(root), "--reports", str(tmp_path / "reports")]
    assert report.main(["models", "one", "other", *arguments]) == 0
    assert report.main(arguments) == 0
    pages = {path.relative_to(tmp_path / "reports").parts[0]: path for path in (tmp_path / "reports").rglob("*.html")}
    assert set(pages) == {"index.html", "benchmark", "models"}
    assert "says one" in pages["models"].read_text()
    assert "throughput stops growing at" in (tmp_path / "reports" / "benchmark" / f"{sweep.stem}.html").read_text()
    listed = (tmp_path / "reports" / "index.html").read_text()
    assert "other decodes fastest" in listed
    capsys.readouterr()
    assert report.main(arguments) == 0
    assert capsys.readouterr().out.startswith("4 reports: 0 rendered, 4 up to date already\n")


class _Cached(SimpleHTTPRequestHandler):
    """A web server that lets every page be kept for an hour."""

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "max-age=3600")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that the base class has
        pass


@browser.needed
def test_an_index_that_a_cache_has_kept_is_replaced_by_the_newest(tmp_path: Path) -> None:
    root, reports = tmp_path / "results", tmp_path / "reports"
    first, second = (write(root, NOON + hours * timedelta(hours=1)) for hours in range(2))
    (reports / "benchmark").mkdir(parents=True)
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Cached, directory=str(reports))) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{served.server_port}/index.html"
        for record in (first, second):
            (reports / "benchmark" / f"{record.stem}.html").write_text("a page")
            index.write(root, reports)
            assert record.stem in browser.visit(address, tmp_path)
        served.shutdown()


def test_deleting_the_reports_and_rendering_again_gives_the_same_pages(tmp_path: Path, folder: Path) -> None:
    kept = {path.name: path.read_text() for path in (folder / "reports" / "benchmark").glob("*.html")}
    again, failures = site.update(folders=site.Folders(folder / "results", tmp_path / "reports"))
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
    notebooks = _notebook_with(tmp_path, "tables.head(record, past)", "print('so far')\n{}['nosuch']")
    with pytest.raises(ReportError) as raised:
        site.render_run(record, site.Folders(tmp_path / "results", reports, notebooks))
    assert raised.value.message == ("cell [4] of benchmark.ipynb (`print('so far')`) failed: KeyError: 'nosuch'")
    kept = page.with_suffix(".failed.ipynb")
    assert str(kept) in raised.value.hint
    assert "so far\\n" in json.dumps([cell.get("outputs") for cell in json.loads(kept.read_text())["cells"]])
    assert page.read_text() == "the old page"


def test_a_kernel_that_dies_is_an_error_and_no_traceback(tmp_path: Path) -> None:
    record = write(tmp_path / "results")
    notebooks = _notebook_with(tmp_path, "tables.head(record, past)", "import os; os._exit(3)")
    with pytest.raises(ReportError, match=r"the kernel of benchmark\.ipynb stopped"):
        site.render_run(record, site.Folders(tmp_path / "results", tmp_path / "reports", notebooks))


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
