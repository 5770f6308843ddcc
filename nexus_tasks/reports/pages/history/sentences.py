"""Sentences that open a target's history: how many runs, where its speed went, what came with the largest step.

sentences.opening(past)
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pandas as pd

from nexus_tasks.core.text import listing, number, percent, plural, sentence
from nexus_tasks.reports import levels
from nexus_tasks.reports.pages.history.past import Past
from nexus_tasks.stats.metrics import DECODE, TOTAL


def opening(past: Past) -> list[str]:
    """A target over time: how many runs, where its speed went, and what came with the largest step."""
    frame = past.runs
    days = (frame["started_at"].iloc[-1] - frame["started_at"].iloc[0]).total_seconds() / 86400
    when = f"in {plural(round(days), 'day')}" if days >= 1.5 else "within a day" if days < 1 else "in about a day"
    main = frame[frame["series"] == 0]
    one = levels.rows(main)[0]
    first = (
        f"{plural(len(frame), 'run')} of {past.target} {when}: {len(main)} of {one['workload']} at {one['load']}"
        + (f", {len(frame) - len(main)} of other workloads, loads or models." if len(frame) > len(main) else ".")
    )
    return [first, _speed(main, past.marks), _changes(past)]


def _speed(main: pd.DataFrame, marks: Sequence[dict[str, Any]]) -> str:
    """The second sentence: where the speed of one series of runs went; ``main`` has them, oldest first."""
    metric = next((one for one in (DECODE, TOTAL) if main[f"{one.key}_median"].notna().sum() > 1), None)
    if metric is None:
        return "No figure was measured twice in the same way."
    word = {DECODE: "decoding", TOTAL: "a whole request"}[metric]
    median, low, high = (f"{metric.key}_{part}" for part in ("median", "low", "high"))
    rows = [row for row in levels.rows(main) if row[median] == row[median] and row["ok"]]
    if len(rows) < 2:
        count = "None" if not rows else "Only one"
        return f"{count} of these was finished and is valid, so there is no change to tell."
    moved = (rows[-1][median] / rows[0][median] - 1) * 100
    text = (
        f"{word.capitalize()} went from {number(rows[0][median])} to {number(rows[-1][median], metric.unit)} "
        f"({percent(moved)})"
    )
    steps = [(after[median] / before[median] - 1, before, after) for before, after in itertools.pairwise(rows)]
    size, before, after = max(steps, key=lambda step: abs(step[0]))
    distinct = after[low] > before[high] or after[high] < before[low]
    if not distinct:
        return f"{text}; no step is larger than what runs differ by themselves."
    changes = [mark["what"] for mark in marks if before["started_at"] < mark["at"] <= after["started_at"]]
    if len(steps) > 1:
        text += f"; the largest step, {percent(size * 100)}, came on {after['started_at']:%Y-%m-%d}"
    if not changes:
        return f"{text}, with no change on record."
    return f"{text}{'' if len(steps) > 1 else ','} with {' and '.join(changes)}."


def unchanged(frame: pd.DataFrame) -> str:
    """The sentence about what was the same in all runs and what no record knows; ``frame`` has a row for each."""
    words = {"model": "model", "build": "build", "release": "release", "driver": "driver", "argv_sha256": "options"}
    known = [word for name, word in words.items() if frame[name].dropna().ne("unknown").any()]
    unknown = [word for word in words.values() if word not in known]
    texts = (
        [f"{listing(known).capitalize()} {'were' if len(known) > 1 else 'was'} the same in all runs"] if known else []
    )
    texts += [f"{listing(unknown)} {'are' if len(unknown) > 1 else 'is'} not on record"] if unknown else []
    return sentence(texts)


def _changes(past: Past) -> str:
    if not past.marks:
        return unchanged(past.runs)
    times = f"{len(past.marks)} times" if len(past.marks) > 1 else "once"
    return f"Model, release, driver or options were changed {times}; the last change was {past.marks[-1]['what']}."
