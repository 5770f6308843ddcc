"""A model's file on a host: fetched, verified by checksum, recorded; idempotent. Python 3.9's standard library only.

The record beside it, ``<name>.gguf.nexus.json``, says where it came from, its sha256, and the size and modification
time that it had when it was verified.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..hostlib import locks
from ..hostlib.files import read_json, sha256_of, write_file
from ..hostlib.gguf import GgufError, read_header
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
    sha256: str | None
    """The hash that it must have, where one is known beforehand."""


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
        self._spec = {key: profile[key] for key in ("path", "url", "repo", "file", "generator") if profile[key]}
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
        stat = os.stat(self.path)
        if (record.get("size_bytes"), record.get("mtime_ns")) != (stat.st_size, stat.st_mtime_ns):
            return Probe(False, "the file changed since it was verified", record)
        return Probe(True, "", record)

    def have(self) -> tuple[bool, str]:
        """Make the file present: whether anything changed, and what was done. Raises ModelError and LockError."""
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

    def _is_as_recorded(self, record: Mapping[str, Any]) -> bool:
        """True where the file is what was recorded and only its times are new, which are recorded then."""
        same = os.path.exists(self.path) and record.get("spec") == self._spec
        if not same or record.get("size_bytes") != os.path.getsize(self.path):
            return False
        if self._wanted_sha256 not in (None, record.get("sha256")):
            return False
        digest = self._hash(self.path)
        if digest != record.get("sha256"):
            return False
        self._write_record(digest)
        return True

    def _adopt(self, path: str) -> str:
        """Verify a file where it lies and record it."""
        read_header(path)
        digest = self._hash(path)
        _check_sha256(digest, self._wanted_sha256, path)
        self._write_record(digest)
        return "verified where it lies"

    def _fetch(self) -> str:
        origin = self._at_hub() if "repo" in self._spec else self._at_url()
        if os.path.exists(self._own) and origin.sha256 and self._hash(self._own) == origin.sha256:
            return self._adopt(self._own)  # put there by hand, or by a profile that named the same content otherwise
        digest = Download(self._partial, origin.identity, origin.resolve, self.progress).run()
        return self._finish(digest, origin.sha256)

    def _at_url(self) -> Origin:
        url: str = self._spec["url"]
        return Origin(url, lambda: (url, None), self._wanted_sha256)

    def _at_hub(self) -> Origin:
        hub = Hub(self._spec["repo"], self._spec["file"], self._spec["revision"], *self._hub_options)
        expected = hub.sha256 or self._wanted_sha256
        if self._wanted_sha256 not in (None, expected):
            raise ModelError(
                f"wrong sha256: {self._source()} has {expected}, "
                f"{self._wanted_sha256} is wanted; correct sha256, or revision"
            )
        if hub.size_bytes:
            have = os.path.getsize(self._partial) if os.path.exists(self._partial) else 0
            check_space(self.dir, hub.size_bytes - have)
        return Origin(f"{self._source()}@{hub.etag}", hub.resolve, expected)

    def _finish(self, digest: str, expected: str | None = None) -> str:
        """Verify what lies in ``partial`` and give it its name."""
        try:
            _check_sha256(digest, expected or self._wanted_sha256, self._source())
            parts = read_header(self._partial, self._source()).split_count
            if parts > 1:
                raise ModelError(
                    f"the file is one of {parts} that make up the model: "
                    "merge them with llama-gguf-split --merge and use a path source"
                )
        except (ModelError, GgufError):
            drop(self._partial)
            raise
        os.chmod(self._partial, 0o644)
        os.replace(self._partial, self._own)
        drop(self._partial)
        self._write_record(digest)
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

    def _write_record(self, digest: str) -> None:
        stat = os.stat(self.path)
        record = {"spec": self._spec, "sha256": digest, "size_bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        write_file(self._record_path, json.dumps(record, indent=1) + "\n")


def _check_sha256(digest: str, expected: str | None, what: str) -> None:
    if expected is not None and digest != expected:
        raise ModelError(f"wrong sha256: {what} has {digest}, {expected} is wanted; correct sha256, or the source")
