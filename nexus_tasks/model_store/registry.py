"""The registry of models: what is known of them, in a SQLite file of the user's.

    with Registry.opened() as registry:
        registry.put(model)                     # looked up by hub_listing and variants
        registry.changed_records(paths)         # to be read, with read_record(), and remembered
        registry.models(), registry.uses(), registry.ratings()

What hub and records say can be looked up again. Ratings and notes can't: :meth:`Registry.export` has them.
"""

from __future__ import annotations

import contextlib
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from nexus_tasks.core import database
from nexus_tasks.core.errors import DatabaseError, NexusError, UsageError
from nexus_tasks.records.benchmark_rows import Part
from nexus_tasks.views.model_uses import Use

SCHEMA = 1  # of exports
FILE = "registry.sqlite"
HINT = "move the file away: records and the hub make a new one; ratings come back from an export"
MIGRATIONS = (
    """
    CREATE TABLE model (name TEXT PRIMARY KEY, content BLOB NOT NULL);
    CREATE TABLE rating (id TEXT PRIMARY KEY, model TEXT NOT NULL, content BLOB NOT NULL);
    CREATE TABLE record (path TEXT PRIMARY KEY, size_bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, problem TEXT);
    CREATE TABLE model_use (record TEXT NOT NULL REFERENCES record ON DELETE CASCADE, content BLOB NOT NULL);
    CREATE INDEX model_use_of_record ON model_use (record)
    """,
)
RATINGS = range(1, 6)


class ModelFile(Part, kw_only=True):
    """A file of a variant; ``sha256`` where it is told."""

    name: str
    size_bytes: int
    sha256: str | None = None


class KnownHeader(Part, kw_only=True):
    """A file's header, as :class:`nexus_tasks.hostlib.gguf.Header`: enough for plans without the file."""

    name: str
    size_bytes: int
    values: dict[str, Any]
    tensors: list[tuple[str, list[int], int, int]]
    data_start: int


class Needs(Part, kw_only=True):
    """The memory that a variant takes with one slot of so many tokens, all of it on one GPU."""

    ctx_size: int
    gpu_mib: float
    host_mib: float


class Variant(Part, kw_only=True):
    """A model in one quantisation. ``file`` is the first of its files, ``problem`` is why there is no plan of it."""

    file: str
    quantization: str | None
    size_bytes: int
    files: list[ModelFile]
    architecture: str | None = None
    n_ctx_train: int | None = None
    needs: list[Needs] = msgspec.field(default_factory=list)
    problem: str | None = None
    headers: list[KnownHeader] = msgspec.field(default_factory=list)


class KnownModel(Part, kw_only=True):
    """A model as the hub, or its file, told: ``source`` is ``hub``, ``url`` or ``path``, ``place`` the one there."""

    name: str
    source: str
    place: str
    added_at: str
    revision: str | None = None
    license: str | None = None
    base_model: str | None = None
    pipeline: str | None = None
    gated: bool | None = None
    modified_at: str | None = None
    variants: list[Variant]


class Rating(Part, kw_only=True):
    """A rating from 1 to 5 of a model, by the name that it was given under, with a note."""

    id: str
    model: str
    rating: int
    note: str
    rated_at: str


class Export(Part, kw_only=True):
    """All that can't be read from records."""

    schema: int
    models: list[KnownModel]
    ratings: list[Rating]


@dataclass(frozen=True)
class RecordUses:
    """The uses that a record told of; ``problem`` is why it can't be read."""

    path: Path
    seen: tuple[int, int]
    """Size and modification time, before it was read."""
    uses: Sequence[Use] = ()
    problem: str | None = None


def read_record(path: Path, read: Callable[[Path], Sequence[Use]]) -> RecordUses:
    """The uses that a record tells of; a NexusError of ``read`` costs that record only."""
    seen = _seen(path)
    try:
        return RecordUses(path, seen, read(path))
    except NexusError as error:
        return RecordUses(path, seen, problem=error.message)


