"""Published vulnerabilities: which apply to a release and its options, and what is done about it."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from nexus_tasks.hostlib.advisories import ATTACKERS, Advisory, Table
from tests import pin
from tests.conftest import ROOT

TABLE = Table.of_variables(yaml.safe_load((ROOT / "roles" / "llama_cpp" / "vars" / "advisories.yml").read_text()))
CHAT_PARSER, SLEEP = "CVE-2026-107183", "CVE-2026-43631"


def server(*flags: str, exposed: bool = True) -> dict[str, Any]:
    return {"name": "main", "host": "rig-1", "exposed": exposed, "flags": list(flags)}


def ids(ref: str, *flags: str) -> set[str]:
    return {entry["id"] for entry in TABLE.applying(ref, flags)}


@pytest.mark.parametrize("entry", TABLE.advisories, ids=[entry["id"] for entry in TABLE.advisories])
def test_each_entry_says_all_that_is_asked_of_it(entry: Advisory) -> None:
    keys = {"id", "title", "severity", "first", "fixed", "attacker", "flags", "source", "published"}
    assert entry.keys() == keys
    assert re.fullmatch(r"CVE-\d{4}-\d{4,}|GHSA(-[0-9a-z]{4}){3}", entry["id"])
    assert entry["severity"] in ("critical", "high", "medium", "low", "unknown")
    assert entry["attacker"] in ATTACKERS
    assert all(flag.startswith("-") for flag in entry["flags"])
    assert entry["first"] is None or entry["fixed"] is None or entry["first"] < entry["fixed"]
    assert entry["source"].startswith("https://")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", entry["published"])


def test_no_entry_stands_twice() -> None:
    assert len({entry["id"] for entry in TABLE.advisories}) == len(TABLE.advisories)


def test_the_pinned_version_is_not_refused_by_its_own_table() -> None:
    assert TABLE.build_of(pin.REF) is not None
    assert TABLE.problems([server(exposed=True)], pin.REF, []) == []


@pytest.mark.parametrize(
    ("ref", "has"),
    [("b8226", False), ("b8227", True), ("b11312", True), ("b11392", True), ("b11393", False), ("v0.6.0", False)],
)
def test_a_range_holds_its_first_build_and_not_the_one_that_fixes_it(ref: str, has: bool) -> None:
    assert (CHAT_PARSER in ids(ref)) == has


def test_one_that_needs_an_option_counts_only_where_that_is_set() -> None:
    assert SLEEP not in ids("b8000")
    assert SLEEP in ids("b8000", "--sleep-idle-seconds")


def test_a_severe_one_keeps_a_server_from_strangers_until_it_is_accepted() -> None:
    (line,) = TABLE.problems([server()], "b11312", [])
    assert line.startswith("instance main on rig-1: llama.cpp b11312 has CVE-2026-107183 (critical: ")
    assert line.endswith("leave host at 127.0.0.1, or set llama_cpp_accept_advisories: [CVE-2026-107183]")
    assert TABLE.problems([server()], "b11312", [CHAT_PARSER]) == []
    assert TABLE.problems([server(exposed=False)], "b11312", []) == []


def test_on_loopback_it_is_a_warning() -> None:
    servers = [server(exposed=False), {**server(exposed=False), "name": "chat"}]
    lines = TABLE.warnings(servers, "b11312", [])
    assert [line for line in lines if CHAT_PARSER in line and line.endswith(": main on rig-1, chat on rig-1")]
    assert not [line for line in TABLE.warnings(servers, "b11312", [CHAT_PARSER]) if CHAT_PARSER in line]


def test_what_is_refused_is_not_a_warning_as_well() -> None:
    assert not [line for line in TABLE.warnings([server()], "b11312", []) if CHAT_PARSER in line]


def test_an_accepted_one_that_the_table_lacks_is_named() -> None:
    (line,) = TABLE.problems([], "b11434", ["CVE-2026-1"])
    assert line.startswith("llama_cpp_accept_advisories names CVE-2026-1, which roles/llama_cpp/vars/advisories.yml ")


def test_of_a_version_that_nobody_knows_that_is_said() -> None:
    (line,) = TABLE.warnings([server()], "my-branch", [])
    assert "llama_cpp_ref is my-branch" in line
    assert "can't be told" in line
    assert TABLE.problems([server()], "my-branch", []) == []
    assert TABLE.warnings([], "my-branch", []) == []


def test_a_status_names_what_the_running_version_has() -> None:
    row = {"name": "main", "config": {"release": {"ref": "b11312"}}, "flags": ["--rpc"]}
    (told,) = TABLE.advised([row])
    assert any(line.startswith(f"{CHAT_PARSER} (critical: ") for line in told["advisories"])
    assert any("where --rpc is set" in line for line in told["advisories"])
    assert TABLE.advised([{"name": "main"}]) == [{"name": "main", "advisories": []}]


def test_the_table_lies_where_the_docs_say() -> None:
    assert "vars/advisories.yml" in (ROOT / "docs" / "deploy.md").read_text()
