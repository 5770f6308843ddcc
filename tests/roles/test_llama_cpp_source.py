"""Sources of role llama_cpp: what is refused, and where credentials go."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.roles import llama_cpp_tree
from tests.roles.file_server import Served, serve
from tests.roles.llama_cpp_builds import (
    UNPINNED,
    archive,
    executable,
    left,
    module,
    refusal,
)
from tests.roles.llama_cpp_tree import Tree

# Building the real release first installs what the small builds need, too.
pytestmark = pytest.mark.usefixtures("release")

HIDDEN = "s3cr3t"


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
