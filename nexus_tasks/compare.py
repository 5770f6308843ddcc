"""The command that holds benchmark runs against one another; for people and as a gate.

    python -m nexus_tasks.compare before after              # run ids or their beginnings, tags, paths, baselines
    python -m nexus_tasks.compare last-good last
    python -m nexus_tasks.compare --save-baseline v1 last
    python -m nexus_tasks.compare --against v1 --fail-on cant-tell

verdicts.py judges, comparable.py refuses, noise.py simulates how often verdicts are right. docs/compare.md explains.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from nexus_tasks.comparison import comparable, verdicts
from nexus_tasks.comparison.comparable import KIND, names
from nexus_tasks.comparison.quantities import QUANTITIES
from nexus_tasks.comparison.verdicts import BETTER, CANT_TELL, SAME, WORSE, Comparison
from nexus_tasks.core.errors import RecordError, UsageError, command_line
from nexus_tasks.records import runs, store
from nexus_tasks.records.store import Record, Row

BASELINES = "baselines.json"
LAST, LAST_GOOD = "last", "last-good"
EXIT_WORSE, EXIT_CANT_TELL = 3, 4
FAIL_ON = {"worse": {WORSE: EXIT_WORSE}, "cant-tell": {WORSE: EXIT_WORSE, CANT_TELL: EXIT_CANT_TELL}}
ADVISED_ROUNDS = 10
_STYLES = {BETTER: "green", WORSE: "bold red", SAME: "", CANT_TELL: "yellow"}
_NOISE = {
    "rounds": "Compared round by round: what drifted meanwhile is the same for both.",
    "repeats": "The drift from run to run is what the repeats show.",
    "assumed": "Two runs at different times: a drift between them is assumed (docs/compare.md).",
}


# --- which runs are meant


def find(text: str, root: Path = store.ROOT, *, other: Sequence[Record] | None = None) -> list[Record]:
    """The runs that a name means.

    Args:
        text: ``last``, ``last-good``, a baseline, a tag, a run id or its beginning, a path, or several of these with
            commas between them. A tag means all runs that have it.
        root: the results folder.
        other: the other side, for ``last-good``: the newest good run of the same target and workload before it.

    Raises:
        UsageError: there is no such run, or several begin like that.
        RecordError: a record can't be read.
    """
    found: dict[str, Record] = {}
    for name in filter(None, (part.strip() for part in text.split(","))):
        for record in _find_one(name, root, other):
            found[record.run_id] = record
    if not found:
        raise UsageError("an empty name names no run", hint="name a run, a tag or a baseline")
    return list(found.values())


def _find_one(name: str, root: Path, other: Sequence[Record] | None) -> list[Record]:
    if name.endswith(".jsonl"):
        record = store.load(Path(name))
        if record.header["kind"] != KIND:
            raise UsageError(f"{name} is a {record.header['kind']}", hint="name the record of a benchmark")
        return [record]
    paths = store.paths(KIND, root)
    if name == LAST:
        return [store.load(paths[-1])]
    if name == LAST_GOOD:
        return [_last_good(paths, other)]
    saved = baselines(root)
    if name in saved:
        wanted = saved[name].split(",")
        gone = [run_id for run_id in wanted if not (root / KIND / f"{run_id}.jsonl").exists()]
        if gone:
            raise UsageError(
                f"baseline {name!r} is run {', '.join(gone)}, which is not in {root / KIND}",
                hint=f"bring it back, or save another one: --save-baseline {name} RUN",
            )
        return [store.load(root / KIND / f"{run_id}.jsonl") for run_id in wanted]
    tagged = [path for path in paths if (_header(path) or {}).get("tag") == name]
    if tagged:
        return [store.load(path) for path in tagged]
    begun = [path for path in paths if path.stem.startswith(name)]
    exact = [path for path in begun if path.stem == name]
    if len(exact or begun) == 1:
        return [store.load((exact or begun)[0])]
    if begun:
        raise UsageError(
            f"{len(begun)} runs begin with {name!r}: {', '.join(path.stem for path in begun[-3:])}",
            hint="give more of the run id",
        )
    latest = ", ".join(path.stem for path in reversed(paths[-3:]))
    raise UsageError(
        f"no run, tag or baseline {name!r} in {root / KIND}",
        hint=f"the latest runs are {latest}; last and last-good work too",
    )


def _last_good(paths: Sequence[Path], other: Sequence[Record] | None) -> Record:
    """The newest good run of the same target and workload before the other side's first."""
    if not other:
        raise UsageError("last-good needs a run to be before", hint="name one run: nox -s compare -- last-good last")
    against = min(other, key=lambda record: record.started_at)
    for path in reversed(paths):
        header = _header(path)
        if header is None or header.get("target") != against.header["target"]:
            continue
        try:
            record = store.load(path)
        except RecordError as error:  # nobody asked for this one
            sys.stderr.write(f"warning: left out: {error.message}\n")
            continue
        summary_row = record.summary
        if (
            record.started_at < against.started_at
            and summary_row is not None
            and summary_row["ok"]
            and summary_row["valid"]
            and runs.same_workload(record, against)
            and runs.same_model(record, against)
        ):
            return record
    raise UsageError(
        f"no good run of {against.header['target']} with this workload and model before {against.run_id}",
        hint="measure one, or name another run",
    )


