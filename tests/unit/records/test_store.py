"""Run records: what is written is what is read, and damage is named."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nexus_tasks.core.errors import RecordError
from nexus_tasks.core.provenance import ROOT
from nexus_tasks.records import store
from tests import deployment_records, report_records
from tests.damaged_records import DAMAGES, damage
from tests.report_records import HEADER, NOON, request, sample, summary_of, typed

REQUEST, SAMPLE, SUMMARY = typed(request(0)), typed(sample(0.5)), typed(summary_of([], [], {}))


def write_record(root: Path) -> Path:
    with store.create(typed(HEADER), root=root) as record:
        record.append(REQUEST)
        record.append(SAMPLE)
        record.finish(SUMMARY)
    return record.path


def add(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as stream:
        stream.write(text)


def test_a_record_reads_back_as_it_was_written(tmp_path: Path) -> None:
    record = store.load(write_record(tmp_path))
    assert record.requests == [REQUEST]
    assert record.samples == [SAMPLE]
    assert record.summary is not None
    assert record.summary.ok is True
    assert record.header.target == "localhost/main"
    assert record.run_id == record.path.stem
    assert record.started_at.utcoffset() is not None


def test_every_row_is_in_the_file_as_soon_as_it_is_appended(tmp_path: Path) -> None:
    with store.create(typed(HEADER), root=tmp_path) as record:
        record.append(REQUEST)
        assert store.load(record.path).requests == [REQUEST]


@pytest.mark.parametrize("text", ["line\u2028separator\u2029\x85\x0b\x0c", "Grüße 你好 🦙", 'quote " and \\ \n'])
def test_any_text_of_a_server_survives_a_record(tmp_path: Path, text: str) -> None:
    with store.create(typed({**HEADER, "target": text}), root=tmp_path) as record:
        record.append(typed(request(0, finish_reason=text)))
    read = store.load(record.path)
    assert read.header.target == text
    assert read.requests[0].finish_reason == text


def test_half_a_surrogate_pair_in_a_servers_answer_costs_no_row(tmp_path: Path) -> None:
    with store.create(typed(HEADER), root=tmp_path) as record:
        record.append(msgspec.structs.replace(REQUEST, finish_reason=json.loads('"a\\ud83eb"')))
    assert store.load(record.path).requests[0].finish_reason == "a?b"


def test_the_last_row_of_a_host_counts(tmp_path: Path) -> None:
    rows = [deployment_records.host(name, seconds=seconds) for name, seconds in (("a", 1.0), ("b", 1.0), ("a", 2.0))]
    record = store.load(deployment_records.write(tmp_path, NOON, *rows), "deployment")
    assert [(host.host, host.seconds) for host in record.hosts] == [("a", 2.0), ("b", 1.0)]


def test_the_last_release_of_a_host_counts_and_older_records_have_none(tmp_path: Path) -> None:
    rows = [deployment_records.release(name, host) for host, name in (("a", "b1"), ("b", "b1"), ("a", "b2"))]
    path = deployment_records.write(tmp_path, releases=rows)
    record = store.load(path, "deployment")
    assert [(release.host, release.name) for release in record.releases] == [("a", "b2"), ("b", "b1")]
    assert store.load(deployment_records.write(tmp_path), "deployment").releases == []


def test_a_number_that_is_none_is_written_as_unknown(tmp_path: Path) -> None:
    with store.create(typed(HEADER), root=tmp_path) as record:
        record.append(msgspec.structs.replace(REQUEST, ttft_ms=float("nan")))
    assert store.load(record.path).requests == [msgspec.structs.replace(REQUEST, ttft_ms=None)]


def test_a_thousand_runs_of_one_target_share_no_file(tmp_path: Path) -> None:
    # Far more than the ids of one second offer without drawing again.
    made = []
    for _ in range(1000):
        with store.create(typed(HEADER), root=tmp_path) as record:
            made.append(record.path)
    assert len(set(made)) == 1000
    assert {store.load(path).run_id for path in made} == {path.stem for path in made}


def test_two_runs_that_draw_one_id_get_two_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = iter(["same", "same", "other"])
    monkeypatch.setattr(store, "new_run_id", lambda target: next(ids))
    for expected in ("same", "other"):
        with store.create(typed(HEADER), root=tmp_path) as record:
            assert record.path.stem == expected


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{not json", "line 3: it is not JSON"),
        ("", "line 3: it is not JSON"),
        ("17", "line 3: it is not a row of a run record"),
        ('{"type": "surprise"}', "line 3: it is not a row of a run record"),
        ('{"type": "host"}', "line 3: it is not a row of a run record"),
        ('{"type": "header"}', "line 3: it is not a row of a run record"),
        ("\udcff", "line 3: it is not JSON"),
    ],
)
def test_a_damaged_line_is_named_with_its_file_and_number(tmp_path: Path, line: str, why: str) -> None:
    path = write_record(tmp_path)
    lines = path.read_text(encoding="utf-8").split("\n")
    lines.insert(2, line)
    path.write_text("\n".join(lines), encoding="utf-8", errors="surrogateescape")
    with pytest.raises(RecordError) as caught:
        store.load(path)
    assert caught.value.message == f"{path}, {why}"


def test_a_row_after_the_summary_is_damage(tmp_path: Path) -> None:
    path = write_record(tmp_path)
    add(path, json.dumps(request(0)) + "\n")
    with pytest.raises(RecordError, match="line 5: it follows the summary"):
        store.load(path)


@pytest.mark.parametrize(
    ("number", "row", "why"),
    [
        (1, {"load": None}, "it is no header of a benchmark: Expected `object`, got `null` - at `$.load`"),
        (2, {"ttft_ms": ...}, "it is no request of a benchmark: it lacks `ttft_ms`"),
        (2, {"type": "release", "host": "rig"}, "it is not a row of a run record"),
        (3, {"gpus": [{}]}, "it is no sample of a benchmark: it lacks `index` - at `$.gpus[0]`"),
        (4, {"metrics": {"ttft_ms": 3}}, "it is no summary of a benchmark: Expected `object | null`, got `int`"),
    ],
)
def test_a_row_that_another_program_wrote_or_somebody_edited_is_named(
    tmp_path: Path, number: int, row: dict[str, Any], why: str
) -> None:
    path = write_record(tmp_path)
    lines = path.read_text(encoding="utf-8").split("\n")
    changed = json.loads(lines[number - 1]) | row
    lines[number - 1] = json.dumps({key: value for key, value in changed.items() if value is not ...})
    path.write_text("\n".join(lines))
    with pytest.raises(RecordError) as caught:
        store.load(path)
    assert caught.value.message.startswith(f"{path}, line {number}: {why}")


def test_runs_of_other_tools_that_are_older_than_rounds_are_read(tmp_path: Path) -> None:
    workload = {key: value for key, value in HEADER["workload"].items() if key != "documents"}
    row = {key: value for key, value in request(0).items() if key != "round"}
    path = write_record(tmp_path)
    header, *rest = path.read_text(encoding="utf-8").splitlines()
    path.write_text(json.dumps({**json.loads(header), "workload": workload}) + f"\n{json.dumps(row)}\n")
    assert rest
    assert store.load(path).requests == [REQUEST]


def test_keys_that_a_later_version_adds_do_no_harm(tmp_path: Path) -> None:
    path = write_record(tmp_path)
    rows = [{**json.loads(line), "later": {"more": 1}} for line in path.read_text(encoding="utf-8").splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert store.load(path).requests == [REQUEST]


def test_a_record_of_another_kind_than_asked_for_is_named(tmp_path: Path) -> None:
    path = write_record(tmp_path)
    with pytest.raises(RecordError, match="must be the record of a deployment, not of a benchmark"):
        store.load(path, "deployment")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"schema": 99}, "has schema 99; this version reads up to 2 of kind benchmark"),
        ({"schema": None}, "has schema None"),
        ({"run_id": ...}, "line 1: the header lacks run_id"),
        ({"kind": ..., "started_at": ...}, "line 1: the header lacks kind, started_at"),
        ({"started_at": "yesterday"}, "line 1: started_at is not a date and time"),
        ({"started_at": "2026-11-22T12:00:00"}, "line 1: started_at must have its offset from UTC"),
        ({"started_at": 5}, "line 1: started_at is not a date and time"),
    ],
)
def test_a_header_that_this_version_cannot_read_is_refused(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    path = write_record(tmp_path)
    first, rest = path.read_text().split("\n", 1)
    header = {key: value for key, value in (json.loads(first) | change).items() if value is not ...}
    path.write_text(json.dumps(header) + "\n" + rest)
    with pytest.raises(RecordError, match=str(path)) as caught:
        store.load(path)
    assert why in caught.value.message


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_record_is_named_and_keeps_none_back(tmp_path: Path, how: str) -> None:
    first, damaged, last = [report_records.write(tmp_path, NOON + timedelta(hours=hour)) for hour in range(3)]
    damage(damaged, how)
    unread: list[RecordError] = []
    read = list(store.readable(store.paths("benchmark", tmp_path), unread.append))
    assert [record.path for record in read] == [first, last]
    assert [str(damaged) in error.message for error in unread] == [True]


def test_records_that_nobody_named_are_read_by_what_goes_on_past_damaged_ones() -> None:
    ways = [path for path in (ROOT / "nexus_tasks").rglob("*.py") if "records" not in path.parts]
    for path in ways:
        assert not re.search(r"store\.load\([^\n]* for path in (store\.)?paths\(", path.read_text(encoding="utf-8")), (
            path
        )


def test_a_last_line_that_was_cut_off_anywhere_costs_only_itself(tmp_path: Path) -> None:
    with store.create(typed(HEADER), root=tmp_path) as record:
        record.append(REQUEST)
    whole = record.path.read_bytes()
    last = json.dumps({**request(0), "finish_reason": "müßig 🦙"}, ensure_ascii=False).encode()
    for length in range(len(last) + 1):
        record.path.write_bytes(whole + last[:length])
        assert store.load(record.path).requests == [REQUEST]
        assert store.load(record.path).summary is None


@pytest.mark.parametrize(("content", "why"), [("", "is empty"), ('{"type": "hea', "line 1: it is cut off")])
def test_a_run_that_stopped_before_its_header_was_written_is_named(tmp_path: Path, content: str, why: str) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text(content)
    with pytest.raises(RecordError, match=why):
        store.load(path)


def test_a_record_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"cannot read .*gone\.jsonl: No such file"):
        store.load(tmp_path / "gone.jsonl")


@pytest.mark.parametrize("make", [False, True])
def test_an_empty_or_missing_results_folder_says_what_to_run(tmp_path: Path, make: bool) -> None:
    if make:
        (tmp_path / "benchmark").mkdir()
    with pytest.raises(RecordError, match="no benchmark records in") as caught:
        store.paths("benchmark", tmp_path)
    assert caught.value.hint == "measure something first: nox -s benchmark"


def test_a_kind_without_records_may_be_asked_for(tmp_path: Path) -> None:
    assert store.paths("deployment", tmp_path, required=False) == []


def test_the_results_folder_may_be_set_in_the_environment(tmp_path: Path) -> None:
    show = [sys.executable, "-c", "from nexus_tasks.records import store; print(store.ROOT)"]
    for value, root in ((str(tmp_path), str(tmp_path)), ("", "results")):
        environment = {**os.environ, "NEXUS_RESULTS": value}
        assert subprocess.check_output(show, cwd=ROOT, env=environment, text=True) == f"{root}\n"


def test_a_results_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "benchmark").write_text("")
    with pytest.raises(RecordError, match=f"cannot list {tmp_path}/benchmark: Not a directory"):
        store.paths("benchmark", tmp_path)
    with pytest.raises(RecordError, match="cannot write a run record to"):
        store.create(typed(HEADER), root=tmp_path)


@contextlib.contextmanager
def as_somebody_without_rights() -> Iterator[None]:
    """Permissions don't stop root: be nobody for a moment."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_an_unreadable_results_folder_is_named(tmp_path: Path) -> None:
    path = write_record(tmp_path)
    path.parent.chmod(0)
    try:
        with as_somebody_without_rights():
            with pytest.raises(RecordError, match=f"cannot list {path.parent}: Permission denied"):
                store.paths("benchmark", tmp_path)
            with pytest.raises(RecordError, match=f"cannot read {path}: Permission denied"):
                store.load(path)
            with pytest.raises(RecordError, match=r"cannot write a run record to .*: Permission denied"):
                store.create(typed(HEADER), root=tmp_path)
    finally:
        path.parent.chmod(0o700)


