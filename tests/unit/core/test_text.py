"""Numbers, units, moments and plurals as text."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from nexus_tasks.core import text
from nexus_tasks.core.text import SPACE


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.41234, "0.412"),
        (3.14159, "3.14"),
        (12.34, "12.3"),
        (318.4, "318"),
        (12345.6, "12,346"),
        (0, "0"),
        (None, "\N{EN DASH}"),
        (float("nan"), "\N{EN DASH}"),
    ],
)
def test_a_number_has_the_digits_that_mean_something(value: float | None, shown: str) -> None:
    assert text.number(value) == shown


@pytest.mark.parametrize(
    ("value", "bound", "shown"),
    [(0.96, 1, "0.96"), (0.9604, 1, "0.96"), (0.9996, 1, "0.9996"), (7.2, 8, "7.2"), (3.04, 3, "3.04")],
)
def test_a_number_beside_the_bound_that_it_misses_shows_that_it_does(value: float, bound: float, shown: str) -> None:
    assert text.apart(value, bound) == shown


def test_a_long_time_is_in_seconds() -> None:
    assert [text.span(12.4), text.span(1934.0), text.span(None)] == [f"12.4{SPACE}ms", f"1.93{SPACE}s", text.MISSING]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.42, "0.4 s"), (48.4, "48 s"), (745.2, "12 min"), (3599, "1 h 00 min"), (7505, "2 h 05 min")],
)
def test_durations_have_the_digits_that_mean_something(seconds: float, shown: str) -> None:
    assert text.duration(seconds) == shown


def test_much_memory_is_in_gib() -> None:
    assert [text.memory(512), text.memory(11_571.2)] == [f"512{SPACE}MiB", f"11.3{SPACE}GiB"]


def test_a_noun_has_an_s_unless_there_is_one() -> None:
    assert [text.plural(count, "host") for count in (0, 1, 1200)] == ["0 hosts", "1 host", "1,200 hosts"]


def test_a_whole_number_has_its_unit_and_a_dash_where_unknown() -> None:
    assert [text.whole(4096.0, "tokens"), text.whole(4), text.whole(None, "MiB")] == ["4,096 tokens", "4", text.MISSING]


def test_a_change_has_its_sign() -> None:
    assert [text.percent(1.42), text.percent(-0.125), text.percent(None)] == [
        f"+1.4{SPACE}%", f"-0.12{SPACE}%", text.MISSING,
    ]  # fmt: skip


def test_an_interval_has_both_ends_and_is_empty_where_there_is_none() -> None:
    assert [text.interval([1.5, 12.25]), text.interval(None)] == ["1.50\N{EN DASH}12.2", ""]


def test_a_moment_says_that_it_is_in_utc() -> None:
    when = datetime(2026, 11, 22, 10, 15, 30, tzinfo=UTC)
    assert [text.minute(when), text.moment(when)] == ["2026-11-22 10:15", "2026-11-22 10:15 UTC"]


def test_the_last_of_several_names_stands_behind_an_and() -> None:
    assert [text.listing(names) for names in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]


def test_clauses_become_one_sentence_without_empty_ones() -> None:
    assert [text.sentence(clauses) for clauses in (["it grew", "", "it fell"], [""])] == ["It grew; it fell.", ""]
