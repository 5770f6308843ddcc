"""What happened, in the three sentences that open a report: computed from the records, and from nothing else.

stories.benchmark(record)    ["All 72 requests succeeded: at concurrency 8 …", "A first token came after …", "…"]
stories.sweep(record)
"""

from __future__ import annotations

import itertools
import re
import string
from collections.abc import Sequence
from typing import Any

import pandas as pd

from nexus_tasks.comparison import comparable
from nexus_tasks.comparison.verdicts import BETTER, CANT_TELL, SAME, WORSE, Comparison, Finding
from nexus_tasks.core.text import SPACE, listing, number, percent, plural, span
from nexus_tasks.records import runs
from nexus_tasks.records.store import Record, Row
from nexus_tasks.reports import frames

Level = dict[Any, Any]  # a row of frames.stages

AND = " and "
NOTABLE_SHARE = 0.05  # of a time to first token that was not prefill: less is what a network costs


def benchmark(record: Record) -> list[str]:
    """One run: what came out and at which load, how long it took, and what stood in the way."""
    stages = frames.stages(record)
    if not runs.metrics(record):
        return [f"{outcome(record)}.", "No request that counts came to its end, so there is nothing to tell of speed.",
                _first_error(record)]  # fmt: skip
    if len(stages) > 1:
        return [_joined(outcome(record), _growth(record, stages)), _spread(record, stages), _held_back(record, stages)]
    output = _output(record, stages)
    return [_joined(outcome(record), output), _times(runs.metrics(record)), _held_back(record, stages)]


def sweep(record: Record) -> list[str]:
    """A sweep: where throughput stops growing, what happens beyond, and how far the SLOs hold."""
    stages = frames.stages(record)
    measured = stages.dropna(subset=[rate_column(stages)])
    if measured.empty:
        return benchmark(record)
    rate, knee, best = rate_column(stages), knee_of(record, measured), most(measured)
    unit = unit_of(rate)
    first = f"throughput stops growing at {knee['name']}, with {number(knee[rate], unit)}"
    if best["stage"] != knee["stage"]:
        first += f"; the most was {number(best[rate], unit)}, at {best['name']}"
    return [_joined(outcome(record), first), _beyond(record, measured, knee), _objectives(record, measured)]


def outcome(record: Record) -> str:
    """The verdict, with the reasons of a run that is not valid; without a full stop."""
    _, said = runs.verdict(record)
    reasons = _worst_reasons((record.summary or {}).get("reasons") or [])
    return f"{said} ({'; '.join(reasons)})" if reasons else said.removesuffix(", warm-up included")


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


def told(record: Record) -> Row:
    """The stage that the first sentence and the tiles speak of: a sweep's knee, the longest prompts, most output."""
    stages = runs.stages(record)
    frame = frames.stages(record)
    if runs.axis(record) == "prompt_tokens":
        chosen = levels(frame)[-1]["stage"]
    elif runs.swept(record):
        chosen = knee_of(record, frame)["stage"]
    else:
        chosen = most(frame)["stage"]
    return next(row for row in stages if row["stage"] == chosen)


def knee_of(record: Record, stages: pd.DataFrame) -> Level:
    """The stage at which throughput stops growing: as the summary says, else the first within 5 % of the most."""
    named = (record.summary or {}).get("knee")
    rate = stages[rate_column(stages)]
    found = [level for level in levels(stages) if level["stage"] == named]
    found = found or levels(stages[rate >= 0.95 * rate.max()]) or levels(stages)
    return found[0]


def levels(stages: pd.DataFrame) -> list[Level]:
    """The rows of :func:`nexus_tasks.reports.frames.stages`."""
    return [dict(row) for row in stages.to_dict("records")]


def most(stages: pd.DataFrame) -> Level:
    """The level with the highest throughput."""
    rates = stages[rate_column(stages)].fillna(-1.0).to_numpy()
    return levels(stages)[int(rates.argmax())]


