"""Models that lie in a folder of a host: their files, states and sizes, and who uses them.

    for model in stored_models("/opt/llama-nexus/models"): model.name, model.state, model.size_bytes
    verify(model, progress), remove(model)

Python 3.9's standard library only.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..hostlib import locks
from ..hostlib.files import read_json, sha256_of
from .errors import ModelError
from .model_file import own_paths
from .progress import Progress

NAMED = re.compile(
    r"(?P<name>[^.].*?)(?:-\d{5}-of-\d{5})?\.gguf(?P<rest>|\.nexus\.json|\.partial|\.partial\.json|\.progress)"
)
VERIFIED, CHANGED, INCOMPLETE, UNKNOWN, PARTIAL, FETCHING = (
    "verified", "changed", "incomplete", "not verified", "partial", "fetching",
)  # fmt: skip
DAMAGED = "damaged"
"""The state that only :func:`verify` finds: a file's sha256 is not the one that was recorded."""


@dataclass(frozen=True)
class StoredModel:
    """A model of a folder."""

    name: str
    state: str
    folder: str
    files: tuple[str, ...]
    """Its files, those of a split model in their order; of one that is used where it lies, outside of the folder."""
    beside: tuple[str, ...]
    """What else the folder has of it: record, partial files, files of a former version."""
    source: str | None = None
    sha256s: Mapping[str, str] = field(default_factory=dict)
    """By file, as recorded."""

    @property
    def size_bytes(self) -> int:
        """Bytes of its files, wherever they lie, and of what is beside."""
        return sum(_size(path) for path in {*self.files, *self.beside})

    @property
    def lies_elsewhere(self) -> bool:
        """True where it is a user's own file outside of the folder, which is never removed."""
        return any(os.path.dirname(path) != self.folder for path in self.files)


def stored_models(folder: str) -> list[StoredModel]:
    """The models of a folder, by name; an empty list where there is none. Raises OSError."""
    try:
        entries = sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    by_name: dict[str, dict[str, list[str]]] = {}
    for entry in entries:
        if named := NAMED.fullmatch(entry):
            rests = by_name.setdefault(named["name"], {})
            rests.setdefault(named["rest"], []).append(os.path.join(folder, entry))
    return [_model(folder, name, rests) for name, rests in sorted(by_name.items())]


def verify(model: StoredModel, progress: Progress) -> str:
    """The state of a model after its files were read and hashed: VERIFIED, DAMAGED, or the one that it had.

    Raises OSError.
    """
    if not model.sha256s or any(not os.path.isfile(path) for path in model.files):
        return model.state
    for path in model.files:
        show = functools.partial(progress.show, f"verifying {model.name},", total=os.path.getsize(path))
        progress.start()
        digest = sha256_of(path, show)
        if digest != model.sha256s[path]:
            return DAMAGED
    return VERIFIED


def forget(model: StoredModel) -> None:
    """Drop the record of a damaged model, so that the next run fetches it; a user's own file keeps its record.

    Raises OSError.
    """
    if not model.lies_elsewhere:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(model.folder, f"{model.name}.gguf.nexus.json"))


def remove(model: StoredModel, used: Mapping[str, Sequence[str]]) -> None:
    """Remove a model's files from its folder; of one that lies elsewhere what is known of it.

    Args:
        used: users by the paths of files.

    Raises ModelError where it is used or fetched just now, and OSError.
    """
    if users := users_of(model, used):
        raise ModelError(f"model {model.name} is used by {', '.join(users)}: it is left alone; deploy without it first")
    lock = os.path.join(model.folder, f".{model.name}.lock")
    try:
        with locks.held(lock, f"removal of model {model.name}", wait=0):
            own = () if model.lies_elsewhere else model.files
            # The record last: whatever ends this, the model is known by it, and no longer there.
            for path in sorted({*own, *model.beside}, key=lambda path: path.endswith(".nexus.json")):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
    except locks.LockHeld as error:
        raise ModelError(f"model {model.name} is being fetched ({error}): it is left alone") from error


def users_of(model: StoredModel, used: Mapping[str, Sequence[str]]) -> list[str]:
    """The users of a model's files, sorted.

    Args:
        used: users by the paths of files.
    """
    mine = {os.path.realpath(path) for path in (*model.files, *model.beside)}
    return sorted({user for path, users in used.items() if os.path.realpath(path) in mine for user in users})


def open_files(folder: str) -> dict[str, list[str]]:
    """The files below a folder that a process has open or mapped, with those processes: ``process 4711``.

    Only those processes count that may be looked into: all for root, else those of the same user.
    """
    below = os.path.realpath(folder) + os.sep
    found: dict[str, list[str]] = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        for path in _opened_by(pid):
            if path.startswith(below):
                found.setdefault(path, [f"process {pid}"])
    return found


def _opened_by(pid: str) -> set[str]:
    paths: set[str] = set()
    with contextlib.suppress(OSError), open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as stream:
        paths |= {line.rstrip("\n").split(None, 5)[5] for line in stream if line.count("/")}
    with contextlib.suppress(OSError):
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                paths.add(os.readlink(f"/proc/{pid}/fd/{descriptor}"))
    return paths


def _model(folder: str, name: str, rests: Mapping[str, Sequence[str]]) -> StoredModel:
    own, partials = list(rests.get("", ())), [*rests.get(".partial", ()), *rests.get(".partial.json", ())]
    records = list(rests.get(".nexus.json", ()))
    record = (read_json(records[0]) or {}) if records else {}
    recorded = _recorded(folder, name, record)
    files = tuple(recorded or own)
    state = _state(recorded, own)
    if locks.holder(os.path.join(folder, f".{name}.lock")):
        state = FETCHING
    return StoredModel(
        name, state, folder, files, tuple(path for path in (*own, *partials, *records) if path not in files),
        source=_source(record.get("spec") or {}),
        sha256s={path: str(file.get("sha256")) for path, file in recorded.items()},
    )  # fmt: skip


def _recorded(folder: str, name: str, record: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The files of a record by their paths."""
    if not record:
        return {}
    further = record.get("parts", [])
    first = (record.get("spec") or {}).get("path") or own_paths(os.path.join(folder, name), len(further) + 1)[0]
    return {first: record, **{file["path"]: file for file in further}}


def _state(recorded: Mapping[str, Mapping[str, Any]], own: Sequence[str]) -> str:
    if not recorded:
        return UNKNOWN if own else PARTIAL
    stats = {path: _stat(path) for path in recorded}
    if None in stats.values():
        return INCOMPLETE
    as_recorded = all(stats[path] == (file.get("size_bytes"), file.get("mtime_ns")) for path, file in recorded.items())
    return VERIFIED if as_recorded else CHANGED


def _source(spec: Mapping[str, Any]) -> str | None:
    """The place that a model came from, for people."""
    if "repo" in spec:
        return f"{spec['repo']}/{(spec.get('files') or [spec.get('file')])[0]}"
    if "urls" in spec:
        return str(spec["urls"][0])
    given = spec.get("url") or spec.get("path")
    return given or (f"generator {spec['generator']}" if "generator" in spec else None)


def _stat(path: str) -> tuple[int, int] | None:
    try:
        stat = os.stat(path)
    except FileNotFoundError:
        return None
    return stat.st_size, stat.st_mtime_ns


def _size(path: str) -> int:
    return (_stat(path) or (0, 0))[0]
