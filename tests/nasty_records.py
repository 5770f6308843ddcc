"""Records in which every text is one that would break a page: what strangers name their models, files and hosts."""

from __future__ import annotations

import ast
import json
import re
import typing
from pathlib import Path
from typing import Any

import msgspec
import papermill

from nexus_tasks.records.reading import Kind, read
from nexus_tasks.reports import site

NASTY = "\N{RIGHT-TO-LEFT OVERRIDE}n\x07\x1b[31m<i>$x^{$ \N{HEBREW LETTER SHIN}\N{HEBREW LETTER AYIN}\N{LINE SEPARATOR}"
DECIDING = re.compile(  # no names: code goes by them, or they are moments, hashes and metrics
    "schema|kind|run_id|(start|finish|creat)ed_at|phase|mode|axis|stopped|state|how|throttled|check|built_at|metrics?|slo|"
    "planned"
)

BY_DEVICE = ("buffers_mib", "gpu_processes_mib", "placements")  # dicts whose keys are names


def spoil(path: Path) -> None:
    """Have every text of a record be nasty, those that it leaves out too, but for what decides."""
    header, rows, summary = read(path, typing.cast(Kind, path.parent.name))
    path.write_bytes(b"".join(msgspec.json.encode(_nasty(row)) + b"\n" for row in [header, *rows, summary] if row))


def _nasty(part: Any, hint: Any = None, *, named: bool = False) -> Any:
    if isinstance(part, msgspec.Struct):
        hints = typing.get_type_hints(type(part))
        changed = {
            name: _nasty(getattr(part, name), hints[name], named=name in BY_DEVICE)
            for name in part.__struct_fields__
            if not DECIDING.fullmatch(name)
        }
        return msgspec.structs.replace(part, **changed)
    if isinstance(part, str) or (part is None and str in typing.get_args(hint)):
        return f"{part or ''}{NASTY}"
    if isinstance(part, list):
        return [_nasty(one) for one in part]
    if isinstance(part, dict):
        return {_nasty(key) if named else key: _nasty(value) for key, value in part.items()}
    return part


def shown(notebook: str, **parameters: Any) -> str:
    """What a notebook shows with these parameters, run here rather than in a kernel: fast, and nothing is written."""
    source = site.NOTEBOOKS / f"{notebook}.ipynb"
    known: dict[str, Any] = {
        name: ast.literal_eval(parameter["default"]) for name, parameter in papermill.inspect_notebook(source).items()
    }
    names, parts = known | parameters, []
    for cell in json.loads(source.read_text())["cells"]:
        if cell["cell_type"] != "code" or "parameters" in cell["metadata"].get("tags", []):
            continue
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, str(source), "exec"), names)  # noqa: S102 - a notebook of this project
        if isinstance(last, ast.Expr):
            block = eval(compile(ast.Expression(last.value), str(source), "eval"), names)  # noqa: S307 - as above
            parts.append(block.html)
    return "\n".join(parts)


def harms(page: str) -> list[str]:
    """What of :data:`NASTY` is raw in a page."""
    text = re.sub(r"<svg.*?</svg>|<bdi>.*?</bdi>|<[^>]*>", "", page, flags=re.DOTALL)
    return [
        name
        for name, there in {
            "a control character": re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", page),
            "markup": "<i>" in page,
            "letters that run from right to left, not isolated": re.search(r"[\u0590-\u07ff]", text),
        }.items()
        if there
    ]
