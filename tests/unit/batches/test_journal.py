"""The journal of a batch: what is written is there again, and what was cut, edited or is too much for the disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nexus_tasks.batches import journal
from nexus_tasks.batches.entries import Answer, Answered, Begun, Entry, Session, SetAside, Usage
from nexus_tasks.batches.state import ANSWERED, BEGUN, NEW, SET_ASIDE
from nexus_tasks.core.errors import BatchError
from tests.conftest import ROOT, wait_for
from tests.support import small_disk
from tests.support.small_disk import needs_mount


def answered(item: int, text: str = "Hi", embedding: list[float] | None = None) -> Answered:
    whole = Answer(text=text, embedding=embedding)
    return Answered(item, "aa", "gpu1/main", "qwen", "b1", 2.0, 9.0, whole, Usage(3, 5))


BEGIN = Begun([0, 1, 2], "gpu1/main", 1.0)
LINES: list[Entry] = [Session(0.5), BEGIN, answered(0), SetAside(1, 2.0, "too_long", "4,200 tokens of 4,096")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal with LINES."""
    path = tmp_path / "journal.jsonl"
    with journal.opened(path, 4) as log:
        log.write(LINES)
    return path


def test_what_was_written_is_read_again(path: Path) -> None:
    assert [entry for _, entry in journal.entries(path)] == LINES
    assert list(journal.read(path, 4).of) == [ANSWERED, SET_ASIDE, BEGUN, NEW]


def test_the_state_of_who_writes_is_what_a_reader_finds(path: Path) -> None:
    with journal.opened(path, 4) as log:
        log.write([Session(3.0), Begun([2, 3], "gpu1/main", 3.0)])
        log.write([answered(3), answered(2)])
        found = journal.read(path, 4)
        assert (found.of, found.offsets) == (log.state.of, log.state.offsets)
        assert log.is_done(1)


def test_results_are_read_where_they_stand(path: Path) -> None:
    state = journal.read(path, 4)
    with journal.Results(path) as results:
        assert [results.at(state.offsets[item]) for item in (1, 0)] == [LINES[3], LINES[2]]
    with journal.opened(path, 4) as log:
        assert log.answered(0) == LINES[2]
        assert log.answered(1) is None
        for item in (2, 3):  # answers that were not there when the first was read
            log.write([answered(item, "again " * item)])
            assert log.answered(item) == answered(item, "again " * item)


@pytest.mark.parametrize(
    "text",
    ["line\nends\r\n\u2028\x00", "\ud83d alone", "\U0001d518nicode", "x" * 10_000_000],
    ids=["ends", "half", "far", "10MB"],
)
def test_any_text_comes_back(path: Path, text: str) -> None:
    with journal.opened(path, 4) as log:
        log.write([answered(2, text)])
    _, entry = list(journal.entries(path))[-1]
    assert isinstance(entry, Answered)
    assert entry.answer.text == text.encode(errors="replace").decode()


@pytest.mark.parametrize("kept", [1, 8, 9, 40, -1], ids=str)
def test_a_last_line_that_was_cut_is_dropped_and_written_again(path: Path, kept: int) -> None:
    whole, said = path.read_bytes(), list[str]()
    line = journal.line_of(answered(2))
    path.write_bytes(whole + line[:kept])
    assert journal.read(path, 4).of[2] == BEGUN  # a reader leaves it as it is
    assert path.read_bytes() == whole + line[:kept]
    with journal.opened(path, 4, said.append) as log:
        log.write([answered(2)])
    assert path.read_bytes() == whole + line
    assert len(said) == 1
    assert "last line was cut off" in said[0]


@pytest.mark.parametrize("left", [b"\0" * 5000, b"\0" * 90 + b'"}}\n'], ids=["all", "beginning"])
def test_blocks_that_a_power_failure_left_empty_at_the_end_are_dropped(path: Path, left: bytes) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole + left)
    with journal.opened(path, 4):
        assert path.read_bytes() == whole


