"""What the check brings along to a machine without network: ``tests/gpu/check.sh --prepare [--python 3.12]``.

The folder ``.gpu-check`` gets two archives and ``pack.json``, which names them and what is in them:

- the source of the pinned llama.cpp, fetched and checked by the role, without what no build reads;
- the packages that a deployment on the machine itself and a benchmark need, and cmake and ninja for a machine
  without. Not the whole of ``ansible``: nothing here uses its collections.

Needs ``.venv`` and a release of the pinned version in the tests' cache.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import lzma
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from plugins.module_utils.llama_cpp.errors import ReleaseError
from plugins.module_utils.llama_cpp.job import Job
from plugins.module_utils.llama_cpp.release import file_entry, read_manifest, releases
from plugins.module_utils.llama_cpp.source import Source
from tests.conftest import ROOT, cache_folder
from tests.gpu.rows import PACK, PACK_FILE

MOST_MIB = 60
PYTHONS = ("3.11", "3.12", "3.13")
# The machine is its own controller. pip installs the others; pytest is what the tests' own helpers import.
NEEDED = (
    "ansible-core", "ansible-runner", "gguf", "httptools", "httpx", "msgspec", "nvidia-ml-py", "pip",
    "prometheus-client", "psutil", "pytest", "rich", "supervisor", "uvloop",
)  # fmt: skip
GLIBC = (5, 12, 17, 24, 26, 27, 28)  # the manylinux platforms that wheels are taken for
# Top folders of the source that a build without tests, examples and web page does not read.
UNREAD = {"models", "docs", "media", "benches", "tests", "examples", "gguf-py", "conversion", ".github", ".devops"}
# Of the packages of cmake and ninja; the other programs and the manual are three quarters of the first.
TOOLS = re.compile(
    r"cmake/data/(bin/cmake|share/cmake-[\d.]+/(?:Modules|Templates)/.+)|ninja-[\d.]+\.data/scripts/(ninja)"
)
LONG = (
    192 << 20
)  # a window over all wheels: those for several Pythons have most of their bytes in common, and it is quick


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="tests/gpu/check.sh --prepare",
        description="Prepare what the check brings along to a machine without network.",
    )
    parser.add_argument(
        "--python", nargs="+", default=PYTHONS, metavar="VERSION",
        help="of the other machine, where it is known (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--pack", type=Path, default=ROOT / PACK, help="the folder (default: %(default)s)")
    options = parser.parse_args(argv)
    try:
        made = make(options.pack, options.python)
    except ReleaseError as error:
        sys.exit(str(error))
    size = sum(entry.size for entry in made["files"].values())
    for name, entry in made["files"].items():
        sys.stdout.write(f"{entry['size'] / 2**20:6.1f} MiB  {options.pack / name}\n")
    sys.stdout.write(f"{size / 2**20:6.1f} MiB of {MOST_MIB}, for llama.cpp {made['ref']} and Python ")
    sys.stdout.write(f"{', '.join(made['pythons'])} on {made['machine']}\n")
    return 0


def make(folder: Path, pythons: Sequence[str]) -> dict[str, Any]:
    """Fill the folder, whole or not at all; what ``pack.json`` says."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}.") as name:
        partial = Path(name)
        inputs = write_source(partial / "llama.cpp.tar.xz")
        write_packages(partial / "packages.tar.xz", pythons)
        files = {path.name: file_entry(str(path)) for path in sorted(partial.iterdir())}
        pack = {
            "ref": inputs["ref"], "commit": inputs["commit"], "machine": platform.machine(),
            "pythons": list(pythons), "files": {name: entry.as_json() for name, entry in files.items()},
        }  # fmt: skip
        if (size := sum(entry.size for entry in files.values())) > MOST_MIB << 20:
            sys.exit(f"what was packed is {size >> 20} MiB, more than {MOST_MIB}: name fewer versions in --python")
        (partial / PACK_FILE).write_text(json.dumps(pack, indent=2) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(partial, folder)
    return pack


# --- the source


def write_source(archive: Path) -> dict[str, Any]:
    """Pack the source of the pinned version, as the tests' release of it was made; its inputs."""
    inputs = pinned_inputs()
    with tempfile.TemporaryDirectory(prefix="llama-nexus-source-") as name, Path(name, "lock").open("w") as lock:
        job = Job(name, "source", lock=lock.fileno())
        job.make_folders()
        Source(job, inputs, tools_path=str(cache_folder() / "tools/bin")).fetch()
        tree = Path(job.source)
        found = [path for path in sorted(tree.rglob("*")) if path.relative_to(tree).parts[0] not in UNREAD]
        write_archive(archive, ((f"llama.cpp/{path.relative_to(tree)}", path) for path in found))
    return inputs


def pinned_inputs() -> dict[str, Any]:
    """What a release of the pinned version in the tests' cache was made of."""
    commit = yaml.safe_load((ROOT / "roles/llama_cpp/defaults/main.yml").read_text())["llama_cpp_commit"]
    for name in releases(str(cache_folder())):
        manifest = read_manifest(str(cache_folder() / "releases" / name))
        if manifest and manifest.inputs["commit"] == commit:
            return dict(manifest.inputs)
    sys.exit("there is no release of the pinned version in the tests' cache yet: run nox -s tests first")


# --- the packages


def write_packages(archive: Path, pythons: Sequence[str]) -> None:
    """Pack the wheels for all versions, uncompressed so that what they have in common counts once, and the tools."""
    with tempfile.TemporaryDirectory(prefix="llama-nexus-wheels-") as name:
        folder = Path(name)
        for version in pythons:
            download(locked(ROOT / "requirements.lock", needed(version), version), folder / version, version)
        tools = ROOT / "roles/host_tools/files/build.txt"
        download(locked(tools, {"cmake", "ninja"}, pythons[0]), folder / "tools", pythons[0])
        out = folder / "out"
        for wheel in sorted(folder.glob("3.*/*.whl")):
            store(wheel, out / "wheels" / wheel.name)
        for wheel in sorted(folder.glob("tools/*.whl")):
            unpack_tool(wheel, out / "tools")
        # The same package for one version after that for the other.
        found = sorted(out.rglob("*"))
        write_archive(archive, ((str(path.relative_to(out)), path) for path in found))


def needed(version: str) -> set[str]:
    """The packages to bring, with what they need on that version of Python."""
    environment = {"python_version": version, "python_full_version": f"{version}.0", "extra": ""}
    found: set[str] = set()
    due = list(NEEDED)
    while due:
        name = canonicalize_name(due.pop())
        if name in found:
            continue
        found.add(name)
        for line in importlib.metadata.requires(name) or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate(environment):
                due.append(requirement.name)
    return found


def locked(lock: Path, names: set[str], version: str) -> str:
    """The lines of a lock file for these packages on that version of Python, hashes included."""
    environment = {"python_version": version, "python_full_version": f"{version}.0"}
    lines: dict[str, str] = {}
    for entry in re.findall(r"^[\w.-]+==[^\n]*\n(?: {4}--hash[^\n]*\n?)*", lock.read_text(), re.MULTILINE):
        head, _, hashes = entry.partition("\n")
        requirement = Requirement(head.rstrip(" \\"))
        if requirement.marker is None or requirement.marker.evaluate(environment):
            name = canonicalize_name(requirement.name)
            lines[name] = f"{name}{requirement.specifier} \\\n{hashes}"
    if missing := names - lines.keys():
        sys.exit(f"{lock} does not name {', '.join(sorted(missing))}")
    return "".join(lines[name] for name in sorted(names))


def download(requirements: str, folder: Path, version: str) -> None:
    """Fetch the wheels of a requirements file for that version of Python."""
    folder.mkdir()
    listing = folder / "requirements.txt"
    listing.write_text(requirements)
    platforms = [f"manylinux_2_{minor}_{platform.machine()}" for minor in GLIBC]
    platforms += [f"manylinux{name}_{platform.machine()}" for name in ("1", "2010", "2014")]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps",
         "--require-hashes", "--only-binary", ":all:", "--implementation", "cp", "--python-version", version,
         *(f"--platform={name}" for name in platforms), "-r", listing, "-d", folder],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        told = [line for line in done.stdout.splitlines() if line.startswith("ERROR")]
        sys.exit(f"the wheels for Python {version} can't be fetched: {' '.join(told)[:300] or done.stdout[-300:]}")


