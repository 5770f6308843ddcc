"""A model's files on a host: fetched, verified by checksum, recorded; idempotent. Python 3.9's standard library only.

The record beside them, ``<name>.gguf.nexus.json``, says where they came from, and of each its sha256, and the size and
modification time that it had when it was verified. Everybody may read it: of an address it has neither user and
password nor the query, which may be a signature.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..hostlib import locks, masking
from ..hostlib.files import read_json, sha256_of, write_file
from ..hostlib.gguf import GgufError, file_count, read_header, read_model
from .download import drop, wrong_sha256
from .errors import ModelError
from .origins import origins, source_name, wanted_sha256s
from .progress import Progress
from .transfer import fetch


class Probe(NamedTuple):
    """A look at the model."""

    present: bool
    """True where it is there and verified."""
    why_not: str
    record: dict[str, Any]
    """The record of it; empty where there is none."""


class ModelFile:
    """The wanted model: where it lies, in one file or several, what is known about it, and how to have it.

    Args:
        params: those of the module gguf_file.
    """

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.name: str = params["name"]
        self.dir: str = params["dir"]
        self._params, profile = params, params["profile"]
        self._wanted = wanted_sha256s(profile)
        self._spec = _spec(params)
        self._own = own_paths(os.path.join(self.dir, self.name), len(self._wanted))
        self.path: str = profile["path"] or self._own[0]
        self._partials = [own + ".partial" for own in self._own]
        base = os.path.join(self.dir, self.name + ".gguf")
        self._record_path = base + ".nexus.json"
        self.progress = Progress(base + ".progress")

    def probe(self) -> Probe:
        """See whether the model is there and verified. Raises ModelError where a user's own is missing."""
        if "path" in self._spec and not os.path.isfile(self.path):
            raise ModelError(f"there is no file {self.path}: put it there, or correct path")
        record = read_json(self._record_path) or {}
        if not os.path.exists(self.path):
            return Probe(False, "it is not there", record)
        if record.get("spec") != self._spec:
            return Probe(False, "its source changed" if record else "it has not been verified", record)
        if not self._has_wanted_sha256(record):
            return Probe(False, "another sha256 is wanted", record)
        if not self._names_all(record):
            return Probe(False, "its other files have not been verified", record)
        for file in self._files_of(record):
            if _seen(file["path"]) != {key: file.get(key) for key in ("path", "size_bytes", "mtime_ns")}:
                what = "the file" if file["path"] == self.path else file["path"]
                return Probe(False, f"{what} changed since it was verified", record)
        return Probe(True, "", record)

    def have(self) -> tuple[bool, str]:
        """Make the model present: whether anything changed, and what was done.

        Raises ModelError, GgufError and LockError.
        """
        os.makedirs(self.dir, exist_ok=True)
        # A job that outlived its controller may still be fetching the same model.
        lock = os.path.join(self.dir, f".{self.name}.lock")
        with locks.held(lock, f"model {self.name}", waiting=self.progress.say):
            probe = self.probe()
            if probe.present:
                return False, "it was there"
            if self._is_as_recorded(probe.record):
                return False, "verified again"
            if "path" in self._spec:
                return True, self._adopt()
            if "generator" in self._spec:
                digest = self._hash(self._partials[0])
                self._check_generated(digest)
                return True, self._put_in_place([digest])
            return True, self._fetch()

    def found(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The result of the module about a record: path, size and sha256, and ``parts``, the same of further files."""
        keys = ("path", "size_bytes", "sha256")
        first, *others = self._files_of(record)
        return {**{key: first.get(key) for key in keys}, "parts": [{key: file[key] for key in keys} for file in others]}

    def _names_all(self, record: Mapping[str, Any]) -> bool:
        """True where a record knows of all files of the model; earlier ones know of the first only."""
        return file_count(self.path) == 1 or "parts" in record

    def _files_of(self, record: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [{**record, "path": self.path}, *record.get("parts", [])]

    def _has_wanted_sha256(self, record: Mapping[str, Any]) -> bool:
        return all(sha256 in (None, file.get("sha256")) for sha256, file in zip(self._wanted, self._files_of(record)))

    def _is_as_recorded(self, record: Mapping[str, Any]) -> bool:
        """True where all is what was recorded and only its times are new, which are recorded then."""
        files = self._files_of(record)
        if record.get("spec") != self._spec or not self._names_all(record):
            return False
        if any((_seen(file["path"]) or {}).get("size_bytes") != file.get("size_bytes") for file in files):
            return False
        if not self._has_wanted_sha256(record):
            return False
        digests = {file["path"]: self._hash(file["path"]) for file in files}
        if any(digests[file["path"]] != file.get("sha256") for file in files):
            return False
        self._write_record(digests)
        return True

    def _adopt(self) -> str:
        """Verify a model where it lies, in all its files, and record it."""
        digests: dict[str, str] = {}
        for header in read_model(self.path):
            digests[header.name] = digest = self._hash(header.name)
            wanted = self._wanted[0] if header.name == self.path else None
            if wanted not in (None, digest):
                raise wrong_sha256(self.path, digest, wanted)
        self._write_record(digests)
        return "verified where it lies"

    def _fetch(self) -> str:
        """Fetch the files that are not there yet, verify them, and give them their names together."""
        wanted = origins(self._params)
        there = [self._is_there(own, origin.sha256) for own, origin in zip(self._own, wanted)]
        if all(there):  # put there by hand, or by a profile that named the same content otherwise
            self._check_headers(self._own)
            self._write_record({own: origin.sha256 for own, origin in zip(self._own, wanted)})
            return "verified where it lies"
        missing = [(origin, partial) for origin, partial, has in zip(wanted, self._partials, there) if not has]
        fetch(missing, self.progress)
        try:
            self._check_headers(
                [own if has else partial for own, partial, has in zip(self._own, self._partials, there)]
            )
        except GgufError:
            for _, partial in missing:
                drop(partial)
            raise
        return self._put_in_place([origin.sha256 for origin in wanted])

    def _is_there(self, path: str, sha256: str) -> bool:
        return os.path.exists(path) and self._hash(path) == sha256

    def _check_generated(self, digest: str) -> None:
        try:
            read_header(self._partials[0], source_name(self._params["profile"], 0))
            if self._wanted[0] not in (None, digest):
                raise wrong_sha256(f"the generator {self._spec['generator']}", digest, self._wanted[0])
        except (ModelError, GgufError):
            drop(self._partials[0])
            raise

    def _check_headers(self, paths: list[str]) -> None:
        """Raise GgufError unless these are the files of one whole model, in this order."""
        names = [source_name(self._params["profile"], number) for number in range(len(paths))]
        headers = [read_header(path, name) for path, name in zip(paths, names)]
        for number, header in enumerate(headers):
            if (header.split_number, header.split_count) == (number, len(paths)):
                continue
            if len(paths) == 1:
                raise GgufError(
                    f"{header.name} is one of {header.split_count} files that make up the model: name all of them in "
                    "the profile, in files or urls"
                )
            raise GgufError(
                f"{header.name} says that it is file {header.split_number + 1} of {header.split_count}, the profile "
                f"has it as {number + 1} of {len(paths)}: name all files of the model, in their order"
            )
        count, told = sum(len(header.tensors) for header in headers), headers[0].split_tensors
        if len(paths) > 1 and count != (told or count):
            raise GgufError(
                f"{names[0]} and the model's other files have {count} tensors, {told} make up the model: name files "
                "that were made together"
            )

    def _put_in_place(self, digests: list[str]) -> str:
        """Give verified files their names.

        llama.cpp begins with the first, which is away meanwhile where others are new: whoever starts a server at any
        moment, or after a kill, has the former model, none, or this one.
        """
        first, *others = zip(self._own, self._partials)
        if any(os.path.exists(partial) for _, partial in others) and os.path.exists(first[0]):
            if os.path.exists(first[1]):
                os.unlink(first[0])
            else:
                os.replace(*first)
        for own, partial in [*others, first]:
            if os.path.exists(partial):
                os.chmod(partial, 0o644)
                os.replace(partial, own)
            drop(partial)
        self._write_record(dict(zip(self._own, digests)))
        return "fetched"

    def _hash(self, path: str) -> str:
        total = os.path.getsize(path)
        self.progress.start()
        return sha256_of(path, lambda done: self.progress.show("verifying", done, total))

    def _write_record(self, digests: Mapping[str, str]) -> None:
        """Record the model's files with their hashes, the first one first."""
        first, *others = [{**(_seen(path) or {}), "sha256": digest} for path, digest in digests.items()]
        record: dict[str, Any] = {"spec": self._spec, **first}
        if file_count(self.path) > 1:
            record["parts"] = others
        del record["path"]
        write_file(self._record_path, json.dumps(record, indent=1) + "\n")


def own_paths(base: str, count: int) -> list[str]:
    """The paths of a model's files by what they begin with; llama.cpp finds those of several by their names."""
    if count == 1:
        return [f"{base}.gguf"]
    return [f"{base}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]


def _spec(params: Mapping[str, Any]) -> dict[str, Any]:
    """The source as the record has it: without secrets, and without hashes, which are compared by themselves."""
    profile = params["profile"]
    spec = {key: profile[key] for key in ("path", "repo", "file", "generator") if profile[key]}
    if profile["url"]:
        spec["url"] = masking.addresses(profile["url"])
    if profile["urls"]:
        spec["urls"] = [masking.addresses(entry["url"]) for entry in profile["urls"]]
    if profile["files"]:
        spec["files"] = [entry["file"] for entry in profile["files"]]
    if "repo" in spec:
        spec["revision"] = profile["revision"]
    if "generator" in spec:
        spec["version"] = params["generator_version"]
    return spec


def _seen(path: str) -> dict[str, Any] | None:
    """The facts by which a file is still the same; None where there is none."""
    try:
        stat = os.stat(path)
    except FileNotFoundError:
        return None
    return {"path": path, "size_bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
