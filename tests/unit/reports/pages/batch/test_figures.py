"""Figures of a batch's page."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from nexus_tasks.batches.entries import Answer
from nexus_tasks.records.store import BatchRecord
from nexus_tasks.reports.pages.batch import figures
from tests.batch_runs import Run, Server, recorded, unequal
from tests.report_pages import check_ids

RIG = "rig/main"


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> BatchRecord:
    return recorded(tmp_path_factory.mktemp("batch"), unequal().entries, 400)


def test_figures_name_their_colours_and_share_no_ids(record: BatchRecord) -> None:
    check_ids(figures.over_time(record).html + figures.distributions(record).html)


def test_the_work_is_drawn_by_endpoint_with_what_failed_and_where_it_was_resumed(record: BatchRecord) -> None:
    html = figures.over_time(record).html
    for shown in ("Output tokens per second", "Rows answered per second", "Failed attempts", "gpu-02/main",
                  "Dashed: the job was resumed", "seconds of work"):  # fmt: skip
        assert shown in html, shown


def test_the_steps_hold_all_that_was_answered(record: BatchRecord) -> None:
    series = figures._Series(record)
    assert series.sum("answered").sum() == sum(row.answered for row in record.intervals) == 387
    assert (series.rate("answered") * (series.edges[1:] - series.edges[:-1])).sum() == pytest.approx(387)
    assert len(series.edges) - 1 <= figures.STEPS


def test_of_many_endpoints_most_are_one_colour(tmp_path: Path) -> None:
    run = Run({f"gpu-{number}/main": Server(slots=1) for number in range(9)})
    run.work(range(90))
    html = figures.over_time(recorded(tmp_path, run.entries, 90)).html
    assert figures.OTHERS in html
    assert html.count("/main") <= figures.NAMED


def test_without_tokens_rows_are_drawn_alone(tmp_path: Path) -> None:
    run = Run({RIG: Server(counts=False)}, reply=lambda item: {"answer": Answer(embedding=[1.0])})
    run.work(range(40))
    made = recorded(tmp_path, run.entries, 40)
    html = figures.over_time(made).html
    assert "Rows answered per second" in html
    assert "Output tokens" not in html
    assert "Prompt" not in figures.distributions(made).html


def test_long_work_is_drawn_in_minutes_or_hours(record: BatchRecord) -> None:
    for factor, unit in ((10, "minutes of work"), (1000, "hours of work")):
        rows = [msgspec.structs.replace(row, t_s=row.t_s * factor, width_s=row.width_s * factor)
                for row in record.intervals]  # fmt: skip
        longer = type(record)(record.path, record.header, record.endpoints, rows)
        assert unit in figures.over_time(longer).html


def test_a_batch_that_sent_nothing_says_so(tmp_path: Path) -> None:
    made = recorded(tmp_path, [], 3)
    assert "No request was sent" in figures.over_time(made).html
    assert "No request was answered." in figures.distributions(made).html