def store(wheel: Path, stored: Path) -> None:
    """Write a wheel again, its members uncompressed."""
    stored.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as given, zipfile.ZipFile(stored, "w", zipfile.ZIP_STORED) as made:
        for member in given.infolist():
            made.writestr(zipfile.ZipInfo(member.filename), given.read(member))


def unpack_tool(wheel: Path, folder: Path) -> None:
    """Unpack a program and what it reads: cmake finds its modules from where it lies."""
    with zipfile.ZipFile(wheel) as given:
        for member in given.infolist():
            found = TOOLS.fullmatch(member.filename)
            if found and not member.is_dir():
                path = folder / (found[1] or f"bin/{found[2]}")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(given.read(member))
                path.chmod(0o755 if path.parent.name == "bin" else 0o644)


def write_archive(archive: Path, members: Iterator[tuple[str, Path]]) -> None:
    """A .tar.xz that depends on nothing but names, contents and whether a file is a program."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = member.mtime = 0
        member.uname = member.gname = ""
        member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
        return member

    filters = [{"id": lzma.FILTER_LZMA2, "preset": 1, "dict_size": LONG}]
    with lzma.open(archive, "wb", filters=filters) as stream, tarfile.open(fileobj=stream, mode="w") as tar:
        for name, path in members:
            tar.add(path, name, recursive=False, filter=plain)


if __name__ == "__main__":
    sys.exit(main())
