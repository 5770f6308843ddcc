"""Role llama_cpp: the release it makes of the real llama.cpp, and how it builds, with a small tree of the same shape.

Where the role's tasks add nothing, its module is called as Ansible does on a host.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from plugins.module_utils.llama_cpp import probe
from plugins.module_utils.llama_cpp.errors import ReleaseError
from plugins.module_utils.nvidia import host as nvidia_host
from plugins.module_utils.nvidia.errors import NvidiaError
from plugins.module_utils.nvidia.toolkits import TOOLKITS
from tests import modules, pin
from tests.conftest import BIN, ROOT, cache_folder, run_server, wait_for
from tests.fakes.gpus import FakeGpus, Gpu
from tests.roles import llama_cpp_tree
from tests.roles.file_server import Served, serve
from tests.roles.llama_cpp_tree import Tree

# Building the real release first installs what the small builds need, too.
pytestmark = pytest.mark.usefixtures("release")

MODULE = ROOT / "plugins/modules/llama_cpp_release.py"
UNPINNED = "c" * 40
COMPILERS = {"c++", "g++", "clang++"}
GPUS = [Gpu("NVIDIA L4", "8.9", 23034), Gpu("NVIDIA RTX A4000", "8.6", 16376)]
NVCC = "#!/bin/sh\necho 'Cuda compilation tools, release 12.8, V12.8.93'\n"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """The small source."""
    return llama_cpp_tree.make(tmp_path_factory.mktemp("tree"))


def executable(path: Path, content: str) -> Path:
    """Write a program."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(0o755)
    return path


def path_without(folder: Path, *names: str) -> str:
    """A PATH of one folder that holds all programs of this machine but these (and sudo)."""
    folder.mkdir(parents=True)
    for source in os.get_exec_path():
        with contextlib.suppress(OSError):  # a folder of PATH need not exist
            for program in Path(source).iterdir():
                if program.name not in {*names, "sudo"} and not os.path.lexists(folder / program.name):
                    (folder / program.name).symlink_to(program)
    return str(folder)


def unshare(*options: str) -> list[str] | None:
    """The command that runs another one in a user namespace, None where there are none."""
    command = [shutil.which("unshare") or "unshare", "--user", *options, "--"]
    with contextlib.suppress(OSError):
        if subprocess.run([*command, "true"], check=False, capture_output=True).returncode == 0:
            return command
    return None


# --- The real release ---


def test_the_manifest_names_every_file_with_its_hash_and_says_what_was_built(release: Path) -> None:
    manifest = json.loads((release / "manifest.json").read_text())
    there = {str(path.relative_to(release)) for path in release.rglob("*") if not path.is_dir()}
    assert there == {*manifest["files"], *manifest["links"], "manifest.json"}
    for name, entry in manifest["files"].items():
        data = (release / name).read_bytes()
        assert (name, entry) == (name, {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()})
    for name, target in manifest["links"].items():
        assert (release / name).readlink() == Path(target)
    assert release.name == manifest["name"]
    assert manifest["inputs"]["ref"] == pin.REF
    assert manifest["inputs"]["commit"] == pin.COMMIT
    assert manifest["inputs"]["web_page"] == "off"


def test_the_programs_know_their_version(release: Path) -> None:
    for program in ("llama-server", "llama-bench", "llama-batched-bench", "llama-fit-params"):
        assert os.access(release / "bin" / program, os.X_OK)
    done = subprocess.run([release / "bin/llama-server", "--version"], capture_output=True, text=True, check=True)
    assert f"(build {pin.REF[1:]}, commit {pin.COMMIT[:9]})" in done.stdout + done.stderr


