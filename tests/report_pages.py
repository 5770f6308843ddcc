"""Runs that tests of pages show, pages as rendering leaves them, and how their text and their ids are looked at."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from nexus_tasks.core.text import SPACE
from nexus_tasks.records import store
from nexus_tasks.records.store import BenchmarkRecord
from nexus_tasks.reports import rendering, site
from nexus_tasks.reports.pages.compare.sides import Compared, read
from tests.report_records import NOON, fixed, simulate, write

SIZES: Mapping[str, Any] = {"prompt_tokens": fixed(512), "output_tokens": fixed(16)}


def stored(tmp_path: Path, **told: Any) -> BenchmarkRecord:
    """A record as it is read from its file."""
    return store.load(write(tmp_path, **told))


def sweep_run(tmp_path: Path, **told: Any) -> BenchmarkRecord:
    """A sweep over five levels of a server with four slots."""
    plans = [{"concurrency": users, "requests": 4 * users} for users in (1, 2, 4, 8, 16)]
    kept = {"mode": "sweep", "axis": "concurrency", "slo": {"ttft_ms": 300}, **SIZES}
    return stored(tmp_path, **{**simulate(plans, slots=4, output_tokens=16), **kept, **told})


def compared_runs(tmp_path: Path, *sides: Mapping[str, Any], across: Sequence[str] = ()) -> Compared:
    """Runs that differ in what is said of each; ``itl_ms`` and ``prefill_tps`` are the server's speed."""
    plans = [{"concurrency": 4, "requests": 120, "warmup": 4}]
    paths = []
    for place, side in enumerate(sides):
        model = {key: value for key, value in side.items() if key in ("itl_ms", "prefill_tps")}
        made = simulate(plans, output_tokens=16, seed=place, gpu=False, **model)
        rest = {key: value for key, value in side.items() if key not in model}
        paths.append([str(write(tmp_path, NOON + place * timedelta(hours=1), **{**made, **SIZES, **rest}))])
    return read(paths, across)


def opening_text(sentences: Sequence[str]) -> str:
    """The three sentences that open a page, as one text with plain spaces."""
    assert len(sentences) == 3
    assert all(sentence.endswith(".") for sentence in sentences), sentences
    return " ".join(sentences).replace(SPACE, " ")


def joined_words(page: str) -> str:
    """A page whose long words are not broken up, with the whole of those whose middle is left out."""
    page = re.sub(r'<span class="long" title="([^"]*)">.*?</span>', r"\1", page)
    return re.sub(r'<span class="long">(.*?)</span>', lambda word: re.sub("<wbr/?>", "", word[1]), page)


def pretend_rendered(tmp_path: Path, record: Path) -> Path:
    """A page such as rendering makes, without what it shows."""
    kind = record.parent.name
    inputs = rendering.fingerprint([record], site.NOTEBOOKS / f"{kind}.ipynb", {})
    page = tmp_path / "reports" / kind / f"{record.stem}.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(f'<meta content="{inputs}" name="llama-nexus-inputs"/>')
    return page


def pretend_all_rendered(tmp_path: Path, **parameters: dict[str, str]) -> list[Path]:
    """The pages of all deployments, such as rendering makes them, without what they show."""
    records = store.paths("deployment", tmp_path / "results")
    pages = []
    for name in site.TOGETHER:
        page = tmp_path / "reports" / name / f"{name}.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        inputs = rendering.fingerprint(records, site.NOTEBOOKS / f"{name}.ipynb", parameters.get(name, {}))
        page.write_text(f'<meta content="{inputs}" name="llama-nexus-inputs"/>')
        pages.append(page)
    return pages


def check_ids(page: str) -> None:
    """The figures of a page share no ids, refer to none that is missing, and name their colours."""
    ids = Counter(re.findall(r' id="([^"]+)"', page))
    assert max(ids.values()) == 1
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', page)) <= set(ids)
    assert not re.search(r"(?<!, )#[0-9a-f]{6}", page), "a colour that the page can't change"
