"""What a release of llama.cpp is made of, how it is named, and whether it is there. Python 3.9's standard library only.

A release is the folder ``<prefix>/releases/<name>``. Its manifest names the inputs that decide what comes out of the
compiler and each of its files; the name ends with a hash of the inputs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

from ..hostlib.llama_server_help import flags_of

MANIFEST = "manifest.json"
# The types that FlashAttention's vector kernels know, and what "all" stands for.
FA_TYPES = ("bf16", "f16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0")

ARGUMENTS: dict[str, Any] = {
    "ref": {"type": "str", "required": True},
    "commit": {"type": "str", "required": True},
    "source": {"type": "dict", "required": True},
    "backend": {"type": "str", "choices": ["auto", "cpu", "cuda"], "default": "auto"},
    "require_gpu": {"type": "bool", "default": False},
    "portable": {"type": "bool", "default": False},
    "cuda_architectures": {"type": "list", "elements": "str", "default": []},
    "cuda_toolkit": {"type": "str", "default": ""},
    "fa_quants": {"type": "list", "elements": "str", "default": []},
    "cmake_options": {"type": "dict", "default": {}},
    "targets": {"type": "list", "elements": "str", "required": True},
    "web_page": {"type": "str", "choices": ["off", "prebuilt", "npm"], "default": "off"},
}


class ReleaseError(Exception):
    """One line that names the remedy."""


def run_quietly(argv: list[str], **environment: str) -> str | None:
    """A program's output, or None when it is missing or fails."""
    try:
        done = subprocess.run(
            argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60, check=True,
            env={**os.environ, **environment},
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace")


def find_tool(name: str, tools_path: str | None) -> str | None:
    """Where a program is: in the project's own tools, else on PATH."""
    search = os.pathsep.join(filter(None, [tools_path, os.environ.get("PATH", os.defpath)]))
    return shutil.which(name, path=search)


def find_compiler() -> str | None:
    """Where a C++ compiler is."""
    return next(filter(None, (shutil.which(name) for name in ("c++", "g++", "clang++"))), None)


def may_install() -> bool:
    """Whether this user may install packages: root, or sudo that asks for no password."""
    return os.geteuid() == 0 or run_quietly(["sudo", "-n", "true"]) is not None


def cpu_fingerprint() -> str:
    """A short hash of the instruction sets of this processor: a native build runs only where they are."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as stream:
        for line in stream:
            key, _, value = line.partition(":")
            if key.strip() in ("flags", "Features"):
                return hashlib.sha256(" ".join(sorted(value.split())).encode()).hexdigest()[:8]
    return platform.machine()


def public_url(url: str) -> str:
    """An address without what may be secret: user and password, and what follows a question mark or a hash."""
    return re.split("[?#]", without_user(url))[0] if "://" in url else without_user(url)


def without_user(url: str) -> str:
    """An address without user and password, be it SCHEME://… or git's short form, USER@HOST:PATH."""
    return re.sub(r"^([^:/]+://)[^/]*@" if "://" in url else r"^()[^/]*@(?=[^/@:]+:)", r"\1", url)


def secrets_of(source: dict[str, Any]) -> set[str]:
    """What :func:`public_source` leaves out, in pieces."""
    found = set()
    for url in [source.get("url") or "", *(entry["url"] for entry in source.get("archives") or ())]:
        start, bare = len(url) - len(re.sub(r"^[^:/]+://", "", url)), without_user(url)
        found |= {url[start : start + len(url) - len(bare)], bare[len(public_url(url)) :]}
    return found - {""}


def public_source(source: dict[str, Any]) -> dict[str, Any]:
    """A source as manifests and records show it. The same source with other credentials makes the same release."""
    public = {key: value for key, value in sorted(source.items()) if value is not None}
    if "url" in public:
        public["url"] = public_url(public["url"])
    if "archives" in public:
        public["archives"] = [{**entry, "url": public_url(entry["url"])} for entry in public["archives"]]
    return public


def checked_fa_quants(pairs: list[str]) -> list[str]:
    """The K-V type pairs to compile FlashAttention for, as CMake takes them; ReleaseError for one that there is not."""
    wanted = {pair.strip().lower() for pair in pairs}
    if "all" in wanted:
        return ["all"]
    known = {f"{key}-{value}" for key in FA_TYPES for value in FA_TYPES}
    for pair in sorted(wanted - known):
        raise ReleaseError(
            f"llama_cpp_fa_quants: {pair} is no pair of a K and a V type, as in q8_0-q4_0; the types are "
            f"{', '.join(FA_TYPES)}, and all stands for every pair"
        )
    return sorted(wanted | {"f16-f16"})  # llama.cpp compiles that one whatever is asked for


def wanted_inputs(
    recipe: dict[str, Any], backend: str, architectures: list[str], toolkit: str | None
) -> dict[str, Any]:
    """Everything that decides what comes out of the compiler; the release is named by its hash."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", recipe["ref"]):  # a part of paths, and an argument of git
        raise ReleaseError(f"llama_cpp_ref is {recipe['ref']!r}: name a tag, as in b11434")
    if not recipe["targets"]:
        raise ReleaseError("llama_cpp_targets is empty: name the programs to build, as in [llama-server]")
    source = public_source(recipe["source"])
    inputs: dict[str, Any] = {
        "ref": recipe["ref"],
        "commit": recipe["commit"],
        "source": source,
        "backend": backend,
        "machine": platform.machine(),
        "targets": sorted(recipe["targets"]),
    }
    if source["kind"] == "binary":
        return inputs
    cuda = backend == "cuda"
    return {
        **inputs,
        "cuda_architectures": architectures,
        "cuda_toolkit": toolkit if cuda else None,
        "fa_quants": checked_fa_quants(recipe["fa_quants"]) if cuda else [],
        "cpu": "portable" if recipe["portable"] else cpu_fingerprint(),
        "cmake_options": {key: str(value) for key, value in sorted(recipe["cmake_options"].items())},
        "web_page": recipe["web_page"],
    }


def release_name(inputs: dict[str, Any]) -> str:
    """Version, backend and architectures, for people; a hash of all inputs, for the rest."""
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:8]
    return f"{inputs['ref']}-{inputs['backend']}{'-'.join(inputs.get('cuda_architectures', []))}-{digest}"


def read_manifest(path: str, inputs: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """The manifest of a whole release: of the wanted inputs, with every file at its size and every link; else None."""
    try:
        with open(os.path.join(path, MANIFEST), encoding="utf-8") as stream:
            manifest: dict[str, Any] = json.load(stream)
        if inputs is not None and manifest["inputs"] != inputs:
            return None
        for name, entry in manifest["files"].items():
            if os.stat(os.path.join(path, name)).st_size != entry["size"]:
                return None
        for name, target in manifest["links"].items():
            if os.readlink(os.path.join(path, name)) != target:
                return None
    except (OSError, ValueError, KeyError):
        return None
    return manifest


def write_manifest(folder: str, manifest: dict[str, Any]) -> dict[str, Any]:
    """Add what is in the folder to the manifest, and write it there."""
    found = []
    for parent, _, names in os.walk(folder):
        found += [os.path.relpath(os.path.join(parent, name), folder) for name in sorted(names)]
    found = [name for name in found if name != MANIFEST]
    links = [name for name in found if os.path.islink(os.path.join(folder, name))]
    files = {name: file_entry(os.path.join(folder, name)) for name in found if name not in links}
    whole = {
        **manifest,
        "files": files,
        "links": {name: os.readlink(os.path.join(folder, name)) for name in links},
        "size": sum(entry["size"] for entry in files.values()),
    }
    with open(os.path.join(folder, MANIFEST), "w", encoding="utf-8") as stream:
        json.dump(whole, stream, indent=2, sort_keys=True)
        stream.flush()
        os.fsync(stream.fileno())
    return whole


def file_entry(path: str) -> dict[str, Any]:
    """What a manifest says of a file: its size in bytes and its sha256."""
    return {"size": os.path.getsize(path), "sha256": sha256_of(path)}


def sha256_of(path: str) -> str:
    """A file's hash, read block by block: some libraries of CUDA are larger than a small host's memory."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def main_program(targets: list[str]) -> str:
    """The program by which a release is tried."""
    return "llama-server" if "llama-server" in targets else targets[0]


def help_of(program: str) -> str:
    """What a program of a release says of its options.

    Raises ReleaseError where it does not run: a library or an instruction set is not there.
    """
    try:
        done = subprocess.run([program, "--help"], capture_output=True, stdin=subprocess.DEVNULL, check=False)
    except OSError as error:  # a program for another kind of machine
        raise ReleaseError(f"{program} does not run: {error.strerror}") from error
    if done.returncode != 0:
        said = " / ".join(done.stderr.decode(errors="replace").strip().splitlines())[:300]
        raise ReleaseError(f"{program} does not run: exit status {done.returncode}. It said: {said}")
    return done.stdout.decode(errors="replace")


def known_flags(folder: str, targets: list[str]) -> dict[str, str]:
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


def free_mib(path: str) -> int:
    """What is free on the file system on which a path is or would be."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return shutil.disk_usage(path).free >> 20


def no_space(prefix: str) -> str:
    """What is said of a full disk."""
    return (
        f"no space left on the file system of {prefix} ({free_mib(prefix)} MiB free): make room, or set "
        "llama_nexus_prefix to a larger disk; the releases that were there are untouched"
    )


def say(progress: str | None, line: str) -> None:
    """Put one line into the progress file, whole at any moment."""
    if progress:
        new = f"{progress}.{os.getpid()}"  # a build and a run that waits for it share the progress file
        with open(new, "w", encoding="utf-8") as stream:
            stream.write(line + "\n")
        os.replace(new, progress)


def build_number(ref: str) -> str | None:
    """The number of an upstream tag such as b11434."""
    number = re.fullmatch(r"b(\d+)", ref)
    return number.group(1) if number else None
