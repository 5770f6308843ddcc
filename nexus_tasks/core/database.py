"""SQLite files of the user's: made, brought up to date, and refused in one line where they are damaged or newer.

    with database.opened(path, MIGRATIONS, "registry", hint="...") as rows:
        rows.execute("INSERT INTO model VALUES (?, ?)", ("a", "b"))

Each block is one transaction: what was written before an error, a kill or a full disk is not there afterwards.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from nexus_tasks.core.errors import DatabaseError

WAIT_S = 60  # for another process that writes
IN_USE = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
OF_THE_DISK = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR)


def data_folder() -> Path:
    """The folder of the user's data: XDG_DATA_HOME, as the standard has it, or ~/.local/share."""
    given = os.environ.get("XDG_DATA_HOME", "")
    return (Path(given) if given.startswith("/") else Path("~/.local/share").expanduser()) / "llama-nexus"


@contextlib.contextmanager
def opened(path: Path, migrations: Sequence[str], what: str, *, hint: str) -> Iterator[sqlite3.Connection]:
    """A database in a transaction, which is kept where the block ends without an error.

    Args:
        path: of the file; it and its folder are made where they are missing, for their user alone.
        migrations: SQL that makes each version from the one before it, the first from nothing. Only ever added to.
        what: its name in errors.
        hint: the way out of a damaged one.

    Raises DatabaseError where it is damaged, of a later version, or can't be read or written.
    """
    try:
        _make(path)
        connection = sqlite3.connect(path, timeout=WAIT_S, isolation_level=None)
    except (OSError, sqlite3.Error) as error:
        raise _refused(path, what, error, hint) from error
    with contextlib.closing(connection):
        try:
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("BEGIN IMMEDIATE")
            _migrate(connection, migrations, path, what)
            yield connection
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise _refused(path, what, error, hint) from error
        # What closes without a COMMIT is rolled back.


def _make(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))


def _migrate(connection: sqlite3.Connection, migrations: Sequence[str], path: Path, what: str) -> None:
    [version] = connection.execute("PRAGMA user_version").fetchone()
    if version > len(migrations):
        raise DatabaseError(
            f"the {what} {path} is of version {version}, this Llama Nexus knows versions up to {len(migrations)}",
            hint="use the newer Llama Nexus that made it, or move the file away",
        )
    if not version and connection.execute("SELECT count(*) FROM sqlite_master").fetchone() != (0,):
        raise DatabaseError(f"{path} is another program's database, not the {what}", hint="move the file away")
    for number, migration in enumerate(migrations[version:], start=version + 1):
        for statement in migration.split(";"):  # executescript would end the transaction
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {number}")


def _refused(path: Path, what: str, error: OSError | sqlite3.Error, hint: str) -> DatabaseError:
    if isinstance(error, OSError):
        return DatabaseError(
            f"the {what} {path} can't be opened: {error.strerror}",
            hint="see that it can be read and written, and that its disk has room",
        )
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    if code in IN_USE:
        return DatabaseError(
            f"the {what} {path} is in use by another process for more than {WAIT_S} s",
            hint="wait for it, or end it, and try again",
        )
    if code in OF_THE_DISK:
        return DatabaseError(
            f"the {what} {path} can't be written: {error}",
            hint="see that it and its folder can be written, and that the disk has room",
        )
    return DatabaseError(f"the {what} {path} is damaged: {error}", hint=hint)
