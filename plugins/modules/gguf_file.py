#!/usr/bin/python
"""Ansible module: a verified GGUF file on this host, from a path, a URL or the Hugging Face hub."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gguf_file
short_description: Have a verified GGUF file
description:
  - Fetches a GGUF file into C(dir) under the name C(<name>.gguf), or takes one where it lies (C(path)).
  - A file counts as there when the record beside it (C(<name>.gguf.nexus.json)) names the same source and the
    file's size and modification time are those of the record; then nothing is read again.
  - A file takes its final name only after its header, its size and its sha256 were found right. What was
    there before stays until then.
  - A download that breaks off leaves C(<name>.gguf.partial), which the next run continues if the server still
    has the same file.
options:
  name:
    description: Name of the model.
    type: str
    required: true
  dir:
    description: Folder of the models and of their records.
    type: path
    required: true
  state:
    description:
      - C(present) has the file; C(probed) only says whether it is there. In check mode C(probed) reports the
        change that C(present) would make.
    type: str
    choices: [present, probed]
    default: present
  profile:
    description: Where the file comes from. One of C(path), C(url), C(repo) and C(generator).
    type: dict
    required: true
    suboptions:
      description:
        description: What the model is, for people.
        type: str
      path:
        description: A file on this host, used where it lies.
        type: path
      url:
        description: Where to download the file from; needs C(sha256).
        type: str
      repo:
        description: A repository of the Hugging Face hub; needs C(file) and, on this host, huggingface_hub.
        type: str
      file:
        description: The file's name in the repository.
        type: str
      revision:
        description: Branch, tag or commit of the repository.
        type: str
        default: main
      generator:
        description: What made the file that was put at C(<name>.gguf.partial).
        type: str
      sha256:
        description: What the file's sha256 must be.
        type: str
  generator_version:
    description: Version of the generator; a file that another version made is made anew.
    type: str
  hub_endpoint:
    description: Address of the hub or of a mirror of it.
    type: str
  hub_token:
    description: Access token of the hub.
    type: str
author: Llama Nexus
"""
EXAMPLES = r"""
- name: Have a model from the hub
  llama.nexus.gguf_file:
    name: qwen3-0.6b
    dir: /opt/llama-nexus/models
    profile:
      repo: Qwen/Qwen3-0.6B-GGUF
      file: Qwen3-0.6B-Q8_0.gguf
"""
RETURN = r"""
present:
  description: Whether the wanted file is there and verified.
  returned: always
  type: bool
why:
  description: Why it is not, or what was done.
  returned: always
  type: str
model:
  description: The file. Its size and hash are null while it is not there.
  returned: always
  type: dict
  contains:
    path:
      description: Where it is, or will be.
      type: str
    size_bytes:
      description: Its size.
      type: int
    sha256:
      description: Its hash.
      type: str
"""

import contextlib
import errno
import hashlib
import http.client
import json
import os
import shutil
import socket
import ssl
import struct
import time
import urllib.error
import urllib.parse

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.hostlib import locks
from ..module_utils.hostlib.http_client import open_address, origin_of
from ..module_utils.hostlib.process import begin

CHUNK = 1 << 20
MIB = 1 << 20
GIB = 1 << 30
TIMEOUT_S = 60
# How a transfer breaks off. socket.timeout became TimeoutError only in Python 3.10.
BREAKS = (http.client.HTTPException, ConnectionError, TimeoutError, socket.timeout, ssl.SSLError)
ATTEMPTS = 4  # in a row without a byte gained
TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}


class ModelError(Exception):
    """What is wrong and how to mend it, in one line."""


class BrokenOffError(Exception):
    """A download broke off; it can be continued."""


# --- GGUF ---

# Metadata values of a fixed size, by the number of their type; 8 is a string and 9 an array.
SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING = 8
ARRAY = 9

# Elements and bytes of a block, by the number of the tensor type (ggml's own table).
TENSOR_BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82),
    23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2),
    34: (256, 54), 35: (256, 66), 39: (32, 17), 40: (64, 36), 41: (128, 18),
}  # fmt: skip