def test_a_release_runs_from_wherever_it_is_copied(release: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(release, tmp_path / "copy", symlinks=True)
    ours = {path.name for path in (copy / "bin").iterdir()}
    for program in ("llama-server", "llama-fit-params"):
        done = subprocess.run(["ldd", copy / "bin" / program], capture_output=True, text=True, check=True)
        found = dict(re.findall(r"^\s*(\S+) => (\S+)", done.stdout, re.MULTILINE))
        libraries = ours & found.keys()
        assert "libllama.so.0" in libraries
        assert {Path(found[name]).parent for name in libraries} == {copy / "bin"}
        subprocess.run([copy / "bin" / program, "--help"], capture_output=True, check=True)
    for name in ours:
        dynamic = subprocess.run(["readelf", "-d", copy / "bin" / name], capture_output=True, text=True, check=True)
        assert (name, re.findall(r"R(?:UN)?PATH.*\[(.*)\]", dynamic.stdout)) == (name, ["$ORIGIN"])


def test_a_release_without_the_web_page_serves_none(llama_server_bin: Path, tiny_model: Path, tmp_path: Path) -> None:
    with run_server(llama_server_bin, tiny_model, tmp_path / "log", "--ui") as running:
        assert httpx.get(f"{running.base_url}/").status_code == httpx.codes.NOT_FOUND
        assert httpx.get(f"{running.base_url}/v1/models").status_code == httpx.codes.OK


# --- The module ---


def request(prefix: Path, source: dict[str, str], **options: Any) -> str:
    """What the module is asked; options of the recipe by their names, others with a leading ``_``."""
    recipe = {
        "ref": "b1",
        "commit": UNPINNED,
        "source": source,
        "backend": "cpu",
        "targets": ["llama-server"],
        **{key: value for key, value in options.items() if not key.startswith("_")},
    }
    arguments = {
        "prefix": str(prefix),
        "recipe": recipe,
        "tools_path": str(cache_folder() / "tools/bin"),
        **{key.removeprefix("_"): value for key, value in options.items() if key.startswith("_")},
    }
    return json.dumps({"ANSIBLE_MODULE_ARGS": arguments})


def module(prefix: Path, source: dict[str, str], path: str | None = None, **options: Any) -> dict[str, Any]:
    """Call the module, with another PATH where one is given."""
    done = subprocess.run(
        modules.command(MODULE),
        input=request(prefix, source, **options),
        env={**os.environ, "PATH": path or os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.lstrip().startswith("{"), done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    if result.get("failed"):
        assert "\n" not in result["msg"]
    return result


def refusal(*args: Any, **options: Any) -> str:
    """The message of a call that must fail."""
    result = module(*args, **options)
    assert result.get("failed"), result
    return str(result["msg"])


@contextlib.contextmanager
def started(prefix: Path, source: dict[str, str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A call of the module that goes on in the background."""
    with subprocess.Popen(modules.command(MODULE), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        process.stdin.write(request(prefix, source, **options))
        process.stdin.flush()
        process.stdin.close()
        process.stdin = None  # else communicate() would flush it
        yield process


def finish(process: subprocess.Popen[str]) -> str:
    """The output of a command in the background, which must come to its end."""
    try:
        return process.communicate(timeout=180)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        raise


def answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a call in the background ends with."""
    result: dict[str, Any] = json.loads(finish(process))
    return result


def archive(tree: Tree) -> dict[str, str]:
    """The small tree as source."""
    return {"kind": "archive", "url": str(tree.archive), "sha256": tree.sha256}


def left(prefix: Path) -> list[str]:
    """The names of the releases, half ones too."""
    return sorted(path.name for path in (prefix / "releases").glob("*"))


def test_a_damaged_release_is_built_again(tree: Tree, tmp_path: Path) -> None:
    made = module(tmp_path / "prefix", archive(tree))
    path = Path(made["path"])
    whole = shutil.copytree(path, tmp_path / "whole", symlinks=True)
    for damage in (
        (path / "bin/llama-server").unlink,
        (path / "bin/libllama.so.0").unlink,
        (path / "manifest.json").unlink,
        lambda: (path / "manifest.json").write_text("{"),
        lambda: os.truncate(path / "bin/libllama.so.0.1.0", 100),
    ):
        shutil.rmtree(path)
        shutil.copytree(whole, path, symlinks=True)
        assert module(tmp_path / "prefix", archive(tree), _state="probed")["present"]
        damage()
        assert not module(tmp_path / "prefix", archive(tree), _state="probed")["present"]
    again = module(tmp_path / "prefix", archive(tree))
    assert (again["changed"], again["path"]) == (True, made["path"])
    subprocess.run([path / "bin/llama-server", "--help"], check=True)
    assert not module(tmp_path / "prefix", archive(tree))["changed"]
    assert left(tmp_path / "prefix") == [made["name"]]
    assert list((tmp_path / "prefix/build").iterdir()) == []


def test_a_second_run_waits_for_the_first_and_takes_what_it_made(tree: Tree, tmp_path: Path) -> None:
    gate, progress = tmp_path / "gate", tmp_path / "progress"
    options = {"cmake_options": {"GATE": str(gate)}, "_progress": str(progress)}
    prefix = tmp_path / "prefix"
    with started(prefix, archive(tree), **options) as first:
        wait_for(gate.with_suffix(".reached").exists, "the first build")
        with started(prefix, archive(tree), **options) as second:
            waiting = f"waiting for process {first.pid} (build of "
            wait_for(lambda: progress.read_text().startswith(waiting), "the second run to wait")
            gate.with_suffix(".open").touch()
            results = [answer(first), answer(second)]
    assert [result["changed"] for result in results] == [True, True]
    assert results[0]["manifest"] == results[1]["manifest"]
    assert Path(results[0]["log"]).read_text().count("Building CXX object") == 2


def test_what_comes_out_of_the_compiler_names_the_release(tree: Tree, tmp_path: Path) -> None:
    def name(**options: Any) -> str:
        result = module(tmp_path, {**archive(tree), **options.pop("source", {})}, _state="probed", **options)
        return str(result["name"])

    names = [
        name(),
        name(cmake_options={"A": "1"}),
        name(commit="d" * 40),
        name(source={"sha256": "0" * 64}),
        name(targets=["llama-server", "llama-bench"]),
        name(web_page="npm"),
        name(portable=True),
    ]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"b1-cpu-[0-9a-f]{8}", one) for one in names)
    assert name(require_gpu=False, _jobs=7) == names[0]


def test_what_cannot_name_a_release_or_be_built_is_refused(tree: Tree, tmp_path: Path) -> None:
    for ref in ("feature/x", "--upload-pack=x", ""):
        assert f"llama_cpp_ref is {ref!r}: name a tag, as in b11434" in refusal(tmp_path, archive(tree), ref=ref)
    assert "llama_cpp_targets is empty" in refusal(tmp_path, archive(tree), targets=[])


def test_a_release_is_the_same_under_every_prefix(tree: Tree, tmp_path: Path) -> None:
    one, other = (module(tmp_path / prefix, archive(tree)) for prefix in ("one", "another prefix"))
    assert one["manifest"]["files"] == other["manifest"]["files"]
    assert b"llama.cpp/llama.cpp\0" in (Path(one["path"]) / "bin/libllama.so").read_bytes()


def test_an_archive_that_cannot_be_used_is_refused_and_nothing_is_left(tree: Tree, tmp_path: Path) -> None:
    prefix = tmp_path / "prefix"
    (tmp_path / "page.tar.gz").write_text("<!doctype html>")
    (tmp_path / "cut.tar.gz").write_bytes(tree.archive.read_bytes()[:-300])
    (tmp_path / "other").mkdir()
    (tmp_path / "other/README").touch()
    llama_cpp_tree.pack(tmp_path / "other", tmp_path / "other.tar.gz", "other")
    (tmp_path / "none").mkdir()
    llama_cpp_tree.pack(tmp_path / "none", tmp_path / "empty.tar.gz", ".")

    def said(name: str, sha256: str | None = None) -> str:
        path = tmp_path / name
        digest = sha256 or llama_cpp_tree.sha256(path)
        return refusal(prefix, {"kind": "archive", "url": str(path), "sha256": digest})

    wrong = refusal(prefix, {**archive(tree), "sha256": "0" * 64})
    assert f"{tree.archive} has sha256 {tree.sha256}, not {'0' * 64}" in wrong
    assert "page.tar.gz failed (tar): gzip: stdin: not in gzip format" in said("page.tar.gz")
    assert "cut.tar.gz failed (tar): tar: Unexpected EOF in archive" in said("cut.tar.gz")
    assert "holds no llama.cpp tree: there is no CMakeLists.txt in it" in said("other.tar.gz")
    assert "holds no llama.cpp tree: there is no CMakeLists.txt in it" in said("empty.tar.gz")
    unset = refusal(prefix, {**archive(tree), "sha256": ""})
    assert f"the sha256 of llama_cpp_archive is not set: {tree.archive} has {tree.sha256}" in unset
    assert "none.tar.gz: No such file or directory. Check llama_cpp_archive" in said("none.tar.gz", "0" * 64)
    assert left(prefix) == []


def test_an_archive_may_hold_the_tree_without_a_top_folder(tree: Tree, tmp_path: Path) -> None:
    flat = tmp_path / "flat.tar.gz"
    llama_cpp_tree.pack(tree.archive.parent / "source", flat, ".")
    source = {"kind": "archive", "url": str(flat), "sha256": llama_cpp_tree.sha256(flat).upper()}
    assert module(tmp_path, source)["changed"]


def test_an_address_that_does_not_answer_with_the_archive_is_named(tree: Tree, tmp_path: Path) -> None:
    with serve() as server:
        server.files["/drops"] = Served(tree.archive.read_bytes(), drops=1)
        source = {**archive(tree), "url": f"{server.url}/none"}
        assert f"cannot fetch {server.url}/none: HTTP Error 401" in refusal(tmp_path, source)
        source = {**archive(tree), "url": f"{server.url}/drops"}
        assert f"not {tree.sha256}: it is not the archive" in refusal(tmp_path, source)
        assert module(tmp_path, source)["changed"]


HIDDEN = "s3cr3t"


def told(result: dict[str, Any], prefix: Path) -> str:
    """All that a call says, and that it leaves in logs and manifests."""
    files = [path for folder in ("logs", "releases") for path in (prefix / folder).rglob("*") if path.is_file()]
    return json.dumps(result) + "".join(path.read_text(errors="replace") for path in files)


def test_credentials_of_an_archives_address_are_used_and_stand_nowhere(tree: Tree, tmp_path: Path) -> None:
    with serve() as server:
        server.files[f"/tree.tar.gz?sig={HIDDEN}"] = Served(tree.archive.read_bytes())
        url = f"{server.url}/tree.tar.gz?sig={HIDDEN}".replace("://", f"://ops:{HIDDEN}%40@")
        source = {**archive(tree), "url": url}
        made = module(tmp_path, source)
        assert made["changed"]
        assert [one.authorization for one in server.asked] == ["Basic b3BzOnMzY3IzdEA="]  # ops:s3cr3t@
        assert made["manifest"]["inputs"]["source"]["url"] == f"{server.url}/tree.tar.gz"
        other = module(tmp_path, {**source, "url": url.replace(HIDDEN, "0ther")}, _state="probed")
        assert other["present"]  # new credentials make no new release
        missing = module(tmp_path, {**source, "url": url.replace("tree", "none")})
        assert f"cannot fetch {server.url}/none.tar.gz: HTTP Error 401" in missing["msg"]
    for result in (made, other, missing):
        assert HIDDEN not in told(result, tmp_path)


def test_credentials_of_a_git_address_are_used_and_stand_nowhere(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A forge that lets one user in: it runs what it is asked for on this machine.
    ssh = f'#!/bin/sh\necho "$@" >>{tmp_path}/asked\nfor last; do :; done\nexec sh -c "$last"\n'
    monkeypatch.setenv("GIT_SSH", str(executable(tmp_path / "ssh", ssh)))
    path = tree.git_url.removeprefix("file://")
    for number, (user, form) in enumerate([("git", "{}@forge:{}"), (f"git:{HIDDEN}", "ssh://{}@forge{}")]):
        made = module(tmp_path, {"kind": "git", "url": form.format(user, path)}, commit=tree.commit)
        assert made["manifest"]["inputs"]["source"]["url"] == form.format("", path).replace("@", "")
        assert f"{user}@forge" in (tmp_path / "asked").read_text().splitlines()[number]
        assert f"{user}@" not in told(made, tmp_path)
    probed = module(tmp_path, {"kind": "git", "url": f"git:{HIDDEN}@forge:x"}, _state="probed")
    assert probed["inputs"]["source"]["url"] == "forge:x"
    assert HIDDEN not in json.dumps(probed)

    answers: list[str | None] = []

    class Forge(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class calls it so
            pass

        def do_GET(self) -> None:
            answers.append(self.headers["Authorization"])
            self.send_response(403 if answers[-1] else 401)
            self.send_header("WWW-Authenticate", 'Basic realm="x"')
            self.send_header("Content-Length", "0")
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Forge) as forge:
        threading.Thread(target=forge.serve_forever, daemon=True).start()
        place = f"127.0.0.1:{forge.server_port}/llama.cpp.git"
        refused = module(tmp_path, {"kind": "git", "url": f"http://ops:{HIDDEN}@{place}"})
        forge.shutdown()
    assert answers == [None, "Basic b3BzOnMzY3IzdA=="]
    assert f"git clone of b1 from http://{place} failed" in refused["msg"]
    assert HIDDEN not in told(refused, tmp_path)


def test_a_git_source_holds_the_pinned_commit_or_is_refused(tree: Tree, tmp_path: Path) -> None:
    source = {"kind": "git", "url": tree.git_url}
    no_ref = refusal(tmp_path, source, ref="b2", commit=tree.commit)
    assert f"git clone of b2 from {tree.git_url} failed (git): fatal: Remote branch b2 not found" in no_ref
    other = refusal(tmp_path, source, commit=UNPINNED)
    assert f"b1 at {tree.git_url} is commit {tree.commit}, not {UNPINNED}: set llama_cpp_commit" in other
    assert left(tmp_path) == []


def test_a_compile_error_is_told_with_its_line_and_the_log(tree: Tree, tmp_path: Path) -> None:
    message = refusal(tmp_path, archive(tree), cmake_options={"BROKEN": "ON"})
    assert re.search(
        r"compiling failed \(ninja\): \S*server\.cpp:4:\d+: error: .not_declared. was not declared", message
    )
    log = re.search(r"\(the log is (.+)\)$", message)
    assert log is not None
    assert "int broken = not_declared;" in Path(log[1]).read_text()
    assert left(tmp_path) == []


def test_a_program_that_does_not_run_becomes_no_release(tree: Tree, tmp_path: Path) -> None:
    message = refusal(tmp_path, archive(tree), cmake_options={"SICK": "ON"})
    assert "llama-server does not run: exit status 3" in message
    assert not module(tmp_path, archive(tree), cmake_options={"SICK": "ON"}, _state="probed")["present"]


def test_a_web_page_that_could_not_be_downloaded_is_an_error_until_it_can(tree: Tree, tmp_path: Path) -> None:
    message = refusal(tmp_path, archive(tree), web_page="prebuilt")
    assert "web page could not be downloaded" in message
    assert "or set llama_cpp_web_page: npm or off" in message
    made = module(tmp_path, archive(tree), web_page="prebuilt", cmake_options={"WEB": "ON"})
    assert made["manifest"]["inputs"]["web_page"] == "prebuilt"


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mount") is None, reason="only root can mount the small file system"
)
def test_a_full_disk_is_told_and_the_release_that_is_there_stays_whole(tree: Tree, tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=440m", "tmpfs", tmp_path], check=True)
    try:
        first = module(tmp_path, archive(tree))
        during = refusal(tmp_path, archive(tree), cmake_options={"MIB": "460"})
        assert f"no space left on the file system of {tmp_path} (" in during
        assert "make room, or set llama_nexus_prefix to a larger disk" in during
        with (tmp_path / "filler").open("wb") as filler, contextlib.suppress(OSError):
            while True:
                filler.write(bytes(1 << 20))
        for options in ({"MIB": "460"}, {"A": "1"}):  # one that goes on, one that would begin
            message = refusal(tmp_path, archive(tree), cmake_options=options)
            assert f"no space left on the file system of {tmp_path} (0 MiB free)" in message
        # Told before anything is installed for a build.
        wanted = {**first["inputs"], "cmake_options": {"A": "1"}}
        before = modules.call(MODULE, {"prefix": str(tmp_path), "inputs": wanted, "state": "probed"})
        assert before["msg"].startswith("a build needs about 400 MiB: no space left on the file system of ")
        page = modules.call(
            MODULE, {"prefix": str(tmp_path), "inputs": {**wanted, "web_page": "npm"}, "state": "probed"}
        )
        assert page["msg"].startswith("a build needs about 1100 MiB: ")
        assert module(tmp_path, archive(tree), _state="probed")["present"]
        subprocess.run([f"{first['path']}/bin/llama-server", "--help"], check=True)
        (tmp_path / "filler").unlink()
        assert module(tmp_path, archive(tree), cmake_options={"A": "1"})["changed"]
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_the_gpus_of_the_driver_choose_the_backend_and_the_architectures(tree: Tree, tmp_path: Path) -> None:
    FakeGpus.make(tmp_path / "fakes", None, GPUS)
    nvcc = executable(tmp_path / "fakes/nvcc", NVCC)
    path = f"{tmp_path / 'fakes'}:{os.environ['PATH']}"
    made = module(tmp_path, archive(tree), path, backend="auto", require_gpu=True)
    assert [(gpu["name"], gpu["compute_cap"], gpu["memory_mib"]) for gpu in made["gpus"]] == [
        ("NVIDIA L4", "8.9", 23034),
        ("NVIDIA RTX A4000", "8.6", 16376),
    ]
    assert made["name"].startswith("b1-cuda86-89-")
    inputs = made["manifest"]["inputs"]
    assert (inputs["backend"], inputs["cuda_architectures"], inputs["cuda_toolkit"]) == ("cuda", ["86", "89"], "12.8")
    log = Path(made["log"]).read_text()
    assert "-DGGML_CUDA=ON" in log
    assert f"-DCMAKE_CUDA_COMPILER={nvcc} -DCMAKE_CUDA_ARCHITECTURES=86;89" in log

    executable(nvcc, NVCC.replace("12.8", "13.0"))
    assert not module(tmp_path, archive(tree), path, backend="auto", _state="probed")["present"]
    asked = module(tmp_path, archive(tree), path, backend="cuda", cuda_architectures=["120", "89"], _state="probed")
    assert asked["name"].startswith("b1-cuda89-120-")
    other = module(tmp_path, archive(tree), path, backend="cuda", cuda_architectures=["89", "120"], _state="probed")
    assert other["name"] == asked["name"]
    assert module(tmp_path, archive(tree), path, backend="cpu", _state="probed")["name"].startswith("b1-cpu-")


def cuda_toolkit(folder: Path) -> Path:
    """A folder like a toolkit's: a compiler that knows its version, and libraries that need each other."""
    executable(folder / "bin/nvcc", NVCC)
    (folder / "lib64").mkdir()
    for name, needs in (("cublasLt", []), ("cublas", ["cublasLt"]), ("cudart", [])):
        source = f"int {name}() {{ return 0; }}\n".encode()
        linked = [f"-l:lib{need}.so.13" for need in needs]
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-x", "none", f"-Wl,-soname,lib{name}.so.13",
             "-Wl,-rpath,$ORIGIN", "-Wl,--no-as-needed", f"-L{folder}/lib64", *linked,
             "-o", folder / f"lib64/lib{name}.so.13"],
            input=source, check=True,
        )  # fmt: skip
    return folder


def test_a_cuda_release_brings_the_libraries_and_needs_no_toolkit_any_more(tree: Tree, tmp_path: Path) -> None:
    toolkit = cuda_toolkit(tmp_path / "cuda")
    path = f"{toolkit / 'bin'}:{os.environ['PATH']}"
    options = {"backend": "cuda", "cuda_architectures": ["89"], "cuda_toolkit": "12.8", "portable": True}
    made = module(tmp_path / "prefix", archive(tree), path, **options, cmake_options={"CUDA": str(toolkit)})
    folder = Path(made["path"]) / "bin"
    brought = {"libcudart.so.13", "libcublas.so.13", "libcublasLt.so.13"}
    assert brought < {file.name for file in folder.iterdir()}
    assert {f"bin/{name}" for name in brought} < set(made["manifest"]["files"])
    shutil.rmtree(toolkit)
    done = subprocess.run(["ldd", folder / "libggml-cuda.so"], capture_output=True, text=True, check=True)
    found = dict(re.findall(r"^\s*(\S+) => (\S+)", done.stdout, re.MULTILINE))
    assert {found[name] for name in brought} == {str(folder / name) for name in brought}


def test_without_a_working_driver_auto_is_the_processor_and_cuda_asks_what_for(tree: Tree, tmp_path: Path) -> None:
    FakeGpus.make(tmp_path / "fakes", None, smi_status=9, smi_error="NVIDIA-SMI has failed")
    path = f"{tmp_path / 'fakes'}:{os.environ['PATH']}"
    seen = module(tmp_path, archive(tree), path, backend="auto", _state="probed")
    assert (seen["gpus"], seen["name"].startswith("b1-cpu-")) == ([], True)
    message = refusal(tmp_path, archive(tree), path, backend="cuda", _state="probed")
    assert "set llama_cpp_cuda_architectures, for example ['89']" in message


def test_in_check_mode_the_gpus_on_the_bus_say_what_would_be_built(monkeypatch: pytest.MonkeyPatch) -> None:
    bare = nvidia_host.Seen(bus=[{"name": "NVIDIA AD104", "compute_cap": "8.9", "driver": None}], problem="it has none")
    recipe = {"require_gpu": True, "backend": "auto", "cuda_architectures": [], "cuda_toolkit": "", "portable": False}
    monkeypatch.setattr(nvidia_host, "look", lambda: bare)
    found = probe.find_gpus(recipe, "rig", check_mode=True)
    assert probe.choose_backend(recipe, found) == "cuda"
    assert probe.choose_architectures(recipe, found, "rig") == ["89"]
    assert probe.choose_toolkit(recipe, ["89"], found, {}) == TOOLKITS[0]
    with pytest.raises(ReleaseError, match="no working NVIDIA GPU on rig: it has none; or set llama_cpp_req"):
        probe.find_gpus(recipe, "rig", check_mode=False)
    bare.bus[0]["compute_cap"] = None  # a GPU that is not known
    with pytest.raises(ReleaseError, match="no working NVIDIA GPU on rig"):
        probe.find_gpus(recipe, "rig", check_mode=True)


def test_the_first_toolkit_that_fits_is_taken_and_else_one_that_can_be_installed() -> None:

    def chosen(architecture: str, driver: str, here: dict[str, str], wanted: str = "", portable: bool = False) -> str:
        recipe = {"cuda_toolkit": wanted, "portable": portable}
        return probe.choose_toolkit(recipe, [architecture], [{"driver": driver}], here)

    there = {"12.4": "/on/path", "13.0": "/usr/local/cuda"}
    assert chosen("89", "580.95.05", there) == "12.4"
    assert chosen("120", "580.95.05", there) == "13.0"
    assert chosen("120", "570.10", there) == "12.9"  # the driver runs nothing of 13
    assert chosen("70", "580.95.05", {"13.0": "/usr/local/cuda"}) == "12.9"
    assert chosen("89", "580.95.05", there, portable=True) == "13.2"
    with pytest.raises(NvidiaError, match=r"CUDA 13\.2 can't compile for compute capability 70 any more"):
        chosen("70", "580.95.05", there, wanted="13.2")


# --- The role ---


@dataclass(frozen=True)
class Host:
    """How the role went on one host."""

    changed: int
    failed: bool
    msg: str
    release: dict[str, Any]


def play_command(folder: Path, hosts: dict[str, dict[str, Any]]) -> list[str | Path]:
    """The command that runs the role on these hosts, all of them this machine."""
    for name, variables in hosts.items():
        variables.setdefault("llama_nexus_prefix", str(folder / name))
    shared = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "llama_nexus_tools": str(cache_folder() / "tools"),
        "llama_nexus_jobs": "{{ llama_nexus_prefix }}/jobs",
        "llama_cpp_ref": "b1",
        "llama_cpp_commit": UNPINNED,
        "llama_cpp_targets": ["llama-server"],
        "llama_cpp_backend": "cpu",
    }
    inventory = folder / "hosts.json"
    inventory.write_text(json.dumps({"all": {"hosts": hosts, "vars": shared}}))
    return [BIN / "ansible-playbook", "-i", inventory, ROOT / "tests/roles/llama_cpp.yml"]


def play_environment() -> dict[str, str]:
    """The environment of such a command: its output ends with a report as JSON."""
    return {**os.environ, "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json", "ANSIBLE_NOCOLOR": "1"}


def read_report(stdout: str) -> dict[str, Host]:
    """How it went, by host."""
    report = json.loads(("\n" + stdout).partition("\n{\n")[2].join(["{\n", ""]))
    hosts = {}
    for host, stats in report["stats"].items():
        results = [task["hosts"][host] for task in report["plays"][0]["tasks"] if host in task["hosts"]]
        failed = [str(result.get("msg", result)) for result in results if result.get("failed")]
        facts = [
            result["ansible_facts"] for result in results if "llama_cpp_release" in result.get("ansible_facts", {})
        ]
        release = facts[0]["llama_cpp_release"] if facts else {}
        hosts[host] = Host(stats["changed"], bool(stats["failures"]), failed[-1] if failed else "", release)
    return hosts


def play(folder: Path, hosts: dict[str, dict[str, Any]], *options: str) -> dict[str, Host]:
    """Run the role on all hosts at once."""
    done = subprocess.run(
        [*play_command(folder, hosts), *options], cwd=ROOT, env=play_environment(), stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL, text=True, check=False,
    )  # fmt: skip
    return read_report(done.stdout)


def from_archive(tree: Tree, **variables: Any) -> dict[str, Any]:
    """A host's variables."""
    return {
        "llama_cpp_source": "archive",
        "llama_cpp_archive": str(tree.archive),
        "llama_cpp_archive_sha256": tree.sha256,
        **variables,
    }


@dataclass(frozen=True)
class Deployed:
    """A host for each source, in check mode, then twice, then one of them with another flag."""

    folder: Path
    checked: dict[str, Host]
    left_by_check: list[str]
    first: dict[str, Host]
    second: dict[str, Host]
    other: Host


SOURCES = ["archive", "git"]


@pytest.fixture(scope="module")
def deployed(tree: Tree, tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    """The role's way through the days of a host."""
    folder = tmp_path_factory.mktemp("deployed")
    hosts = {
        "archive": from_archive(tree),
        "git": {"llama_cpp_git_url": tree.git_url, "llama_cpp_commit": tree.commit},
    }
    checked = play(folder, hosts, "--check")
    left_by_check = sorted(path.name for path in folder.iterdir())
    first = play(folder, hosts)
    for host in hosts:
        with contextlib.suppress(FileNotFoundError):  # the test that wants it says so better
            os.utime(folder / host / "current/bin/llama-server", (0, 0))
    second = play(folder, hosts)
    flag = {"archive": from_archive(tree, llama_cpp_cmake_options={"FLAG": True})}
    return Deployed(folder, checked, left_by_check, first, second, play(folder, flag)["archive"])


@pytest.mark.parametrize("source", SOURCES)
def test_check_mode_says_changed_and_makes_nothing(deployed: Deployed, source: str) -> None:
    checked = deployed.checked[source]
    assert not checked.failed, checked.msg
    assert checked.changed > 0
    assert deployed.left_by_check == ["hosts.json"]


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_becomes_a_release_that_current_points_at(deployed: Deployed, source: str) -> None:
    first, prefix = deployed.first[source], deployed.folder / source
    assert not first.failed, first.msg
    assert first.changed > 0
    path = Path(first.release["path"])
    assert path == prefix / "releases" / first.release["name"]
    assert json.loads((path / "manifest.json").read_text()) == first.release["manifest"]
    subprocess.run([path / "bin/llama-server", "--help"], check=True)
    if source != "archive":  # that one got another release later
        assert (prefix / "current").readlink() == path
    assert list((prefix / "build").iterdir()) == []


@pytest.mark.parametrize("source", SOURCES)
def test_a_second_run_changes_nothing_whatever_the_files_dates(deployed: Deployed, source: str) -> None:
    second = deployed.second[source]
    assert (second.failed, second.changed) == (False, 0)
    assert second.release == deployed.first[source].release
    assert (Path(second.release["path"]) / "bin/llama-server").stat().st_mtime == 0


def test_another_flag_makes_another_release_and_the_old_one_stays(deployed: Deployed) -> None:
    old, new = deployed.first["archive"].release, deployed.other.release
    assert not deployed.other.failed, deployed.other.msg
    assert new["name"] != old["name"]
    assert new["manifest"]["inputs"]["cmake_options"] == {"FLAG": "True"}
    assert left(deployed.folder / "archive") == sorted([old["name"], new["name"]])
    assert (deployed.folder / "archive/current").readlink() == Path(new["path"])
    subprocess.run([Path(old["path"]) / "bin/llama-server", "--help"], check=True)


def test_a_killed_build_is_told_leaves_current_alone_and_is_taken_up_again(tree: Tree, tmp_path: Path) -> None:
    prefix, gate, progress = tmp_path / "host", tmp_path / "gate", tmp_path / "progress"
    before = module(prefix, archive(tree))
    (prefix / "current").symlink_to(before["path"])
    flags = {"GATE": str(gate)}
    command = play_command(tmp_path, {"host": from_archive(tree, llama_cpp_cmake_options=flags)})
    with subprocess.Popen(
        command, cwd=ROOT, env=play_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as playing:
        wait_for(gate.with_suffix(".reached").exists, "the build")
        assert playing.poll() is None
        job = json.loads((prefix / ".build.lock").read_text())["pid"]
        group = os.getpgid(job)
        os.killpg(group, signal.SIGSTOP)  # else one of them may live to see the other die, and say so
        os.killpg(group, signal.SIGKILL)
        report = read_report(finish(playing))
    assert report["host"].failed
    assert "the job was killed (compiling " in report["host"].msg
    assert (prefix / "current").readlink() == Path(before["path"])
    assert left(prefix) == [before["name"]]

    # Ninja puts its children into process groups of their own: one of them is at work still.
    with started(prefix, archive(tree), cmake_options=flags, _progress=str(progress)) as again:
        wait_for(progress.exists, "the next run")
        assert re.fullmatch(
            rf"waiting for process {job} \(build of \S+, which has ended; what it started has not\) since \S+\n",
            progress.read_text(),
        )
        gate.with_suffix(".open").touch()
        result = answer(again)
    assert result["changed"]
    log = Path(result["log"]).read_text()
    assert log.count("$ tar ") == 1
    assert log.count("Building CXX object CMakeFiles/llama.dir/llama.cpp.o") == 1
    assert log.count("Building CXX object CMakeFiles/llama-server.dir/server.cpp.o") == 1


@pytest.fixture(scope="module")
def poor(tree: Tree, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Host]:
    """Hosts that lack something; those are left out that this machine can't look like."""
    folder = tmp_path_factory.mktemp("poor")

    def interpreter(name: str, command: list[str]) -> str:
        return str(executable(folder / "python" / name, f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n'))

    fakes = FakeGpus.make(folder / "fakes", None, GPUS).folder
    hosts = {
        "no_gpu": from_archive(
            tree,
            llama_cpp_require_gpu=True,
            host_environment={"PATH": path_without(folder / "no_smi", "nvidia-smi")},
        ),
    }
    # Root stays the owner of all files here, but is asked for as user 1000.
    rootless = unshare("--map-user=1000", "--map-group=1000") if os.geteuid() == 0 else []
    if rootless is not None:
        user = {"ansible_python_interpreter": interpreter("rootless", [*rootless, sys.executable])}
        hosts["no_compiler"] = from_archive(
            tree, **user, host_environment={"PATH": path_without(folder / "no_compiler", *COMPILERS, "cmake")}
        )
        hosts["no_cmake"] = from_archive(
            tree,
            **user,
            llama_nexus_tools=str(folder / "tools"),
            host_environment={"PATH": path_without(folder / "no_cmake_bin", "cmake", "ninja")},
        )
        hosts["no_toolkit"] = from_archive(
            tree,
            **user,
            llama_cpp_backend="auto",
            llama_cpp_cuda_toolkit="12.7",  # which nobody has: another may lie where it is searched whatever PATH says
            host_environment={"PATH": f"{fakes}:{path_without(folder / 'no_nvcc', 'nvcc')}"},
        )
    refused: dict[str, dict[str, Any]] = {name: hosts[name] for name in ("no_compiler", "no_toolkit") if name in hosts}
    checked = play(folder, refused, "--check") if refused else {}
    return play(folder, hosts) | {f"{name} in check mode": host for name, host in checked.items()}


def went(poor: dict[str, Host], name: str) -> Host:
    """How it went on a host; without user namespaces root can't pretend to lack rights or a toolkit."""
    if name not in poor:
        pytest.skip("this machine has no user namespaces")
    return poor[name]


def test_a_gpu_that_is_required_and_not_there_stops_the_host(poor: dict[str, Host]) -> None:
    assert poor["no_gpu"].failed
    assert "no working NVIDIA GPU on " in poor["no_gpu"].msg
    assert "or set llama_cpp_require_gpu: false for this host to serve on the processor" in poor["no_gpu"].msg


@pytest.mark.parametrize("mode", ["", " in check mode"])
def test_a_gpu_without_a_cuda_compiler_is_an_error_and_no_processor_build(poor: dict[str, Host], mode: str) -> None:
    host = went(poor, f"no_toolkit{mode}")
    assert host.failed
    assert host.msg == (
        "no_toolkit lacks the CUDA toolkit 12.7 (nvcc) to build for NVIDIA L4, NVIDIA RTX A4000, and its user may not "
        "install packages there: have root install it, name a host in llama_cpp_build_host that may, or set "
        "llama_cpp_backend: cpu to serve on the processor on purpose"
    )
    assert host.changed == 0


@pytest.mark.parametrize("mode", ["", " in check mode"])
def test_without_a_compiler_and_without_root_the_package_is_named(poor: dict[str, Host], mode: str) -> None:
    host = went(poor, f"no_compiler{mode}")
    assert host.failed
    assert "no_compiler lacks compiler to build llama.cpp, and " in host.msg
    assert host.msg.endswith("may not install packages there: have root run apt-get install g++")
    assert host.changed == 0


def test_without_root_cmake_and_ninja_come_from_the_package_index(poor: dict[str, Host]) -> None:
    host = went(poor, "no_cmake")
    assert not host.failed, host.msg
    path = Path(host.release["path"])
    subprocess.run([path / "bin/llama-server", "--help"], check=True)
    tools = path.parent.parent.parent / "tools/bin"
    assert f"$ {tools}/cmake " in (path.parent.parent / f"logs/build-{path.name}.log").read_text()
