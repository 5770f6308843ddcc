"""Folders of jobs at an address that the node doesn't see by itself."""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from nexus_tasks.batches.index import Index
from nexus_tasks.batches.inputs import Input
from nexus_tasks.batches.job import Folder, Job
from nexus_tasks.batches.options import Options
from nexus_tasks.batches.shards import mirror
from nexus_tasks.batches.shards.mirror import mirrored
from nexus_tasks.batches.sources import Source
from nexus_tasks.core.errors import BatchError

NAME = "shard-00000"


@pytest.fixture(autouse=True)
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files of the node."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def address() -> Iterator[str]:
    name = f"memory://{uuid.uuid4()}"
    yield name
    fsspec.core.url_to_fs(name)[0].store.clear()


def declare(root: Path, created_at: str = "2026-11-30T00:00:00Z") -> Folder:
    """A job as a session begins it."""
    folder = Folder(root / NAME)
    folder.path.mkdir(exist_ok=True)
    (root / f"{NAME}.parquet").write_bytes(b"rows")
    folder.rows_index.write_bytes(b"keys")
    folder.journal.touch()
    source = Source(str(root / f"{NAME}.parquet"), "parquet")
    folder.declare(Job(NAME, created_at, Input(source), Index(0, 0, {}, ""), [], Options()))
    return folder


def append(folder: Folder, text: str) -> None:
    with folder.journal.open("a") as stream:
        stream.write(text)


def forget(node: Path) -> None:
    """Another node takes over."""
    for folder in node.glob("llama-nexus-*"):
        folder.rename(node / f"lost-{uuid.uuid4()}")


def test_another_node_goes_on_where_the_journal_was_sent(address: str, node: Path) -> None:
    for text in ("first\nsecond\n", "third\n"):
        with mirrored(address, NAME) as root:
            folder = Folder(root / NAME) if (root / NAME).exists() else declare(root)
            append(folder, text)
        forget(node)
    with mirrored(address, NAME) as root:
        folder = Folder(root / NAME)
        assert folder.journal.read_text() == "first\nsecond\nthird\n"
        assert folder.rows_index.read_bytes() == b"keys"
        assert (root / f"{NAME}.parquet").read_bytes() == b"rows"
        assert folder.load().name == NAME


def test_the_journal_is_sent_while_the_block_runs(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "PUSH_SECONDS", 0.01)
    files, path = fsspec.core.url_to_fs(address)
    with mirrored(address, NAME) as root:
        append(declare(root), "first\nhalf of the seco")
        from tests.conftest import wait_for

        sent = wait_for(lambda: files.glob(f"{path}/{NAME}/journal-*.jsonl"), "the journal there")
        assert files.cat_file(sent[0]) == b"first\n"  # a line is sent when it is whole


def test_the_node_that_has_more_of_the_journal_keeps_it(address: str) -> None:
    with mirrored(address, NAME) as root:
        append(declare(root), "first\n")
    append(Folder(root / NAME), "a line that was not sent before the kill\n")
    with mirrored(address, NAME) as again:
        assert (again / NAME / "journal.jsonl").read_text().startswith("first\na line")


def test_what_a_former_job_left_on_the_node_is_not_gone_on_with(address: str) -> None:
    with mirrored(address, NAME) as root:
        append(declare(root), "of a former job, and long\n")
    files, path = fsspec.core.url_to_fs(address)
    files.rm(path, recursive=True)
    with mirrored(address, NAME) as root:
        assert not (root / NAME).exists()
        append(declare(root, "2026-12-01T00:00:00Z"), "new\n")
    left = Folder(root / NAME)
    declare(root)
    append(left, "of a former job, and long\n")
    with mirrored(address, NAME):
        assert left.journal.read_text() == "new\n"
        assert json.loads(left.declaration.read_bytes())["created_at"] == "2026-12-01T00:00:00Z"


def test_a_folder_that_the_node_sees_is_used_where_it_is(tmp_path: Path) -> None:
    with mirrored(str(tmp_path / "jobs"), NAME) as root:
        assert root == tmp_path / "jobs"


def test_a_folder_that_others_may_open_is_refused(address: str, node: Path) -> None:
    with mirrored(address, NAME) as root:
        pass
    root.chmod(0o755)
    with pytest.raises(BatchError, match="open to others"), mirrored(address, NAME):
        pass