def rate_column(stages: pd.DataFrame) -> str:
    """What throughput means here: output tokens per second, or requests where answers have no tokens."""
    return "output_tps" if (stages["output_tps"] > 0).any() else "requests_per_s"


def unit_of(column: str) -> str:
    """The unit of a column of rates."""
    return {"output_tps": "tokens/s", "prompt_tps": "tokens/s", "requests_per_s": "requests/s"}[column]


def meets(record: Record, stages: pd.DataFrame) -> pd.Series:
    """Which stages meet every SLO of the run in 95 % of their requests, or in all where they are few."""
    return stages["goodput_share"] >= 0.95


def sentence(parts: Sequence[str]) -> str:
    """Clauses as one sentence."""
    text = "; ".join(part for part in parts if part)
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _joined(verdict: str, what: str) -> str:
    return f"{verdict}{';' if ':' in verdict else ':'} {what}."


def _output(record: Record, stages: pd.DataFrame) -> str:
    stage = levels(stages)[0]
    load, asked = runs.load_name(record), record.header["load"]["planned"][0].get("rate_per_s")
    shown = ("output_tps", "requests_per_s") if stage["output_tps"] > 0 else ("requests_per_s", "prompt_tps")
    units = {"output_tps": "output tokens/s", "requests_per_s": "requests/s", "prompt_tps": "prompt tokens/s"}
    rates = [number(stage[name], units[name]) for name in shown if stage[name] > 0]
    said = AND.join(rates)
    if not said:  # an old record, which knows no throughput
        speed = runs.metrics(record).get("decode_tps")
        return f"one request at a time decoded {number(speed['median'], 'tokens/s')}" if speed else load
    if asked and stage["requests_per_s"] > 0:
        share = stage["requests_per_s"] / asked * 100
        answered = f"{number(stage['requests_per_s'])} a second were answered ({share:.0f}{SPACE}%)"
        return f"of {number(asked, 'requests/s')} asked, {answered}, with {rates[0]}"
    return f"at {load} the server gave {said}"


def _growth(record: Record, stages: pd.DataFrame) -> str:
    first, *_, last = levels(stages)
    if runs.axis(record) == "prompt_tokens":
        return (
            f"from {first['name']} to {last['name']} the median time to first token went from "
            f"{span(first['ttft_ms_median'])} to {span(last['ttft_ms_median'])}"
        )
    rate = rate_column(stages)
    best = most(stages)
    start = f"{number(first[rate], unit_of(rate))} at {first['name']}"
    return f"throughput went from {start} to {number(best[rate])} at {best['name']}, the most of {len(stages)} levels"


def _spread(record: Record, stages: pd.DataFrame) -> str:
    first, *_, last = levels(stages)
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


def _times(measured: dict[str, Row]) -> str:
    if "ttft_ms" not in measured:
        total = measured.get("total_ms")
        if total is None:  # llama.cpp's own tools measure prefill and decoding by themselves
            speeds = {"prefill": measured.get("prefill_tps"), "decoding": measured.get("decode_tps")}
            known = [f"{name} ran at {number(one['median'], 'tokens/s')}" for name, one in speeds.items() if one]
            return sentence([f"{AND.join(known)} (medians)"]) if known else "No speed was measured."
        return f"A request took {span(total['median'])} in the median{_tail(total)}."
    ttft = measured["ttft_ms"]
    text = f"A first token came after {span(ttft['median'])} in the median{_tail(ttft)}"
    queue = measured.get("queue_ms")
    share = min(1.0, queue["median"] / ttft["median"]) if queue and ttft["median"] else 0.0
    if share >= NOTABLE_SHARE:
        text += f", {share:.0%} of it not prefill but queue, template and network".replace("%", f"{SPACE}%")
    gaps = measured.get("itl_ms")
    return f"{text}; then one every {span(gaps['median'])}{_tail(gaps)}." if gaps else f"{text}."


