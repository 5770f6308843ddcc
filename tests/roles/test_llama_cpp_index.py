"""Source packages: found in the index that pip is set to, unpacked without running them, held against a tree's id."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils.llama_cpp import index as index_utils
from plugins.module_utils.llama_cpp.errors import ReleaseError
from plugins.module_utils.llama_cpp.tree import git_tree_id
from tests import modules
from tests.conftest import BIN, ROOT, cache_folder
from tests.roles import llama_cpp_tree

MODULE = ROOT / "plugins/modules/llama_cpp_release.py"
NAME = "some_llama-1.2.tar.gz"
SECRET = "s3cr3t"  # noqa: S105 - what must not be told


@dataclass
class Index:
    """An index on loopback: pages and files by path, and what was asked with which credentials."""

    url: str
    pages: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    def offer(self, package: bytes, *, kind: str = "json", at: str | None = None) -> None:
        """List a source package on the page of its project, and serve it, here or at another address."""
        link = f"{at or '../../files'}/{NAME}"
        if kind == "json":
            files = [{"filename": "some_llama-1.2-py3-none-any.whl", "url": "x.whl"}, {"filename": NAME, "url": link}]
            page = ("application/vnd.pypi.simple.v1+json", json.dumps({"files": files}).encode())
        else:
            html = f"<a href='x.whl'>x</a><A data-a='b' HREF=\"{link}#sha256=00&amp;x\">{NAME}</A>"
            page = ("text/html; charset=utf-8", html.encode())
        self.pages["/simple/some-llama/"] = page
        self.pages[f"/files/{NAME}"] = ("application/gzip", package)


@contextlib.contextmanager
def serve() -> Iterator[Index]:
    """Serve an empty index until the block is left."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (the base class calls it so)
            pass

        def do_GET(self) -> None:
            found.asked.append((self.path, self.headers.get("Authorization")))
            kind, body = found.pages.get(self.path, ("text/plain", b""))
            self.send_response(200 if self.path in found.pages else 404)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        found = Index(f"http://127.0.0.1:{server.server_port}")
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()


def package(*trees: str, mark: Path | None = None, more: dict[str, str] | None = None) -> bytes:
    """A source package with the small tree at these places, whose build leaves a mark."""
    build = f"import pathlib; pathlib.Path({str(mark)!r}).touch()\n"
    backend = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    files = {
        "pyproject.toml": backend,
        "backend.py": build,
        "setup.py": build,
        "PKG-INFO": "Name: some-llama\n",
        **(more or {}),
    }
    for place in trees:
        files |= {f"{place}/{name}": text for name, text in llama_cpp_tree.FILES.items()}
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"some_llama-1.2/{name}")
            entry.size, entry.mode = len(text.encode()), 0o644
            archive.addfile(entry, io.BytesIO(text.encode()))
    return stream.getvalue()


