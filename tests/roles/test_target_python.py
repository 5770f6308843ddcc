"""What runs on hosts runs on Python 3.9, whichever Python runs the tests."""

from __future__ import annotations

import ast
import builtins
import subprocess
from pathlib import Path

import pytest

from tests.conftest import BIN, ROOT

OLDEST = (3, 9)
FILES = sorted(
    path
    for place in ("plugins/modules", "plugins/module_utils", "roles/*/files")
    for path in ROOT.glob(f"{place}/**/*.py")
)  # fmt: skip
FUTURE = "from __future__ import annotations\n"


def unions(source: str) -> list[int]:
    """The lines where types are joined by ``|`` and the result is used, which vermin can't tell from flags.

    Raises SyntaxError for much of what came later.
    """
    tree = ast.parse(source, feature_version=OLDEST)
    postponed = any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body)
    never_read = {
        id(inner)
        for node in ast.walk(tree)
        for annotation in (getattr(node, "annotation", None), getattr(node, "returns", None))
        if postponed and isinstance(annotation, ast.AST)
        for inner in ast.walk(annotation)
    }
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr) and id(node) not in never_read
        and (is_type(node.left) or is_type(node.right))
    ]  # fmt: skip


def is_type(node: ast.expr) -> bool:
    """Whether an expression is a type by its looks: None, a built-in, a name LikeThis, or one of them with brackets."""
    if isinstance(node, ast.Subscript):
        return is_type(node.value)
    if isinstance(node, ast.Name):
        return isinstance(getattr(builtins, node.id, None), type) or (node.id[0].isupper() and not node.id.isupper())
    return isinstance(node, ast.Constant) and node.value is None


def too_new(*paths: Path) -> str:
    """What files use that Python 3.9 lacks, a line each; empty where there is nothing."""
    found = [f"{path} L{line}: union of types as a value\n" for path in paths for line in unions(path.read_text())]
    argv: list[str | Path] = [BIN / "vermin", "--no-config-file", "--target=3.9-", "--violations", "--no-tips", "-vvv"]
    done = subprocess.run([*argv, "--processes=1", *paths], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) in ((0, ""), (1, "")), done
    return "".join(found) + (done.stdout if done.returncode else "")


def written(source: str, folder: Path) -> Path:
    path = folder / "source.py"
    path.write_text(source)
    return path


def test_python_3_9_has_all_that_hosts_are_given() -> None:
    assert len(FILES) > 100
    assert too_new(*FILES) == ""


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f(x: str | None) -> int | str: ...\n", "union of types"),
        (f"{FUTURE}Name = int | str\n", "union of types"),
        (f"{FUTURE}isinstance(1, int | str)\n", "union of types"),
        ("zip([1], [2], strict=True)\n", "'zip(strict)' requires !2, 3.10"),
        ("import itertools\nitertools.pairwise('ab')\n", "'itertools.pairwise' member requires !2, 3.10"),
        ("import tomllib\n", "'tomllib' module requires !2, 3.11"),
        ("from dataclasses import dataclass\n@dataclass(slots=True)\nclass A: ...\n", "dataclass(slots)"),
    ],
)
def test_what_python_3_9_lacks_is_found(source: str, expected: str, tmp_path: Path) -> None:
    assert expected in too_new(written(source, tmp_path))


@pytest.mark.parametrize("source", ["match 1:\n    case 1: pass\n", "try: pass\nexcept* OSError: pass\n"])
def test_syntax_that_python_3_9_lacks_is_found(source: str, tmp_path: Path) -> None:
    with pytest.raises(SyntaxError):
        too_new(written(source, tmp_path))


def test_an_annotation_that_is_never_evaluated_may_be_written_as_today(tmp_path: Path) -> None:
    source = f"{FUTURE}def f(x: str | None = None) -> int | str: return len(x or 'ä')\n"
    assert too_new(written(source, tmp_path)) == ""