def _tail(stats: Row) -> str:
    part = next((part for part in ("p99", "p95") if stats.get(part) is not None), None)
    return f" ({part} {span(stats[part])})" if part else f" ({span(stats['min'])} to {span(stats['max'])})"


def _held_back(record: Record, stages: pd.DataFrame) -> str:
    """What stood in the way of more, the heaviest first; else that nothing was seen to."""
    summary = record.summary or {}
    found = []
    slots = runs.slots(record)
    if record.header["load"]["slo"] and stages["goodput_share"].notna().any():
        share = float((summary.get("goodput") or {}).get("share") or stages["goodput_share"].min())
        wanted = AND.join(runs.objective_text(name, limit) for name, limit in record.header["load"]["slo"].items())
        found.append(f"{share * 100:.0f}{SPACE}% of the requests met {wanted}")
    asked = max((row.get("concurrency") or 0 for row in record.header["load"]["planned"]), default=0)
    if slots and asked > slots:
        found.append(f"the server has {plural(slots, 'slot')}, so of {asked} requests at a time {asked - slots} waited")
    flying = float(stages["in_flight"].max())
    if slots and not asked and flying > slots:  # a rate, at which requests begin whether there is a slot or not
        found.append(f"{number(flying)} requests were under way on average, more than the server has slots ({slots})")
    share, why = frames.throttled(record)
    if share >= 0.01:
        found.append(f"a GPU was slowed down in {share * 100:.0f}{SPACE}% of the samples ({', '.join(why)})")
    stalls, short = int(stages["stalls"].sum()), int(stages["short"].sum())
    if stalls:
        found.append(f"{plural(stalls, 'gap')} between tokens {'was a stall' if stalls == 1 else 'were stalls'}")
    if short:
        found.append(f"{plural(short, 'answer')} ended before the tokens asked for")
    counted = frames.counted(frames.requests(record))
    cached = int((counted["cached_tokens"] > 0).sum())
    if cached:
        found.append(
            f"{cached} of {plural(len(counted), 'prompt')} came from the prompt cache in part and are no prefill"
        )
    if not found:
        cpu, lag = stages["cpu"].max(), stages["lag_p99_ms"].max()
        if cpu != cpu or not stages["valid"].all():
            return "No stall and no short answer was seen."
        found.append(
            f"nothing was seen to stand in the way: no stall, no short answer, and the generator used {number(cpu)} of "
            f"a core with {span(lag)} of lag (p99)"
        )
    return sentence(found[:3])


def _beyond(record: Record, stages: pd.DataFrame, knee: Level) -> str:
    slots, last = runs.slots(record), levels(stages)[-1]
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


def _objectives(record: Record, stages: pd.DataFrame) -> str:
    slo = record.header["load"]["slo"]
    if not slo:
        return "No SLO was given, so where latency becomes too long is for the reader to say."
    wanted = AND.join(runs.objective_text(name, limit) for name, limit in slo.items())
    good = stages[meets(record, stages)]
    if good.empty:
        return f"No level met {wanted} in 95{SPACE}% of its requests."
    rate = rate_column(stages)
    best, highest = most(good), levels(good)[-1]
    output = number(best[rate], unit_of(rate))
    gave = f"that is {output}" if best["stage"] == highest["stage"] else f"with at most {output}, at {best['name']}"
    broken = int((~meets(record, stages) & (stages["level"] < highest["level"])).sum())
    text = f"{wanted} held in 95{SPACE}% of the requests up to {highest['name']}, {gave}"
    return f"{text}, but not at {plural(broken, 'level')} below it." if broken else f"{text}."


def _first_error(record: Record) -> str:
    row = next((row for row in record.requests if row["error"]), None)
    return f"The first failure: {row['error']['message']}" if row else "It ended before the first answer."


