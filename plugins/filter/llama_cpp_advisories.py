"""Ansible filters: which published vulnerabilities of llama.cpp apply to a release and what it is started with.

    ref | llama_cpp_advisories                             those of a release, as the table of role llama_cpp has them
    servers | llama_cpp_advisory_problems(ref, accepted)   servers that may not listen as declared, one line each; what
                                                           else applies to them becomes warnings
    rows | llama_cpp_advised                               rows of a status, each with ``advisories``, one line each

``servers`` are what :func:`llama_server_exposure` of role llama_server makes of the instances: ``name``, ``host``,
``exposed``, whether it listens beyond loopback, and ``flags``, those of its command line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

Advisory = Mapping[str, Any]

TABLE = Path(__file__).resolve().parent.parent.parent / "roles" / "llama_cpp" / "vars" / "advisories.yml"
SEVERE = ("critical", "high")
# Who can make use of a vulnerability.
ATTACKERS = {
    "files": "whoever writes into the folder of --slot-save-path",
    "client": "whoever sends it a request",
    "rpc": "whoever reaches an RPC worker, or is one",
    "model": "whoever wrote the model file",
}


def read_table() -> dict[str, Any]:
    """``llama_cpp_advisories`` and ``llama_cpp_stable_versions`` of the table."""
    tables: dict[str, Any] = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return tables


RULES = read_table()


def build_of(ref: str) -> int | None:
    """The number of an upstream build: of a tag such as b11434, or of a stable version; None for any other ref."""
    number = re.fullmatch(r"b(\d+)", ref)
    stable: int | None = RULES["llama_cpp_stable_versions"].get(ref)
    return int(number.group(1)) if number else stable


def advisories(ref: str) -> list[Advisory]:
    """The advisories whose range of builds holds a release; none for a ref that is no upstream build."""
    build = build_of(ref)
    return [
        entry for entry in RULES["llama_cpp_advisories"]
        if build is not None and (entry["first"] or 0) <= build and (entry["fixed"] is None or build < entry["fixed"])
    ]  # fmt: skip


def applying(ref: str, flags: Collection[str]) -> list[Advisory]:
    """The advisories that apply to a server: those that need an option only where that is among its flags."""
    return [entry for entry in advisories(ref) if not entry["flags"] or set(entry["flags"]) & set(flags)]


def is_severe(entry: Advisory) -> bool:
    """Whether a server with this one may not listen beyond loopback: critical or high, and any client can use it."""
    return entry["severity"] in SEVERE and entry["attacker"] == "client"


def told(entry: Advisory) -> str:
    """One line about an advisory."""
    fixed = f"fixed in b{entry['fixed']}" if entry["fixed"] else "not fixed in a build that is known"
    severity = "severity not published" if entry["severity"] == "unknown" else entry["severity"]
    option = f", where {' or '.join(entry['flags'])} is set" if entry["flags"] else ""
    return f"{entry['id']} ({severity}: {entry['title']}; open to {ATTACKERS[entry['attacker']]}{option}; {fixed})"


def judged(servers: Iterable[Mapping[str, Any]], ref: str, accepted: Collection[str]) -> list[str]:
    """The problems of servers, after their warnings were shown."""
    from ansible.utils.display import Display  # here: reports read this file, too, where no Ansible runs

    servers = list(servers)
    for line in warnings(servers, ref, accepted):
        Display().warning(line)
    return problems(servers, ref, accepted)


def problems(servers: Iterable[Mapping[str, Any]], ref: str, accepted: Collection[str]) -> list[str]:
    """The servers that would be open to a severe vulnerability beyond loopback, and what is accepted but unknown."""
    known = {entry["id"] for entry in RULES["llama_cpp_advisories"]}
    found = [
        f"llama_cpp_accept_advisories names {name}, which roles/llama_cpp/vars/advisories.yml does not have: correct "
        "it, or leave it out"
        for name in accepted
        if name not in known
    ]
    for server in servers:
        severe = [entry for entry in applying(ref, server["flags"]) if is_severe(entry) and entry["id"] not in accepted]
        if server["exposed"] and severe:
            names = ", ".join(entry["id"] for entry in severe)
            found.append(
                f"instance {server['name']} on {server['host']}: llama.cpp {ref} has {'; '.join(map(told, severe))}, "
                "and it listens beyond loopback: move llama_cpp_ref to a build without it, leave host at 127.0.0.1, or "
                f"set llama_cpp_accept_advisories: [{names}]"
            )
    return found


def warnings(servers: Iterable[Mapping[str, Any]], ref: str, accepted: Collection[str]) -> list[str]:
    """What else is to be known of the servers: advisories that apply to them, one line each, with who has it."""
    servers = list(servers)
    if servers and ref and build_of(ref) is None:
        return [
            f"llama_cpp_ref is {ref}, which is neither an upstream build, as in b11434, nor a stable version that "
            "roles/llama_cpp/vars/advisories.yml knows: whether published vulnerabilities apply can't be told"
        ]
    having: dict[str, list[str]] = {}
    for server in servers:
        for entry in applying(ref, server["flags"]):
            refused = server["exposed"] and is_severe(entry)
            if entry["id"] not in accepted and not refused:
                having.setdefault(told(entry), []).append(f"{server['name']} on {server['host']}")
    return [f"llama.cpp {ref} has {line}: {', '.join(names)}" for line, names in having.items()]


def advised(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a status, each with what applies to what runs: ``advisories``, one line each."""
    found = []
    for row in rows:
        ref = str(((row.get("config") or {}).get("release") or {}).get("ref") or "")
        found.append({**row, "advisories": [told(entry) for entry in applying(ref, row.get("flags") or ())]})
    return found


class FilterModule:
    """See the module docstring."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "llama_cpp_advisories": advisories,
            "llama_cpp_advisory_problems": judged,
            "llama_cpp_advised": advised,
        }
