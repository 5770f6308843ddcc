from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from plugins.module_utils.gateway import request_log
from plugins.module_utils.gateway.request_log import RequestLog, snapshot

NOON = 1796040000.0  # 2026-11-30T12:00:00Z
DAY_S = 86400.0


def line(number: int, time: float = NOON) -> bytes:
    return json.dumps({"time": time, "status": 200, "id": str(number)}).encode()


def write(folder: Path, *parts: bytes) -> None:
    with (folder / "requests.jsonl").open("ab") as stream:
        stream.write(b"".join(parts))


def ids(lines: list[bytes]) -> list[str]:
    return [json.loads(each)["id"] for each in lines]


def archived(folder: Path, day: str = "2026-11-30") -> list[str]:
    return ids((folder / "days" / f"{day}.jsonl").read_bytes().splitlines())


def test_lines_are_moved_to_the_file_of_their_day_once(tmp_path: Path) -> None:
    log = RequestLog(str(tmp_path))
    write(tmp_path, line(1) + b"\n", line(2, NOON + DAY_S) + b"\n", line(3) + b"\n")
    assert ids(log.move()) == ["1", "2", "3"]
    assert log.move() == []
    assert archived(tmp_path) == ["1", "3"]
    assert archived(tmp_path, "2026-12-01") == ["2"]


def test_a_line_that_is_being_written_waits_for_its_end(tmp_path: Path) -> None:
    log = RequestLog(str(tmp_path))
    write(tmp_path, line(1) + b"\n", line(2)[:20])
    assert ids(log.move()) == ["1"]
    write(tmp_path, line(2)[20:] + b"\n")
    assert ids(log.move()) == ["2"]


def test_a_mover_that_is_started_anew_goes_on_where_the_last_one_stopped(tmp_path: Path) -> None:
    write(tmp_path, line(1) + b"\n")
    RequestLog(str(tmp_path)).move()
    write(tmp_path, line(2) + b"\n")
    assert ids(RequestLog(str(tmp_path)).move()) == ["2"]
    assert archived(tmp_path) == ["1", "2"]


def test_one_that_was_killed_before_it_noted_what_it_wrote_leaves_no_line_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, line(1) + b"\n")
    RequestLog(str(tmp_path)).move()
    write(tmp_path, line(2) + b"\n", line(3, NOON + DAY_S) + b"\n")
    log, noted = RequestLog(str(tmp_path)), []
    real = request_log.Place.write

    def killed(place: request_log.Place, folder: str) -> None:
        noted.append(folder)
        if len(noted) == 2:  # the first is of the sizes before
            raise KeyboardInterrupt
        real(place, folder)

    monkeypatch.setattr(request_log.Place, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        log.move()
    monkeypatch.setattr(request_log.Place, "write", real)
    assert archived(tmp_path) == ["1", "2"]
    assert ids(RequestLog(str(tmp_path)).move()) == ["2", "3"]
    assert archived(tmp_path) == ["1", "2"]
    assert archived(tmp_path, "2026-12-01") == ["3"]


@pytest.mark.parametrize("how", ["another file", "cut"])
def test_a_log_that_was_replaced_or_cut_is_read_from_its_beginning(tmp_path: Path, how: str) -> None:
    log = RequestLog(str(tmp_path))
    write(tmp_path, line(1) + b"\n", line(2) + b"\n")
    log.move()
    if how == "another file":
        (tmp_path / "requests.jsonl").rename(tmp_path / "old")
    else:
        os.truncate(tmp_path / "requests.jsonl", 0)
    write(tmp_path, line(3) + b"\n")
    assert ids(log.move()) == ["3"]
    assert archived(tmp_path) == ["1", "2", "3"]


def test_what_was_moved_gives_its_space_back_and_the_file_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_log, "HOLE_BYTES", 1 << 18)
    monkeypatch.setattr(request_log, "KEPT_BYTES", 0)
    log, live = RequestLog(str(tmp_path)), tmp_path / "requests.jsonl"
    with live.open("ab") as held:  # as HAProxy holds it
        for number in range(3):
            held.write(b"".join(line(number) + b" " * 1000 + b"\n" for _ in range(500)))
            held.flush()
            while log.move():
                pass
        inode, size = live.stat().st_ino, live.stat().st_size
        if live.stat().st_blocks * 512 >= size:
            pytest.skip("this file system gives no space back")
        held.write(line(9) + b"\n")
        held.flush()
    assert ids(log.move()) == ["9"]
    assert live.stat().st_ino == inode
    assert len(archived(tmp_path)) == 1501


def test_a_line_that_is_none_is_kept_on_the_day_on_which_it_is_found(tmp_path: Path) -> None:
    log = RequestLog(str(tmp_path))
    write(tmp_path, b"[ALERT] no JSON\n", line(1) + b"\n", b'{"time": "soon"}\n', b'{"time": 1e99}\n', b"\xff\xfe\n")
    today = datetime.now(UTC).date().isoformat()
    assert len(log.move()) == 5
    lines = (tmp_path / "days" / f"{today}.jsonl").read_bytes().splitlines()
    assert len([each for each in lines if not each.startswith(b'{"time": 1796')]) == 4
    assert len(list(snapshot(str(tmp_path), "2026-01-01"))) == 5


def test_a_snapshot_has_each_line_once_moved_or_not(tmp_path: Path) -> None:
    log = RequestLog(str(tmp_path))
    write(tmp_path, line(0, NOON - DAY_S) + b"\n", line(1) + b"\n")
    log.move()
    write(tmp_path, line(2) + b"\n", line(3)[:9])
    assert ids(list(snapshot(str(tmp_path), "2026-11-30"))) == ["1", "2"]
    assert ids(list(snapshot(str(tmp_path), "2026-11-01"))) == ["0", "1", "2"]


def test_a_snapshot_leaves_out_what_is_moved_while_it_is_read(tmp_path: Path) -> None:
    log = RequestLog(str(tmp_path))
    write(tmp_path, line(1) + b"\n")
    log.move()
    write(tmp_path, line(2) + b"\n")
    reading = snapshot(str(tmp_path), "2026-11-30")
    first = next(reading)
    write(tmp_path, line(3) + b"\n")
    log.move()
    assert ids([first, *reading]) == ["1", "2"]


def test_a_log_that_is_not_there_has_no_lines(tmp_path: Path) -> None:
    assert RequestLog(str(tmp_path)).move() == []
    assert list(snapshot(str(tmp_path / "none"), "2026-11-30")) == []


def test_days_are_forgotten_when_they_are_old_enough(tmp_path: Path) -> None:
    log = RequestLog(str(tmp_path))
    write(tmp_path, line(0, NOON - DAY_S) + b"\n", line(1) + b"\n")
    log.move()
    assert log.forget("2026-11-30") == ["2026-11-29"]
    assert ids(list(snapshot(str(tmp_path), "2026-01-01"))) == ["1"]


def test_what_haproxy_says_of_itself_is_no_request(tmp_path: Path) -> None:
    own = b"Proxy gateway stopped (cumulated conns: FE: 3, BE: 0)."
    write(tmp_path, b"\n", line(1) + b"\n", own + b"\n\n", line(2) + b"\n", own + b"\n")
    assert ids(list(snapshot(str(tmp_path), "2000-01-01"))) == ["1", "2"]
    log = RequestLog(str(tmp_path))
    assert ids(log.move()) == ["1", "2"]
    assert log.move() == []
    assert archived(tmp_path) == ["1", "2"]