def compare(sides: Sequence[Sequence[Record]], found: Sequence[Comparison | str]) -> list[str]:
    """Runs against the first: what is worse or better, what is not, and how far to trust that."""
    said = []
    for place, one in enumerate(found, start=1):
        who = letter(place)
        if isinstance(one, str):
            said.append(f"{who} can't be compared with A: {with_letters(one, sides)}")
            continue
        moved = [f"{verdict} in {listing(names)}" for verdict in (WORSE, BETTER) if (names := _moved(one, verdict))]
        said.append(f"{who} is {', '.join(moved)}" if moved else f"{who} is the same as A where it can be told")
    return [sentence(said), _unmoved(found), _trust(sides, found)]


def tuning(sides: Sequence[Sequence[Record]], found: Sequence[Comparison | str]) -> list[str]:
    """A change of configuration: what was changed, what it brought or cost, and what can't be told."""
    before, after = sides[0][-1], sides[-1][-1]
    changed = [
        f"{name} added{f', {new}' if new else ''}"
        if old is None
        else f"{name} removed"
        if new is None
        else f"{name} {old} \N{RIGHTWARDS ARROW} {new}"
        for name, old, new in changed_options(before, after)
    ]
    changed += [line for line in comparable.differences(before, after) if not line.startswith("argv")]
    first = f"Changed: {'; '.join(changed)}." if changed else "Nothing that a record knows of was changed."
    last = found[-1]
    if isinstance(last, str):
        return [first, f"What it brought can't be told: {with_letters(last, sides)}.", _trust(sides, found)]
    gained, lost = _moved(last, BETTER), _moved(last, WORSE)
    parts = [f"it made {listing(gained)} better" if gained else "", f"it made {listing(lost)} worse" if lost else ""]
    second = sentence(parts) or "It made nothing better or worse that can be told."
    return [first, second, _trust(sides, found)]


def counted(record: Record) -> list[Row]:
    """The requests that the figures are made of."""
    return [row for row in record.requests if row["ok"] and row["phase"] == "run"]


def letter(place: int) -> str:
    """What a side of a comparison is called: A, B and so on."""
    return string.ascii_uppercase[place] if place < len(string.ascii_uppercase) else f"#{place + 1}"


def with_letters(text: str, sides: Sequence[Sequence[Record]]) -> str:
    """A text in which runs are called by the letter of their side instead of their ids."""
    for place, side in enumerate(sides):
        for record in side:
            text = text.replace(record.run_id, letter(place))
    return text


def options(record: Record) -> dict[str, str] | None:
    """A server's command line as options and their values; None where it is not known."""
    argv = record.header["server"]["argv"]
    if not argv:
        return None
    found: dict[str, list[str]] = {}
    name = None
    for word in argv[1:]:
        if word.startswith("-") and not word[1:2].isdigit():
            name = word
            found.setdefault(name, [])
        elif name is not None:
            found[name].append(word)
    return {name: " ".join(values) for name, values in found.items()}


def changed_options(before: Record, after: Record) -> list[tuple[str, str | None, str | None]]:
    """The options that are not the same in both: name, value before, value after; None where it was not given."""
    old, new = options(before) or {}, options(after) or {}
    names = [name for name in dict.fromkeys([*old, *new]) if old.get(name) != new.get(name)]
    return [(name, old.get(name), new.get(name)) for name in names]