class Header:
    """A GGUF header, read as far as it takes to know where the file must end.

    ``end`` is the least number of bytes that the file has, ``parts`` how many files the model was split into.
    """

    def __init__(self, path):
        self.path = path
        self.size = os.path.getsize(path)
        self.parts = 1
        alignment = 32
        with open(path, "rb") as self.stream:
            magic = self.stream.read(4)
            if magic != b"GGUF":
                raise ModelError(
                    f"{path} is not a GGUF file: it begins with {magic!r}, not with b'GGUF'; name a file in GGUF format"
                )
            version = self.number("I")
            if version not in (2, 3):
                raise ModelError(
                    f"{path} has GGUF version {version}, llama.cpp reads 2 and 3 (little-endian): "
                    "take another conversion of the model"
                )
            n_tensors, n_values = self.number("Q"), self.number("Q")
            for _ in range(n_values):
                key = self.read(self.number("Q"))
                kind = self.number("I")
                if key == b"general.alignment" and kind == 4:
                    alignment = self.number("I")
                elif key == b"split.count" and kind == 2:
                    self.parts = max(1, self.number("H"))
                else:
                    self.skip_value(kind)
            end = 0
            for _ in range(n_tensors):
                self.skip(self.number("Q"))
                elements = 1
                for _ in range(self.number("I")):
                    elements *= self.number("Q")
                kind, offset = self.number("I"), self.number("Q")
                per_block, block_bytes = TENSOR_BLOCKS.get(kind, (1, 0))  # of an unknown type only the start counts
                end = max(end, offset + elements // per_block * block_bytes)
            start = self.stream.tell()
            self.end = start if n_tensors == 0 else (start + alignment - 1) // alignment * alignment + end

    def read(self, count):
        data = self.stream.read(count) if count <= self.size else b""
        if len(data) != count:
            raise ModelError(
                f"{self.path} is truncated: its header goes beyond the file's {self.size} bytes; "
                "copy or download it again"
            )
        return data

    def number(self, code):
        return struct.unpack("<" + code, self.read(struct.calcsize("<" + code)))[0]

    def skip(self, count):
        # Short pieces lie in the read buffer, where reading is cheaper than seeking.
        if count < 4096:
            self.read(count)
        else:
            self.stream.seek(count, os.SEEK_CUR)

    def skip_value(self, kind):
        if kind in SCALAR_BYTES:
            self.skip(SCALAR_BYTES[kind])
        elif kind == STRING:
            self.skip(self.number("Q"))
        elif kind == ARRAY:
            inner, count = self.number("I"), self.number("Q")
            if inner in SCALAR_BYTES:
                self.skip(SCALAR_BYTES[inner] * count)
            else:
                for _ in range(count):
                    self.skip_value(inner)
        else:
            raise ModelError(
                f"{self.path} is damaged: its header has a value of type {kind}; copy or download it again"
            )


def check_header(path):
    """Refuse what is not a whole GGUF file; return its header."""
    header = Header(path)
    if header.size < header.end:
        raise ModelError(
            f"{path} is truncated: header says {header.end} bytes, file has {header.size}; copy or download it again"
        )
    return header


# --- Progress, records, space ---


class Progress:
    """One line in a file, rewritten about once a second, for whoever follows the job."""

    def __init__(self, path, clock=time.monotonic):
        self.path, self.clock = path, clock
        self.start()

    def start(self, done=0):
        self.started_at = self.written_at = self.clock()
        self.started_with = done

    def show(self, verb, done, total):
        now = self.clock()
        if now - self.written_at < 1:
            return
        rate = (done - self.started_with) / MIB / max(now - self.started_at, 0.001)
        amount = f"{done / GIB:.1f} of {total / GIB:.1f} GiB" if total else f"{done / GIB:.1f} GiB"
        if total and total < GIB:
            amount = f"{done / MIB:.0f} of {total / MIB:.0f} MiB"
        self.say(f"{verb} {amount}, {rate:.0f} MiB/s")
        self.written_at = now

    def say(self, line):
        # A full disk must not hide what the job itself has to say about it.
        with contextlib.suppress(OSError):
            write_atomically(self.path, line + "\n")

    def end(self):
        with contextlib.suppress(OSError):
            os.unlink(self.path)


def write_atomically(path, text):
    beside = f"{path}.{os.getpid()}"
    try:
        with open(beside, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.replace(beside, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise


def read_json(path):
    """The object in a file; an empty one where there is none or it is damaged."""
    try:
        with open(path, encoding="utf-8") as stream:
            value = json.load(stream)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def hash_file(path, progress):
    digest = hashlib.sha256()
    total = os.path.getsize(path)
    done = 0
    progress.start()
    with open(path, "rb") as stream:
        while True:
            chunk = stream.read(CHUNK)
            if not chunk:
                return digest.hexdigest()
            digest.update(chunk)
            done += len(chunk)
            progress.show("verifying", done, total)


def no_space(folder, needed=None):
    free = shutil.disk_usage(folder).free / MIB
    wanted = "more" if needed is None else f"{needed / MIB:.0f} MiB"
    return ModelError(
        f"no space: {wanted} needed in {folder}, {free:.0f} MiB are free on its file system; "
        "free some, or set gguf_model_dir to a folder on a larger one"
    )


def check_space(folder, needed):
    if needed > shutil.disk_usage(folder).free:
        raise no_space(folder, needed)


# --- Download ---


class Download:
    """One file over HTTP into ``partial``, continued where an earlier attempt ended.

    Args:
        partial: the file to fill; ``<partial>.json`` remembers what it is a part of.
        identity: names the content, whatever address it is fetched from.
        resolve: gives the address and the Authorization for its origin, or None, anew for every attempt (signed
            addresses expire).
    """

    def __init__(self, partial, identity, resolve, progress):
        self.partial, self.identity, self.resolve, self.progress = partial, identity, resolve, progress
        self.digest = hashlib.sha256()
        self.done = 0
        self.total = None
        self.validator = None

    def run(self):
        """Download all of it and return its sha256."""
        self.take_up()
        failures = 0
        while True:
            before = self.done
            try:
                self.attempt()
                return self.digest.hexdigest()
            except BrokenOffError as error:
                failures = 1 if self.done > before else failures + 1
                if failures >= ATTEMPTS:
                    if self.done == 0:
                        raise ModelError(f"{error}; check the address, or use a path source") from error
                    raise ModelError(
                        f"the download broke off at {self.done / MIB:.0f} MiB ({error}); "
                        "run it again: it goes on from there"
                    ) from error
                self.progress.say(f"broke off at {self.done / MIB:.0f} MiB ({error}), trying again")
                time.sleep(2 ** (failures - 1))

    def take_up(self):
        """Continue an earlier run's part if it is one of the same content and the server can be asked so."""
        known = read_json(self.partial + ".json")
        if known.get("identity") == self.identity and known.get("validator") and os.path.exists(self.partial):
            self.validator = known["validator"]
            with open(self.partial, "rb") as stream:
                for chunk in iter(lambda: stream.read(CHUNK), b""):
                    self.digest.update(chunk)
                    self.done += len(chunk)
        else:
            self.start_over()

    def start_over(self):
        self.digest, self.done, self.validator = hashlib.sha256(), 0, None
        for path in (self.partial, self.partial + ".json"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def attempt(self):
        if self.done and not self.validator:
            self.start_over()  # nothing tells whether the server's file is still the same
        address, authorization = self.resolve()
        headers = {"Accept-Encoding": "identity"}
        if self.done:
            headers.update({"Range": f"bytes={self.done}-", "If-Range": self.validator})
        where = urllib.parse.urlsplit(address)._replace(query="").geturl()  # a query may hold a signature
        try:
            with open_address(address, headers, authorization=authorization, timeout=TIMEOUT_S) as response:
                self.take_answer(response)
        except urllib.error.HTTPError as error:
            if error.code == 416:
                if error.headers.get("Content-Range") == f"bytes */{self.done}":
                    return  # an earlier run had all of it
                self.start_over()
                raise BrokenOffError("the part did not fit the server's file") from error
            if error.code in TRANSIENT_STATUS:
                raise BrokenOffError(f"HTTP {error.code} from {where}") from error
            raise ModelError(
                f"{where} answers {error.code} {error.reason}: check the address and who may read it"
            ) from error
        except urllib.error.URLError as error:
            raise BrokenOffError(f"{where} can't be reached: {error.reason}") from error
        except BREAKS as error:
            raise BrokenOffError(str(error) or type(error).__name__) from error
        except ValueError as error:
            raise ModelError(f"{where}: {error}") from error

    def take_answer(self, response):
        length = response.headers.get("Content-Length")
        if self.done and not (
            response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {self.done}-")
        ):
            self.start_over()
        self.total = self.done + int(length) if length else None
        # A weak ETag says "equivalent", not "the same bytes".
        etag = response.headers.get("ETag", "")
        self.validator = etag if etag.startswith('"') else response.headers.get("Last-Modified")
        folder = os.path.dirname(self.partial)
        if self.total:
            check_space(folder, self.total - self.done)
        try:
            write_atomically(
                self.partial + ".json", json.dumps({"identity": self.identity, "validator": self.validator})
            )
            self.copy(response)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise no_space(folder, self.total and self.total - self.done) from error
            raise
        if self.total and self.done < self.total:
            raise BrokenOffError(f"{self.done} of {self.total} bytes came")

    def copy(self, response):
        self.progress.start(self.done)
        with open(self.partial, "ab", buffering=0) as stream:
            while True:
                chunk = response.read(CHUNK)
                if not chunk:
                    return
                if self.done == 0 and not chunk.startswith(b"GGUF"):
                    raise ModelError(f"what came is not a GGUF file: it begins with {chunk[:16]!r}; check the address")
                write_all(stream, chunk)
                self.digest.update(chunk)
                self.done += len(chunk)
                self.progress.show("downloaded", self.done, self.total)


def write_all(stream, chunk):
    """Write a chunk to an unbuffered file, which may take less than it is given."""
    rest = memoryview(chunk)
    while rest:
        rest = rest[stream.write(rest) :]


# --- The hub ---


class Hub:
    """One file of a repository of the Hugging Face hub; huggingface_hub knows names, access and hashes.

    The bytes are not left to it: what it has of a download that breaks off it deletes.
    """

    def __init__(self, repo, file, revision, endpoint, token):
        self.repo, self.file, self.revision = repo, file, revision
        self.endpoint, self.token = endpoint or None, token or None
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        try:
            import huggingface_hub
            import huggingface_hub.errors
        except ImportError as error:
            raise ModelError(
                f"huggingface_hub can't be imported ({error}): install it for this interpreter, "
                "or use a path or url source"
            ) from error
        self.lib = huggingface_hub
        self.metadata = self.look_up()

    def look_up(self):
        errors = self.lib.errors
        try:
            found = self.lib.get_hf_file_metadata(
                self.lib.hf_hub_url(self.repo, self.file, revision=self.revision, endpoint=self.endpoint),
                token=self.token or False,
                endpoint=self.endpoint,
            )
        except errors.GatedRepoError as error:
            raise ModelError(self.needs_token("is gated")) from error
        except errors.RevisionNotFoundError as error:
            raise ModelError(
                f"the hub's repository {self.repo} has no revision {self.revision}: correct revision"
            ) from error
        except errors.EntryNotFoundError as error:
            raise ModelError(
                f"the hub's repository {self.repo} has no file {self.file}: name one of "
                f"{', '.join(self.files()) or '(it has no .gguf file)'}"
            ) from error
        except errors.RepositoryNotFoundError as error:
            # The hub answers 401 for repositories that don't exist, so as not to tell which private ones do.
            raise ModelError(
                f"the hub has no repository {self.repo}: correct repo, or if it is private set HF_TOKEN "
                "in the controller's environment to a token that may read it"
            ) from error
        except errors.HfHubHTTPError as error:
            status = getattr(error.response, "status_code", None)
            if status in (401, 403):
                raise ModelError(self.needs_token(f"answers {status}")) from error
            raise ModelError(self.unreachable(f"answers {status}")) from error
        except errors.HFValidationError as error:
            raise ModelError(f"{self.repo} is no name of a hub repository: correct repo ({one_line(error)})") from error
        except Exception as error:  # huggingface_hub lets the errors of its HTTP client through, and changes clients
            raise ModelError(self.unreachable(f"can't be reached: {one_line(error)}")) from error
        return found

    def needs_token(self, what):
        return (
            f"the hub's repository {self.repo} {what}: accept its terms on its page and set HF_TOKEN in the "
            "controller's environment to a token that may read it"
        )

    def unreachable(self, what):
        address = self.endpoint or self.lib.constants.ENDPOINT
        return (
            f"the hub {address} {what}; "
            "where it is out of reach use a path or url source, or name a mirror in HF_ENDPOINT"
        )

    def files(self):
        api = self.lib.HfApi(endpoint=self.endpoint, token=self.token or False)
        return sorted(name for name in api.list_repo_files(self.repo, revision=self.revision) if name.endswith(".gguf"))

    @property
    def sha256(self):
        """The file's hash as the hub knows it; None for a file outside of its large file storage."""
        etag = self.metadata.etag or ""
        return etag if is_sha256(etag) else None

    def resolve(self):
        self.metadata = self.look_up()
        address = self.metadata.location
        ours = self.endpoint or self.lib.constants.ENDPOINT
        # The token is for the hub; the storage that it redirects to has a signature in the address.
        return address, f"Bearer {self.token}" if self.token and origin_of(address) == origin_of(ours) else None


def one_line(error):
    return " ".join(str(error).split()) or type(error).__name__


def is_sha256(text):
    return len(text) == 64 and all(c in "0123456789abcdef" for c in text)


# --- The file ---


class GgufFile:
    """The wanted file: where it lies, what is known about it, and how to have it."""

    def __init__(self, params):
        self.name = params["name"]
        self.dir = params["dir"]
        profile = params["profile"]
        self.wanted_sha256 = (profile["sha256"] or "").lower() or None
        self.spec = {key: profile[key] for key in ("path", "url", "repo", "file", "generator") if profile[key]}
        if "repo" in self.spec:
            self.spec["revision"] = profile["revision"]
        if "generator" in self.spec:
            self.spec["version"] = params["generator_version"]
        self.hub_options = (params["hub_endpoint"], params["hub_token"])
        self.own = os.path.join(self.dir, self.name + ".gguf")
        self.path = profile["path"] or self.own
        self.partial = self.own + ".partial"
        self.record_path = self.own + ".nexus.json"
        self.progress = Progress(self.own + ".progress")

    def probe(self):
        """(Whether the file is there and verified, why not, its record)."""
        if "path" in self.spec and not os.path.isfile(self.path):
            raise ModelError(f"there is no file {self.path}: put it there, or correct path")
        record = read_json(self.record_path)
        if not os.path.exists(self.path):
            return False, "it is not there", record
        if record.get("spec") != self.spec:
            return False, "its source changed" if record else "it has not been verified", record
        if self.wanted_sha256 not in (None, record.get("sha256")):
            return False, "another sha256 is wanted", record
        stat = os.stat(self.path)
        if (record.get("size_bytes"), record.get("mtime_ns")) != (stat.st_size, stat.st_mtime_ns):
            return False, "the file changed since it was verified", record
        return True, "", record

    def have(self):
        """Make the file present. Returns (whether anything changed, what was done)."""
        os.makedirs(self.dir, exist_ok=True)
        # A job that outlived its controller may still be fetching the same file.
        lock = os.path.join(self.dir, f".{self.name}.lock")
        with locks.held(lock, f"model {self.name}", waiting=self.progress.say):
            present, why, record = self.probe()
            if present:
                return False, "it was there"
            if self.keep(why, record):
                return False, "verified again"
            if "path" in self.spec:
                return True, self.adopt(self.path)
            if "generator" in self.spec:
                return True, self.finish(hash_file(self.partial, self.progress))
            return True, self.fetch()

    def keep(self, why, record):
        """Whether the file is what was recorded and only its times are new."""
        same = os.path.exists(self.path) and record.get("spec") == self.spec
        if not same or record.get("size_bytes") != os.path.getsize(self.path):
            return False
        if self.wanted_sha256 not in (None, record.get("sha256")):
            return False
        digest = hash_file(self.path, self.progress)
        if digest != record.get("sha256"):
            return False
        self.write_record(digest)
        return True

    def adopt(self, path):
        """Verify a file where it lies and record it."""
        check_header(path)
        digest = hash_file(path, self.progress)
        self.check_sha256(digest, self.wanted_sha256, path)
        self.write_record(digest)
        return "verified where it lies"

    def fetch(self):
        if "url" in self.spec:
            url = self.spec["url"]
            expected = self.wanted_sha256
            identity, resolve = url, lambda: (url, None)
        else:
            hub = Hub(self.spec["repo"], self.spec["file"], self.spec["revision"], *self.hub_options)
            expected = hub.sha256 or self.wanted_sha256
            if self.wanted_sha256 not in (None, expected):
                raise ModelError(
                    f"wrong sha256: {self.source()} has {expected}, "
                    f"{self.wanted_sha256} is wanted; correct sha256, or revision"
                )
            identity, resolve = f"{self.source()}@{hub.metadata.etag}", hub.resolve
            if hub.metadata.size:
                have = os.path.getsize(self.partial) if os.path.exists(self.partial) else 0
                check_space(self.dir, hub.metadata.size - have)
        if os.path.exists(self.own) and expected and hash_file(self.own, self.progress) == expected:
            return self.adopt(self.own)  # put there by hand, or by a profile that named the same content otherwise
        return self.finish(Download(self.partial, identity, resolve, self.progress).run(), expected)

    def finish(self, digest, expected=None):
        """Verify what lies in ``partial`` and give it its name."""
        try:
            self.check_sha256(digest, expected or self.wanted_sha256, self.source())
            parts = check_header(self.partial).parts
            if parts > 1:
                raise ModelError(
                    f"the file is one of {parts} that make up the model: "
                    "merge them with llama-gguf-split --merge and use a path source"
                )
        except ModelError as error:
            self.drop_partial()
            raise ModelError(str(error).replace(self.partial, self.source())) from error
        os.chmod(self.partial, 0o644)
        os.replace(self.partial, self.own)
        self.drop_partial()
        self.write_record(digest)
        return "fetched"

    def source(self):
        """What people call the place that the file came from."""
        if "repo" in self.spec:
            return f"{self.spec['repo']}/{self.spec['file']}"
        return self.spec.get("url") or f"the generator {self.spec['generator']}"

    def drop_partial(self):
        for path in (self.partial, self.partial + ".json"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def check_sha256(self, digest, expected, what):
        if expected is not None and digest != expected:
            raise ModelError(f"wrong sha256: {what} has {digest}, {expected} is wanted; correct sha256, or the source")

    def write_record(self, digest):
        stat = os.stat(self.path)
        record = {
            "spec": self.spec,
            "sha256": digest,
            "size_bytes": stat.st_size,
            "mtime_ns": stat.st_mtime_ns,
        }
        write_atomically(self.record_path, json.dumps(record, indent=1) + "\n")


def main():
    begin()
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "dir": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["present", "probed"], "default": "present"},
            "profile": {
                "type": "dict",
                "required": True,
                "options": {
                    "description": {"type": "str"},
                    "path": {"type": "path"},
                    "url": {"type": "str"},
                    "repo": {"type": "str"},
                    "file": {"type": "str"},
                    "revision": {"type": "str", "default": "main"},
                    "generator": {"type": "str"},
                    "sha256": {"type": "str"},
                },
                "mutually_exclusive": [("path", "url", "repo", "generator")],
                "required_one_of": [("path", "url", "repo", "generator")],
                "required_together": [("repo", "file")],
                "required_by": {"url": "sha256"},
            },
            "generator_version": {"type": "str"},
            "hub_endpoint": {"type": "str"},
            "hub_token": {"type": "str", "no_log": True},
        },
        supports_check_mode=True,
    )
    wanted = GgufFile(module.params)
    changed = False
    try:
        present, why, record = wanted.probe()
        if module.params["state"] == "probed" or module.check_mode:
            changed = module.check_mode and not present
        elif not present:
            changed, why = wanted.have()
            present, _, record = wanted.probe()
    except (ModelError, locks.LockError) as error:
        module.fail_json(msg=f"model {wanted.name}: {error}")
    except OSError as error:
        problem = one_line(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            problem = no_space(wanted.dir)
        elif isinstance(error, PermissionError):
            problem += ": let the play's user write there, or set gguf_model_dir to a folder of its own"
        module.fail_json(msg=f"model {wanted.name}: {problem}")
    finally:
        if module.params["state"] == "present":
            wanted.progress.end()
    module.exit_json(
        changed=changed,
        present=present,
        why=why,
        model={
            "path": wanted.path,
            "size_bytes": record.get("size_bytes") if present else None,
            "sha256": record.get("sha256") if present else None,
        },
    )


if __name__ == "__main__":
    main()
