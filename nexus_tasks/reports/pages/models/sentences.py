"""Sentences that open a page of models: which is fastest, how soon each begins, what answers are alike.

sentences.opening(compared)
"""

from __future__ import annotations

from nexus_tasks.core.text import number, plural, span
from nexus_tasks.reports.pages.compare.sides import Compared, model_names
from nexus_tasks.reports.requests import answers_by_prompt
from nexus_tasks.views import runs


def opening(compared: Compared) -> list[str]:
    """Models side by side: which is fastest and by how much, how soon each begins, and what of the answers is alike."""
    records = compared.records
    names = model_names(records)
    speeds = [(name, runs.metrics(one).get("decode_tps")) for name, one in zip(names, records, strict=True)]
    ranked = sorted(((name, stats.median) for name, stats in speeds if stats), key=lambda one: -one[1])
    first = "No model decoded anything."
    invalid = [name for name, one in zip(names, records, strict=True) if one.summary and not one.summary.valid]
    if invalid:
        first = f"Speeds can't be compared: those of {', '.join(invalid)} are partly the load generator's (not valid)."
    elif ranked:
        (fast, most), (slow, least) = ranked[0], ranked[-1]
        first = f"{fast} decodes fastest, with {number(most, 'tokens/s')} for each request"
        first += f": {number(most / least)} times as fast as {slow}." if len(ranked) > 1 else "."
    waits = [(name, runs.metrics(one).get("ttft_ms")) for name, one in zip(names, records, strict=True)]
    known = [f"{name} {span(stats.median)}" for name, stats in waits if stats]
    second = f"The median first token came after: {', '.join(known)}." if known else "None gave a first token."
    answered = [answers_by_prompt(one) for one in records]
    shared = set.intersection(*map(set, answered))
    alike = sum(len({one[key].answer for one in answered}) == 1 for key in shared)
    third = (
        f"All answered {plural(len(shared), 'prompt')} that {'was' if len(shared) == 1 else 'were'} the same for each; "
        f"{alike} of the answers {'is' if alike == 1 else 'are'} alike to the letter."
        if shared
        else "The records keep no answers to the same prompts, so only speed is compared."
    )
    return [first, second, third]
