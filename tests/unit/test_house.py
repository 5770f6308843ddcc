"""The house's own rules: sizes, and tests that lie where what they test does."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT
from tests.support.wheels import PINNED

FILE_LINES, CLASS_LINES, FUNCTION_LINES, TASK_FILE_LINES = 500, 200, 60, 100
TABLES: set[str] = set()  # files that are a table of data and little else
ASKING = {"What", "Whether", "How", "Where", "Which", "Who", "Why", "When"}
REASON = "# long:"  # beside the ``def`` of a function that is longer, and why
OF_THE_WHOLE = {
    "test_collection",  # the archive of the collection
    "test_docs",
    "test_house",
    "test_module_utils",  # what any code for hosts may import
    "test_modules",  # errors that any module catches
    "test_page",  # a page of the reports with all its blocks, in the page's folder
    "test_workers",  # the workers of the tests themselves
}


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for name in listed.stdout.splitlines() if (path := ROOT / name).is_file() and not path.is_symlink()]


PYTHON = tracked("*.py")


def too_long(path: Path) -> list[str]:
    """Classes and functions of a file that are over their limit, by name and length; no reason is asked of tests."""
    source = path.read_text(encoding="utf-8")
    lines = source.splitlines()
    found = []
    for node in ast.walk(ast.parse(source)):
        limit = CLASS_LINES if isinstance(node, ast.ClassDef) else FUNCTION_LINES
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        if length > limit and not any(REASON in line for line in lines[node.lineno - 2 : node.body[0].lineno]):
            found.append(f"{node.name}: {length}")
    return found


def test_no_file_is_longer_than_one_can_read() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in PYTHON}
    assert {name: length for name, length in lengths.items() if length > FILE_LINES and name not in TABLES} == {}


def test_no_class_or_function_is_longer_than_its_limit_without_a_reason() -> None:
    assert {str(path.relative_to(ROOT)): long for path in PYTHON if (long := too_long(path))} == {}


def test_task_files_and_playbooks_are_short() -> None:
    files = tracked("deploy.yml", "playbooks/**/*.yml", "playbooks/*.yml", "roles/*/tasks/*.yml")
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert {name: length for name, length in lengths.items() if length >= TASK_FILE_LINES} == {}


def test_unit_tests_lie_as_what_they_test() -> None:
    strays = []
    for path in tracked("tests/unit/**/test_*.py", "tests/unit/test_*.py"):
        *folder, file = path.relative_to(ROOT / "tests/unit").parts
        module = file.removeprefix("test_")
        places = [ROOT / "nexus_tasks", ROOT / "plugins", ROOT / "plugins/module_utils", ROOT / "plugins/plugin_utils"]
        if path.stem not in OF_THE_WHOLE and not any(place.joinpath(*folder, module).is_file() for place in places):
            strays.append("/".join([*folder, file]))
    assert strays == []


def test_docstrings_name_what_something_is_or_does() -> None:
    """A reader who looks for a noun or a verb of the field finds none in a question."""
    asking = []
    for path in PYTHON:
        if path.is_relative_to(ROOT / "tests"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                first = (ast.get_docstring(node) or "").split(maxsplit=1)[:1]
                if set(first) & ASKING:
                    asking.append(f"{path.relative_to(ROOT)}: {getattr(node, 'name', 'module')}")
    assert asking == []


SESSIONS = """
import runpy
import nox.registry
runpy.run_path("noxfile.py")
for name, session in nox.registry.get().items():
    print(name, session.venv_backend, session.python)
"""


def test_sessions_say_themselves_that_they_need_no_environment_of_noxs_own() -> None:
    """What a user's shell says of nox's defaults, as ``NOX_DEFAULT_VENV_BACKEND`` does, is for sessions without."""
    said = subprocess.run([sys.executable, "-c", SESSIONS], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    sessions = [line.split() for line in said.splitlines()]
    assert len(sessions) > 15
    assert [name for name, backend, python in sessions if (backend, python) != ("none", "False")] == []


def test_what_is_installed_for_ray_leaves_the_other_packages_as_they_are() -> None:
    pinned, with_ray = (
        {entry[1]: entry[0] for entry in PINNED.finditer((ROOT / name).read_text())}
        for name in ("requirements.lock", "requirements-ray.lock")
    )
    assert {name: pinned[name] for name in pinned.keys() & with_ray.keys()} == {
        name: with_ray[name] for name in pinned.keys() & with_ray.keys()
    }
    assert "ray" in with_ray.keys() - pinned.keys()
