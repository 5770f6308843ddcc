from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from plugins.module_utils.gateway import follower as module
from plugins.module_utils.gateway.follower import Follower
from plugins.module_utils.gateway.runtime_api import RuntimeApi
from tests.conftest import free_port
from tests.support.haproxy import needs_haproxy, running_haproxy

SECTIONS = """\
  http-request return status 200 content-type text/plain lf-string %[str(alice),map_str_int({map})]
  default_backend none
backend none
  server none 127.0.0.1:{dead}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("maps", "run", "log"):
        (tmp_path / name).mkdir()
    (tmp_path / "maps" / "tokens_left.map").touch()
    limit(tmp_path, alice=100)
    return tmp_path


def limit(root: Path, **limits: int) -> None:
    (root / "maps" / "tokens_per_day.json").write_text(json.dumps(limits))


def used(root: Path, user: str, tokens: int, at: float | None = None) -> None:
    row = {"time": at or time.time(), "status": 200, "user": user, "prompt_tokens": tokens - 1, "completion_tokens": 1}
    with (root / "log" / "requests.jsonl").open("a") as stream:
        stream.write(json.dumps(row) + "\n")


def left(root: Path) -> dict[str, int]:
    lines = (root / "maps" / "tokens_left.map").read_text().splitlines()
    return {line.split()[0]: int(line.split()[1]) for line in lines}


def test_what_users_have_left_is_written_as_they_use_it(root: Path) -> None:
    follower = Follower(str(root), keep_days=9)
    follower.step()
    assert left(root) == {"alice": 100}
    used(root, "alice", 30)
    used(root, "bob", 30)
    used(root, "", 30)
    assert follower.step()
    assert left(root) == {"alice": 70}
    used(root, "alice", 300)
    follower.step()
    assert left(root) == {"alice": 0}


def test_the_sums_of_a_day_are_made_again_from_the_log(root: Path) -> None:
    used(root, "alice", 30)
    used(root, "alice", 30, at=time.time() - 2 * 86400)
    Follower(str(root), keep_days=9).step()
    used(root, "alice", 5)
    Follower(str(root), keep_days=9).step()
    assert left(root) == {"alice": 65}


def test_a_new_day_begins_with_the_whole_limit(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    follower = Follower(str(root), keep_days=9)
    used(root, "alice", 30)
    follower.step()

    class Tomorrow(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override] # of the class that it stands for
            return datetime.fromtimestamp(time.time() + 86400, UTC)

    monkeypatch.setattr(module, "datetime", Tomorrow)
    follower.step()
    assert left(root) == {"alice": 100}


def test_another_limit_counts_at_once(root: Path) -> None:
    follower = Follower(str(root), keep_days=9)
    used(root, "alice", 30)
    follower.step()
    limit(root, alice=50, bob=10)
    follower.step()
    assert left(root) == {"alice": 20, "bob": 10}
    limit(root)
    follower.step()
    assert left(root) == {}


def test_days_that_are_older_than_are_kept_are_removed(root: Path) -> None:
    used(root, "alice", 30, at=time.time() - 5 * 86400)
    follower = Follower(str(root), keep_days=3)
    follower.step()
    used(root, "alice", 30, at=time.time() - 5 * 86400)
    Follower(str(root), keep_days=3).step()
    assert [path.name for path in (root / "log" / "days").iterdir()] == []


@pytest.fixture
def haproxy_says(root: Path) -> Iterator[RuntimeApi]:
    sections = SECTIONS.format(map=root / "maps" / "tokens_left.map", dead=free_port())
    with running_haproxy(root / "run", sections) as running:
        yield RuntimeApi(str(running.socket))


@needs_haproxy
def test_a_running_haproxy_is_told(root: Path, haproxy_says: RuntimeApi) -> None:
    follower, path = Follower(str(root), keep_days=9), str(root / "maps" / "tokens_left.map")
    used(root, "alice", 40)
    follower.step()
    assert haproxy_says.map_entries(path) == [("alice", "60")]
    limit(root)
    follower.step()
    assert haproxy_says.map_entries(path) == []


def test_an_haproxy_that_is_down_is_told_when_it_is_up(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    follower = Follower(str(root), keep_days=9)
    follower.step()
    follower.step()
    assert capsys.readouterr().err.count("HAProxy does not run") == 1
    assert follower.told == {}


@needs_haproxy
def test_a_limit_that_went_while_nothing_followed_is_gone(root: Path, haproxy_says: RuntimeApi) -> None:
    haproxy_says.map_set(str(root / "maps" / "tokens_left.map"), "bob", "0")
    Follower(str(root), keep_days=9).step()
    assert haproxy_says.map_entries(str(root / "maps" / "tokens_left.map")) == [("alice", "100")]