def _header(path: Path) -> Row | None:
    """The first row of a record, without reading the others; None where it can't be read."""
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            row = json.loads(stream.readline())
    except (OSError, ValueError):
        return None
    return row if isinstance(row, dict) else None


# --- baselines


def baselines(root: Path = store.ROOT) -> dict[str, str]:
    """The saved baselines: name -> run id, several with commas between them.

    Raises:
        RecordError: the file can't be read, or is not what :func:`save_baseline` writes.
    """
    path = root / BASELINES
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise RecordError(
            f"cannot read {path}: {error}", hint="mend it or delete it, and save baselines again"
        ) from error
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise RecordError(f"{path} is not an object of names and run ids", hint="delete it, and save baselines again")
    return found


def check_name(name: str, what: str) -> None:
    """Have a tag or a baseline be nothing that a RUN of the command line means already.

    Raises:
        UsageError: it is ``last``, ``last-good``, the path of a record, or a list.
    """
    if name != name.strip() or not name or name in (LAST, LAST_GOOD) or "," in name or name.endswith(".jsonl"):
        raise UsageError(f"{name!r} can't be the name of {what}", hint="use letters, digits, - and .")


def save_baseline(name: str, records: Record | Sequence[Record], root: Path = store.ROOT) -> None:
    """Remember a run, or repeats of one, under a name.

    Raises:
        UsageError: the name would mean something else, or a run is not good enough to be held against.
        RecordError: the file can't be read or written.
    """
    check_name(name, "a baseline")
    records = [records] if isinstance(records, Record) else records
    for record in records:
        if record.summary is None or not record.summary["ok"] or not record.summary["valid"]:
            raise UsageError(
                f"{record.run_id} is no baseline: {runs.verdict(record)[1].lower()}", hint="save a run without failures"
            )
        if not (root / KIND / f"{record.run_id}.jsonl").exists():
            raise UsageError(f"{record.run_id} is not in {root / KIND}", hint="move its record there first")
    for _, of_target in pairs(records, records):
        comparable.check(of_target, [])
    saved = baselines(root) | {name: ",".join(record.run_id for record in records)}
    path = root / BASELINES
    partial = path.with_name(f".{BASELINES}.{os.getpid()}")
    try:
        partial.write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise RecordError(f"cannot write {path}: {error.strerror}", hint="make the folder writable") from error


# --- for people


def show(found: Comparison, console: Console) -> None:
    """Print a comparison: what was compared, a row for each finding, the verdict, and what to do if it can't tell."""
    for letter, side in (("A", found.a), ("B", found.b)):
        console.print(f"{letter}: {names(side)}", soft_wrap=True, highlight=False, markup=False)
    for line in found.differences:
        console.print(f"   {line}", soft_wrap=True, highlight=False, markup=False)
    for line in found.warnings:
        console.print(f"warning: {line}", soft_wrap=True, highlight=False, markup=False, style="yellow")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("", "A", "B", "change", "between", "verdict"):
        table.add_column(heading, justify="left" if heading in ("", "verdict") else "right", no_wrap=True)
    several = len({finding.level for finding in found.findings}) > 1
    level = None
    for finding in found.findings:
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
    for sentence in sentences(found):
        console.print(sentence, highlight=False, markup=False)


