"""A model's file on a host: fetched, verified by checksum, recorded; idempotent. Python 3.9's standard library only.

The record beside it, ``<name>.gguf.nexus.json``, says where it came from, its sha256, and the size and modification
time that it had when it was verified; of a model in several files the same of each. Everybody may read it: of an
address it has neither user and password nor the query, which may be a signature.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..hostlib import locks, masking
from ..hostlib.files import read_json, sha256_of, write_file
from ..hostlib.gguf import GgufError, file_count, read_header, read_model
from .address import asked
from .download import Download, Resolve, drop
from .errors import ModelError, check_space
from .hub import Hub
from .progress import Progress


class Probe(NamedTuple):
    """A look at the file."""

    present: bool
    """True where it is there and verified."""
    why_not: str
    record: dict[str, Any]
    """The record of it; empty where there is none."""


class Origin(NamedTuple):
    """The place that a file is downloaded from."""

    identity: str
    """The name of the content, whatever address it is fetched from."""
    resolve: Resolve
    sha256: str
    """The hash that it must have."""


class ModelFile:
    """The wanted file: where it lies, what is known about it, and how to have it.

    Args:
        params: those of the module gguf_file.
    """

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.name: str = params["name"]
        self.dir: str = params["dir"]
        profile = params["profile"]
        self._wanted_sha256: str | None = (profile["sha256"] or "").lower() or None
        self._url: str = profile["url"] or ""
        self._spec = {key: profile[key] for key in ("path", "url", "repo", "file", "generator") if profile[key]}
        if "url" in self._spec:
            self._spec["url"] = masking.addresses(self._url)
        if "repo" in self._spec:
            self._spec["revision"] = profile["revision"]
        if "generator" in self._spec:
            self._spec["version"] = params["generator_version"]
        self._hub_options = (params["hub_endpoint"], params["hub_token"])
        self._own = os.path.join(self.dir, self.name + ".gguf")
        self.path: str = profile["path"] or self._own
        self._partial = self._own + ".partial"
        self._record_path = self._own + ".nexus.json"
        self.progress = Progress(self._own + ".progress")

    def probe(self) -> Probe:
        """See whether the file is there and verified. Raises ModelError where a user's own is missing."""
        if "path" in self._spec and not os.path.isfile(self.path):
            raise ModelError(f"there is no file {self.path}: put it there, or correct path")
        record = read_json(self._record_path) or {}
        if not os.path.exists(self.path):
            return Probe(False, "it is not there", record)
        if record.get("spec") != self._spec:
            return Probe(False, "its source changed" if record else "it has not been verified", record)
        if self._wanted_sha256 not in (None, record.get("sha256")):
            return Probe(False, "another sha256 is wanted", record)
        if not self._names_all(record):
            return Probe(False, "its other files have not been verified", record)
        for file in self._files_of(record):
            if _seen(file["path"]) != {key: file.get(key) for key in ("path", "size_bytes", "mtime_ns")}:
                what = "the file" if file["path"] == self.path else file["path"]
                return Probe(False, f"{what} changed since it was verified", record)
        return Probe(True, "", record)

    def have(self) -> tuple[bool, str]:
        """Make the file present: whether anything changed, and what was done.

        Raises ModelError, GgufError and LockError.
        """
        os.makedirs(self.dir, exist_ok=True)
        # A job that outlived its controller may still be fetching the same file.
        lock = os.path.join(self.dir, f".{self.name}.lock")
        with locks.held(lock, f"model {self.name}", waiting=self.progress.say):
            probe = self.probe()
            if probe.present:
                return False, "it was there"
            if self._is_as_recorded(probe.record):
                return False, "verified again"
            if "path" in self._spec:
                return True, self._adopt(self.path)
            if "generator" in self._spec:
                return True, self._finish(self._hash(self._partial))
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

    def _is_as_recorded(self, record: Mapping[str, Any]) -> bool:
        """True where all is what was recorded and only its times are new, which are recorded then."""
        files = self._files_of(record)
        if record.get("spec") != self._spec or not self._names_all(record):
            return False
        if any((_seen(file["path"]) or {}).get("size_bytes") != file.get("size_bytes") for file in files):
            return False
        if self._wanted_sha256 not in (None, record.get("sha256")):
            return False
        digests = {file["path"]: self._hash(file["path"]) for file in files}
        if any(digests[file["path"]] != file.get("sha256") for file in files):
            return False
        self._write_record(digests)
        return True

    def _adopt(self, path: str) -> str:
        """Verify a model where it lies, in all its files, and record it."""
        digests: dict[str, str] = {}
        for header in read_model(path):
            digests[header.name] = self._hash(header.name)
            if header.name == path:
                _check_sha256(digests[path], self._wanted_sha256, path)
        self._write_record(digests)
        return "verified where it lies"

    def _fetch(self) -> str:
        origin = self._at_hub() if "repo" in self._spec else self._at_url()
        if os.path.exists(self._own) and self._hash(self._own) == origin.sha256:
            return self._adopt(self._own)  # put there by hand, or by a profile that named the same content otherwise
        digest = Download(self._partial, origin.identity, origin.resolve, self.progress).run()
        return self._finish(digest, origin.sha256)

    def _at_url(self) -> Origin:
        try:
            address = asked(self._url)
        except ValueError as error:
            raise ModelError(f"url can't be asked for: {error}") from error
        sha256 = self._required(self._wanted_sha256, "an address")
        return Origin(f"{self._source()} {sha256}", lambda: address, sha256)

    def _at_hub(self) -> Origin:
        hub = Hub(self._spec["repo"], self._spec["file"], self._spec["revision"], *self._hub_options)
        expected = self._required(hub.sha256 or self._wanted_sha256, hub.endpoint)
        if self._wanted_sha256 not in (None, expected):
            raise ModelError(
                f"wrong sha256: {self._source()} has {expected}, "
                f"{self._wanted_sha256} is wanted; correct sha256, or revision"
            )
        if hub.size_bytes:
            have = os.path.getsize(self._partial) if os.path.exists(self._partial) else 0
            check_space(self.dir, hub.size_bytes - have)
        return Origin(f"{self._source()}@{hub.etag}", hub.resolve, expected)

    def _required(self, sha256: str | None, who: str) -> str:
        """The hash that a download must have. What nothing can be compared with is not fetched: ModelError."""
        if sha256 is None:
            raise ModelError(
                f"{who} tells no sha256 of {self._source()}, so what comes could not be verified: set sha256 in the "
                "profile, or name a hub in HF_ENDPOINT that tells it"
            )
        return sha256

    def _finish(self, digest: str, expected: str | None = None) -> str:
        """Verify what lies in ``partial`` and give it its name."""
        try:
            _check_sha256(digest, expected or self._wanted_sha256, self._source())
            parts = read_header(self._partial, self._source()).split_count
            if parts > 1:
                raise ModelError(
                    f"the file is one of {parts} that make up the model: put all of them into a folder of the host and "
                    "name the first in path"
                )
        except (ModelError, GgufError):
            drop(self._partial)
            raise
        os.chmod(self._partial, 0o644)
        os.replace(self._partial, self._own)
        drop(self._partial)
        self._write_record({self._own: digest})
        return "fetched"

    def _source(self) -> str:
        """The name that people call the file's origin by."""
        if "repo" in self._spec:
            return f"{self._spec['repo']}/{self._spec['file']}"
        return self._spec.get("url") or f"the generator {self._spec['generator']}"

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


def _seen(path: str) -> dict[str, Any] | None:
    """The facts by which a file is still the same; None where there is none."""
    try:
        stat = os.stat(path)
    except FileNotFoundError:
        return None
    return {"path": path, "size_bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _check_sha256(digest: str, expected: str | None, what: str) -> None:
    if expected is not None and digest != expected:
        raise ModelError(f"wrong sha256: {what} has {digest}, {expected} is wanted; correct sha256, or the source")
