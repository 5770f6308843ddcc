"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from plugins.module_utils.hostlib import files
from tests.conftest import ROOT


@pytest.mark.parametrize("content", ["a\r\nb\n", "€", b"\xff\x00", ""])
def test_what_is_written_is_there_byte_for_byte(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "file"
    files.write_file(str(path), content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_the_mode_is_the_one_asked_for_whatever_the_umask_is(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "file"
    before = os.umask(0o077)
    try:
        files.write_file(str(path), "x", mode)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == mode


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_the_owner_is_the_one_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.write_file(str(path), "x", owner=(64321, 64322))
    assert (path.stat().st_uid, path.stat().st_gid) == (64321, 64322)


def test_where_it_can_not_be_written_the_former_file_stays_and_the_error_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_text("former")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        files.write_file(str(path), "new")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    assert path.read_text() == "former"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_missing_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        files.write_file(str(tmp_path / "missing/file"), "x")
    assert caught.value.filename == str(tmp_path / "missing/file")


def test_one_line_for_a_follower(tmp_path: Path) -> None:
    files.write_line(str(tmp_path / "progress"), "compiling 3 of 4")
    assert (tmp_path / "progress").read_text() == "compiling 3 of 4\n"


def test_text_is_read_whatever_bytes_it_holds(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"a\xffb")
    assert files.read_text(str(tmp_path / "file")) == "a\ufffdb"
    assert files.read_text(str(tmp_path / "missing")) is None
    assert files.read_text(str(tmp_path)) is None


@pytest.mark.parametrize(
    ("text", "value"), [('{"a": 1}', {"a": 1}), ("[1]", None), ("{", None), ("", None), (None, None), (b"\xff", None)]
)
def test_only_an_object_is_read_from_json(tmp_path: Path, text: str | bytes | None, value: object) -> None:
    path = tmp_path / "file"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert files.read_json(str(path)) == value


def test_the_hash_is_that_of_all_bytes_and_each_block_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "BLOCK_BYTES", 4)
    (tmp_path / "file").write_bytes(b"0123456789")
    counts: list[int] = []
    assert files.sha256_of(str(tmp_path / "file"), counts.append) == hashlib.sha256(b"0123456789").hexdigest()
    assert counts == [4, 8, 10]


def test_a_line_for_followers_makes_the_folders_above_it(tmp_path: Path) -> None:
    files.write_line(str(tmp_path / "state" / "job.progress"), "compiling 3 of 9")
    assert (tmp_path / "state" / "job.progress").read_text() == "compiling 3 of 9\n"


def test_an_error_of_a_file_is_told_in_one_line() -> None:
    assert files.reason_of(OSError(errno.ENOSPC, "No space left on device", "/opt/x")) == (
        "/opt/x: No space left on device"
    )
    assert files.reason_of(OSError(errno.ENOSPC, "No space left on device")) == "[Errno 28] No space left on device"
    assert files.reason_of(OSError("a\nb")) == "a b"


# Who else renames: what gets no name that something else may have.
RENAMING = {
    "plugins/module_utils/llama_cpp/release.py",  # takes a name away
    "plugins/module_utils/llama_cpp/source.py",  # in the work folder of a build
}


def test_folders_get_their_names_in_one_place() -> None:
    found = {
        str(path.relative_to(ROOT))
        for place in ("plugins/**/*.py", "roles/*/files/*.py")
        for path in ROOT.glob(place)
        if "os.rename(" in path.read_text() or "renames(" in path.read_text()
    }
    assert found - {"plugins/module_utils/hostlib/files.py"} == RENAMING