def test_other_files_in_the_results_folder_are_left_alone(tmp_path: Path) -> None:
    path = write_record(tmp_path)
    (path.parent / "notes.txt").write_text("mine")
    assert store.paths("benchmark", tmp_path) == [path]


FULL_DISK = """
import resource, sys
from pathlib import Path
from nexus_tasks.core.errors import RecordError
from nexus_tasks.records import store
from tests.report_records import HEADER, request, typed
limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    with store.create(typed(HEADER), root=Path(sys.argv[1])) as record:
        for index in range(1000):
            record.append(typed(request(index)))
except RecordError as error:
    sys.stdout.write(error.message)
"""


def fill(root: Path, limit: int) -> str:
    """Write a record until no byte more fits: a limit on file sizes cuts writes as a full disk does."""
    argv = [sys.executable, "-c", FULL_DISK, str(root), str(limit)]
    return subprocess.run(argv, capture_output=True, text=True, check=True, cwd=ROOT).stdout


@pytest.mark.parametrize("limit", [4000, 4321, 6000])
def test_a_disk_that_fills_up_leaves_a_record_of_whole_rows(tmp_path: Path, limit: int) -> None:
    message = fill(tmp_path, limit)
    [path] = store.paths("benchmark", tmp_path)
    assert f"cannot write on to {path}" in message
    assert path.read_bytes().endswith(b"}\n")
    indices = [row.index for row in store.load(path).requests]
    assert indices == list(range(len(indices)))
    assert indices


def test_a_header_that_is_no_json_leaves_no_record(tmp_path: Path) -> None:
    class Text(str):
        """As Ansible's strings, which msgspec refuses."""

    header = msgspec.structs.replace(typed(HEADER), target=Text("rig"))
    with pytest.raises(TypeError):
        store.create(header, root=tmp_path)
    assert not list((tmp_path / "benchmark").iterdir())


def test_a_disk_without_room_for_a_header_leaves_no_record(tmp_path: Path) -> None:
    assert "cannot write" in fill(tmp_path, 20)
    with pytest.raises(RecordError, match="no benchmark records"):
        store.paths("benchmark", tmp_path)


def test_the_ids_of_runs_within_a_second_sort_by_time() -> None:
    ids = []
    for _ in range(5):
        ids.append(store.new_run_id("localhost/main"))
        time.sleep(0.002)
    assert ids == sorted(ids)
