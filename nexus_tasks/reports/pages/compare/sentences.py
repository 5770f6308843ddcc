"""Sentences that open a comparison's page: what is worse or better, what is not, and how far to trust that.

sentences.opening(compared)
"""

from __future__ import annotations

from nexus_tasks.comparison.verdicts import BETTER, CANT_TELL, SAME, WORSE, Comparison, Finding
from nexus_tasks.core.text import SPACE, listing, sentence
from nexus_tasks.reports.pages.compare.sides import Compared, letter, with_letters


def opening(compared: Compared) -> list[str]:
    """Runs against the first: what is worse or better, what is not, and how far to trust that."""
    clauses = []
    for place, one in enumerate(compared.comparisons, start=1):
        who = letter(place)
        if isinstance(one, str):
            clauses.append(f"{who} can't be compared with A: {with_letters(one, compared.sides)}")
            continue
        parts = [f"{verdict} in {listing(names)}" for verdict in (WORSE, BETTER) if (names := movements(one, verdict))]
        clauses.append(f"{who} is {', '.join(parts)}" if parts else f"{who} is the same as A where it can be told")
    return [sentence(clauses), _unmoved(compared), trust(compared)]


def movements(one: Comparison, verdict: str) -> list[str]:
    """The figures with this verdict, the largest change first: ``decode (-5.2 %, between -5.9 and -4.6)``."""
    several = len({finding.level for finding in one.findings}) > 1
    moved = sorted(
        (finding for finding in one.findings if finding.verdict == verdict and finding.change is not None),
        key=lambda finding: -abs(finding.change or 0.0),
    )
    texts = []
    for finding in moved[:3]:
        unit = "points" if finding.is_share else "%"
        sure = finding.low is not None and finding.high is not None
        ends = f", between {finding.low:+.1f} and {finding.high:+.1f}" if sure else ""
        level = f" at {finding.level}" if several else ""
        texts.append(f"{_plain(finding)}{level} ({finding.change:+.1f}{SPACE}{unit}{ends})")
    return [*texts, f"{len(moved) - 3} more"] if len(moved) > 3 else texts


def _plain(finding: Finding) -> str:
    """The name of a figure without its unit."""
    return finding.label.rpartition(",")[0] or finding.label


def _unmoved(compared: Compared) -> str:
    names: dict[str, list[str]] = {SAME: [], CANT_TELL: []}
    for one in compared.comparisons:
        for finding in one.findings if not isinstance(one, str) else []:
            if finding.verdict in names:
                names[finding.verdict].append(_plain(finding))
    same, open_ = (list(dict.fromkeys(names[verdict])) for verdict in (SAME, CANT_TELL))
    parts = [f"the same: {', '.join(same)}" if same else "", f"can't be told: {', '.join(open_)}" if open_ else ""]
    return sentence(parts) or "There is nothing that stayed the same."


def trust(compared: Compared) -> str:
    """The sentence about how far to trust the verdicts: how runs differ by themselves, and what else differs."""
    judged = [one for one in compared.comparisons if not isinstance(one, str)]
    if not judged:
        return "So there is no verdict."
    doubts = list(dict.fromkeys(with_letters(line, compared.sides) for one in judged for line in one.warnings))
    how = {
        "rounds": "the runs took turns, so drift hit both alike",
        "repeats": "the repeats show how much runs differ by themselves",
        "assumed": "the runs were made at different times, and some drift between them is assumed",
    }[judged[0].noise]
    more = f", and {len(doubts) - 2} more below" if len(doubts) > 2 else ""
    return sentence([how, f"doubtful: {'; '.join(doubts[:2])}{more}" if doubts else "nothing else is known to differ"])
