"""The hub asked by the real huggingface_hub, at a small server that speaks its API."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from plugins.module_utils.gguf_model.errors import ModelError
from plugins.module_utils.gguf_model.origins import nearest_first
from plugins.plugin_utils.hub import Hub, HubFile
from tests.conftest import free_port
from tests.roles.file_server import FileServer, serve

CONTENT = b"GGUF of this test"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PARTS = [f"big-0000{number}-of-00003.gguf" for number in (1, 2, 3)]


@pytest.fixture
def server() -> Iterator[FileServer]:
    """A hub with a repository that has a model in one file and one in three, and a gated one."""
    with serve() as running:
        running.repositories["some/repo"] = dict.fromkeys(["a.gguf", "b-q4_0.gguf", "README.md", *PARTS], CONTENT)
        running.repositories["some/gated"] = {"a.gguf": CONTENT}
        running.gated.add("some/gated")
        yield running


def look_up(server: FileServer, *files: str, repo: str = "some/repo", **options: str | None) -> list[HubFile]:
    """What the hub says of files."""
    wanted = [{"file": file, **({"sha256": sha256} if (sha256 := options.get("sha256")) else {})} for file in files]
    hub = Hub(repo, options.get("revision") or "main", options.get("endpoint") or server.url, options.get("token"))
    return hub.look_up(wanted)


def test_all_files_of_a_model_are_told_with_commit_size_and_hash(server: FileServer) -> None:
    assert look_up(server, *PARTS) == [
        HubFile(f"/some/repo/resolve/{'c' * 40}/{name}", len(CONTENT), SHA256) for name in PARTS
    ]
    assert server.asked == []  # not a byte of a model


def test_a_missing_file_is_told_with_what_there_is_the_nearest_names_first(server: FileServer) -> None:
    names = "name one of big-00001-of-00003.gguf, big-00002-of-00003.gguf, big-00003-of-00003.gguf, b-q4_0.gguf, a.gguf"
    with pytest.raises(ModelError, match=f"has no file big-00001-of-00004.gguf: {names}$"):
        look_up(server, "big-00001-of-00004.gguf")


def test_nearest_is_by_letters_whatever_their_case() -> None:
    names = ["gpt-oss-20b-F16.gguf", "gpt-oss-20b-Q4_K_M.gguf", "gpt-oss-20b-Q4_K_S.gguf"]
    assert nearest_first("GPT-OSS-20B-q4-k-s.gguf", names) == [names[2], names[1], names[0]]


def test_a_repository_revision_or_hash_that_is_not_there_is_told_with_the_remedy(server: FileServer) -> None:
    with pytest.raises(ModelError, match="has no revision v9: correct revision"):
        look_up(server, "a.gguf", revision="v9")
    with pytest.raises(ModelError, match="the hub has no repository some/other: correct repo, or if it is private"):
        look_up(server, "a.gguf", repo="some/other")
    with pytest.raises(ModelError, match=f"some/repo/a.gguf has {SHA256}, {'0' * 64} is wanted"):
        look_up(server, "a.gguf", sha256="0" * 64)
    nobody = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ModelError, match=f"the hub {nobody} can't be reached: .*use a path or url source"):
        look_up(server, "a.gguf", endpoint=nobody)


def test_a_gated_repository_needs_a_token_that_may_read_it(server: FileServer) -> None:
    for token in (None, "hf_wrong"):
        with pytest.raises(ModelError, match="some/gated is gated: accept its terms on its page and set HF_TOKEN"):
            look_up(server, "a.gguf", repo="some/gated", token=token)
    [file] = look_up(server, "a.gguf", repo="some/gated", token="hf_right")  # noqa: S106 - of the test's own server
    assert file.sha256 == SHA256


def test_a_token_that_cannot_be_sent_is_refused_before_anything_is_asked() -> None:
    with pytest.raises(ModelError, match="HF_TOKEN") as refused:
        Hub("some/repo", "main", "http://127.0.0.1:1", "hf_sesame\n")
    assert "sesame" not in str(refused.value)


def test_a_mirror_that_tells_no_hash_is_refused_unless_the_profile_has_one(server: FileServer) -> None:
    server.moved["/some/repo/resolve"] = f"{server.url.replace('127.0.0.1', 'localhost')}/moved"
    with pytest.raises(ModelError, match=f"{server.url} tells no sha256 of some/repo/a.gguf, so what comes could not"):
        look_up(server, "a.gguf")
    assert look_up(server, "a.gguf", sha256=SHA256.upper())[0].sha256 == SHA256
