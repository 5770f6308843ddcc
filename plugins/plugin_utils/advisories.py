"""The published vulnerabilities in role llama_cpp's table, for its filters.

advisories.of_release(ref)                           those of a release, as the table has them
advisories.problems(servers, ref, accepted)          servers that may not listen as declared, one line each; what
                                                     else applies to them becomes warnings
advisories.advised(rows)                             rows of a status, each with ``advisories``, one line each
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from ansible.utils.display import Display

from ..module_utils.hostlib.advisories import Advisory, Table

TABLE = Path(__file__).resolve().parents[2] / "roles" / "llama_cpp" / "vars" / "advisories.yml"


@cache
def table() -> Table:
    """The table as its file has it."""
    return Table.of_variables(yaml.safe_load(TABLE.read_text(encoding="utf-8")))


def of_release(ref: str) -> list[Advisory]:
    """The advisories whose range of builds holds a release; none for a ref that is no upstream build."""
    return table().of_release(ref)


def problems(servers: Iterable[Mapping[str, Any]], ref: str, accepted: Collection[str]) -> list[str]:
    """The problems of servers, after their warnings were shown."""
    servers = list(servers)
    for warning in table().warnings(servers, ref, accepted):
        Display().warning(warning)
    return table().problems(servers, ref, accepted)


def advised(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a status, each with what applies to what runs: ``advisories``, one line each."""
    return table().advised(rows)
