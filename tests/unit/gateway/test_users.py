from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from plugins.module_utils.gateway.runtime_api import RuntimeApi
from plugins.module_utils.gateway.users import apply
from tests.conftest import free_port
from tests.support.haproxy import needs_haproxy, running_haproxy

SECTIONS = """\
  http-request return status 200 content-type text/plain lf-string %[req.hdr(key),map_str({map})]
  default_backend none
backend none
  server none 127.0.0.1:{dead}
"""
KEYS = "maps/keys.map"


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_files_are_made_for_their_owner_alone_and_a_second_time_nothing_changes(tmp_path: Path) -> None:
    changes = apply(str(tmp_path), {KEYS: {"AB": "alice"}}, {"alice": 5}, check_mode=False)
    assert changes.files == [KEYS, "maps/tokens_per_day.json", "maps/tokens_left.map"]
    assert (tmp_path / KEYS).read_text() == "AB alice\n"
    assert (tmp_path / "maps" / "tokens_left.map").read_text() == "alice 5\n"
    assert {mode(path) for path in (tmp_path / "maps").iterdir()} == {0o600}
    again = apply(str(tmp_path), {KEYS: {"AB": "alice"}}, {"alice": 5}, check_mode=False)
    assert (again.files, again.live, again.mended) == ([], [], [])


def test_a_file_that_others_can_read_is_mended_and_told(tmp_path: Path) -> None:
    apply(str(tmp_path), {KEYS: {"AB": "alice"}}, {}, check_mode=False)
    (tmp_path / KEYS).chmod(0o644)
    (tmp_path / "maps" / "tokens_left.map").chmod(0o640)
    checked = apply(str(tmp_path), {KEYS: {"AB": "alice"}}, {}, check_mode=True)
    assert checked.mended == [KEYS, "maps/tokens_left.map"]
    assert mode(tmp_path / KEYS) == 0o644
    assert apply(str(tmp_path), {KEYS: {"AB": "alice"}}, {}, check_mode=False).mended == checked.mended
    assert mode(tmp_path / KEYS) == 0o600
    (tmp_path / KEYS).chmod(0o644)
    assert apply(str(tmp_path), {KEYS: {"CD": "alice"}}, {}, check_mode=False).mended == [KEYS]
    assert mode(tmp_path / KEYS) == 0o600


def test_check_mode_writes_nothing(tmp_path: Path) -> None:
    assert apply(str(tmp_path), {KEYS: {"AB": "alice"}}, {}, check_mode=True).files[0] == KEYS
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def api(tmp_path: Path) -> Iterator[RuntimeApi]:
    apply(str(tmp_path), {KEYS: {"AB": "alice", "CD": "bob"}}, {}, check_mode=False)
    (tmp_path / "run").mkdir()
    with running_haproxy(tmp_path / "run", SECTIONS.format(map=tmp_path / KEYS, dead=free_port())) as running:
        yield RuntimeApi(str(running.socket))


@needs_haproxy
def test_a_running_haproxy_knows_new_keys_and_forgets_old_ones(tmp_path: Path, api: RuntimeApi) -> None:
    wanted = {KEYS: {"EF": "alice", "CD": "bert"}}
    assert apply(str(tmp_path), wanted, {}, check_mode=True).live == [KEYS]
    assert dict(api.map_entries(str(tmp_path / KEYS))) == {"AB": "alice", "CD": "bob"}
    assert apply(str(tmp_path), wanted, {}, check_mode=False).live == [KEYS]
    assert dict(api.map_entries(str(tmp_path / KEYS))) == wanted[KEYS]
    assert apply(str(tmp_path), wanted, {}, check_mode=False).live == []


@needs_haproxy
def test_a_map_that_was_changed_in_memory_alone_is_put_right(tmp_path: Path, api: RuntimeApi) -> None:
    api.map_set(str(tmp_path / KEYS), "XX", "mallory")
    changes = apply(str(tmp_path), {KEYS: {"AB": "alice", "CD": "bob"}}, {}, check_mode=False)
    assert (changes.files, changes.live) == ([], [KEYS])
    assert len(api.map_entries(str(tmp_path / KEYS))) == 2
