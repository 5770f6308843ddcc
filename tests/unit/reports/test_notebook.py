"""The sources in notebooks/ stay thin and clean."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nexus_tasks.records import store
from nexus_tasks.reports import index, rendering, site

SOURCES = sorted(site.NOTEBOOKS.glob("*.ipynb"))
ALLOWED_MODULES = {"pathlib", "nexus_tasks"}


def _code(source: Path) -> list[Any]:
    return [cell for cell in json.loads(source.read_text())["cells"] if cell["cell_type"] == "code"]


def _source(cell: Any) -> str:
    return "".join(cell["source"])


def test_every_kind_of_page_has_a_notebook() -> None:
    together = {*site.TOGETHER, site.CAPACITY}  # of all records of a kind, whose runs have no pages of their own
    pages = {kind for kind in store.KINDS if kind not in (site.DEPLOYMENT, site.PLAN)} | together
    assert {source.stem for source in SOURCES} == pages | {"sweep", site.HISTORY, *index.CHOSEN}


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_a_notebook_is_committed_without_outputs(source: Path) -> None:
    for cell in _code(source):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
    stripped = subprocess.run([sys.executable, "-m", "nbstripout", "--verify", source], check=False)
    assert stripped.returncode == 0, "run: nbstripout notebooks/*.ipynb"


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_a_notebook_has_one_cell_of_parameters_with_those_that_reports_set(source: Path) -> None:
    tagged = [cell for cell in _code(source) if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1
    names = {
        target.id
        for statement in ast.parse(_source(tagged[0])).body
        for target in ([statement.target] if isinstance(statement, ast.AnnAssign) else _targets(statement))
        if isinstance(target, ast.Name)
    }
    together = {*site.TOGETHER, site.CAPACITY}
    wanted = {
        **{name: {"results_dir"} for name in together},
        **{name: {"sides"} for name in index.CHOSEN},
        site.HISTORY: {"record_paths"},
    }
    assert names & rendering.RESERVED == wanted.get(source.stem, {"record_path", "results_dir"})


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_a_notebook_defines_nothing_and_uses_only_this_project(source: Path) -> None:
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    for cell in _code(source):
        for node in ast.walk(ast.parse(_source(cell))):
            assert not isinstance(node, definitions), ast.unparse(node)
            if isinstance(node, ast.Import):
                assert {name.name.partition(".")[0] for name in node.names} <= ALLOWED_MODULES
            if isinstance(node, ast.ImportFrom):
                assert str(node.module).partition(".")[0] in ALLOWED_MODULES


def _targets(statement: ast.stmt) -> list[ast.expr]:
    assert isinstance(statement, ast.Assign), f"not a parameter: {ast.unparse(statement)}"
    return statement.targets
