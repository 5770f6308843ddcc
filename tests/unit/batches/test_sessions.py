"""Sessions of a job: begun, resumed, refused where something changed, and what each leaves."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from nexus_tasks.batches import job, journal, runner, sessions, sources
from nexus_tasks.batches.asking import Asking
from nexus_tasks.batches.columns import Columns
from nexus_tasks.batches.entries import Answered
from nexus_tasks.batches.index import Index
from nexus_tasks.batches.inputs import Input
from nexus_tasks.batches.job import Job
from nexus_tasks.batches.options import COMPLETE, Options
from nexus_tasks.batches.sessions import Done, Place
from nexus_tasks.batches.state import ANSWERED
from nexus_tasks.batches.summary import summary_of
from nexus_tasks.batches.window import Window
from nexus_tasks.core.errors import BatchError, EndpointError, UsageError
from nexus_tasks.records import store
from tests.support.batch_server import BatchServer, Request

HASTY = Options(wait_s=0.3)
ROWS = ["one", "two", "three"]


@pytest.fixture
def server() -> Iterator[BatchServer]:
    with BatchServer() as server:
        yield server


class Bench:
    """A job about a file of prompts, in a folder of the test's own."""

    def __init__(self, folder: Path, server: BatchServer) -> None:
        self.folder, self.server = folder, server
        self.place = Place(Console(file=io.StringIO()), folder / "results")
        self.file = folder / "prompts.txt"
        self.write(ROWS)

    @property
    def said(self) -> str:
        """All that was printed."""
        assert isinstance(self.place.console.file, io.StringIO)
        return self.place.console.file.getvalue()

    def write(self, rows: list[str]) -> None:
        self.file.write_text("".join(f"{row}\n" for row in rows))

    def begin(self, *targets: str, asking: Asking = Asking()) -> Done:  # noqa: B008 - it is frozen
        given = Input(sources.find(self.file), asking)
        asked = Job("night", "", given, Index(0, 0, {}, ""), list(targets or [self.server.url]), HASTY)
        return sessions.begin(self.folder / "jobs", asked, self.place)

    def begin_and_fall(self) -> None:
        """Begin the job; the server falls at the second row, is given up, and is back then."""
        answered = threading.Event()

        def script(request: Request) -> None:
            if request.prompt == "two":
                answered.wait(30)  # it comes while the first is still under way
                self.server.die()
            else:
                request.answer()
                answered.set()

        self.server.slots, self.server.script = 1, script
        assert "no endpoint could be used any more" in self.begin().outcome.ended
        assert self.asked[0] == "one"
        self.server.script = Request.answer
        self.server.live()

    def resume(self, *, allow_change: bool = False, retry_failed: bool = False, **changes: object) -> Done:
        folder = job.find(self.folder / "jobs", "night")
        return sessions.resume(
            folder, lambda before: msgspec.structs.replace(before, **changes), self.place,
            allow_change=allow_change, retry_failed=retry_failed,
        )  # fmt: skip

    @property
    def asked(self) -> list[str]:
        """Prompts that the server was asked since the last look, in alphabetical order."""
        found = sorted(self.server.prompts)
        self.server.prompts.clear()
        return found


@pytest.fixture
def bench(tmp_path: Path, server: BatchServer) -> Bench:
    return Bench(tmp_path, server)


def test_a_job_that_is_complete_asks_nobody(bench: Bench) -> None:
    assert bench.begin().state.count(ANSWERED) == 3
    bench.server.die()
    done = bench.resume()
    assert (done.outcome.ended, done.state.count(ANSWERED)) == (COMPLETE, 3)


def test_a_resume_asks_what_is_left_of_whoever_is_named(bench: Bench) -> None:
    bench.begin_and_fall()
    with BatchServer() as other:
        assert bench.resume(targets=[other.url]).state.count(ANSWERED) == 3
        assert sorted(other.prompts) == ["three", "two"]


def test_the_input_that_grew_is_asked_only_where_that_is_allowed(bench: Bench) -> None:
    bench.begin()
    assert bench.asked == sorted(ROWS)
    bench.write(["one", "2", "three", "four"])
    with pytest.raises(UsageError, match="1 row differs, the first on line 2; 1 row is new"):
        bench.resume()
    assert bench.asked == []
    assert bench.resume(allow_change=True).state.count(ANSWERED) == 4
    assert bench.asked == ["2", "four"]
    bench.resume()  # it is the job's input now
    bench.write(["one"])
    done = bench.resume(allow_change=True)
    assert (done.state.total, done.state.count(ANSWERED)) == (1, 1)
    bench.write(["one", "2", "three"])
    bench.resume(allow_change=True)
    assert bench.asked == ["2", "three"]  # rows that were gone are asked anew


