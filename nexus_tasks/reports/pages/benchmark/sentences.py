"""Sentences that open a benchmark's page: what came out at which load, how long it took, what stood in the way.

    sentences.opening(record)    ["All 72 requests succeeded: at concurrency 8 …", "A first token came after …", "…"]

They are computed from the record, and from nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from nexus_tasks.core.text import SPACE, number, plural, sentence, span
from nexus_tasks.records.benchmark_rows import Figures
from nexus_tasks.records.store import BenchmarkRecord
from nexus_tasks.reports import frames, levels
from nexus_tasks.views import runs

AND = " and "
NOTABLE_SHARE = 0.05  # of a time to first token that was not prefill: less is what a network costs


def opening(record: BenchmarkRecord) -> list[str]:
    """One run: what came out and at which load, how long it took, and what stood in the way."""
    stages = frames.stages(record)
    if not runs.metrics(record):
        return [f"{outcome(record)}.", "No request that counts came to its end, so there is nothing to tell of speed.",
                _first_error(record)]  # fmt: skip
    if len(stages) > 1:
        return [joined(outcome(record), _growth(record, stages)), _spread(record, stages), _obstacles(record, stages)]
    output = _output(record, stages)
    return [joined(outcome(record), output), _times(runs.metrics(record)), _obstacles(record, stages)]


def outcome(record: BenchmarkRecord) -> str:
    """The verdict, with the reasons of a run that is not valid; without a full stop."""
    _, verdict = runs.verdict(record)
    reasons = _worst_reasons(record.summary.reasons if record.summary else [])
    return f"{verdict} ({'; '.join(reasons)})" if reasons else verdict.removesuffix(", warm-up included")


def _worst_reasons(reasons: Sequence[str]) -> list[str]:
    """Reasons that differ only in their numbers, one for each level, as one: the one with the largest number."""
    kinds: dict[str, list[str]] = {}
    for reason in reasons:
        kinds.setdefault(re.sub(r"[\d.,]+", "", reason), []).append(reason)
    worst = [
        max(alike, key=lambda one: float((re.findall(r"\d+(?:\.\d+)?", one) or ["0"])[0])) for alike in kinds.values()
    ]
    return [
        one if len(alike) == 1 else f"{one}; at {len(alike) - 1} other level{'s' if len(alike) > 2 else ''} likewise"
        for one, alike in zip(worst, kinds.values(), strict=True)
    ]


def joined(verdict: str, what: str) -> str:
    """The first sentence: the outcome, and what is told beside it."""
    return f"{verdict}{';' if ':' in verdict else ':'} {what}."


def _output(record: BenchmarkRecord, stages: pd.DataFrame) -> str:
    stage = levels.rows(stages)[0]
    load, asked = runs.load_name(record), record.header.load.planned[0].rate_per_s
    shown = ("output_tps", "requests_per_s") if stage["output_tps"] > 0 else ("requests_per_s", "prompt_tps")
    units = {"output_tps": "output tokens/s", "requests_per_s": "requests/s", "prompt_tps": "prompt tokens/s"}
    rates = [number(stage[name], units[name]) for name in shown if stage[name] > 0]
    text = AND.join(rates)
    if not text:  # an old record, which knows no throughput
        speed = runs.metrics(record).get("decode_tps")
        return f"one request at a time decoded {number(speed.median, 'tokens/s')}" if speed else load
    if asked and stage["requests_per_s"] > 0:
        share = stage["requests_per_s"] / asked * 100
        answered = f"{number(stage['requests_per_s'])} a second were answered ({share:.0f}{SPACE}%)"
        return f"of {number(asked, 'requests/s')} asked, {answered}, with {rates[0]}"
    return f"at {load} the server gave {text}"


def _growth(record: BenchmarkRecord, stages: pd.DataFrame) -> str:
    first, *_, last = levels.rows(stages)
    if runs.axis(record) == "prompt_tokens":
        return (
            f"from {first['name']} to {last['name']} the median time to first token went from "
            f"{span(first['ttft_ms_median'])} to {span(last['ttft_ms_median'])}"
        )
    rate = levels.throughput(stages)
    best = levels.best(stages)
    start = f"{number(first[rate.key], rate.unit)} at {first['name']}"
    return (
        f"throughput went from {start} to {number(best[rate.key])} at {best['name']}, the most of {len(stages)} levels"
    )


def _spread(record: BenchmarkRecord, stages: pd.DataFrame) -> str:
    first, *_, last = levels.rows(stages)
    moved = []
    if runs.axis(record) == "prompt_tokens":
        names = (("decode_tps", "decoding", "tokens/s"), ("prefill_tps", "prefill by the server's clock", "tokens/s"))
        for name, word, unit in names:
            if first[f"{name}_median"] == first[f"{name}_median"]:
                moved.append(
                    f"{word} went from {number(first[f'{name}_median'])} to {number(last[f'{name}_median'], unit)}"
                )
    else:
        for name, word in (
            ("ttft_ms", "the first token"),
            ("itl_ms", "the gap between tokens"),
            ("total_ms", "a whole request"),
        ):
            if first[f"{name}_median"] == first[f"{name}_median"] and len(moved) < 2:
                moved.append(f"{word} went from {span(first[f'{name}_median'])} to {span(last[f'{name}_median'])}")
    return f"Meanwhile {AND.join(moved)} (medians)." if moved else "No times were measured."


def _times(measured: dict[str, Figures]) -> str:
    if "ttft_ms" not in measured:
        total = measured.get("total_ms")
        if total is None:  # llama.cpp's own tools measure prefill and decoding by themselves
            speeds = {"prefill": measured.get("prefill_tps"), "decoding": measured.get("decode_tps")}
            known = [f"{name} ran at {number(one.median, 'tokens/s')}" for name, one in speeds.items() if one]
            return sentence([f"{AND.join(known)} (medians)"]) if known else "No speed was measured."
        return f"A request took {span(total.median)} in the median{_tail(total)}."
    ttft = measured["ttft_ms"]
    text = f"A first token came after {span(ttft.median)} in the median{_tail(ttft)}"
    queue = measured.get("queue_ms")
    share = min(1.0, queue.median / ttft.median) if queue and ttft.median else 0.0
    if share >= NOTABLE_SHARE:
        text += f", {share:.0%} of it not prefill but queue, template and network".replace("%", f"{SPACE}%")
    gaps = measured.get("itl_ms")
    return f"{text}; then one every {span(gaps.median)}{_tail(gaps)}." if gaps else f"{text}."


def _tail(figures: Figures) -> str:
    for part in ("p99", "p95"):
        if (value := runs.figure(figures, part)) is not None:
            return f" ({part} {span(value)})"
    return f" ({span(figures.min)} to {span(figures.max)})"


def _obstacles(record: BenchmarkRecord, stages: pd.DataFrame) -> str:
    """The third sentence: what stood in the way of more, the heaviest first; else that nothing was seen to."""
    goodput = record.summary.goodput if record.summary else None
    obstacles = []
    slots = runs.slots(record)
    if record.header.load.slo and stages["goodput_share"].notna().any():
        share = float((goodput.share if goodput else None) or stages["goodput_share"].min())
        wanted = AND.join(runs.objective_text(name, limit) for name, limit in record.header.load.slo.items())
        obstacles.append(f"{share * 100:.0f}{SPACE}% of the requests met {wanted}")
    asked = max((row.concurrency or 0 for row in record.header.load.planned), default=0)
    if slots and asked > slots:
        obstacles.append(
            f"the server has {plural(slots, 'slot')}, so of {asked} requests at a time {asked - slots} waited"
        )
    flying = float(stages["in_flight"].max())
    if slots and not asked and flying > slots:  # a rate, at which requests begin whether there is a slot or not
        obstacles.append(
            f"{number(flying)} requests were under way on average, more than the server has slots ({slots})"
        )
    share, why = frames.throttled(record)
    if share >= 0.01:
        obstacles.append(f"a GPU was slowed down in {share * 100:.0f}{SPACE}% of the samples ({', '.join(why)})")
    stalls, short = int(stages["stalls"].sum()), int(stages["short"].sum())
    if stalls:
        obstacles.append(f"{plural(stalls, 'gap')} between tokens {'was a stall' if stalls == 1 else 'were stalls'}")
    if short:
        obstacles.append(f"{plural(short, 'answer')} ended before the tokens asked for")
    counted = frames.counted(frames.requests(record))
    cached = int((counted["cached_tokens"] > 0).sum())
    if cached:
        obstacles.append(
            f"{cached} of {plural(len(counted), 'prompt')} came from the prompt cache in part and are no prefill"
        )
    if not obstacles:
        cpu, lag = stages["cpu"].max(), stages["lag_p99_ms"].max()
        if cpu != cpu or not stages["valid"].all():
            return "No stall and no short answer was seen."
        obstacles.append(
            f"nothing was seen to stand in the way: no stall, no short answer, and the generator used {number(cpu)} of "
            f"a core with {span(lag)} of lag (p99)"
        )
    return sentence(obstacles[:3])


def _first_error(record: BenchmarkRecord) -> str:
    error = next((row.error for row in record.requests if row.error), None)
    return f"The first failure: {error.message}" if error else "It ended before the first answer."
