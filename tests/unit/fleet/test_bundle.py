"""Bundles: written whole or not at all, and opened to what was packed or refused."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import random
import tarfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nexus_tasks.core.errors import DeployError, NexusError, UsageError
from nexus_tasks.fleet import bundle
from nexus_tasks.fleet.bundle import About, Content, Packed

ABOUT = About(made_at="2026-11-22T12:00:00+00:00", hosts=["rig-1"], models=["m"], releases=["r"])


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def contents(tmp_path: Path) -> list[Content]:
    """A model in two files with its record, and a release."""
    folder = tmp_path / "there"
    folder.mkdir()
    files = {f"m-0000{number}-of-00002.gguf": bytes(range(256)) * (1000 + number) for number in (1, 2)}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    entries: list[dict[str, Any]] = [
        {"size_bytes": len(content), "mtime_ns": 5, "sha256": hashlib.sha256(content).hexdigest()}
        for content in files.values()
    ]
    record = {"spec": {"repo": "a/b"}, **entries[0], "parts": [{"path": "/gone/m-00002-of-00002.gguf", **entries[1]}]}
    (folder / "m.gguf.nexus.json").write_text(json.dumps(record))
    (folder / "r.tar").write_bytes(b"release")
    return [
        *(Content(f"models/{name}", folder / name, one["sha256"]) for name, one in zip(files, entries, strict=True)),
        Content("models/m.gguf.nexus.json", folder / "m.gguf.nexus.json"), Content("releases/r.tar", folder / "r.tar"),
    ]  # fmt: skip


def test_what_is_opened_is_what_was_packed_and_the_record_names_it(contents: list[Content], tmp_path: Path) -> None:
    file = tmp_path / "rig.bundle"
    assert bundle.write(file, ABOUT, contents) == file.stat().st_size
    folder, about = bundle.open_(file, tmp_path / "opened")
    assert (about.models, about.releases) == (["m"], ["r"])
    for one in contents:
        if not one.path.endswith(".json"):
            assert (folder / one.path).read_bytes() == one.source.read_bytes()
    record = json.loads((folder / "models/m.gguf.nexus.json").read_text())
    first, second = (folder / f"models/m-0000{number}-of-00002.gguf" for number in (1, 2))
    assert record["mtime_ns"] == first.stat().st_mtime_ns
    assert (record["parts"][0]["path"], record["parts"][0]["mtime_ns"]) == (str(second), second.stat().st_mtime_ns)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert bundle.open_(file, tmp_path / "opened") == (folder, about)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize("seed", range(20))
def test_a_bundle_that_was_damaged_anywhere_is_refused_or_opens_to_what_was_packed(
    contents: list[Content], tmp_path: Path, seed: int
) -> None:
    file = tmp_path / "rig.bundle"
    bundle.write(file, ABOUT, contents)
    chance, content = random.Random(seed), bytearray(file.read_bytes())  # noqa: S311 - damage
    place = chance.randrange(len(content))
    if seed % 2:
        content[place] ^= 1 << chance.randrange(8)
    else:
        del content[place:]
    file.write_bytes(content)
    refused = ""
    with contextlib.suppress(NexusError):
        try:
            folder, _ = bundle.open_(file, tmp_path / "opened")
        except NexusError as error:
            refused = error.message
            raise
        for one in contents[:2]:
            assert (folder / one.path).read_bytes() == one.source.read_bytes()
    assert "\n" not in refused


@pytest.mark.parametrize("path", ["models/../x", "/etc/passwd", "x/y", "models/.x", "models/a/b", "models/"])
def test_a_path_that_leads_elsewhere_is_refused(tmp_path: Path, path: str) -> None:
    file = tmp_path / "evil.bundle"
    packed = Packed(path=path, size_bytes=1, sha256=hashlib.sha256(b"x").hexdigest())
    with tarfile.open(file, "w") as archive:
        for name, content in (
            (bundle.ABOUT, msgspec.json.encode(msgspec.structs.replace(ABOUT, files=[packed]))),
            (path, b"x"),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    with pytest.raises(DeployError, match="is damaged: it names"):
        bundle.open_(file, tmp_path / "opened")
    assert not (tmp_path / "x").exists()


def test_a_link_is_no_file(contents: list[Content], tmp_path: Path) -> None:
    file = tmp_path / "evil.bundle"
    packed = Packed(path="models/x", size_bytes=1, sha256="0" * 64)
    with tarfile.open(file, "w") as archive:
        told = msgspec.json.encode(msgspec.structs.replace(ABOUT, files=[packed]))
        entry = tarfile.TarInfo(bundle.ABOUT)
        entry.size = len(told)
        archive.addfile(entry, io.BytesIO(told))
        link = tarfile.TarInfo("models/x")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(DeployError, match="models/x is no file"):
        bundle.open_(file, tmp_path / "opened")


def test_a_newer_bundle_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "new.bundle"
    bundle.write(file, msgspec.structs.replace(ABOUT, schema=2), [])
    with pytest.raises(UsageError, match="is of schema 2"):
        bundle.open_(file, tmp_path / "opened")


def test_a_file_that_changes_while_it_is_packed_leaves_the_former_bundle(
    contents: list[Content], tmp_path: Path
) -> None:
    file = tmp_path / "rig.bundle"
    file.write_bytes(b"former")
    wrong = Content(contents[0].path, contents[0].source, "0" * 64)
    with pytest.raises(DeployError, match="changed while it was packed"):
        bundle.write(file, ABOUT, [wrong])
    assert file.read_bytes() == b"former"
    assert [path.name for path in tmp_path.glob("*bundle*")] == ["rig.bundle"]


@pytest.mark.parametrize(
    "interrupt", [KeyboardInterrupt, OSError(28, "No space left on device")], ids=["ctrl-c", "full"]
)
def test_what_ends_the_packing_leaves_the_former_bundle(
    contents: list[Content], tmp_path: Path, interrupt: BaseException | type[BaseException]
) -> None:
    file = tmp_path / "rig.bundle"
    file.write_bytes(b"former")

    def ends(what: str, done: int, total: int) -> None:
        if done > total // 2:
            raise interrupt

    with pytest.raises((KeyboardInterrupt, OSError)):
        bundle.write(file, ABOUT, contents, ends)
    assert file.read_bytes() == b"former"
    assert [path.name for path in tmp_path.glob(".rig*")] == []


@pytest.mark.parametrize("place", ["nowhere/x.bundle", ".", "/proc/x.bundle"])
def test_a_place_where_no_file_can_be_is_refused(tmp_path: Path, place: str) -> None:
    with pytest.raises(UsageError, match=r"there is no folder|is a folder|can't be written"):
        bundle.write(tmp_path / place, ABOUT, [])


def test_no_bundle_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no bundle"):
        bundle.open_(tmp_path / "none", tmp_path / "opened")


def test_two_that_write_the_same_bundle_do_not_mix(contents: list[Content], tmp_path: Path) -> None:
    file = tmp_path / "rig.bundle"
    refused: list[str] = []

    def second(what: str, done: int, total: int) -> None:
        if not refused:
            with pytest.raises(DeployError, match="is being written") as error:
                bundle.write(file, ABOUT, contents)
            refused.append(error.value.message)

    bundle.write(file, ABOUT, contents, second)
    assert len(refused) == 1
    assert bundle.open_(file, tmp_path / "opened")[1].models == ["m"]
