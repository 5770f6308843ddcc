"""The memory that a llama-server will take, from the header of its model, before anything is downloaded.

    python -m nexus_tasks.plan gpt-oss-20b-mxfp4 --gpus 24576,16384 -c 65536 -np 4
    python -m nexus_tasks.plan models/m.gguf --gpus 24576 --json -ngl 20 --n-cpu-moe 12
    python -m nexus_tasks.plan -l gpu-hosts        # all that the inventory declares

MODEL is a path, an http(s) address, REPO:FILE of the Hugging Face hub, or a profile of the catalogue. ``--gpus`` has
the free MiB of each GPU; without it everything is planned for the host. All other options are llama-server's own.
docs/memory.md says what the figures are.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Sequence

from rich.console import Console

from nexus_tasks.core.errors import UsageError, command_line
from nexus_tasks.fleet import planned
from nexus_tasks.model_store import plan_text
from nexus_tasks.model_store.memory import DOES_NOT_FIT, Gpu, MemoryPlan, plan_memory
from nexus_tasks.model_store.model_sources import catalogue_of, open_model
from nexus_tasks.model_store.remedies import remedies
from nexus_tasks.model_store.server_options import parse_options

MAX_GPUS = 64


def free_memory(text: str) -> list[Gpu]:
    """GPUs from the free MiB of each: ``24576,16384``."""
    try:
        free = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        free = [-1.0]
    if len(free) > MAX_GPUS or not all(0 <= one < float("inf") for one in free):
        raise argparse.ArgumentTypeError(f"must be the free MiB of each GPU, as in 24576,16384, not {text!r}")
    return [Gpu(f"CUDA{number}", one) for number, one in enumerate(free)]


def mebibytes(text: str) -> float:
    """A number of MiB."""
    (gpu,) = free_memory(text) or [Gpu("", 0)]
    return gpu.free_mib


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nox -s plan --",
        usage="%(prog)s MODEL|-l PATTERN [--gpus MIB,…] [--host-memory MIB] [--json] [options of llama-server]",
        description="Tell what a llama-server will take of each GPU and of the host, from its model's header.",
        allow_abbrev=False,  # -m and the like are llama-server's
    )
    parser.add_argument(
        "model", metavar="MODEL", nargs="?", help="a path, an address, REPO:FILE of the hub, or a profile"
    )
    parser.add_argument("-l", "--limit", metavar="PATTERN", help="hosts of the inventory, for all that they declare")
    parser.add_argument("--gpus", type=free_memory, default=[], metavar="MIB,…", help="free MiB of each GPU")
    parser.add_argument("--host-memory", type=mebibytes, metavar="MIB", help="free MiB of the host")
    parser.add_argument("--engine", choices=["analytic"], default="analytic", help="where the figures come from")
    parser.add_argument("--json", action="store_true", help="write JSON, for programs")
    return parser


@command_line
def main(argv: Sequence[str] | None = None) -> int:
    """Command line of this module; see the module's docstring."""
    given, words = _parser().parse_known_args(argv)
    if given.limit is not None:
        return _of_inventory(given, words)
    if given.model is None:
        raise UsageError("there is no model to plan", hint="name a MODEL, or hosts with -l PATTERN")
    return _of_model(given, words)


def _of_inventory(given: argparse.Namespace, words: Sequence[str]) -> int:
    if given.model is not None or given.gpus or given.host_memory or words:
        raise UsageError("-l plans what the inventory declares", hint="leave MODEL and the other options out")
    declared, lost = planned.declared_models(given.limit)
    rows = planned.plan_all(declared, functools.cache(lambda name, profiles: open_model(name, json.loads(profiles))))
    if given.json:
        sys.stdout.write(json.dumps(planned.as_json(rows), indent=2) + "\n")
    else:
        _console().print(planned.table(rows))
    problems = {row.declared.server: row.problem for row in rows if row.problem}
    for name, why in {**problems, **lost}.items():
        sys.stderr.write(f"{name}: {why}\n")
    return 1 if problems or lost else 0


def _console() -> Console:
    return Console(highlight=False, markup=False, soft_wrap=True)


def _of_model(given: argparse.Namespace, words: Sequence[str]) -> int:
    options, others = parse_options(words)
    catalogue = catalogue_of()
    shape = open_model(given.model, catalogue)
    draft = open_model(options.model_draft, catalogue) if options.model_draft else None
    projector = open_model(options.mmproj, catalogue) if options.mmproj else None

    def plan_with(more: Sequence[str]) -> MemoryPlan:
        return plan_memory(
            shape, parse_options(more)[0], given.gpus,
            host_free_mib=given.host_memory, draft=draft, projector=projector,
        )  # fmt: skip

    plan = plan_with(words)
    found = remedies(plan, words, plan_with) if plan.verdict == DOES_NOT_FIT else []
    if given.json:
        sys.stdout.write(json.dumps(plan_text.as_json(plan, found, others), indent=2) + "\n")
        return 0
    out = _console()
    first, *below = plan_text.lines(plan, found)
    out.print(first)
    out.print(plan_text.table(plan))
    for line in below:
        out.print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