def models(sides: Sequence[Sequence[Record]], found: Sequence[Comparison | str]) -> list[str]:
    """Models side by side: which is fastest and by how much, how soon each begins, and what of the answers is alike."""
    records = [record for side in sides for record in side]
    names = model_names(records)
    speeds = [(name, runs.metrics(one).get("decode_tps")) for name, one in zip(names, records, strict=True)]
    ranked = sorted(((name, stats["median"]) for name, stats in speeds if stats), key=lambda one: -one[1])
    first = "No model decoded anything."
    invalid = [name for name, one in zip(names, records, strict=True) if one.summary and not one.summary["valid"]]
    if invalid:
        first = f"Speeds can't be compared: those of {', '.join(invalid)} are partly the load generator's (not valid)."
    elif ranked:
        (fast, most), (slow, least) = ranked[0], ranked[-1]
        first = f"{fast} decodes fastest, with {number(most, 'tokens/s')} for each request"
        first += f": {number(most / least)} times as fast as {slow}." if len(ranked) > 1 else "."
    waits = [(name, runs.metrics(one).get("ttft_ms")) for name, one in zip(names, records, strict=True)]
    known = [f"{name} {span(stats['median'])}" for name, stats in waits if stats]
    second = f"The median first token came after: {', '.join(known)}." if known else "None gave a first token."
    answered = [answers(one) for one in records]
    shared = set.intersection(*map(set, answered))
    alike = sum(len({one[key]["answer"] for one in answered}) == 1 for key in shared)
    third = (
        f"All answered {plural(len(shared), 'prompt')} that {'was' if len(shared) == 1 else 'were'} the same for each; "
        f"{alike} of the answers {'is' if alike == 1 else 'are'} alike to the letter."
        if shared
        else "The records keep no answers to the same prompts, so only speed is compared."
    )
    return [first, second, third]


def model_names(records: Sequence[Record]) -> list[str]:
    """What models side by side are called; of those that have the same name, their letters tell them apart."""
    names = [runs.model_name(record) for record in records]
    return [name if names.count(name) == 1 else f"{name} ({letter(place)})" for place, name in enumerate(names)]


def answers(record: Record) -> dict[tuple[str, int], Row]:
    """The first counted row of each prompt that has an answer, by the prompt's key and turn."""
    found: dict[tuple[str, int], Row] = {}
    for row in counted(record):
        if row.get("key") is not None and row.get("answer") is not None:
            found.setdefault((str(row["key"]), row["turn"]), row)
    return found


def history(frame: pd.DataFrame, target: str, marks: Sequence[Row]) -> list[str]:
    """A target over time: how many runs, where its speed went, and what came with the largest step.

    Args:
        frame: as :func:`nexus_tasks.reports.frames.target` makes it.
        target: its name.
        marks: as :func:`nexus_tasks.reports.history_blocks.marks` finds them.
    """
    days = (frame["started_at"].iloc[-1] - frame["started_at"].iloc[0]).total_seconds() / 86400
    when = f"in {plural(round(days), 'day')}" if days >= 1.5 else "within a day" if days < 1 else "in about a day"
    main = frame[frame["series"] == 0]
    one = levels(main)[0]
    first = f"{plural(len(frame), 'run')} of {target} {when}: {len(main)} of {one['workload']} at {one['load']}" + (
        f", {len(frame) - len(main)} of other workloads, loads or models." if len(frame) > len(main) else "."
    )
    name = next((name for name in ("decode_tps_median", "total_ms_median") if main[name].notna().sum() > 1), None)
    if name is None:
        return [first, "No figure was measured twice in the same way.", _changes_said(frame, marks)]
    word, unit = {"decode_tps_median": ("decoding", "tokens/s"), "total_ms_median": ("a whole request", "ms")}[name]
    rows = [row for row in levels(main) if row[name] == row[name] and row["ok"]]
    if len(rows) < 2:
        told = "None" if not rows else "Only one"
        return [
            first,
            f"{told} of these was finished and is valid, so there is no change to tell.",
            _changes_said(frame, marks),
        ]
    moved = (rows[-1][name] / rows[0][name] - 1) * 100
    second = (
        f"{word.capitalize()} went from {number(rows[0][name])} to {number(rows[-1][name], unit)} ({percent(moved)})"
    )
    steps = [(after[name] / before[name] - 1, before, after) for before, after in itertools.pairwise(rows)]
    size, before, after = max(steps, key=lambda step: abs(step[0]))
    clear = (
        after[f"{name[:-7]}_low"] > before[f"{name[:-7]}_high"]
        or after[f"{name[:-7]}_high"] < before[f"{name[:-7]}_low"]
    )
    if clear and len(steps) == 1:
        came = [mark["what"] for mark in marks if before["started_at"] < mark["at"] <= after["started_at"]]
        second += f", with {AND.join(came)}" if came else ", with no change on record"
    elif clear:
        came = [mark["what"] for mark in marks if before["started_at"] < mark["at"] <= after["started_at"]]
        second += f"; the largest step, {percent(size * 100)}, came on {after['started_at']:%Y-%m-%d}"
        second += f" with {AND.join(came)}" if came else ", with no change on record"
    else:
        second += "; no step is larger than what runs differ by themselves"
    return [first, f"{second}.", _changes_said(frame, marks)]