@pytest.mark.parametrize("left", [None, b"", b"x" * 17], ids=["gone", "empty", "cut"])
def test_an_index_that_a_power_cut_took_is_made_again_and_costs_no_answer(bench: Bench, left: bytes | None) -> None:
    folder = bench.begin().folder
    whole = folder.rows_index.read_bytes()
    if left is None:
        folder.rows_index.unlink()
    else:
        folder.rows_index.write_bytes(left)
    assert bench.resume().state.count(ANSWERED) == 3
    assert folder.rows_index.read_bytes() == whole
    assert bench.asked == sorted(ROWS)


def test_a_kill_between_the_index_and_the_declaration_costs_no_answer(bench: Bench) -> None:
    folder = bench.begin().folder
    declaration = folder.declaration.read_bytes()
    bench.write(["one", "2", "three", "four"])
    bench.resume(allow_change=True)
    assert bench.asked == sorted([*ROWS, "2", "four"])
    folder.declaration.write_bytes(declaration)  # as the kill leaves it
    with pytest.raises(UsageError, match="no request of it differs"):
        bench.resume()
    assert bench.resume(allow_change=True).state.count(ANSWERED) == 4
    assert bench.asked == []


def test_another_build_is_refused_or_its_answers_stand_beside_the_others(bench: Bench) -> None:
    bench.begin_and_fall()
    bench.server.build = "b2"
    with pytest.raises(UsageError, match="has build b2 instead of b1"):
        bench.resume()
    assert bench.asked == []
    done = bench.resume(allow_change=True)
    assert bench.asked == ["three", "two"]
    assert sorted((str(one.build), count) for one, count in done.state.answers_by().items()) == [("b1", 1), ("b2", 2)]


def test_another_model_is_refused_or_asked_for_everything(bench: Bench) -> None:
    bench.begin_and_fall()
    bench.server.model = "huge"
    with pytest.raises(UsageError, match="serves huge instead of tiny"):
        bench.resume()
    assert bench.asked == []
    done = bench.resume(allow_change=True)
    assert bench.asked == sorted(ROWS)
    assert {one.model for one in done.state.answers_by()} == {"huge"}


def test_the_number_of_samples_stays(bench: Bench) -> None:
    done = bench.begin()
    changed = msgspec.structs.replace(done.job.input, asking=Asking(samples=2))
    with pytest.raises(UsageError, match="keeps its number of samples"):
        bench.resume(input=changed, allow_change=True)


def test_a_job_that_nobody_can_answer_leaves_nothing(bench: Bench) -> None:
    bench.server.die()
    with pytest.raises(EndpointError):
        bench.begin()
    assert not (bench.folder / "jobs").exists()


def test_each_session_leaves_a_record_of_the_job_so_far(bench: Bench) -> None:
    bench.begin()
    bench.write([*ROWS, "four"])
    bench.resume(allow_change=True)
    records = [store.load(path, "batch") for path in store.paths("batch", bench.folder / "results")]
    assert [record.summary.answered for record in records if record.summary] == [3, 4]


def test_a_record_that_cannot_be_written_costs_no_answer(bench: Bench) -> None:
    (bench.folder / "results").write_text("a file")
    assert bench.begin().state.count(ANSWERED) == 3
    stream = bench.place.console.file
    assert isinstance(stream, io.StringIO)
    assert "no record was written" in stream.getvalue()


def test_what_failed_keeps_its_reason_until_a_server_is_there_to_ask_again(bench: Bench) -> None:
    bench.server.script = lambda request: request.status(400, "no")
    folder = bench.begin().folder
    before = folder.journal.read_bytes()
    bench.server.die()
    bench.write([*ROWS, "four"])
    with pytest.raises(EndpointError):
        bench.resume(allow_change=True)
    bench.write(ROWS)
    with pytest.raises(EndpointError):
        bench.resume(retry_failed=True)
    assert folder.journal.read_bytes() == before
    assert summary_of(folder).set_aside == {"refused": 3}
    bench.server.script = Request.answer
    bench.server.live()
    assert bench.resume(retry_failed=True).state.count(ANSWERED) == 3


def grow(path: Path) -> None:
    with path.open("a") as stream:
        stream.write("more\n")


