"""Releases on a host: the folder ``<prefix>/releases/<name>`` and its manifest. Python 3.9's standard library only.

The manifest names the inputs and each of the files. A release gets its name last, by a rename.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..hostlib.files import sha256_of, write_file
from ..hostlib.llama_server_help import flags_of
from ..hostlib.manifests import MANIFEST, FileEntry, Manifest
from ..hostlib.programs import NotStarted, ProgramError, run
from .errors import ReleaseError

WRITTEN = (  # keys that stand there also where nothing is known
    "name", "inputs", "files", "links", "size", "flags", "compiler", "ccache", "built_on", "built_at", "build_seconds",
)  # fmt: skip
HELP_SECONDS = 300  # a program of CUDA may look for GPUs first


def read_manifest(path: str, inputs: Mapping[str, Any] | None = None) -> Manifest | None:
    """The manifest of a whole release: of the wanted inputs, with every file at its size and every link; else None."""
    try:
        with open(os.path.join(path, MANIFEST), encoding="utf-8") as stream:
            manifest = Manifest.from_json(json.load(stream))
        if not manifest.given >= {"name", "inputs", "files", "links"}:
            return None
        if inputs is not None and manifest.inputs != inputs:
            return None
        for name, entry in manifest.files.items():
            if os.stat(os.path.join(path, name)).st_size != entry.size:
                return None
        for name, target in manifest.links.items():
            if os.readlink(os.path.join(path, name)) != target:
                return None
    except (OSError, ValueError, AttributeError, TypeError):
        return None
    return manifest


def write_manifest(folder: str, manifest: Manifest) -> Manifest:
    """Add what is in the folder to the manifest, and write it there."""
    paths = []
    for parent, _, names in os.walk(folder):
        paths += [os.path.relpath(os.path.join(parent, name), folder) for name in sorted(names)]
    paths = [name for name in paths if name != MANIFEST]
    links = [name for name in paths if os.path.islink(os.path.join(folder, name))]
    files = {name: file_entry(os.path.join(folder, name)) for name in paths if name not in links}
    whole = dataclasses.replace(
        manifest,
        files=files,
        links={name: os.readlink(os.path.join(folder, name)) for name in links},
        size=sum(entry.size for entry in files.values()),
        given=frozenset(WRITTEN),
    )
    write_file(os.path.join(folder, MANIFEST), json.dumps(whole.as_json(), indent=2, sort_keys=True))
    return whole


def file_entry(path: str) -> FileEntry:
    """A file's entry in a manifest."""
    return FileEntry(size=os.path.getsize(path), sha256=sha256_of(path), given=frozenset({"size", "sha256"}))


def main_program(targets: Sequence[str]) -> str:
    """The program by which a release is tried."""
    return "llama-server" if "llama-server" in targets else targets[0]


def help_of(program: str) -> str:
    """The options of a release's program, as its ``--help`` describes them.

    Raises ReleaseError where it does not run: a library or an instruction set is not there.
    """
    try:
        done = run([program, "--help"], timeout=HELP_SECONDS, stderr=subprocess.PIPE)
    except NotStarted as error:  # a program for another kind of machine
        raise ReleaseError(f"{program} does not run: {error.reason}") from error
    except ProgramError as error:
        raise ReleaseError(f"{program} does not run: {error}") from error
    if done.status != 0:
        complaint = " / ".join(done.errors.strip().splitlines())[:300]
        raise ReleaseError(f"{program} does not run: exit status {done.status}. It said: {complaint}")
    return done.output


def known_flags(folder: str, targets: Sequence[str]) -> dict[str, str]:
    """The flags that the llama-server of a release knows, each with the name of its argument; none without a server.

    Raises ReleaseError where its main program does not run.
    """
    text = help_of(os.path.join(folder, "bin", main_program(targets)))
    return flags_of(text) if main_program(targets) == "llama-server" else {}


def set_aside(path: str) -> str:
    """Take a release's name from it, at one stroke; where it is now, to be removed however long that takes."""
    gone = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.removed")
    shutil.rmtree(gone, ignore_errors=True)  # of a removal that was cut short
    os.rename(path, gone)
    return gone


def releases(prefix: str) -> Iterator[str]:
    """The names of the releases, half ones left out; the newest first."""
    folder = os.path.join(prefix, "releases")
    with contextlib.suppress(FileNotFoundError):
        names = [name for name in os.listdir(folder) if not name.startswith(".")]
        yield from sorted(names, key=lambda name: _made(os.path.join(folder, name)), reverse=True)


def _made(path: str) -> float:
    with contextlib.suppress(OSError):
        return os.stat(os.path.join(path, MANIFEST)).st_mtime
    return 0.0