def unchanged(frame: pd.DataFrame) -> str:
    """What was the same in all runs of a target, and what no record knows; ``frame`` is as in :func:`history`."""
    words = {"model": "model", "build": "build", "release": "release", "driver": "driver", "argv_sha256": "options"}
    known = [word for name, word in words.items() if frame[name].dropna().ne("unknown").any()]
    unknown = [word for word in words.values() if word not in known]
    texts = (
        [f"{listing(known).capitalize()} {'were' if len(known) > 1 else 'was'} the same in all runs"] if known else []
    )
    texts += [f"{listing(unknown)} {'are' if len(unknown) > 1 else 'is'} not on record"] if unknown else []
    return sentence(texts)


def _changes_said(frame: pd.DataFrame, marks: Sequence[Row]) -> str:
    if not marks:
        return unchanged(frame)
    times = f"{len(marks)} times" if len(marks) > 1 else "once"
    return f"Model, release, driver or options were changed {times}; the last change was {marks[-1]['what']}."


def _moved(one: Comparison, verdict: str) -> list[str]:
    """What is better or worse, the largest change first: ``decode (-5.2 %, between -5.9 and -4.6)``."""
    several = len({finding.level for finding in one.findings}) > 1
    found = sorted(
        (finding for finding in one.findings if finding.verdict == verdict and finding.change is not None),
        key=lambda finding: -abs(finding.change or 0.0),
    )
    texts = []
    for finding in found[:3]:
        unit = "points" if finding.is_share else "%"
        sure = finding.low is not None and finding.high is not None
        ends = f", between {finding.low:+.1f} and {finding.high:+.1f}" if sure else ""
        level = f" at {finding.level}" if several else ""
        texts.append(f"{_plain(finding)}{level} ({finding.change:+.1f}{SPACE}{unit}{ends})")
    return [*texts, f"{len(found) - 3} more"] if len(found) > 3 else texts


def _plain(finding: Finding) -> str:
    """The name of a figure without its unit."""
    return finding.label.rpartition(",")[0] or finding.label


def _unmoved(found: Sequence[Comparison | str]) -> str:
    names: dict[str, list[str]] = {SAME: [], CANT_TELL: []}
    for one in found:
        for finding in one.findings if not isinstance(one, str) else []:
            if finding.verdict in names:
                names[finding.verdict].append(_plain(finding))
    same, open_ = (list(dict.fromkeys(names[verdict])) for verdict in (SAME, CANT_TELL))
    parts = [f"the same: {', '.join(same)}" if same else "", f"can't be told: {', '.join(open_)}" if open_ else ""]
    return sentence(parts) or "There is nothing that stayed the same."


def _trust(sides: Sequence[Sequence[Record]], found: Sequence[Comparison | str]) -> str:
    judged = [one for one in found if not isinstance(one, str)]
    if not judged:
        return "So there is no verdict."
    doubts = list(dict.fromkeys(with_letters(line, sides) for one in judged for line in one.warnings))
    how = {
        "rounds": "the runs took turns, so drift hit both alike",
        "repeats": "the repeats show how much runs differ by themselves",
        "assumed": "the runs were made at different times, and some drift between them is assumed",
    }[judged[0].noise]
    more = f", and {len(doubts) - 2} more below" if len(doubts) > 2 else ""
    return sentence([how, f"doubtful: {'; '.join(doubts[:2])}{more}" if doubts else "nothing else is known to differ"])
