"""Bundles: one file with all that hosts without a network are deployed from, written whole or not at all, and opened.

    bundle.write(Path("rig.bundle"), about, [Content("models/m.gguf", path, sha256)], progress)
    bundle.open_(Path("rig.bundle"), cache)           # the folder, every file of it verified

A bundle is a tar file. Its first member, bundle.json, has the sha256 of each of the others. For playbooks,
``python -m nexus_tasks.fleet.bundle FILE CACHE`` opens one and prints what is in it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import os
import re
import shutil
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import msgspec

from nexus_tasks.core.errors import DeployError, UsageError, command_line
from nexus_tasks.core.text import memory
from nexus_tasks.hostlib import locks
from nexus_tasks.hostlib.files import sha256_of

SCHEMA = 1
ABOUT = "bundle.json"
FOLDERS = ("models", "releases", "wheels", "images")
RECORD = ".gguf.nexus.json"
MAX_ABOUT_BYTES = 4 << 20
CHUNK_BYTES = 1 << 20
SPARE_BYTES = 64 << 20
MIB = 1 << 20
Progress = Callable[[str, int, int], None]
"""Is told a file's name, and how many bytes of all are done."""


class Packed(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a bundle."""

    path: str
    size_bytes: int
    sha256: str


class About(msgspec.Struct, kw_only=True):
    """The contents of a bundle, and the hosts that it is for. ``image`` is the base image, ``""`` for none."""

    schema: int = SCHEMA
    made_at: str
    hosts: list[str]
    models: list[str]
    releases: list[str]
    image: str = ""
    files: list[Packed] = msgspec.field(default_factory=list)


@dataclass(frozen=True)
class Content:
    """A file for a bundle: its path there, where it lies, and its sha256 where that is known."""

    path: str
    source: Path
    sha256: str | None = None


def user_cache() -> Path:
    """The folder of opened bundles, in the user's cache."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(given) if given.startswith("/") else Path("~/.cache").expanduser()) / "llama-nexus/bundles"


# ---- Writing


def require_place(file: Path) -> None:
    """Raise UsageError where no file of this name can be written."""
    if not file.parent.is_dir():
        raise UsageError(f"there is no folder {file.parent}", hint="make it, or name another FILE")
    if file.is_dir():
        raise UsageError(f"{file} is a folder", hint="name a file in it")
    trial = file.with_name(f".{file.name}.{os.getpid()}.try")
    try:
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise UsageError(f"{file} can't be written: {error.strerror}", hint="name another FILE") from error


def write(
    file: Path, about: About, contents: Sequence[Content], progress: Progress = lambda what, done, total: None
) -> int:
    """Write a bundle; the number of its bytes. What was at that place before stays until it is whole.

    Raises DeployError and UsageError where it can't be written, or where a file is not what it should be.
    """
    require_place(file)
    beside = file.with_name(f".{file.name}.partial")
    total = sum(one.source.stat().st_size for one in contents)
    try:
        cache = user_cache()
        cache.mkdir(parents=True, exist_ok=True)
        lock = hashlib.sha256(str(file.absolute()).encode()).hexdigest()[:16]
        with locks.held(str(cache / f".{lock}.lock"), f"bundle {file}", wait=0):
            _require_space(file.parent, total, beside)
            about.files = [_packed(one, progress, total) for one in contents]
            try:
                with beside.open("wb") as stream:
                    _write(stream, about, contents, progress, total)
                    stream.flush()
                    os.fsync(stream.fileno())
                size = beside.stat().st_size
                beside.replace(file)
            finally:
                beside.unlink(missing_ok=True)
    except locks.LockHeld as error:
        raise DeployError(f"{file} is being written: {error}", hint="wait for it, or name another FILE") from error
    except locks.LockError as error:
        raise DeployError(str(error), hint="see to the lock") from error
    return size


def _packed(one: Content, progress: Progress, total: int) -> Packed:
    digest = one.sha256 or sha256_of(str(one.source), lambda done: progress(f"reading {one.path}", done, total))
    return Packed(path=one.path, size_bytes=one.source.stat().st_size, sha256=digest)


def _write(stream: IO[bytes], about: About, contents: Sequence[Content], progress: Progress, total: int) -> None:
    done = 0
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        told = msgspec.json.encode(about)
        archive.addfile(_entry(ABOUT, len(told)), io.BytesIO(told))
        for one, packed in zip(contents, about.files, strict=True):
            with one.source.open("rb") as source:
                reader = _Hashing(source, functools.partial(_tell, progress, one.path, done, total))
                archive.addfile(_entry(one.path, packed.size_bytes), reader)
            if reader.digest() != packed.sha256:
                raise DeployError(f"{one.source} changed while it was packed", hint="verify it, and pack again")
            done += packed.size_bytes


def _tell(progress: Progress, path: str, before: int, total: int, count: int) -> None:
    progress(path, before + count, total)


def _entry(path: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = size, 0o644
    return entry


class _Hashing(io.RawIOBase):
    """A stream that hashes what is read of it."""

    def __init__(self, stream: IO[bytes], progress: Callable[[int], object]) -> None:
        super().__init__()
        self._stream, self._hash, self._done, self._progress = stream, hashlib.sha256(), 0, progress

    def read(self, size: int = -1) -> bytes:
        """So many bytes."""
        block = self._stream.read(size)
        self._hash.update(block)
        self._done += len(block)
        self._progress(self._done)
        return block

    def digest(self) -> str:
        """The sha256 of all that was read."""
        return self._hash.hexdigest()


def _require_space(folder: Path, wanted: int, partial: Path) -> None:
    free = shutil.disk_usage(folder).free + (partial.stat().st_size if partial.exists() else 0)
    if free < wanted + SPARE_BYTES:
        raise DeployError(
            f"{folder} has {memory(free / MIB)} free, {memory((wanted + SPARE_BYTES) / MIB)} are needed",
            hint="make room there, or choose another place",
        )


# ---- Opening


def open_(file: Path, cache: Path) -> tuple[Path, About]:
    """The folder of a bundle's files, all of them verified, and what it holds.

    Files that an earlier run has verified are not read again.

    Raises UsageError and DeployError where there is none, or where it is damaged.
    """
    if not file.is_file():
        raise UsageError(f"there is no bundle {file}", hint="nox -s models -- bundle FILE -l HOST writes one")
    try:
        with file.open("rb") as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            about, identity = _about(archive, file)
            folder = cache / identity
            with _locked(cache, identity):
                lacking = [one for one in about.files if not _is_there(folder / one.path, one)]
                if lacking:
                    folder.mkdir(parents=True, exist_ok=True)
                    _require_space(cache, sum(one.size_bytes for one in lacking), folder / "none")
                    _extract(archive, file, folder, {one.path: one for one in lacking})
                _record_models(folder)
    except (tarfile.TarError, EOFError) as error:
        raise _damaged(file, "it is cut off, or no bundle") from error
    return folder, about


@contextlib.contextmanager
def _locked(cache: Path, identity: str) -> Iterator[None]:
    cache.mkdir(parents=True, exist_ok=True)
    try:
        with locks.held(str(cache / f".{identity}.lock"), "opening of the bundle"):
            yield
    except locks.LockError as error:
        raise DeployError(str(error), hint="end the other process, or wait for it") from error


def _about(archive: tarfile.TarFile, file: Path) -> tuple[About, str]:
    first = archive.next()
    if first is None or first.name != ABOUT or not first.isfile() or first.size > MAX_ABOUT_BYTES:
        raise _damaged(file, "it does not begin with its list of files")
    stream = archive.extractfile(first)
    content = stream.read() if stream else b""
    try:
        told = msgspec.json.decode(content)
        if isinstance(told, dict) and isinstance(told.get("schema"), int) and told["schema"] > SCHEMA:
            raise UsageError(
                f"{file} is of schema {told['schema']}, this Llama Nexus knows {SCHEMA}",
                hint="use the version that wrote it, or a newer one",
            )
        about = msgspec.json.decode(content, type=About)
    except msgspec.MsgspecError as error:
        raise _damaged(file, f"its list of files can't be read: {error}") from error
    if wrong := next((one.path for one in about.files if not _is_path(one.path)), None):
        raise _damaged(file, f"it names {wrong!r}")
    return about, hashlib.sha256(content).hexdigest()[:16]


def _is_path(path: str) -> bool:
    """True for FOLDER/NAME, which leads nowhere else."""
    folder, slash, name = path.partition("/")
    return bool(slash and name) and folder in FOLDERS and PurePosixPath(name).name == name and not name.startswith(".")


def _is_there(path: Path, one: Packed) -> bool:
    """True where it has its name, which it gets when it is verified, and its size; records are written anew."""
    return path.is_file() and (path.name.endswith(RECORD) or path.stat().st_size == one.size_bytes)


def _extract(archive: tarfile.TarFile, file: Path, folder: Path, wanted: dict[str, Packed]) -> None:
    while wanted:
        entry = archive.next()
        if entry is None:
            raise _damaged(file, f"it lacks {min(wanted)}")
        one = wanted.pop(entry.name, None)
        if one is None:
            continue
        stream = archive.extractfile(entry) if entry.isfile() else None
        if stream is None:
            raise _damaged(file, f"{one.path} is no file")
        target = folder / one.path
        target.parent.mkdir(exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        digest = hashlib.sha256()
        try:
            with partial.open("wb") as out:
                while block := stream.read(CHUNK_BYTES):
                    digest.update(block)
                    out.write(block)
                out.flush()
                os.fsync(out.fileno())
            if digest.hexdigest() != one.sha256:
                raise _damaged(file, f"{one.path} is not what was packed")
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)


def _damaged(file: Path, why: str) -> DeployError:
    return DeployError(f"the bundle {file} is damaged: {why}", hint="copy it again from where it was written")


def _record_models(folder: Path) -> None:
    """Let the records of models name these files: they are what was verified, with other paths and times."""
    for path in (folder / "models").glob(f"*{RECORD}"):
        record = json.loads(path.read_bytes())
        base = path.name.removesuffix(RECORD)
        count = len(record.get("parts", ())) + 1
        names = [f"{base}.gguf"] if count == 1 else [f"{base}-{n:05}-of-{count:05}.gguf" for n in range(1, count + 1)]
        for entry, name in zip([record, *record.get("parts", ())], names, strict=True):
            stat = (folder / "models" / name).stat()
            entry |= {"size_bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
            if entry is not record:
                entry["path"] = str(folder / "models" / name)
        text = json.dumps(record, indent=1) + "\n"
        if path.read_text() != text:
            partial = path.with_name(f".{path.name}.new")
            partial.write_text(text)
            partial.replace(path)


@command_line
def main(argv: Sequence[str] | None = None) -> int:
    """Open a bundle for a playbook: FILE and the folder of opened ones; prints JSON."""
    file, cache = sys.argv[1:] if argv is None else argv
    folder, about = open_(Path(file), Path(cache))
    told = {key: value for key, value in msgspec.to_builtins(about).items() if key != "files"}
    image = f"images/{image_file(about.image)}" if about.image else ""
    told |= {"folder": str(folder), "image_file": str(folder / image) if image else ""}
    sys.stdout.write(json.dumps(told) + "\n")
    return 0


def image_file(image: str) -> str:
    """The name of an image's file in a bundle."""
    return re.sub(r"[^\w.-]+", "_", image) + ".tar"


if __name__ == "__main__":
    sys.exit(main())
