"""SQLite files of the user's: what is made, brought up to date, rolled back and refused."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from pathlib import Path

import pytest

from nexus_tasks.core import database
from nexus_tasks.core.errors import DatabaseError

FIRST = ("CREATE TABLE one (name TEXT PRIMARY KEY)",)
SECOND = (*FIRST, "ALTER TABLE one ADD COLUMN more TEXT; CREATE TABLE two (name TEXT)")


def open_(path: Path, migrations: tuple[str, ...] = FIRST) -> contextlib.AbstractContextManager[sqlite3.Connection]:
    return database.opened(path, migrations, "test database", hint="move it away")


def test_a_database_is_made_for_its_user_alone_and_keeps_what_is_written(tmp_path: Path) -> None:
    path = tmp_path / "deep/er/d.sqlite"
    with open_(path) as rows:
        rows.execute("INSERT INTO one VALUES ('a')")
    with open_(path) as rows:
        assert rows.execute("SELECT name FROM one").fetchall() == [("a",)]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_what_a_failed_block_wrote_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "d.sqlite"
    with pytest.raises(DatabaseError), open_(path) as rows:
        rows.executemany("INSERT INTO one VALUES (?)", [("a",), ("a",)])  # the second is refused
    with open_(path) as rows:
        assert rows.execute("SELECT count(*) FROM one").fetchone() == (0,)


def test_an_older_one_is_brought_up_to_date_and_keeps_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "d.sqlite"
    with open_(path) as rows:
        rows.execute("INSERT INTO one VALUES ('a')")
    with open_(path, SECOND) as rows:
        assert rows.execute("SELECT name, more FROM one").fetchall() == [("a", None)]
        assert rows.execute("PRAGMA user_version").fetchone() == (2,)


def test_a_newer_one_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "d.sqlite"
    with open_(path, SECOND):
        pass
    before = path.read_bytes()
    with pytest.raises(DatabaseError, match="is of version 2, this Llama Nexus knows versions up to 1"), open_(path):
        pass
    assert path.read_bytes() == before


def test_one_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE theirs (name TEXT)")
    with pytest.raises(DatabaseError, match="another program's database"), open_(path):
        pass


@pytest.mark.parametrize("damage", ["text", "cut", "zeroes"])
def test_a_damaged_one_is_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "d.sqlite"
    with open_(path) as rows:
        rows.executemany("INSERT INTO one VALUES (?)", [(f"{number:0400}",) for number in range(200)])
    content = path.read_bytes()
    path.write_bytes({
        "text": b"hello\n" * 400, "cut": content[:5000], "zeroes": content[:4096] + bytes(len(content) - 4096),
    }[damage])  # fmt: skip
    with pytest.raises(DatabaseError, match="is damaged") as refused, open_(path) as rows:
        rows.execute("SELECT * FROM one").fetchall()
    assert "\n" not in refused.value.message
    assert refused.value.hint == "move it away"


def test_a_place_where_no_file_can_be_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(DatabaseError, match=r"can't be opened: (File exists|Not a directory)"),
        open_(tmp_path / "file/d.sqlite"),
    ):
        pass


def test_one_that_another_process_writes_is_waited_for_and_then_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "WAIT_S", 0.1)
    path = tmp_path / "d.sqlite"
    with open_(path), pytest.raises(DatabaseError, match="is in use by another process"), open_(path):
        pass


def test_the_folder_is_that_of_the_standard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert database.data_folder() == tmp_path / "llama-nexus"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")  # the standard says to ignore it
    assert database.data_folder() == Path(os.path.expanduser("~")) / ".local/share/llama-nexus"  # noqa: PTH111 - HOME may be a test's