def sentences(found: Comparison) -> list[str]:
    """The verdict in words, where the noise is known from, and what to do where it can't tell."""
    by_verdict = {
        verdict: [one.label.rpartition(",")[0] or one.label for one in found.findings if one.verdict == verdict]
        for verdict in (WORSE, BETTER, CANT_TELL)
    }
    words = {WORSE: "worse", BETTER: "better", CANT_TELL: "can't be told"}
    parts = [
        f"{words[verdict]}: {', '.join(dict.fromkeys(labels))}" for verdict, labels in by_verdict.items() if labels
    ]
    if found.missing:
        parts.append(f"not measured in B: {', '.join(found.missing)}")
    said = [f"B against A: {'; '.join(parts) or 'the same, within the margins'}.", _NOISE[found.noise]]
    needed = [finding.rounds_needed for finding in found.findings if finding.rounds_needed]
    if needed:
        said.append(f"To tell: measure about {max(needed)} rounds, nox -s benchmark -- A B --interleave {max(needed)}.")
    elif by_verdict[CANT_TELL]:
        said.append(
            "To tell: repeat each run and compare the tags, or measure both in turn, "
            f"nox -s benchmark -- A B --interleave {ADVISED_ROUNDS}."
        )
    return said


def _number(value: float) -> str:
    """Four figures, so that columns stay narrow."""
    return (
        f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{3 if abs(value) < 10 else 2 if abs(value) < 100 else 1}f}"
    )


# --- the command


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="nox -s compare --",
        description="Compare benchmark runs: B against A.",
        epilog="A RUN is a run id or its beginning, a tag (all runs that have it, as repeats), a saved baseline, the "
        "path of a record, last, or last-good (the newest good run of the other's target and workload before it); "
        "several with commas between them are repeats. Exit status: 0 nothing is worse, 1 the runs can't be compared, "
        "3 something is worse, 4 something can't be told (only with --fail-on cant-tell). docs/compare.md says more.",
    )
    made.add_argument("run", metavar="RUN", nargs="*", help="A and B; with --against B alone (default: last)")
    made.add_argument("--against", metavar="NAME", help="what B is held against: a baseline or any other RUN")
    made.add_argument("--save-baseline", metavar="NAME", help="remember RUN (default: last) under this name, and stop")
    made.add_argument(
        "--fail-on",
        choices=tuple(FAIL_ON),
        default="worse",
        help="what makes the exit status 3 (worse) or 4 (can't tell) (default: %(default)s)",
    )
    made.add_argument(
        "--across",
        choices=comparable.WHAT_MAY_DIFFER,
        action="append",
        default=[],
        help="what is compared and may differ",
    )
    made.add_argument(
        "--margin",
        metavar="NAME=PERCENT",
        action="append",
        default=[],
        help="changes up to this don't matter: "
        + ", ".join(f"{one.name}={one.margin_percent:g}" for one in QUANTITIES),
    )
    made.add_argument("--json", action="store_true", help="print JSON and nothing else")
    made.add_argument(
        "--simulate", metavar="TRIALS", nargs="?", type=int, const=2000, help="show how often verdicts are right (2000)"
    )
    made.add_argument(
        "--results", type=Path, default=store.ROOT, metavar="DIR", help="where records are (default: %(default)s)"
    )
    return made


def margins_of(texts: Iterable[str]) -> dict[str, float]:
    """The margins that options like ``decode_tps=1`` set.

    Raises:
        UsageError: there is no such quantity, or the margin is no number above 0.
    """
    found = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in {quantity.name for quantity in QUANTITIES}:
            known = ", ".join(quantity.name for quantity in QUANTITIES)
            raise UsageError(f"--margin {text}: {name!r} is not judged", hint=f"use {known}")
        try:
            found[name] = float(value)
        except ValueError:
            found[name] = math.nan
        if not 0 < found[name] < math.inf:
            raise UsageError(f"--margin {text}: not a number above 0", hint=f"write --margin {name}=2, in per cent")
    return found