def tree_id(folder: Path) -> str:
    """The id that git itself gives a folder's tree."""

    def git(*arguments: str) -> str:
        own = ["-c", "core.autocrlf=false", "-c", "core.fileMode=true"]
        done = subprocess.run(["git", *own, *arguments], cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
        return done.stdout.strip()

    git("init", "--quiet")
    git("add", "--all", "--force")
    return git("write-tree")


@pytest.fixture(scope="module")
def small_tree(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The id of the small tree."""
    folder = tmp_path_factory.mktemp("tree")
    for name, text in llama_cpp_tree.FILES.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o644)
    return tree_id(folder)


def environment(tmp_path: Path, **variables: str) -> dict[str, str]:
    """A user whom pip knows nothing of but these variables."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "XDG_"))}
    (tmp_path / "home").mkdir(exist_ok=True)
    return {**kept, "HOME": str(tmp_path / "home"), "PIP_CONFIG_FILE": os.devnull, **variables}


def build(prefix: Path, data: bytes, tree: str, variables: dict[str, str], **source: str) -> dict[str, Any]:
    """Have the module make a release of the package."""
    digest = hashlib.sha256(data).hexdigest()
    recipe = {
        "ref": "b1", "commit": "c" * 40, "backend": "cpu", "targets": ["llama-server"],
        "source": {
            "kind": "pypi", "package": "Some.Llama", "version": "1.2", "sha256": digest, "tree": tree, **source,
        },
    }  # fmt: skip
    done = subprocess.run(
        modules.command(MODULE),
        input=json.dumps({"ANSIBLE_MODULE_ARGS": {"prefix": str(prefix), "recipe": recipe, "tools_path": str(BIN)}}),
        env={**variables, "PATH": f"{cache_folder() / 'tools/bin'}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.lstrip().startswith("{"), done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert SECRET not in done.stdout
    assert "\n" not in result.get("msg", "")
    return result


@pytest.mark.parametrize("kind", ["json", "html"])
def test_a_package_is_built_from_and_none_of_its_code_runs(
    tmp_path: Path, release: Path, small_tree: str, kind: str
) -> None:
    data = package("vendor/llama.cpp", mark=tmp_path / "ran")
    with serve() as index:
        index.offer(data, kind=kind)
        variables = environment(tmp_path, PIP_INDEX_URL=f"{index.url}/simple/")
        made = build(tmp_path / "prefix", data, small_tree, variables)
    assert made.get("changed"), made
    assert not (tmp_path / "ran").exists()
    assert [path for path, _ in index.asked] == ["/simple/some-llama/", f"/files/{NAME}"]
    assert made["inputs"]["source"]["tree"] == small_tree


def test_a_tree_or_a_package_that_is_not_the_declared_one_is_refused(
    tmp_path: Path, release: Path, small_tree: str
) -> None:
    def said(data: bytes, tree: str = small_tree, **source: str) -> str:
        with serve() as index:
            index.offer(data)
            variables = environment(tmp_path, PIP_INDEX_URL=f"{index.url}/simple")
            result = build(tmp_path / "prefix", data, tree, variables, **source)
        assert result.get("failed"), result
        return str(result["msg"])

    data = package("llama.cpp")
    foreign = package("llama.cpp", more={"llama.cpp/extra.cpp": "int extra;\n"})
    assert f"not {small_tree}: llama_cpp_pypi_tree must name what is trusted as b1" in said(foreign)
    assert f"holds the source tree {small_tree}, not one that is declared: llama_cpp_pypi_tree" in said(data, "")
    assert "has sha256 " in said(data, sha256="0" * 64)
    assert "the source package holds no llama.cpp tree, not one" in said(package())
    assert "the source package holds 2 llama.cpp trees, not one" in said(package("a", "b/c"))
    assert list((tmp_path / "prefix" / "releases").iterdir()) == []


def finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **variables: str) -> index_utils.PackageIndex:
    """An index as a user with these variables has it."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    for name, value in environment(tmp_path, **variables).items():
        monkeypatch.setenv(name, value)
    return index_utils.PackageIndex(sys.executable)


def test_the_index_is_the_one_that_pip_is_set_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tmp_path / "pip.conf"
    settings.write_text(
        "[global]\nindex-url = http://one.example/simple\nextra-index-url =\n  http://two.example/simple\n"
        "  file:///three\n[download]\nindex-url = http://download.example/simple\n[install]\nindex-url = http://x/\n"
    )
    there = finds(tmp_path, monkeypatch, PIP_CONFIG_FILE=str(settings))
    assert there.places == ["http://download.example/simple", "http://two.example/simple", "file:///three"]
    there = finds(tmp_path, monkeypatch, PIP_CONFIG_FILE=str(settings), PIP_INDEX_URL="http://env.example/")
    assert there.places[0] == "http://env.example/"
    there = finds(tmp_path, monkeypatch, PIP_NO_INDEX="1", PIP_INDEX_URL="http://env.example/")
    assert there.places == []
    there = finds(tmp_path, monkeypatch)  # pip's own default
    assert len(there.places) == 1
    assert there.places[0].startswith("https://")


def test_an_interpreter_without_pip_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="/nowhere/python -m pip config list fails"):
        index_utils.PackageIndex("/nowhere/python")


def test_what_no_index_has_is_told_with_what_each_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve() as index:
        index.pages["/simple/other/"] = ("text/html", b"<a href='other-1.tar.gz'>")
        address = f"{index.url.replace('//', '//ci:' + SECRET + '@')}/simple"
        there = finds(tmp_path, monkeypatch, PIP_INDEX_URL=address, PIP_EXTRA_INDEX_URL="file:///nowhere")
        for name, said in (("other", "/simple/other/ does not list it"), ("none", "/simple/none/: Not Found")):
            with pytest.raises(ReleaseError) as error:
                there.find(name, "2")
            assert f"no package index of this host has the source package {name} 2 ({index.url}{said}" in str(
                error.value
            )
            assert f"file:///nowhere/{name}/: " in str(error.value)
            assert SECRET not in str(error.value)
    with pytest.raises(ReleaseError, match="pip is set to use none"):
        finds(tmp_path, monkeypatch, PIP_NO_INDEX="true").find("other", "2")


def test_the_password_of_an_index_reaches_that_index_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    basic = "Basic " + base64.b64encode(f"ci:{SECRET}".encode()).decode()
    with serve() as index, serve() as elsewhere:
        address = f"{index.url.replace('//', '//ci:' + SECRET + '@')}/simple"
        there = finds(tmp_path, monkeypatch, PIP_INDEX_URL=address)
        index.offer(b"here")
        with there.open(there.find("some-llama", "1.2")) as answer:
            assert answer.read() == b"here"
        assert [header for _, header in index.asked] == [basic, basic]
        index.offer(b"", at=f"{elsewhere.url}/files")
        elsewhere.offer(b"there")
        with there.open(there.find("some-llama", "1.2")) as answer:
            assert answer.read() == b"there"
        assert [header for _, header in elsewhere.asked] == [None]


def test_credentials_of_netrc_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve() as index:
        index.offer(b"here")
        there = finds(tmp_path, monkeypatch, PIP_INDEX_URL=f"{index.url}/simple")
        netrc = tmp_path / "home" / ".netrc"
        netrc.write_text(f"machine 127.0.0.1 login ci password {SECRET}\n")
        netrc.chmod(0o600)
        there.find("some-llama", "1.2")
    assert [header for _, header in index.asked] == ["Basic " + base64.b64encode(f"ci:{SECRET}".encode()).decode()]


def test_folders_are_indexes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simple = tmp_path / "mirror" / "simple" / "some-llama"
    simple.mkdir(parents=True)
    (simple / NAME).write_bytes(b"mirrored")
    (simple / "index.html").write_text(f'<a href="{NAME}">{NAME}</a>')
    for settings in (
        {"PIP_INDEX_URL": simple.parent.as_uri()},
        {"PIP_INDEX_URL": str(simple.parent)},
        {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(simple)},
        {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": simple.as_uri()},
    ):
        assert finds(tmp_path, monkeypatch, **settings).find("some-llama", "1.2") == str(simple / NAME)


def test_the_id_of_a_tree_is_the_one_that_git_gives_it(tmp_path: Path) -> None:
    files = {"a/b": "x", "a-b": "y", "a.c": "z", "deep/er/file": "1", "é": "\n", "run.sh": "#!/bin/sh\n"}
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "run.sh").chmod(0o755)
    (tmp_path / "link").symlink_to("a/b")
    (tmp_path / "empty" / "also").mkdir(parents=True)
    (tmp_path / "a" / ".git").write_text("gitdir: ../elsewhere\n")
    found = git_tree_id(str(tmp_path))
    (tmp_path / "a" / ".git").unlink()
    assert found == tree_id(tmp_path)
    (tmp_path / "run.sh").chmod(0o644)
    assert git_tree_id(str(tmp_path)) != found
