"""Tables of a comparison's page, some of which stand on pages of tunings and of models too.

compared = sides.read([["a.jsonl"], ["b.jsonl"]])
tables.head(compared)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nexus_tasks.comparison.verdicts import BETTER, CANT_TELL, SAME, WORSE, Comparison, Finding
from nexus_tasks.core.text import MISSING, moment, number
from nexus_tasks.reports.markup import Block, Cell, Column, Rows, fill, note, table
from nexus_tasks.reports.pages.compare import sentences
from nexus_tasks.reports.pages.compare.sides import Compared, letter, with_letters, worst_verdict
from nexus_tasks.views import runs

TONES = {BETTER: "good", WORSE: "bad", SAME: "muted", CANT_TELL: ""}
TILES = 5  # a row of them
_NOISE = {
    "rounds": "Compared round by round, so what drifted meanwhile is the same for both.",
    "repeats": "How runs differ by themselves is what the repeats show.",
    "assumed": "The runs were made at different times, and some drift between them is assumed.",
}


def head(compared: Compared) -> Block:
    """The top of a comparison's page."""
    return page_head(compared, sentences.opening(compared), "Comparison")


def page_head(compared: Compared, texts: Sequence[str], kind: str) -> Block:
    """The top of a page that holds runs against one another: ``kind`` is Comparison, Tuning or Models."""
    first, count = compared.sides[0][0], len(compared.records)
    models = list(dict.fromkeys(runs.model_name(side[0]) for side in compared.sides))
    targets = list(dict.fromkeys(str(record.header.target) for record in compared.records))
    verdict = worst_verdict(compared)
    titles = {"Comparison": f"{count} runs compared", "Tuning": "Before and after", "Models": " / ".join(models)}
    tiles = []
    if kind != "Models" and len(compared.comparisons) == 1 and isinstance(compared.comparisons[0], Comparison):
        tiles = [_tile(finding) for finding in compared.comparisons[0].findings if finding.change is not None][:TILES]
    return fill(
        "blocks/head.html",
        kicker=f"{kind} · {moment(max(record.started_at for record in compared.records))}",
        target=" / ".join(targets[:3]),
        title=titles[kind],
        subtitle=f"on {', '.join(targets[:3])}" + (f" and {len(targets) - 3} more" if len(targets) > 3 else ""),
        subject=f"{runs.sizes(first)} tokens, {runs.load_name(first)}",
        tone="muted" if kind == "Models" else TONES.get(verdict, "bad") or "muted",
        badge=f"{count} {'models' if len(models) == count else 'runs'}" if kind == "Models" else verdict,
        sentences=texts,
        tiles=tiles,
        since="",
    )


def _tile(finding: Finding) -> dict[str, Any]:
    sure = finding.low is not None and finding.high is not None
    ends = f"; {finding.low:+.1f} to {finding.high:+.1f}" if sure else ""
    return {
        "label": finding.label.rpartition(",")[0] or finding.label,
        "value": f"{finding.change:+.1f}",
        "unit": "points" if finding.is_share else "%",
        "detail": f"{number(finding.before)} → {number(finding.after)}{ends}",
        "change": Cell(finding.verdict, TONES[finding.verdict]),
    }


def judged(compared: Compared) -> Block:
    """The verdict on each quantity, with its change's confidence interval; a table for each side against A."""
    parts = []
    for place, one in enumerate(compared.comparisons, start=1):
        if isinstance(one, str):
            why = with_letters(one, compared.sides)
            parts.append(note(f"{letter(place)} can't be compared with A: {why}", "bad").html)
            continue
        several = len({finding.level for finding in one.findings}) > 1
        columns = [
            *([Column("Level", numeric=False)] if several else []),
            Column("Figure", numeric=False),
            Column("A"),
            Column(letter(place)),
            Column("Change"),
            Column("Between", "95 %"),
            Column("Margin", "±"),
            Column("A against itself", "±"),
            Column("Verdict", numeric=False),
        ]
        rows: Rows = []
        for finding in one.findings:
            unit = "pts" if finding.is_share else "%"
            sure = finding.low is not None and finding.high is not None
            rows.append(
                [
                    *([finding.level] if several else []),
                    finding.label + (", %" if finding.is_share else ""),
                    number(finding.before),
                    number(finding.after),
                    MISSING if finding.change is None else f"{finding.change:+.1f} {unit}",
                    f"{finding.low:+.1f} to {finding.high:+.1f}" if sure else MISSING,
                    f"{finding.margin_percent:g} {unit}",
                    MISSING if finding.noise_percent is None else f"{finding.noise_percent:.1f} {unit}",
                    Cell(finding.verdict, TONES[finding.verdict]),
                ]
            )
        caption = (
            "Changes within the margin matter to nobody. The same: the whole interval is within it; better or worse: "
            "the interval lies on one side of zero and not within the margin; else it can't be told. "
            f"{_NOISE[one.noise]}"
        )
        parts.append(table(columns, rows, caption).html)
    return Block("".join(parts))


def sides(compared: Compared) -> Block:
    """The table of the runs: a row each, with what they ran on."""
    columns = [
        Column("", numeric=False), Column("Run", numeric=False), Column("Target", numeric=False),
        Column("Model", numeric=False), Column("Build", numeric=False), Column("Driver", numeric=False),
        Column("Requests"), Column("Verdict", numeric=False),
    ]  # fmt: skip
    rows: Rows = []
    for place, side in enumerate(compared.sides):
        for record in side:
            tone, _ = runs.verdict(record)
            tag = record.header.tag
            rows.append(
                [
                    letter(place),
                    Cell(moment(record.started_at), "when", f"../benchmark/{record.path.stem}.html", tag or ""),
                    str(record.header.target),
                    runs.model_name(record),
                    runs.build_name(record),
                    runs.driver_name(record) or MISSING,
                    f"{len(record.requests):,}",
                    Cell(runs.badge(record), tone),
                ]
            )  # fmt: skip
    return table(columns, rows)


def _apart(compared: Compared) -> str:
    """The differences that two runs have by being two: the moment, the target."""
    targets = {str(record.header.target) for record in compared.records}
    judged = [one for one in compared.comparisons if isinstance(one, Comparison)]
    parts = [] if any(one.noise == "rounds" for one in judged) else ["the moment"]
    parts += ["the target"] if len(targets) > 1 else []
    return f" but {' and '.join(parts)}" if parts else ""


def doubts(compared: Compared) -> Block:
    """The list of what was changed on purpose, and of what else differs and makes the comparison doubtful."""
    lines: list[tuple[str, str]] = []
    for place, one in enumerate(compared.comparisons, start=1):
        if isinstance(one, Comparison):
            to = f"A → {letter(place)}"
            lines += [(f"{to}, changed: {line}", "muted") for line in one.differences]
            doubts_ = [with_letters(line, compared.sides) for line in one.warnings]
            lines += [(f"{to}, doubtful: {line}", "bad") for line in doubts_]
    return fill(
        "blocks/tally.html",
        lines=lines or [(f"Nothing{_apart(compared)} differs, as far as the records know.", "muted")],
    )


def footer(compared: Compared) -> Block:
    """The foot: where the numbers come from."""
    return fill("blocks/runs_footer.html", run_ids=[record.run_id for record in compared.records])
