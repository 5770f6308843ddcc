"""Rendering: pages made by executing their notebooks, those that are out of date, several at a time.

    rendered, failed = rendering.bring_up_to_date(pages, Options({"history_runs": "5"}, say=print))

A page carries a fingerprint of what it was made from (records, notebook, skin, the code that draws, parameters); it is
up to date as long as that is unchanged.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nexus_tasks.core.errors import NexusError, UsageError
from nexus_tasks.core.provenance import ROOT
from nexus_tasks.core.text import plural
from nexus_tasks.reports import index, markup

RESERVED = frozenset({"record_path", "results_dir", "sides", "record_paths"})  # parameters that say which records

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Page:
    """A page to be: its notebook, the records that it shows, and where it goes.

    ``set_by_us`` are the notebook's parameters that say which records, ``given`` those that the user typed; ``sides``
    are the run ids of a page of chosen records, which it carries.
    """

    path: Path
    source: Path
    records: tuple[Path, ...]
    title: str
    set_by_us: Mapping[str, Any] = field(default_factory=dict)
    given: Mapping[str, str] = field(default_factory=dict)
    sides: Sequence[Sequence[str]] = ()


@dataclass(frozen=True)
class Options:
    """Options of rendering: notebook parameters as typed, whether up-to-date pages too, and who hears of it.

    Each parameter goes to the notebooks that have it. ``say`` gets progress lines, ``warn`` a line for each record that
    can't be read and each page that can't be rendered; the others are rendered all the same.
    """

    parameters: Mapping[str, str] = field(default_factory=dict)
    force: bool = False
    say: Progress = lambda line: None
    warn: Progress = lambda line: None


def bring_up_to_date(pages: Sequence[Page], options: Options) -> tuple[int, int]:
    """Render the pages that are not up to date; how many were rendered, and how many could not be.

    Raises:
        UsageError: no notebook has such a parameter, or it is of another type.
    """
    given = _for_each(list(dict.fromkeys(page.source for page in pages)), options.parameters)
    pages = [replace(page, given=given[page.source]) for page in pages]
    stale = [page for page in pages if options.force or not is_current(page.path, _inputs(page))]
    failed = _render_all(stale, options)
    return len(stale) - failed, failed


def render(page: Page) -> Path:
    """Execute the notebook, and write the page where that succeeds; the executed notebook lies beside it.

    Raises:
        UsageError: the notebook has no such parameter.
        ReportError: a cell failed (an earlier page is left as it was), or the folder cannot be written.
    """
    from nexus_tasks.reports import notebook  # papermill and what comes with it: a second, so only when it is needed

    values = notebook.check_parameters(page.source, page.given, RESERVED)
    failed = page.path.with_suffix(".failed.ipynb")
    make_writable(page.path.parent)
    inputs = _inputs(page)  # before the notebook reads them: a record that comes meanwhile makes the page stale
    try:
        executed = notebook.execute(
            page.source,
            failed,  # its name until every cell has succeeded
            {**page.set_by_us, **values},
            cwd=ROOT,
        )
        html = notebook.export(
            executed,
            template=markup.SKIN / "page.html",
            title=page.title,
            inputs=inputs,
            sides=json.dumps(page.sides) if page.sides else "",
        )
        failed.replace(page.path.with_suffix(".ipynb"))
        index.replace(page.path, html)
    except OSError as error:
        raise index.unwritable(page.path.parent, error) from error
    return page.path


def fingerprint(records: Sequence[Path], source: Path, parameters: Mapping[str, str]) -> str:
    """A hash of everything that a page is made from."""
    digest = hashlib.sha256(_code_digest())
    for path in [*records, source]:
        try:
            state = path.stat()
            digest.update(_file_digest(path, state.st_size, state.st_mtime_ns))
        except OSError:  # a record that nobody can read is told of in the page
            digest.update(b"unreadable")
    digest.update(json.dumps(dict(parameters), sort_keys=True).encode())
    return digest.hexdigest()


def is_current(page: Path, inputs: str) -> bool:
    """True where a page exists and was made from these inputs."""
    return index.inputs(page) == inputs


def make_writable(folder: Path) -> None:
    """Make a folder, and prove before any work is done that files can be written there.

    Raises:
        ReportError: they can't.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise index.unwritable(folder, error) from error


def _inputs(page: Page) -> str:
    return fingerprint(page.records, page.source, page.given)


@functools.cache
def _code_digest() -> bytes:
    """The skin and the code that draws: a change there makes every report out of date."""
    digest = hashlib.sha256()
    skin = sorted(path for path in markup.SKIN.rglob("*") if path.is_file())
    rooms = sorted((ROOT / "nexus_tasks").glob("*/**/*.py"))  # all that a page can be made of; commands draw nothing
    for path in [*skin, *rooms]:
        digest.update(str(path.relative_to(ROOT)).encode())
        digest.update(path.read_bytes())
    return digest.digest()


@functools.lru_cache(maxsize=10_000)
def _file_digest(path: Path, size: int, modified_ns: int) -> bytes:
    """The hash of a file, taken once for all pages that it goes into; the other arguments say that it is the same."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def _render_all(pages: Sequence[Page], options: Options) -> int:
    """Render in threads: the work is in the kernels, which are processes. Returns how many failed."""
    if not pages:
        return 0
    workers = min(len(pages), os.cpu_count() or 1)
    options.say(f"rendering {plural(len(pages), 'report')}{f', {workers} at a time' if workers > 1 else ''}")
    importlib.import_module("nexus_tasks.reports.notebook")  # once here, rather than by every thread at the same time
    began = time.monotonic()
    failed = 0
    with ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(render, page): page for page in pages}
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                place = f"{done}/{len(pages)}, {time.monotonic() - began:.1f} s"
                try:
                    options.say(f"  {place}: {future.result()}")
                except NexusError as error:
                    failed += 1
                    options.warn(f"{futures[future].path.stem}: {error.message} ({error.hint})")
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return failed


def _for_each(sources: Sequence[Path], given: Mapping[str, str]) -> dict[Path, dict[str, str]]:
    """The parameters that each notebook has, of those given."""
    if not given:
        return {source: {} for source in sources}
    import papermill

    from nexus_tasks.reports import notebook

    if len(sources) == 1:
        notebook.check_parameters(sources[0], given, RESERVED)
        return {sources[0]: dict(given)}
    known = {source: set(papermill.inspect_notebook(source)) - RESERVED for source in sources}
    for name in given:
        if not any(name in names for names in known.values()):
            has = "; ".join(f"{source.name} has {', '.join(sorted(names))}" for source, names in known.items())
            raise UsageError(f"no notebook has a parameter {name!r}", hint=has)
    chosen = {source: {name: given[name] for name in given if name in names} for source, names in known.items()}
    for source, values in chosen.items():
        notebook.check_parameters(source, values, RESERVED)
    return chosen
