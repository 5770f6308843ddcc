"""The memory that a llama-server will take, from the header of its model, before anything is downloaded.

    python -m nexus_tasks.plan gpt-oss-20b-mxfp4 --gpus 24576,16384 -c 65536 -np 4
    python -m nexus_tasks.plan models/m.gguf --gpus 24576 --json -ngl 20 --n-cpu-moe 12
    python -m nexus_tasks.plan -l gpu-hosts        # all that the inventory declares

MODEL is a path, an http(s) address, REPO:FILE of the Hugging Face hub, or a profile of the catalogue, which brings its
recommended options. ``--gpus`` has the free MiB of each GPU; without it everything is planned for the host. All other
options are llama-server's own, behind MODEL. docs/memory.md says what the figures are.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from nexus_tasks.core.errors import UsageError, command_line
from nexus_tasks.hostlib import argv as words_of
from nexus_tasks.hostlib.terminal_text import plain
from nexus_tasks.model_store import plan_text
from nexus_tasks.model_store.cross_check import Checked, cross_check
from nexus_tasks.model_store.memory import Gpu, MemoryPlan
from nexus_tasks.model_store.model_sources import catalogue_of, open_model
from nexus_tasks.model_store.planning import Planning
from nexus_tasks.model_store.remedies import Remedy
from nexus_tasks.records import store

MAX_GPUS = 64


def free_memory(text: str) -> list[Gpu]:
    """GPUs from the free MiB of each: ``24576,16384``."""
    try:
        free = [float(part) for part in text.split(",")] if text.strip() else []
    except ValueError:
        free = [-1.0]
    if len(free) > MAX_GPUS or not all(0 <= one < float("inf") for one in free):
        raise argparse.ArgumentTypeError(f"must be the free MiB of each GPU, as in 24576,16384, not {text!r}")
    return [Gpu(f"CUDA{number}", one) for number, one in enumerate(free)]


def mebibytes(text: str) -> float:
    """A number of MiB."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number of MiB, as in 65536, not {text!r}")
    return value


def _parser() -> tuple[argparse.ArgumentParser, Mapping[str, bool]]:
    """The command's parser, and of each of its flags whether a value follows."""
    parser = argparse.ArgumentParser(
        prog="nox -s plan --",
        usage="%(prog)s MODEL|-l PATTERN [--gpus MIB,…] [--host-memory MIB] [--engine ENGINE] [--on HOST] [--json]\n"
        "       [options of llama-server]",
        description="Tell what a llama-server will take of each GPU and of the host, from its model's header.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "model", metavar="MODEL", nargs="?", help="a path, an address, REPO:FILE of the hub, or a profile"
    )
    own = [
        parser.add_argument(
            "-l", "--limit", metavar="PATTERN", help="hosts of the inventory, for all that they declare"
        ),
        parser.add_argument("--gpus", type=free_memory, default=[], metavar="MIB,…", help="free MiB of each GPU"),
        parser.add_argument("--host-memory", type=mebibytes, metavar="MIB", help="free MiB of the host"),
        parser.add_argument("--ask", action="store_true", help="with -l: ask hosts for their memory again"),
        parser.add_argument(
            "--engine", choices=["analytic", "llama.cpp"], default="analytic",
            help="the project's rules, or llama.cpp's own program, which is held against them (default: %(default)s)",
        ),
        parser.add_argument("--on", metavar="HOST", help="ask llama.cpp on a host of the inventory, for its GPUs"),
        parser.add_argument("--release", type=Path, metavar="DIR", help="ask that of a release on this machine"),
        parser.add_argument("--json", action="store_true", help="write JSON, for programs"),
        parser.add_argument(
            "--tag", metavar="TEXT", help="a name for the record; that of a MODEL is written only with it"
        ),
        parser.add_argument(
            "--results", type=Path, default=store.ROOT, metavar="DIR",
            help="where the records go (default: %(default)s)",
        ),
    ]  # fmt: skip
    flags = {flag: action.nargs != 0 for action in own for flag in action.option_strings}
    return parser, {**flags, "-h": False, "--help": False}


def _split(words: Sequence[str], own: Mapping[str, bool]) -> tuple[list[str], list[str]]:
    """The command's own words, and llama-server's: flags that are not the command's, each with what follows it.

    argparse would take -lm for -l m, and the first value of any option for MODEL.
    """
    ours: list[str] = []
    others: list[str] = []
    part, awaits_value = ours, False
    for word in words:
        if not awaits_value and words_of.is_flag(word):
            flag = words_of.flag_of(word)
            part, awaits_value = (ours if flag in own else others), own.get(flag, False) and flag == word
        else:
            awaits_value = False
        part.append(word)
    return ours, others


