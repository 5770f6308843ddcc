"""Progress of several files in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from plugins.module_utils.gguf_model.progress import GIB, Progress, StoppedError, Together


class Clock:
    """A clock that is set by hand."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_several_files_are_one_line_and_what_was_there_is_no_speed(tmp_path: Path) -> None:
    clock, file = Clock(), tmp_path / "progress"
    together = Together(Progress(str(file), clock), 2)
    first, second = together.of(0, 2 * GIB), together.of(1, 4 * GIB)
    first.start(GIB)
    second.start(0)
    clock.seconds = 2
    second.show(GIB, 4 * GIB)
    assert file.read_text() == "downloaded 2.0 of 6.0 GiB, 512 MiB/s\n"


def test_the_whole_is_not_told_while_the_size_of_one_is_not_known(tmp_path: Path) -> None:
    clock, file = Clock(), tmp_path / "progress"
    together = Together(Progress(str(file), clock), 2)
    together.of(0, 2 * GIB)
    clock.seconds = 1
    together.of(1).show(GIB, None)
    assert file.read_text() == "downloaded 1.0 GiB, 1024 MiB/s\n"


def test_after_one_has_failed_the_others_stop(tmp_path: Path) -> None:
    together = Together(Progress(str(tmp_path / "progress")), 2)
    together.stopped.set()
    with pytest.raises(StoppedError):
        together.of(0).show(1, 2)
