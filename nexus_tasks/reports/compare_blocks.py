"""The tables and figures of pages that hold runs against one another: comparisons, tunings, models side by side.

    compared = compare_blocks.read([["a.jsonl"], ["b.jsonl"]])
    compare_blocks.head(compared)

Runs come in sides, A, B and so on: the runs of a side are repeats of one measurement. Every side is compared with A.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from nexus_tasks.comparison import comparable, verdicts
from nexus_tasks.comparison.verdicts import BETTER, CANT_TELL, SAME, WORSE, Comparison, Finding
from nexus_tasks.core.errors import UsageError
from nexus_tasks.core.text import MISSING, interval, moment, number, percent
from nexus_tasks.records import runs, store
from nexus_tasks.records.store import Record, Row
from nexus_tasks.reports import frames, stories
from nexus_tasks.reports.blocks import METRICS
from nexus_tasks.reports.figures import BAD, BLUE, GREEN, INK, ORANGE, SERIES, WIDE_IN, block, drawing
from nexus_tasks.reports.frames import Floats
from nexus_tasks.reports.markup import Block, Cell, Column, Rows, fill, note, table

TONES = {BETTER: "good", WORSE: "bad", SAME: "muted", CANT_TELL: ""}
MARKS = {BETTER: ("^", GREEN, True), WORSE: ("v", BAD, True), SAME: ("o", INK, True), CANT_TELL: ("D", ORANGE, False)}
CURVES = {"ttft_ms": "Time to first token, ms", "itl_ms": "Inter-token latency, ms", "total_ms": "Whole request, ms"}
QUANTILES = np.linspace(0, 1, 201)
TILES = 5  # a row of them
ANSWERS, ASKED = 12, 600  # more prompts, or more characters of one, and nobody reads on


@dataclass(frozen=True)
class Compared:
    """Sides of a comparison, and what each but the first is against the first: a comparison, or why there is none."""

    sides: Sequence[Sequence[Record]]
    found: Sequence[Comparison | str]

    @property
    def records(self) -> list[Record]:
        return [record for side in self.sides for record in side]


def read(sides: Sequence[Sequence[str]], across: Collection[str] = ()) -> Compared:
    """The sides of a comparison by the paths of their records; sides that can't be compared say why.

    Raises:
        RecordError: a record is damaged.
    """
    loaded = [[store.load(Path(path)) for path in side] for side in sides]
    found: list[Comparison | str] = []
    for side in loaded[1:]:
        try:
            found.append(verdicts.judge(loaded[0], side, across=across))
        except UsageError as error:
            found.append(error.message)
    return Compared(loaded, found)


def head(compared: Compared) -> Block:
    """The top of a comparison's page."""
    return _head(compared, stories.compare(compared.sides, compared.found), "Comparison")


def tuning_head(compared: Compared) -> Block:
    """The top of a tuning's page: what was changed, what it brought and what it cost."""
    return _head(compared, stories.tuning(compared.sides, compared.found), "Tuning")


def models_head(compared: Compared) -> Block:
    """The top of a page that shows models side by side."""
    return _head(compared, stories.models(compared.sides, compared.found), "Models")


def _head(compared: Compared, sentences: Sequence[str], kind: str) -> Block:
    first, count = compared.sides[0][0], len(compared.records)
    models = list(dict.fromkeys(runs.model_name(side[0]) for side in compared.sides))
    targets = list(dict.fromkeys(str(record.header["target"]) for record in compared.records))
    verdict = _verdict(compared)
    titles = {"Comparison": f"{count} runs compared", "Tuning": "Before and after", "Models": " / ".join(models)}
    tiles = []
    if kind != "Models" and len(compared.found) == 1 and isinstance(compared.found[0], Comparison):
        tiles = [_tile(finding) for finding in compared.found[0].findings if finding.change is not None][:TILES]
    return fill(
        "blocks/head.html",
        kicker=f"{kind} · {moment(max(record.started_at for record in compared.records))}",
        target=" / ".join(targets[:3]),
        title=titles[kind],
        subtitle=f"on {', '.join(targets[:3])}" + (f" and {len(targets) - 3} more" if len(targets) > 3 else ""),
        subject=f"{runs.sizes(first)} tokens, {runs.load_name(first)}",
        tone="muted" if kind == "Models" else TONES.get(verdict, "bad") or "muted",
        badge=f"{count} {'models' if len(models) == count else 'runs'}" if kind == "Models" else verdict,
        sentences=sentences,
        tiles=tiles,
        since="",
    )