def test_blocks_that_are_empty_before_others_are_refused(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b"\0" * 90 + b'"}}\n', lines[3]]))
    whole = path.read_bytes()
    with pytest.raises(BatchError, match="line 3: "):
        journal.opened(path, 4)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("number", [1, 3, 4], ids=str)
@pytest.mark.parametrize("change", [(b"gpu1", b"gpu2"), (b"0", b"1"), (b'"', b"")], ids=["word", "digit", "quote"])
def test_an_edited_line_is_refused_by_its_number(path: Path, number: int, change: tuple[bytes, bytes]) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    lines[number - 1] = lines[number - 1][:20] + lines[number - 1][20:].replace(*change)
    if lines[number - 1] == path.read_bytes().splitlines(keepends=True)[number - 1]:
        lines[number - 1] = b"x" + lines[number - 1][1:]
    path.write_bytes(b"".join(lines))
    with pytest.raises(BatchError, match=f"line {number}: its checksum") as raised:
        journal.opened(path, 4)
    assert f"sed -i {number}d" in raised.value.hint
    with pytest.raises(BatchError, match=f"line {number}: "):
        list(journal.entries(path))


def test_the_hint_for_a_damaged_line_mends_the_journal(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], lines[2].replace(b"Hi", b"Ho"), lines[3]]))
    with pytest.raises(BatchError) as raised:
        journal.read(path, 4)
    subprocess.run(["sh", "-c", raised.value.hint[raised.value.hint.index("sed") :]], check=True)
    assert list(journal.read(path, 4).of) == [BEGUN, SET_ASIDE, BEGUN, NEW]


def test_a_line_of_another_version_is_refused_by_its_number(path: Path) -> None:
    import zlib

    other = json.dumps({"type": "vision", "item": 1}).encode()
    with path.open("ab") as stream:
        stream.write(b"%08x %s\n" % (zlib.crc32(other), other))
    with pytest.raises(BatchError, match="line 5: it is no entry"):
        journal.read(path, 4)


def test_a_result_that_is_none_is_told_by_its_place(path: Path) -> None:
    offset = path.stat().st_size
    with path.open("ab") as stream:
        stream.write(journal.line_of(answered(2, embedding=[True])))
    with journal.Results(path) as results, pytest.raises(BatchError, match=f"at byte {offset} is no entry"):
        results.at(journal.read(path, 4).offsets[2])


@needs_mount
def test_a_full_disk_keeps_all_or_nothing_of_a_write(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with small_disk.mounted(disk, "64k"):
        path = disk / "journal.jsonl"
        with journal.opened(path, 1000) as log:
            log.write(LINES)
            whole = path.read_bytes()
            with pytest.raises(BatchError, match="No space left") as raised:
                log.write([answered(2), answered(3, "x" * 100_000)])
            assert "resume" in raised.value.hint
            assert path.read_bytes() == whole
            assert log.state.of[2] == BEGUN
            log.write([answered(2)])  # there is room for this
        assert journal.read(path, 1000).of[2] == ANSWERED


WRITER = """
import sys
from pathlib import Path
from nexus_tasks.batches import journal
from nexus_tasks.batches.entries import Answer, Answered, Usage
with journal.opened(Path(sys.argv[1]), 100_000) as log:
    for item in range(100_000):
        log.write([Answered(item, "aa", "gpu1", "qwen", None, 2.0, 9.0, Answer(text="Hi"), Usage())])
        print(item, flush=True)
"""


def test_a_kill_loses_nothing_that_was_written(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    argv = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout
        wait_for(lambda: path.exists() and path.stat().st_size > 2000, "the journal to grow")
        os.kill(writer.pid, signal.SIGKILL)
        written = writer.stdout.read().split()
    with journal.opened(path, 100_000) as log:
        assert log.state.count(ANSWERED) in (len(written), len(written) + 1)
        assert all(log.is_done(int(item)) for item in written)
