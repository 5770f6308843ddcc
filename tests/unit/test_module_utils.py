"""Imports of what runs on hosts: Ansible brings along what is imported statically, and nothing else."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

MODULE_UTILS = ROOT / "plugins/module_utils"
HOSTLIB = MODULE_UTILS / "hostlib"
OPTIONAL = {"huggingface_hub"}  # installed where a host uses the hub, and imported when it does
CODE = [*MODULE_UTILS.rglob("*.py"), *ROOT.glob("plugins/modules/*.py")]


def wrong_imports(source: str, path: Path, top: Path, *, allowed: frozenset[str] = frozenset()) -> list[str]:
    """The imports of a file that hosts could not follow.

    Args:
        path: where it is, or would be.
        top: the folder that its relative imports must stay in.
        allowed: packages beside the standard library.
    """
    wrong = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names, level = [alias.name for alias in node.names], 0
        elif isinstance(node, ast.ImportFrom):
            names, level = [node.module or ""], node.level
        else:
            continue
        if level:
            folder = path.parents[level - 1].joinpath(*filter(None, names[0].split(".")))
            if not folder.is_relative_to(top):
                wrong.append(f"{'.' * level}{names[0]}")
        else:
            wrong += [name for name in names if not _is_known(name, allowed)]
    return wrong


def _is_known(name: str, allowed: frozenset[str]) -> bool:
    top = name.partition(".")[0]
    return top in sys.stdlib_module_names or top in allowed or name.startswith("ansible.module_utils.")


def names_of(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


@pytest.mark.parametrize("path", sorted(HOSTLIB.rglob("*.py")), ids=lambda path: path.stem)
def test_hostlib_imports_the_standard_library_and_itself(path: Path) -> None:
    source = path.read_text()
    assert wrong_imports(source, path, HOSTLIB) == []
    assert "ansible" not in {name.partition(".")[0] for name in imported(source)}


@pytest.mark.parametrize("path", sorted(CODE), ids=names_of(sorted(CODE)))
def test_host_code_imports_the_standard_library_and_its_collection(path: Path) -> None:
    assert wrong_imports(path.read_text(), path, MODULE_UTILS, allowed=frozenset(OPTIONAL)) == []


def imported(source: str) -> set[str]:
    """The modules that a source names by their whole names."""
    nodes = list(ast.walk(ast.parse(source)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("import os.path, json\n", []),
        ("from . import files\nfrom .files import read_text\n", []),
        ("import yaml\n", ["yaml"]),
        ("from plugins.module_utils.hostlib import files\n", ["plugins.module_utils.hostlib"]),
        ("def later():\n    import httpx\n", ["httpx"]),
        ("from ..llama_cpp import build\n", ["..llama_cpp"]),
        ("from .. import openpgp\n", [".."]),
        ("from ansible.plugins.loader import x\n", ["ansible.plugins.loader"]),
    ],
)
def test_an_import_that_leads_out_of_hostlib_is_found(source: str, wrong: list[str]) -> None:
    assert wrong_imports(source, HOSTLIB / "new.py", HOSTLIB) == wrong


def test_on_the_controller_hostlib_is_the_same_files() -> None:
    assert (ROOT / "nexus_tasks/hostlib").resolve() == HOSTLIB


def test_every_package_of_module_utils_is_one() -> None:
    folders = {path.parent for path in MODULE_UTILS.rglob("*.py")} - {MODULE_UTILS}
    assert [folder.name for folder in folders if not (folder / "__init__.py").is_file()] == []
