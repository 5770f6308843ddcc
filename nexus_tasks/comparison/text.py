"""Comparisons in a terminal: the table of findings, and the verdict in sentences."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from nexus_tasks.comparison.comparable import names
from nexus_tasks.comparison.verdicts import BETTER, CANT_TELL, SAME, WORSE, Comparison

ADVISED_ROUNDS = 10
_STYLES = {BETTER: "green", WORSE: "bold red", SAME: "", CANT_TELL: "yellow"}
_NOISE = {
    "rounds": "Compared round by round: what drifted meanwhile is the same for both.",
    "repeats": "The drift from run to run is what the repeats show.",
    "assumed": "Two runs at different times: a drift between them is assumed (docs/compare.md).",
}


def show(comparison: Comparison, console: Console) -> None:
    """Print a comparison: what was compared, a row for each finding, the verdict, and what to do if it can't tell."""
    for letter, side in (("A", comparison.a), ("B", comparison.b)):
        console.print(f"{letter}: {names(side)}", soft_wrap=True, highlight=False, markup=False)
    for line in comparison.differences:
        console.print(f"   {line}", soft_wrap=True, highlight=False, markup=False)
    for line in comparison.warnings:
        console.print(f"warning: {line}", soft_wrap=True, highlight=False, markup=False, style="yellow")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("", "A", "B", "change", "between", "verdict"):
        # Where 80 columns are too few for all, the names are in two lines, and no number is cut.
        table.add_column(heading, justify="left" if heading in ("", "verdict") else "right", no_wrap=heading != "")
    several = len({finding.level for finding in comparison.findings}) > 1
    level = None
    for finding in comparison.findings:
        if several and finding.level != level:
            table.add_row(Text(finding.level, style="bold"))
        level = finding.level
        unit = " pts" if finding.is_share else " %"
        between = (
            "" if finding.low is None or finding.high is None else f"{finding.low:+.1f} … {finding.high:+.1f}{unit}"
        )
        table.add_row(
            finding.label + (", %" if finding.is_share else ""),
            _number(finding.before),
            _number(finding.after),
            "" if finding.change is None else f"{finding.change:+.1f}{unit}",
            between,
            Text(finding.verdict, style=_STYLES[finding.verdict]),
        )
    console.print(table)
    for sentence in sentences(comparison):
        console.print(sentence, highlight=False, markup=False)


def sentences(comparison: Comparison) -> list[str]:
    """The verdict in words, where the noise is known from, and what to do where it can't tell."""
    by_verdict = {
        verdict: [one.label.rpartition(",")[0] or one.label for one in comparison.findings if one.verdict == verdict]
        for verdict in (WORSE, BETTER, CANT_TELL)
    }
    words = {WORSE: "worse", BETTER: "better", CANT_TELL: "can't be told"}
    parts = [
        f"{words[verdict]}: {', '.join(dict.fromkeys(labels))}" for verdict, labels in by_verdict.items() if labels
    ]
    if comparison.missing:
        parts.append(f"not measured in B: {', '.join(comparison.missing)}")
    texts = [f"B against A: {'; '.join(parts) or 'the same, within the margins'}.", _NOISE[comparison.noise]]
    needed = [finding.rounds_needed for finding in comparison.findings if finding.rounds_needed]
    if needed:
        texts.append(
            f"To tell: measure about {max(needed)} rounds, nox -s benchmark -- A B --interleave {max(needed)}."
        )
    elif by_verdict[CANT_TELL]:
        texts.append(
            "To tell: repeat each run and compare the tags, or measure both in turn, "
            f"nox -s benchmark -- A B --interleave {ADVISED_ROUNDS}."
        )
    return texts


def _number(value: float) -> str:
    """Four figures, so that columns stay narrow."""
    return (
        f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{3 if abs(value) < 10 else 2 if abs(value) < 100 else 1}f}"
    )
