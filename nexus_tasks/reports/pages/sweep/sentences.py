"""Sentences that open a sweep's page: where throughput stops growing, what happens beyond, how far the SLOs hold.

sentences.opening(record)
"""

from __future__ import annotations

import pandas as pd

from nexus_tasks.core.text import SPACE, number, plural, sentence, span
from nexus_tasks.records.store import BenchmarkRecord
from nexus_tasks.reports import frames, levels
from nexus_tasks.reports.levels import Level
from nexus_tasks.reports.pages.benchmark import sentences as benchmark
from nexus_tasks.views import runs


def opening(record: BenchmarkRecord) -> list[str]:
    """A sweep: where throughput stops growing, what happens beyond, and how far the SLOs hold."""
    stages = frames.stages(record)
    rate = levels.throughput(stages)
    measured = stages[stages[rate.key] > 0]
    knee = levels.knee_of(record, measured)
    if knee is None:
        return benchmark.opening(record)
    best = levels.best(measured)
    output = number(knee[rate.key], rate.unit)
    first = f"throughput stops growing at {knee['name']}, with {output}"
    if len(measured) == 1:  # nothing stopped growing
        first = f"only {knee['name']} gave answers, with {output}"
    if best["stage"] != knee["stage"]:
        first += f"; the most was {number(best[rate.key], rate.unit)}, at {best['name']}"
    return [
        benchmark.joined(benchmark.outcome(record), first),
        _beyond(record, measured, knee),
        _objectives(record, measured),
    ]


def _beyond(record: BenchmarkRecord, stages: pd.DataFrame, knee: Level) -> str:
    slots, last = runs.slots(record), levels.rows(stages)[-1]
    name = "ttft_ms_median" if stages["ttft_ms_median"].notna().any() else "total_ms_median"
    word = "first token" if name.startswith("ttft") else "whole request"
    text = f"at {knee['name']} the median {word} took {span(knee[name])}"
    if last["stage"] != knee["stage"]:
        text += f", at {last['name']} {span(last[name])}"
    if slots and runs.axis(record) == "concurrency":
        text += f"; the server has {plural(slots, 'slot')}"
        beyond, reached = last["level"] > slots, last["level"] == slots
        text += ", and what is beyond them waits" if beyond else "" if reached else ", which were never all taken"
    return sentence([text])


def _objectives(record: BenchmarkRecord, stages: pd.DataFrame) -> str:
    slo = record.header.load.slo
    if not slo:
        return "No SLO was given, so where latency becomes too long is for the reader to say."
    wanted = " and ".join(runs.objective_text(name, limit) for name, limit in slo.items())
    good = stages[levels.meets(record, stages)]
    if good.empty:
        return f"No level met {wanted} in 95{SPACE}% of its requests."
    rate = levels.throughput(stages)
    best, highest = levels.best(good), levels.rows(good)[-1]
    output = number(best[rate.key], rate.unit)
    gave = f"that is {output}" if best["stage"] == highest["stage"] else f"with at most {output}, at {best['name']}"
    broken = int((~levels.meets(record, stages) & (stages["level"] < highest["level"])).sum())
    text = f"{wanted} held in 95{SPACE}% of the requests up to {highest['name']}, {gave}"
    return f"{text}, but not at {plural(broken, 'level')} below it." if broken else f"{text}."