def _seen(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


class Registry:
    """The registry, in one transaction."""

    def __init__(self, rows: sqlite3.Connection, path: Path) -> None:
        self._rows, self._path = rows, path

    @classmethod
    @contextlib.contextmanager
    def opened(cls, path: Path | None = None) -> Iterator[Registry]:
        """The registry for the time of a block, whose changes are kept where it ends without an error.

        Raises DatabaseError.
        """
        place = database.data_folder() / FILE if path is None else path
        with database.opened(place, MIGRATIONS, "registry of models", hint=HINT) as rows:
            yield cls(rows, place)

    # ---- Models

    def put(self, model: KnownModel) -> None:
        """Remember a model in the place of what was known of it."""
        self._rows.execute("REPLACE INTO model VALUES (?, ?)", (model.name, _packed(model)))

    def models(self) -> list[KnownModel]:
        """All models that were added, by name."""
        found = self._rows.execute("SELECT content FROM model ORDER BY name")
        return [self._unpacked(content, KnownModel) for (content,) in found]

    # ---- Ratings

    def rate(self, rating: Rating) -> None:
        """Remember a rating."""
        self._rows.execute("REPLACE INTO rating VALUES (?, ?, ?)", (rating.id, rating.model, _packed(rating)))

    def ratings(self) -> list[Rating]:
        """All ratings, oldest first."""
        found = [self._unpacked(content, Rating) for (content,) in self._rows.execute("SELECT content FROM rating")]
        return sorted(found, key=lambda rating: (rating.rated_at, rating.id))

    # ---- Records

    def changed_records(self, paths: Iterable[Path]) -> list[Path]:
        """Those records that are new, or not as they were when they were read."""
        known = {
            path: (size, mtime)
            for path, size, mtime in self._rows.execute("SELECT path, size_bytes, mtime_ns FROM record")
        }
        return [path for path in paths if known.get(str(path)) != _seen(path)]

    def remember(self, read: Iterable[RecordUses], root: Path, paths: Iterable[Path]) -> list[str]:
        """Keep the uses of records that were read, and forget those of records that are gone.

        Args:
            root: the folder of records; of other folders nothing is forgotten.
            paths: all that there are in it.

        Returns a line for each record that can't be read.
        """
        for one in read:
            path = str(one.path)
            self._rows.execute("DELETE FROM record WHERE path = ?", (path,))
            self._rows.execute("INSERT INTO record VALUES (?, ?, ?, ?)", (path, *one.seen, one.problem))
            self._rows.executemany("INSERT INTO model_use VALUES (?, ?)", [(path, _packed(use)) for use in one.uses])
        there = set(map(str, paths))
        known = self._rows.execute("SELECT path, problem FROM record ORDER BY path").fetchall()
        for path, _ in known:
            if path not in there and Path(path).is_relative_to(root):
                self._rows.execute("DELETE FROM record WHERE path = ?", (path,))
        return [problem for path, problem in known if problem and path in there]

    def uses(self, root: Path) -> list[Use]:
        """The uses that the records of a folder tell of."""
        found = self._rows.execute("SELECT record, content FROM model_use")
        return [self._unpacked(content, Use) for path, content in found if Path(path).is_relative_to(root)]

    # ---- Export and import

    def export(self) -> bytes:
        """All that can't be read from records, as JSON."""
        content = Export(schema=SCHEMA, models=self.models(), ratings=self.ratings())
        return msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n"

    def take(self, content: bytes, name: str) -> Export:
        """Add what an export has: models take the place of those of the same name, ratings are added once.

        Raises UsageError where it is none.
        """
        try:
            schema = msgspec.json.decode(content, type=dict[str, Any]).get("schema")
            if isinstance(schema, int) and schema > SCHEMA:
                raise UsageError(
                    f"{name} is of schema {schema}, this Llama Nexus knows {SCHEMA}",
                    hint="import it with the Llama Nexus that exported it, or a newer one",
                )
            export = msgspec.json.decode(content, type=Export)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise UsageError(
                f"{name} is no export of the registry: {error}", hint="name a file that nox -s registry -- export wrote"
            ) from error
        if wrong := next((one for one in export.ratings if one.rating not in RATINGS), None):
            raise UsageError(f"{name} rates {wrong.model} with {wrong.rating}", hint="ratings go from 1 to 5")
        for model in export.models:
            self.put(model)
        for rating in export.ratings:
            self.rate(rating)
        return export

    def _unpacked(self, content: bytes, kind: type[Any]) -> Any:
        try:
            return msgspec.json.decode(zlib.decompress(content), type=kind)
        except (zlib.error, msgspec.MsgspecError, TypeError) as error:
            raise DatabaseError(f"the registry of models {self._path} is damaged: {error}", hint=HINT) from error


def _packed(row: Part) -> bytes:
    return zlib.compress(msgspec.json.encode(row), 6)