@command_line
def main(argv: Sequence[str] | None = None) -> int:
    """Command line of this module; see the module's docstring."""
    parser, own = _parser()
    ours, others = _split(sys.argv[1:] if argv is None else argv, own)
    given, unread = parser.parse_known_args(ours)
    words = [*unread, *others]
    if given.limit is not None:
        return _of_inventory(given, words)
    if given.model is None:
        hint = "name a MODEL, before options of llama-server, or hosts with -l PATTERN"
        raise UsageError("there is no model to plan", hint=hint)
    if given.ask:
        raise UsageError("--ask is about hosts of the inventory", hint="name them with -l PATTERN")
    if given.engine == "analytic" and (given.on or given.release):
        raise UsageError("--on and --release are about llama.cpp's own program", hint="add --engine llama.cpp")
    if given.on and given.release:
        raise UsageError("--release names a folder on this machine, --on another one", hint="leave one of them out")
    return _of_model(given, words)


def _of_inventory(given: argparse.Namespace, words: Sequence[str]) -> int:
    if given.model is not None or given.gpus or given.host_memory is not None or words:
        raise UsageError("-l plans what the inventory declares", hint="leave MODEL and the other options out")
    if given.engine != "analytic" or given.on or given.release:
        raise UsageError("-l plans by the rules", hint="--engine llama.cpp takes one MODEL, and --on HOST")
    from nexus_tasks.fleet import plan_records, planned  # Ansible's runner: of a MODEL nothing is asked of hosts

    began = time.monotonic()
    fleet = planned.declared_models(given.limit, given.results, ask_again=given.ask)
    rows = planned.plan_all(
        fleet.models, functools.cache(lambda name, profiles: open_model(name, json.loads(profiles)))
    )
    path = plan_records.of_fleet(given.limit, fleet, rows, results=given.results, began=began, tag=given.tag)
    if given.json:
        sys.stdout.write(json.dumps(planned.as_json(rows), indent=2) + "\n")
    else:
        _console().print(planned.table(rows))
    # What is wrong with the memory that is declared is told once, by the host's name.
    problems = {row.declared.server: row.problem for row in rows if row.problem and not row.declared.problem}
    for name, why in {**problems, **fleet.lost}.items():
        sys.stderr.write(plain(f"{name}: {why}\n"))
    sys.stderr.write(f"record: {path}\n")
    return 1 if problems or fleet.lost else 0


def _console() -> Console:
    return Console(highlight=False, markup=False, soft_wrap=True)


def _of_model(given: argparse.Namespace, words: Sequence[str]) -> int:
    began = time.monotonic()
    asked = Planning.of(
        given.model, words, given.gpus, catalogue=catalogue_of(), host_free_mib=given.host_memory
    )  # fmt: skip
    checked = None
    if given.engine == "llama.cpp":
        from nexus_tasks.fleet import fit_tools

        answer = fit_tools.on_host(asked, given.on) if given.on else fit_tools.here(asked, given.release)
        checked = cross_check(asked, answer)
        asked = checked.asked
    plan = checked.plan if checked else asked.plan(asked.words)
    found = asked.remedies(plan) if not checked or checked.analytic else []
    if given.tag:
        from nexus_tasks.fleet import plan_records

        path = plan_records.of_model(asked, plan, found, results=given.results, began=began, tag=given.tag)
        sys.stderr.write(f"record: {path}\n")
    if given.json:
        told = plan_text.as_json(plan, found, asked.without_effect)
        told |= plan_text.comparison(checked.analytic, checked.differences) if checked else {}
        sys.stdout.write(json.dumps(told, indent=2) + "\n")
    else:
        _show(asked, plan, found, checked)
    return 0


def _show(asked: Planning, plan: MemoryPlan, found: Sequence[Remedy], checked: Checked | None) -> None:
    out = _console()
    first, *below = plan_text.lines(plan, found)
    out.print(first)
    if asked.recommended:
        out.print(f"recommended by the profile: {' '.join(asked.recommended)}")
    out.print(plan_text.table(plan))
    if checked and checked.analytic:
        out.print("by the rules:")
        out.print(plan_text.table(checked.analytic))
        below = [*(f"differs: {one}" for one in checked.differences or ["nothing in weights and KV"]), *below]
    for line in below:
        out.print(line)


if __name__ == "__main__":
    sys.exit(main())
