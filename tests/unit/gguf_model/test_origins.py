"""Mirrors: folders and plain file servers with the files of the hub's repositories."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils.gguf_model.errors import ModelError
from plugins.module_utils.gguf_model.origins import origins
from tests.roles.file_server import Served, serve

SUMS = f"{'a' * 64}  m.gguf\n{'b' * 64} *sub/Big 1.gguf\n{'c' * 64}  ./other.gguf\nno line of sha256sum\n"


@pytest.fixture
def mirrors(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The same mirror as a folder and as a server, which wants a password."""
    folder = tmp_path / "some/repo"
    folder.mkdir(parents=True)
    (folder / "SHA256SUMS").write_text(SUMS)
    with serve() as server:
        server.files["/models/some/repo/SHA256SUMS"] = Served(SUMS.encode())
        host = server.url.removeprefix("http://")
        yield {"folder": f"file://{tmp_path}", "server": f"http://me:sesame@{host}/models/"}


def params(mirror: str, *files: str, sha256: str | None = None) -> dict[str, Any]:
    profile: dict[str, Any] = {"repo": "some/repo", "file": files[0], "sha256": sha256, "files": None, "urls": None}
    if files[1:]:
        profile |= {"file": None, "files": [{"file": file} for file in files]}
    return {"profile": profile, "mirror": mirror, "files": None}


@pytest.mark.parametrize("kind", ["folder", "server"])
def test_files_and_hashes_are_those_of_the_mirror(mirrors: dict[str, str], kind: str) -> None:
    found = origins(params(mirrors[kind], "m.gguf", "sub/Big 1.gguf", "other.gguf"))
    assert [origin.sha256[0] for origin in found] == ["a", "b", "c"]
    assert found[1].address.endswith("/some/repo/sub/Big%201.gguf")
    assert "sesame" not in found[1].address
    assert found[1].authorization == (None if kind == "folder" else "Basic bWU6c2VzYW1l")


def test_a_hash_of_the_profile_needs_no_list(tmp_path: Path) -> None:
    [origin] = origins(params(f"file://{tmp_path}", "m.gguf", sha256="F" * 64))
    assert (origin.sha256, origin.address) == ("f" * 64, f"file://{tmp_path}/some/repo/m.gguf")


def test_what_a_mirror_lacks_is_told_with_what_it_has(mirrors: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"SHA256SUMS does not list m\.GGU: name one of m\.gguf, other\.gguf, "
    ) as told:
        origins(params(mirrors["server"], "m.GGU"))
    assert "sesame" not in str(told.value)
    with pytest.raises(ModelError, match="none/some/repo/SHA256SUMS can't be read: No such file or directory"):
        origins(params(f"file://{tmp_path}/none", "m.gguf"))


def test_a_server_without_a_list_is_told(mirrors: dict[str, str]) -> None:
    with pytest.raises(ModelError, match="/none/some/repo/SHA256SUMS answers 401"):
        origins(params(mirrors["server"].replace("models", "none"), "m.gguf"))