def pairs(a: Sequence[Record], b: Sequence[Record]) -> list[tuple[list[Record], list[Record]]]:
    """Both sides, target by target where they have several.

    Raises:
        UsageError: the sides have several targets, and not the same ones.
    """
    sides = []
    for side in (a, b):
        by_target: dict[str, list[Record]] = {}
        for record in side:
            by_target.setdefault(record.header["target"], []).append(record)
        sides.append(by_target)
    if len(sides[0]) == len(sides[1]) == 1:
        return [(list(a), list(b))]
    if set(sides[0]) != set(sides[1]):
        raise UsageError(
            f"A has the targets {', '.join(sides[0])}; B has {', '.join(sides[1])}",
            hint="name runs of the same targets",
        )
    return [(records, sides[1][target]) for target, records in sides[0].items()]


def against(name: str, records: Sequence[Record], *, root: Path = store.ROOT, console: Console | None = None) -> int:
    """Hold fresh runs against a baseline, a tag or a run, show it, and give the exit status: 3 when any is worse.

    Raises:
        UsageError, RecordError: as :func:`find` and :func:`judge` do.
    """
    found = [verdicts.judge(a, b) for a, b in pairs(_beside(name, root, records), records)]
    for comparison in found:
        if console:
            show(comparison, console)
    return _status(found, "worse")


def _status(found: Iterable[Comparison], fail_on: str) -> int:
    found = list(found)
    seen = {finding.verdict for comparison in found for finding in comparison.findings}
    if any(comparison.missing for comparison in found):
        seen.add(CANT_TELL)
    return next((status for verdict, status in FAIL_ON[fail_on].items() if verdict in seen), 0)


@command_line
def main(argv: Sequence[str] | None = None) -> int:
    """Compare, or save a baseline, or simulate; the exit status is that of the verdict."""
    options = parser().parse_args(argv)
    console = Console()
    if options.simulate is not None:
        from nexus_tasks.comparison import simulation  # which compares with this module

        if options.simulate < 1:
            raise UsageError(f"--simulate {options.simulate}: no trials", hint="at least 1; rates take about 2000")
        return simulation.show(options.simulate, console)
    if options.save_baseline is not None:
        if options.against or len(options.run) > 1:
            raise UsageError("--save-baseline takes one run", hint="nox -s compare -- --save-baseline NAME RUN")
        records = find(options.run[0] if options.run else LAST, options.results)
        save_baseline(options.save_baseline, records, options.results)
        console.print(
            f"baseline {options.save_baseline}: {names(records)}", soft_wrap=True, highlight=False, markup=False
        )
        return 0
    wanted = [options.against, *(options.run or [LAST])] if options.against else options.run
    if len(wanted) != 2:
        raise UsageError(
            f"a comparison is of two runs, not {len(wanted)}", hint="nox -s compare -- A B, or --against NAME [B]"
        )
    a, b = _both(wanted, options.results)
    margins = margins_of(options.margin)
    found = [verdicts.judge(first, second, across=options.across, margins=margins) for first, second in pairs(a, b)]
    if options.json:
        sys.stdout.write(json.dumps([comparison.as_row() for comparison in found], indent=2) + "\n")
    else:
        for comparison in found:
            show(comparison, console)
    return _status(found, options.fail_on)


def _both(wanted: Sequence[str], root: Path) -> tuple[list[Record], list[Record]]:
    """The runs of A and B. ``last-good`` depends on the other side, so that is found first."""
    if wanted[0] == LAST_GOOD:
        b = find(wanted[1], root)
        return _beside(wanted[0], root, b), b
    a = find(wanted[0], root)
    return a, _beside(wanted[1], root, a)


def _beside(name: str, root: Path, other: Sequence[Record]) -> list[Record]:
    """The runs of one side. ``last-good`` is one for each target of the other side."""
    of_targets = [side for side, _ in pairs(other, other)] if name == LAST_GOOD else [other]
    return [record for side in of_targets for record in find(name, root, other=side)]


if __name__ == "__main__":
    sys.exit(main())
