"""Published vulnerabilities of llama.cpp: which apply to a release and to what it is started with.

    table.of_release(ref)                       the advisories of a release
    table.applying(ref, flags)                  those that apply to a server with these flags
    table.problems(servers, ref, accepted)      servers that may not listen as declared, one line each
    table.warnings(servers, ref, accepted)      what else applies to them, one line each
    table.advised(rows)                         rows of a status, each with ``advisories``, one line each

``servers`` are what the declaration's exposure makes of instances: ``name``, ``host``, ``exposed``, whether it listens
beyond loopback, and ``flags``, those of its command line.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Advisory = Mapping[str, Any]

SEVERE = ("critical", "high")
# Who can make use of a vulnerability.
ATTACKERS = {
    "files": "whoever writes into the folder of --slot-save-path",
    "client": "whoever sends it a request",
    "rpc": "whoever reaches an RPC worker, or is one",
    "model": "whoever wrote the model file",
}


def is_severe(entry: Advisory) -> bool:
    """True for one with which a server may not listen beyond loopback: critical or high, and any client can use it."""
    return entry["severity"] in SEVERE and entry["attacker"] == "client"


def summary(entry: Advisory) -> str:
    """One line about an advisory."""
    fixed = f"fixed in b{entry['fixed']}" if entry["fixed"] else "not fixed in a build that is known"
    severity = "severity not published" if entry["severity"] == "unknown" else entry["severity"]
    option = f", where {' or '.join(entry['flags'])} is set" if entry["flags"] else ""
    return f"{entry['id']} ({severity}: {entry['title']}; open to {ATTACKERS[entry['attacker']]}{option}; {fixed})"


@dataclass(frozen=True)
class Table:
    """The advisories, and the builds that stable versions are.

    ``advisories`` are entries as roles/llama_cpp/vars/advisories.yml describes them; ``stable_versions`` has the number
    of the build by the name of the version.
    """

    advisories: Sequence[Advisory]
    stable_versions: Mapping[str, int]

    @classmethod
    def of_variables(cls, variables: Mapping[str, Any]) -> Table:
        """The table in the variables of role llama_cpp."""
        return cls(variables["llama_cpp_advisories"], variables["llama_cpp_stable_versions"])

    def build_of(self, ref: str) -> int | None:
        """The number of an upstream build: of a tag such as b11434, or of a stable version; None for any other ref."""
        number = re.fullmatch(r"b(\d+)", ref)
        stable: int | None = self.stable_versions.get(ref)
        return int(number.group(1)) if number else stable

    def of_release(self, ref: str) -> list[Advisory]:
        """The advisories whose range of builds holds a release; none for a ref that is no upstream build."""
        build = self.build_of(ref)
        if build is None:
            return []
        return [
            entry
            for entry in self.advisories
            if (entry["first"] or 0) <= build and (entry["fixed"] is None or build < entry["fixed"])
        ]

    def applying(self, ref: str, flags: Collection[str]) -> list[Advisory]:
        """The advisories that apply to a server: those that need an option only where that is among its flags."""
        return [entry for entry in self.of_release(ref) if not entry["flags"] or set(entry["flags"]) & set(flags)]

    def problems(self, servers: Iterable[Mapping[str, Any]], ref: str, accepted: Collection[str]) -> list[str]:
        """The servers that a severe one would be open on beyond loopback, and what is accepted but unknown."""
        known = {entry["id"] for entry in self.advisories}
        problems = [
            f"llama_cpp_accept_advisories names {name}, which roles/llama_cpp/vars/advisories.yml does not have: "
            "correct it, or leave it out"
            for name in accepted
            if name not in known
        ]
        for server in servers:
            severe = [
                entry
                for entry in self.applying(ref, server["flags"])
                if is_severe(entry) and entry["id"] not in accepted
            ]
            if server["exposed"] and severe:
                has = "; ".join(map(summary, severe))
                names = ", ".join(entry["id"] for entry in severe)
                problems.append(
                    f"instance {server['name']} on {server['host']}: llama.cpp {ref} has {has}, and it listens beyond "
                    "loopback: move llama_cpp_ref to a build without it, leave host at 127.0.0.1, or set "
                    f"llama_cpp_accept_advisories: [{names}]"
                )
        return problems

    def warnings(self, servers: Iterable[Mapping[str, Any]], ref: str, accepted: Collection[str]) -> list[str]:
        """Advisories that apply to the servers and are no problem, one line each, with who has it."""
        servers = list(servers)
        if servers and ref and self.build_of(ref) is None:
            return [
                f"llama_cpp_ref is {ref}, which is neither an upstream build, as in b11434, nor a stable version that "
                "roles/llama_cpp/vars/advisories.yml knows: whether published vulnerabilities apply can't be told"
            ]
        having: dict[str, list[str]] = {}
        for server in servers:
            for entry in self.applying(ref, server["flags"]):
                refused = server["exposed"] and is_severe(entry)
                if entry["id"] not in accepted and not refused:
                    having.setdefault(summary(entry), []).append(f"{server['name']} on {server['host']}")
        return [f"llama.cpp {ref} has {line}: {', '.join(names)}" for line, names in having.items()]

    def advised(self, rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Rows of a status, each with what applies to what runs: ``advisories``, one line each."""
        advised_rows = []
        for row in rows:
            ref = str(((row.get("config") or {}).get("release") or {}).get("ref") or "")
            advised_rows.append(
                {**row, "advisories": [summary(entry) for entry in self.applying(ref, row.get("flags") or ())]}
            )
        return advised_rows