def _verdict(compared: Compared) -> str:
    """The worst of all, in the words of a gate."""
    said = [one.verdict if isinstance(one, Comparison) else "not comparable" for one in compared.found]
    return next((word for word in ("not comparable", WORSE, CANT_TELL, BETTER) if word in said), SAME)


def _tile(finding: Finding) -> Row:
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
    """What became of each quantity, with the interval of its change; a table for each side that is compared with A."""
    parts = []
    for place, one in enumerate(compared.found, start=1):
        if isinstance(one, str):
            why = stories.with_letters(one, compared.sides)
            parts.append(note(f"{stories.letter(place)} can't be compared with A: {why}", "bad").html)
            continue
        several = len({finding.level for finding in one.findings}) > 1
        columns = [
            *([Column("Level", numeric=False)] if several else []),
            Column("Figure", numeric=False),
            Column("A"),
            Column(stories.letter(place)),
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


_NOISE = {
    "rounds": "Compared round by round, so what drifted meanwhile is the same for both.",
    "repeats": "How runs differ by themselves is what the repeats show.",
    "assumed": "The runs were made at different times, and some drift between them is assumed.",
}


def effects(compared: Compared) -> Block:
    """The change of each quantity with its interval, around the margin within which it matters to nobody."""
    plots = []
    for place, one in enumerate(compared.found, start=1):
        findings = [finding for finding in getattr(one, "findings", []) if finding.change is not None]
        if not findings:
            continue
        several = len({finding.level for finding in findings}) > 1
        with drawing(WIDE_IN, 0.8 + 0.28 * len(findings)) as figure:
            axes = figure.subplots()
            for row, finding in enumerate(findings):
                marker, colour, filled = MARKS[finding.verdict]
                margin = finding.margin_percent
                axes.barh(row, 2 * margin, left=-margin, height=0.8, color=INK, alpha=0.12, linewidth=0)
                if finding.low is not None and finding.high is not None:
                    axes.plot([finding.low, finding.high], [row, row], "-", color=colour, linewidth=2.2)
                axes.plot(finding.change, row, marker, color=colour, markersize=7, markeredgecolor=colour,
                          markerfacecolor=colour if filled else "none")  # fmt: skip
                axes.annotate(finding.verdict, (1, row), xycoords=("axes fraction", "data"), xytext=(6, 0), va="center",
                              textcoords="offset points", color=colour, fontsize=8.5)  # fmt: skip
            axes.axvline(0, color=INK, linewidth=0.8)
            names = [finding.label.rpartition(",")[0] or finding.label for finding in findings]
            axes.set_yticks(
                range(len(findings)),
                [f"{name}, {each.level}" if several else name for name, each in zip(names, findings, strict=True)],
            )
            axes.set_ylim(len(findings) - 0.5, -0.5)
            ends = [
                abs(end) for each in findings for end in (each.low, each.high, each.margin_percent) if end is not None
            ]
            told = max(abs(one.change or 0.0) for one in findings), max(one.margin_percent for one in findings)
            reach = min(
                max(ends) * 1.1, max(1.5 * told[0], 2.5 * told[1])
            )  # one wide interval must not hide the others
            axes.set_xlim(-reach, reach)
            axes.grid(False, axis="y")
            axes.set_xlabel(f"change from A to {stories.letter(place)}, % (of shares: percentage points)")
            said = ", ".join(f"{name} {percent(each.change)}" for name, each in zip(names, findings, strict=True))
            plots.append(
                block(
                    figure, f"effects-{place}", alt=f"Changes from A to {stories.letter(place)}: {said}.",
                    caption="Lines are intervals at 95 % of confidence of all changes together, grey is the margin; a "
                    "line may leave the frame. More is better for rates, less for times.",
                ).html
            )  # fmt: skip
    return Block("".join(plots))


def curves(compared: Compared) -> Block:
    """Which share of the requests, and of the gaps between tokens, took at most how long."""
    shown = {name: title for name, title in CURVES.items() if len(_points(compared.sides[0], name))}
    shown = dict(list(shown.items())[:2])
    if not shown:
        return Block("")
    names = _names(compared)
    with drawing(WIDE_IN, 3.0) as figure:
        grid = figure.subplots(1, len(shown), squeeze=False)[0]
        for axes, (name, title) in zip(grid, shown.items(), strict=True):
            drawn = []
            for place, side in enumerate(compared.sides):
                points = _points(side, name)
                if len(points):
                    colour = SERIES[place % len(SERIES)]
                    style = ("-", "--", ":", "-.")[place % 4]
                    axes.plot(np.quantile(points, QUANTILES), QUANTILES * 100, style, color=colour, label=names[place])
                    drawn.append(points)
            _curve_axes(axes, title, drawn)
            axes.legend(loc="lower right")
        grid[0].set_ylabel("% took at most this long")
        metric, title = next(iter(shown.items()))
        taken = {names[place]: _points(side, metric) for place, side in enumerate(compared.sides)}
        medians = [f"{name} {number(float(np.median(some)), 'ms')}" for name, some in taken.items() if len(some)]
        several = any(len(runs.stages(record)) > 1 for record in compared.records)
        return block(
            figure,
            "curves",
            alt=f"Medians: {title.partition(',')[0].lower()} {', '.join(medians)}.",
            caption="A curve further to the left is faster; one that leans has a wider spread."
            + (" All levels of load together." if several else ""),
        )


def _names(compared: Compared) -> list[str]:
    """What the sides are called: their models where each has its own, else letters."""
    models = [runs.model_name(side[0]) for side in compared.sides]
    return models if len(set(models)) == len(models) else [stories.letter(place) for place in range(len(models))]


def _curve_axes(axes: Axes, title: str, drawn: Sequence[Floats]) -> None:
    low = min(float(np.quantile(points, 0.005)) for points in drawn)
    high = max(float(np.quantile(points, 0.995)) for points in drawn)
    pad = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    axes.set_xlim(max(0.0, low - pad), high + pad)
    axes.set_ylim(0, 100)
    axes.set_title(title)


def _points(side: Sequence[Record], name: str) -> Floats:
    if name == "itl_ms":
        return np.concatenate([frames.inter_token_ms(record) for record in side])
    found = [row.get(name) for record in side for row in stories.counted(record)]
    return np.array([value for value in found if value is not None], dtype=np.float64)


def sides(compared: Compared) -> Block:
    """Which runs were compared: a row each, with what they ran on."""
    columns = [
        Column("", numeric=False), Column("Run", numeric=False), Column("Target", numeric=False),
        Column("Model", numeric=False), Column("Build", numeric=False), Column("Driver", numeric=False),
        Column("Requests"), Column("Verdict", numeric=False),
    ]  # fmt: skip
    rows: Rows = []
    for place, side in enumerate(compared.sides):
        for record in side:
            tone, _ = runs.verdict(record)
            tag = record.header["tag"]
            rows.append(
                [
                    stories.letter(place),
                    Cell(moment(record.started_at), "when", f"../benchmark/{record.path.stem}.html", tag or ""),
                    str(record.header["target"]),
                    runs.model_name(record),
                    runs.build_name(record),
                    runs.driver_name(record) or MISSING,
                    f"{len(record.requests):,}",
                    Cell(runs.badge(record), tone),
                ]
            )  # fmt: skip
    return table(columns, rows)


def _apart(compared: Compared) -> str:
    """What comparable runs differ in by being two: the moment, the target."""
    targets = {str(record.header["target"]) for record in compared.records}
    judged = [one for one in compared.found if isinstance(one, Comparison)]
    parts = [] if any(one.noise == "rounds" for one in judged) else ["the moment"]
    parts += ["the target"] if len(targets) > 1 else []
    return f" but {' and '.join(parts)}" if parts else ""


def doubts(compared: Compared) -> Block:
    """What was changed on purpose, and what else differs and makes the comparison doubtful."""
    lines: list[tuple[str, str]] = []
    for place, one in enumerate(compared.found, start=1):
        if isinstance(one, Comparison):
            to = f"A → {stories.letter(place)}"
            lines += [(f"{to}, changed: {line}", "muted") for line in one.differences]
            doubts_ = [stories.with_letters(line, compared.sides) for line in one.warnings]
            lines += [(f"{to}, doubtful: {line}", "bad") for line in doubts_]
    return fill(
        "blocks/tally.html",
        lines=lines or [(f"Nothing{_apart(compared)} differs, as far as the records know.", "muted")],
    )


def options(compared: Compared) -> Block:
    """The server's options before and after, those that changed first."""
    before, after = compared.sides[0][-1], compared.sides[-1][-1]
    old, new = stories.options(before), stories.options(after)
    if old is None or new is None:
        return note("A record doesn't know the server's command line, so what was changed there is not known.")
    columns = [Column("Option", numeric=False), Column("Before", numeric=False), Column("After", numeric=False)]
    changed: Rows = [[name, _value(one), _value(other)] for name, one, other in stories.changed_options(before, after)]
    kept: Rows = [[Cell(name, "muted"), value, value] for name, value in old.items() if new.get(name) == value]
    parts = [table(columns, changed) if changed else note("The command line is the same in both.")]
    if kept:
        same = table(columns, kept).html
        parts.append(fill("blocks/folded.html", title=f"{len(kept)} options that are the same", html=same))
    others = [line for line in comparable.differences(before, after) if not line.startswith("argv")]
    parts += [note(f"Also changed: {line}") for line in others]
    return Block("".join(part.html for part in parts))


def _value(text: str | None) -> str:
    return MISSING if text is None else text or "given"


def speeds(compared: Compared) -> Block:
    """Each run's speed in a row, with intervals; the best of a column stands out."""
    shown = [name for name in ("ttft_ms", "itl_ms", "decode_tps", "prefill_tps", "total_ms")
             if any(name in runs.metrics(record) for record in compared.records)]  # fmt: skip
    titles = {
        "ttft_ms": "TTFT",
        "itl_ms": "ITL",
        "decode_tps": "Decode",
        "prefill_tps": "Prefill",
        "total_ms": "Request",
    }
    columns = [
        Column("Model", numeric=False), Column("Size", "GiB"),
        *(Column(titles[name], f"median, {METRICS[name][1]}") for name in shown),
        Column("Output", "tokens/s, all"), Column("Answer", "median, tokens"), Column("Failed"),
    ]  # fmt: skip
    rows: Rows = []
    best = {name: _best(compared, name) for name in shown}
    for label, record in zip(stories.model_names(compared.records), compared.records, strict=True):
        found = runs.metrics(record)
        cells = []
        for name in shown:
            stats = found.get(name) or {}
            sure = interval((stats.get("ci") or {}).get("median"))
            cells.append(Cell(number(stats.get("median")), "good" if record is best[name] else "", detail=sure))
        stage, size = stories.told(record), record.header["model"]["size_bytes"]
        lengths = frames.counted(frames.requests(record))["output_tokens"].median()
        rows.append(
            [
                Cell(
                    label,
                    link=f"../benchmark/{record.path.stem}.html",
                    detail=runs.build_name(record),
                ),
                number(size / 2**30 if size else None),
                *cells,
                number((stage["throughput"] or {}).get("output_tps")),
                MISSING if lengths != lengths else f"{lengths:,.0f}",
                Cell(f"{stage['failed']:,}", "bad" if stage["failed"] else ""),
            ]
        )
    return table(
        columns,
        rows,
        "Green is the best of a column, where its interval overlaps no other. Below a median is its interval at 95 % "
        "of confidence.",
    )


def _best(compared: Compared, name: str) -> Record | None:
    """The run with the best median, where it is distinct from all others."""
    known = [(record, runs.metrics(record)[name]) for record in compared.records if name in runs.metrics(record)]
    known.sort(key=lambda one: float(one[1]["median"]), reverse=METRICS[name][2])
    (first, stats), *others = known
    low, high = frames.likely(stats)
    apart = all(end[1] < low or end[0] > high for end in (frames.likely(other) for _, other in others))
    return first if apart else None


def dots(compared: Compared) -> Block:
    """The main medians of each model as marks with their intervals, beneath one another."""
    shown = [name for name in ("decode_tps", "ttft_ms", "prefill_tps")
             if any(name in runs.metrics(record) for record in compared.records)]  # fmt: skip
    if not shown:
        return Block("")
    names = stories.model_names(compared.records)
    with drawing(WIDE_IN, 0.9 + 0.34 * len(names)) as figure:
        grid = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        for axes, name in zip(grid, shown, strict=True):
            most = 0.0
            for row, record in enumerate(compared.records):
                stats = runs.metrics(record).get(name)
                if stats:
                    low, high = frames.likely(stats)
                    axes.plot([low, high], [row, row], "-", color=BLUE, linewidth=3, alpha=0.45)
                    axes.plot(stats["median"], row, "o", color=BLUE, markersize=6)
                    axes.annotate(number(stats["median"]), (stats["median"], row), xytext=(0, 6), ha="center",
                                  textcoords="offset points", fontsize=8.5)  # fmt: skip
                    most = max(most, high)
            axes.set_xlim(0, most * 1.15)
            axes.set_title(f"{METRICS[name][0].removesuffix(' of a request')}, {METRICS[name][1]}")
            axes.grid(False, axis="y")
        grid[0].set_yticks(range(len(names)), names)
        grid[0].set_ylim(len(names) - 0.5, -0.7)
        speeds_ = [f"{name} {number((runs.metrics(one).get(shown[0]) or {}).get('median'))}"
                   for name, one in zip(names, compared.records, strict=True)]  # fmt: skip
        return block(
            figure, "dots", alt=f"{METRICS[shown[0]][0]}: {', '.join(speeds_)} {METRICS[shown[0]][1]}.",
            caption="Medians with their intervals at 95 % of confidence (with few requests: their range).",
        )  # fmt: skip


def answers(compared: Compared, limit: int = ANSWERS) -> Block:
    """The answers to the same prompts, beside each other."""
    by_run = [stories.answers(record) for record in compared.records]
    common = sorted(set.intersection(*map(set, by_run)), key=_in_order)
    if not common:
        return note("The records hold no answers to the same prompts. Measure a file of prompts with --keep-answers.")
    names = stories.model_names(compared.records)
    prompts = []
    for key, turn in common[:limit]:
        rows = [found[key, turn] for found in by_run]
        asked = rows[0].get("prompt") or ""
        prompts.append(
            {
                "key": key + (f", turn {turn + 1}" if turn else ""),
                "asked": asked[:ASKED] + ("…" if len(asked) > ASKED else ""),
                "answers": [
                    {"name": name, "text": str(row["answer"]), "facts": _facts(row)}
                    for name, row in zip(names, rows, strict=True)
                ],
            }
        )
    return fill("blocks/answers.html", prompts=prompts, left_out=len(common) - len(prompts))


def _in_order(prompt: tuple[str, int]) -> tuple[int, str, int]:
    """The order of a file: its lines by number, and names by the alphabet."""
    key, turn = prompt
    return (int(key) if key.isdecimal() else 0, key, turn)


def _facts(row: Row) -> str:
    facts = [
        f"{row['output_tokens'] or 0:,} tokens",
        f"TTFT {number(row['ttft_ms'], 'ms')}" if row["ttft_ms"] is not None else "",
        number(row["decode_tps"], "tokens/s") if row["decode_tps"] else "",
        str(row["finish_reason"] or ""),
    ]
    return ", ".join(filter(None, facts))


def footer(compared: Compared) -> Block:
    """Where the numbers come from."""
    return fill("blocks/runs_footer.html", run_ids=[record.run_id for record in compared.records])
