"""Headers of models from files, addresses, the hub and the catalogue, over real HTTP on loopback."""

from __future__ import annotations

import http.server
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from nexus_tasks.core.errors import UsageError
from nexus_tasks.model_store.model_sources import catalogue_of, copy_headers, open_model
from tests.memory_model_list import MODELS
from tests.memory_models import write
from tests.support.split_model import split_model


class Files(http.server.BaseHTTPRequestHandler):
    """Serves a folder with ranges, and remembers what it was asked for and how much it sent."""

    folder: Path
    asked: list[tuple[str, str]]
    sent = 0
    ranges = True
    moved: Mapping[str, str] = {}
    """Where files are by their paths, told with a redirect."""

    def do_GET(self) -> None:
        """Send a part of a file."""
        type(self).asked.append((self.path, self.headers.get("Authorization") or ""))
        path = self.folder / self.path.partition("?")[0].rsplit("/", 1)[-1]
        if self.path in self.moved:
            self.send_response(302)
            self.send_header("Location", self.moved[self.path])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
        if not path.is_file():
            self.send_error(404)
            return
        with path.open("rb") as stream:
            size = path.stat().st_size
            begin, end = (int(wanted[1]), min(int(wanted[2]), size - 1)) if wanted else (0, 0)
            stream.seek(begin)
            content = stream.read(end - begin + 1)
        self.send_response(206 if self.ranges else 200)
        if self.ranges:
            self.send_header("Content-Range", f"bytes {begin}-{end}/{size}")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        type(self).sent += len(content)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture
def files(tmp_path: Path) -> Iterator[type[Files]]:
    """A server of tmp_path; ``address`` is where."""

    class Own(Files):
        folder, asked = tmp_path, []
        address = ""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Own) as server:
        Own.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Own
        server.shutdown()
        thread.join()


def test_of_a_remote_model_of_15_gb_only_the_header_is_transferred(tmp_path: Path, files: type[Files]) -> None:
    path = write(tmp_path / "m.gguf", MODELS["gemma-3-27b-Q4_K_M"])
    assert path.stat().st_size > 15_000_000_000
    shape = open_model(f"{files.address}/m.gguf", {})  # type: ignore[attr-defined]  # of the fixture
    assert shape.n_layer == 62
    assert files.sent < 16_000_000
    assert len(files.asked) < 20


def test_user_and_password_of_an_address_are_sent_and_not_shown(tmp_path: Path, files: type[Files]) -> None:
    address = files.address.replace("//", "//me:secret@")  # type: ignore[attr-defined]  # of the fixture
    write(tmp_path / "m.gguf", MODELS["qwen3"])
    assert "secret" not in open_model(f"{address}/m.gguf", {}).files[0].name
    assert {authorization[:6] for _, authorization in files.asked} == {"Basic "}
    with pytest.raises(UsageError) as caught:
        open_model(f"{address}/other.gguf?signature=abc", {})
    assert "answers 404" in caught.value.message
    assert "secret" not in caught.value.message
    assert "abc" not in caught.value.message


@pytest.mark.parametrize("to", ["/m.gguf", "gopher://elsewhere/m.gguf"], ids=["a loop", "another protocol"])
def test_a_redirect_that_leads_nowhere_is_told_as_one(files: type[Files], to: str) -> None:
    files.moved = {"/m.gguf": to}
    with pytest.raises(UsageError, match="answers 302") as caught:
        open_model(f"{files.address}/m.gguf", {})  # type: ignore[attr-defined]  # of the fixture
    assert "leads nowhere" in caught.value.hint


def test_files_of_a_split_model_are_named_by_their_addresses(tmp_path: Path, files: type[Files]) -> None:
    for number in (1, 2):
        (tmp_path / f"m-0000{number}-of-00002.gguf").write_bytes(split_model(2)[0])
    with pytest.raises(UsageError) as caught:
        open_model(f"{files.address}/m-00001-of-00002.gguf?key=secret", {})  # type: ignore[attr-defined]  # of the fixture
    message = f"{files.address}/m-00002-of-00002.gguf says that it is file 1 of 2, not 2 of 2"  # type: ignore[attr-defined]  # likewise
    assert (caught.value.message, caught.value.hint) == (message, "give each file the name that it was made with")
    assert {path.partition("?")[2] for path, _ in files.asked} == {"key=secret"}


def test_a_server_without_ranges_is_named(tmp_path: Path, files: type[Files]) -> None:
    files.ranges = False
    write(tmp_path / "m.gguf", MODELS["qwen3"])
    with pytest.raises(UsageError, match="gives no ranges"):
        open_model(f"{files.address}/m.gguf", {})  # type: ignore[attr-defined]  # of the fixture


def test_a_model_of_the_hub_is_read_at_huggingface_hubs_address(
    tmp_path: Path, files: type[Files], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "qwen3-q4.gguf", MODELS["qwen3"])
    monkeypatch.setenv("HF_ENDPOINT", files.address)  # type: ignore[attr-defined]  # of the fixture
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    profile = {"repo": "some/models", "file": "qwen3-q4.gguf", "revision": "v1"}
    assert open_model("some/models:qwen3-q4.gguf", {}).n_layer == open_model("small", {"small": profile}).n_layer == 9
    assert {path for path, _ in files.asked} == {
        "/some/models/resolve/main/qwen3-q4.gguf",
        "/some/models/resolve/v1/qwen3-q4.gguf",
    }
    assert {authorization for _, authorization in files.asked} == {"Bearer hf_secret"}