def edit_the_last_row(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.seek(-9, os.SEEK_END)
        stream.write(b"!")


@pytest.mark.parametrize(
    ("change", "where"),
    [(lambda path: os.truncate(path, 20 * 100_000), "row 21"), (edit_the_last_row, "line 40"), (grow, "line 41")],
    ids=["cut", "edited", "grown"],
)
def test_an_input_that_changes_while_it_is_asked_stops_the_batch(
    bench: Bench, change: Callable[[Path], None], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "Window", lambda: Window(2))
    given = [f"{number} ".ljust(99_999, "x") for number in range(40)]  # more than is read at a time
    bench.write(given)
    changed = threading.Event()

    def script(request: Request) -> None:
        if not changed.is_set():
            changed.set()
            change(bench.file)
        request.answer("Hi")

    bench.server.slots, bench.server.script = 1, script
    with pytest.raises(BatchError, match=rf"prompts\.txt changed while it was asked, at {where}"):
        bench.begin()
    bench.write(given)
    assert bench.resume().state.count(ANSWERED) == 40


def test_a_job_that_was_killed_when_all_was_answered_is_complete_and_gets_its_record(bench: Bench) -> None:
    folder = bench.begin().folder
    lines = folder.journal.read_bytes().splitlines(keepends=True)
    folder.journal.write_bytes(b"".join(lines[:-1]))
    assert summary_of(folder).state == COMPLETE
    for path in (bench.folder / "results").rglob("*.jsonl"):
        path.unlink()
    bench.server.prompts.clear()
    for _ in range(2):  # once it has its end, there is nothing to write
        assert bench.resume().outcome.ended == COMPLETE
        [record] = (bench.folder / "results").rglob("*.jsonl")
        assert msgspec.to_builtins(store.load(record, "batch").summary)["outcome"] == COMPLETE
    assert bench.asked == []
    assert summary_of(folder).ended == COMPLETE


def test_other_ids_are_no_change_of_what_is_asked(bench: Bench) -> None:
    bench.begin_and_fall()
    assert (
        bench.resume(input=Input(sources.find(bench.file), Asking(columns=Columns(id=None)))).outcome.ended == COMPLETE
    )


def test_answers_stay_though_the_index_is_lost_and_a_row_changed(bench: Bench) -> None:
    folder = bench.begin().folder
    folder.rows_index.unlink()
    bench.write(["one", "2", "three"])
    bench.server.prompts.clear()
    with pytest.raises(UsageError, match="1 row differs, the first on line 2"):
        bench.resume()
    assert bench.resume(allow_change=True).outcome.ended == COMPLETE
    assert bench.asked == ["2"]


def test_a_row_that_changed_keeps_its_own_answer_without_the_line_that_reopened_it(bench: Bench) -> None:
    bench.begin()
    bench.write(["1", "two", "three"])
    folder = bench.resume(allow_change=True).folder
    lines = folder.journal.read_bytes().splitlines(keepends=True)
    folder.journal.write_bytes(b"".join(line for line in lines if b'"reopened"' not in line))
    state = bench.resume().state
    with journal.Results(folder.journal) as results:
        found = [results.at(offset) for offset in state.offsets]
    assert [one.answer.text for one in found if isinstance(one, Answered)] == ["1", "TWO", "THREE"]


def test_the_journal_of_another_job_is_refused(bench: Bench) -> None:
    other = bench.begin().folder.journal.read_bytes()
    job.find(bench.folder / "jobs", "night").path.rename(bench.folder / "jobs" / "day")
    bench.write(["other", "prompts", "here"])
    bench.begin().folder.journal.write_bytes(other)
    with pytest.raises(BatchError, match="is the journal of other requests"):
        bench.resume()


@pytest.mark.parametrize(
    ("models", "said", "answered"),
    [
        (["tiny", "tiny", None], "", 3),
        (["gpt-x", "gpt-x", None], "the rows ask for the model gpt-x, which the targets don't serve: tiny answers", 3),
        (["tiny", "gpt-x", "tiny"], "", 2),
    ],
    ids=["served", "another", "several"],
)
def test_rows_of_openai_s_format_are_answered_by_the_model_that_they_name_or_it_is_told(
    bench: Bench, models: list[str | None], said: str, answered: int
) -> None:
    bench.file = bench.folder / "rows.jsonl"
    rows: list[dict[str, object]] = [
        {"custom_id": str(number), "method": "POST", "url": "/v1/chat/completions",
         "body": {"messages": [{"role": "user", "content": "Hi"}], **({"model": model} if model else {})}}
        for number, model in enumerate(models)
    ]  # fmt: skip
    bench.file.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    done = bench.begin()
    assert done.state.count(ANSWERED) == answered
    assert said in bench.said
    assert ("which the targets don't serve" in bench.said) == bool(said)
    if answered < len(rows):
        assert "make a file of each" in summary_of(done.folder).examples["parameter"].message
    assert bench.resume().outcome.ended == COMPLETE
