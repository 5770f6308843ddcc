"""Sentences that open a batch's page: what came out, how fast and by whom, what stood in the way.

    sentences.opening(record)    ["All 400 rows were answered: …", "An answer took …", "…"]

They are computed from the record, and from nothing else.
"""

from __future__ import annotations

import numpy as np

from nexus_tasks.core.text import SPACE, duration, listing, number, plural, sentence, span
from nexus_tasks.records.batch_rows import EndpointRow
from nexus_tasks.records.store import BatchRecord
from nexus_tasks.views import batch_runs

CLAUSES = 3  # of the last sentence: more, and nobody reads it
NAMED = 3  # endpoints, causes or schemas in a sentence
BUSY, IDLE = 0.97, 0.9  # shares of busy slots: more is as it should be, less stood in the way
CUT = "length"  # the end of an answer that used up its tokens


def opening(record: BatchRecord) -> list[str]:
    """A batch so far: what came out, how long it took and who did it, and what stood in the way."""
    return [f"{_outcome(record)}.", _speed(record), _obstacles(record)]


def worked(seconds: float) -> str:
    """A time of work, with enough digits that a rate made of it is seen to be right."""
    return number(seconds, "s") if seconds < 600 else duration(seconds)


def _outcome(record: BatchRecord) -> str:
    _, verdict = batch_runs.verdict(record)
    summary = record.summary
    if summary is None or not summary.answered:
        return verdict
    answered = "" if summary.ok else f"{summary.answered:,} answered, "
    took = f"in {worked(summary.seconds)}" if summary.seconds > 0 else ""
    rates = [number(summary.items_per_s, f"{batch_runs.noun(record)}s/s")] if summary.items_per_s else []
    if summary.output_tps:
        rates = [number(summary.output_tps, "output tokens/s"), *rates]
    speed = f", {' and '.join(rates)}" if rates else ""
    tokens = f"{summary.output_tokens:,} output tokens " if summary.output_tokens else ""
    return f"{verdict}: {answered}{tokens}{took}{speed}" if took else verdict


def _speed(record: BatchRecord) -> str:
    latencies = np.asarray([row.latency_ms for row in record.requests], dtype=np.float64)
    firsts = np.asarray([row.ttft_ms for row in record.requests if row.ttft_ms is not None], dtype=np.float64)
    if not len(latencies):
        return "No request was answered, so there is nothing to tell of speed."
    clauses = [f"an answer took {span(float(np.median(latencies)))} in the median{_tail(latencies)}"]
    if len(firsts):
        clauses[0] += f", its first token {span(float(np.median(firsts)))}"
    return sentence([*clauses, _shares(record)])


def _tail(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> str:
    return f" (p95 {span(float(np.percentile(values, 95)))})" if len(values) >= 20 else ""


def _shares(record: BatchRecord) -> str:
    """The share of each endpoint in the answers, and how busy its slots were."""
    answered = sorted((row for row in record.endpoints if row.answered), key=lambda row: -row.answered)
    total = sum(row.answered for row in answered)
    if len(answered) == 1:
        return f"{answered[0].endpoint} gave all answers{_busy(answered[0])}"
    told = [f"{row.endpoint} {row.answered / total * 100:.0f}{SPACE}%{_busy(row)}" for row in answered[:NAMED]]
    left = len(answered) - NAMED
    if left > 0:
        told.append(plural(left, "more endpoint"))
    return f"answers came from {listing(told)}" if told else ""


def _busy(row: EndpointRow) -> str:
    """The share of busy slots, where they could have been busier."""
    if row.busy_share is None or not row.slots or row.busy_share > BUSY:
        return ""
    return f" (slots {row.busy_share * 100:.0f}{SPACE}% busy)"


def _obstacles(record: BatchRecord) -> str:
    """The third sentence: what failed and why, what is not as it was asked for, what was done twice."""
    clauses = [_set_aside(record), _invalid(record), _cut(record), _attempts(record), _idle(record), _changed(record)]
    told = [clause for clause in clauses if clause][:CLAUSES]
    summary = record.summary
    if not told and summary is not None and summary.answered:
        return "No attempt failed, and no answer was cut off or missed its schema."
    return sentence(told) or "No attempt failed."


def _set_aside(record: BatchRecord) -> str:
    causes = [row for row in record.failures if row.set_aside]
    told = [f"{batch_runs.cause(row.kind)} ({row.set_aside:,})" for row in causes[:NAMED]]
    more = len(causes) - NAMED
    if more > 0:
        told.append(f"{more} more")
    return f"failed for: {', '.join(told)}" if told else ""


def _invalid(record: BatchRecord) -> str:
    checked, valid = sum(row.checked for row in record.schemas), sum(row.valid for row in record.schemas)
    if valid == checked:
        return ""
    return f"{checked - valid:,} of {checked:,} answers do not satisfy their schema"


def _cut(record: BatchRecord) -> str:
    cut = record.summary.finish_reasons.get(CUT, 0) if record.summary else 0
    return f"{plural(cut, 'answer')} {'was' if cut == 1 else 'were'} cut off by the limit of tokens" if cut else ""


def _attempts(record: BatchRecord) -> str:
    causes = sorted((row for row in record.failures if row.attempts), key=lambda row: -row.attempts)
    attempts = sum(row.attempts for row in causes)
    if not attempts:
        return ""
    first = batch_runs.cause(causes[0].kind)
    why = f"most by {first}" if len(causes) > 1 else first
    return f"{plural(attempts, 'attempt')} failed and {'was' if attempts == 1 else 'were'} made again ({why})"


def _idle(record: BatchRecord) -> str:
    idle = [row for row in record.endpoints if row.busy_share is not None and row.busy_share < IDLE and row.answered]
    if not idle:
        return ""
    worst = min(idle, key=lambda row: row.busy_share or 0.0)
    return f"the slots of {worst.endpoint} were {(worst.busy_share or 0.0) * 100:.0f}{SPACE}% busy while rows waited"


def _changed(record: BatchRecord) -> str:
    by_endpoint: dict[str, set[str | None]] = {}
    for row in record.servers:
        if row.answered:
            by_endpoint.setdefault(row.endpoint, set()).add(row.build)
    changed = [name for name, builds in by_endpoint.items() if len(builds) > 1]
    return f"the build changed meanwhile on {listing(changed[:NAMED])}" if changed else ""