def test_a_path_is_read_whether_or_not_it_is_in_a_profile(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", MODELS["qwen3"])
    assert open_model(str(path), {}).n_layer == open_model("mine", {"mine": {"path": str(path)}}).n_layer == 9


def test_what_is_no_model_is_told_with_the_nearest_names(tmp_path: Path) -> None:
    catalogue = {"qwen3-8b": {"generator": "tiny"}, "llama": {}}
    with pytest.raises(UsageError) as caught:
        open_model("qwen3-9b", catalogue)
    assert "there is no model qwen3-9b" in caught.value.message
    assert "qwen3-8b" in caught.value.hint
    with pytest.raises(UsageError, match="has no file that can be read here"):
        open_model("qwen3-8b", catalogue)
    (tmp_path / "m.gguf").write_bytes(b"<html>")
    with pytest.raises(UsageError, match="is not a GGUF file"):
        open_model(str(tmp_path / "m.gguf"), {})
    with pytest.raises(UsageError, match="can't be read"):
        open_model("http://127.0.0.1:1/m.gguf", {})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a--b/c:x.gguf", "a--b/c is no name of a hub repository"),
        (".a/b:x.gguf", ".a/b is no name of a hub repository"),
        ("a/b.git:x.gguf", "a/b.git is no name of a hub repository"),
        ("mine", "a/b/c is no name of a hub repository"),
        ("http://[::1", "http://[::1 is no address: Invalid IPv6 URL"),
        ("https:///m.gguf", "https:///m.gguf is no address: https:// is no http(s) address"),
        ("~nobody-of-this-name/m.gguf", "there is no model ~nobody-of-this-name/m.gguf"),
        ("x" * 300, "File name too long"),
    ],
)
def test_a_malformed_name_is_told_as_such(name: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_model(name, {"mine": {"repo": "a/b/c", "file": "x.gguf"}})
    assert said in caught.value.message


def test_a_profile_whose_file_is_not_there_is_named_with_it(tmp_path: Path) -> None:
    path = write(tmp_path / "my model.gguf", MODELS["qwen3"])
    address = path.as_uri()
    assert open_model("mine", {"mine": {"url": address}}).n_layer == 9
    path.unlink()
    for profile in ({"url": address}, {"path": str(path)}):
        with pytest.raises(UsageError) as caught:
            open_model("mine", {"mine": profile})
        assert caught.value.message == f"the profile mine names {path}, which is not there"
        assert "catalogue" not in caught.value.hint


def test_of_a_profile_with_several_files_the_first_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    path = write(tmp_path / "m.gguf", MODELS["qwen3"])
    catalogue: dict[str, dict[str, Any]] = {
        "linked": {"urls": [{"url": str(path), "sha256": "0"}, {"url": "other"}]},
        "in-parts": {"repo": "r/r", "files": [{"file": "m-00001-of-00002.gguf"}, "m-00002-of-00002.gguf"]},
    }
    assert open_model("linked", catalogue).n_layer == 9
    with pytest.raises(UsageError, match="m-00001-of-00002"):
        open_model("in-parts", catalogue)


def test_the_catalogue_is_the_projects_and_the_users_own(tmp_path: Path) -> None:
    assert "gpt-oss-120b-mxfp4" in catalogue_of()
    assert catalogue_of(tmp_path / "none") == {}
    (tmp_path / "models.yml").write_text("llama_models: {a: {path: /a}, b: {path: /b}}")
    (tmp_path / "also.yml").write_text("llama_own_models: {b: {path: /own}}\nsecret: !vault |\n  $ANSIBLE_VAULT")
    (tmp_path / "vault.yml").write_text("$ANSIBLE_VAULT;1.1;AES256\n3032\n")
    assert catalogue_of(tmp_path) == {"a": {"path": "/a"}, "b": {"path": "/own"}}


UNREADABLE = ["llama_models: [", "[" * 3000 + "]" * 3000, "day: 2026-13-45", "a: \x00", "a: \udcff"]


@pytest.mark.parametrize("content", UNREADABLE, ids=["broken", "deep", "no day", "control", "not UTF-8"])
def test_a_file_of_the_catalogue_that_can_not_be_read_is_named_in_a_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "broken.yml").write_text(content, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(UsageError, match=r"broken\.yml can't be read: .") as caught:
        catalogue_of(tmp_path)
    assert "\n" not in caught.value.message


def test_headers_alone_are_copied_from_a_file_and_from_an_address(files: type[Files], tmp_path: Path) -> None:
    model = write(tmp_path / "m.gguf", MODELS["qwen3moe"])
    with model.open("rb") as stream:  # most of it is hole
        header = stream.read(open_model(str(model), {}).files[0].data_start)
    for number, source in enumerate((str(model), f"{files.address}/m.gguf")):  # type: ignore[attr-defined] # set by the fixture
        folder = tmp_path / str(number)
        folder.mkdir()
        assert copy_headers(source, {}, folder) == [("model.gguf", model.stat().st_size)]
        assert (folder / "model.gguf").read_bytes() == header
