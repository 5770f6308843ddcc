"""The modules' programs: what a host refuses is told in one line."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT

MODULES = sorted(ROOT.glob("plugins/modules/*.py"))
READ_ONLY = {"container_engine_plan"}  # it looks only, and takes what it can't read for missing


SERVICE = ROOT / "plugins" / "module_utils" / "service" / "module.py"  # the way that services' modules end


def caught_by(function: str, source: str) -> set[str]:
    """The names of the errors that a function handles."""
    [found] = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == function]
    types = [node.type for node in ast.walk(found) if isinstance(node, ast.ExceptHandler) and node.type]
    return {name.id for kind in types for name in ast.walk(kind) if isinstance(name, ast.Name)}


def caught_by_main(source: str) -> set[str]:
    """The names of the errors that a module's ``main`` handles, or what it leaves that to."""
    if "    run_module(" in source:
        return caught_by("run_module", SERVICE.read_text())
    return caught_by("main", source)


@pytest.mark.parametrize("path", [path for path in MODULES if path.stem not in READ_ONLY], ids=lambda path: path.stem)
def test_a_module_that_writes_tells_what_the_disk_refuses(path: Path) -> None:
    assert "OSError" in caught_by_main(path.read_text())


def test_a_main_that_lets_errors_through_is_seen() -> None:
    assert caught_by_main("def main():\n    try:\n        a()\n    except (B, C):\n        d()\n") == {"B", "C"}
    assert caught_by_main("def main():\n    a()\n") == set()
