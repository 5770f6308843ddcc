"""Measure servers over HTTP, or their models by llama.cpp's own tools, and write run records.

    python -m nexus_tasks.benchmark                                  # every instance on gpu-hosts, else on local
    python -m nexus_tasks.benchmark localhost/main --preset quick
    python -m nexus_tasks.benchmark gpu-hosts --sweep
    LLAMA_NEXUS_API_KEY=... python -m nexus_tasks.benchmark http://gpu1:8600 --rate 2 --duration 60

What is measured, and how, is in measurement/.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from nexus_tasks.comparison import baselines, gate, naming
from nexus_tasks.core import arguments
from nexus_tasks.core.errors import EndpointError, NexusError, UsageError, command_line
from nexus_tasks.fleet import exporters, inventory, targets
from nexus_tasks.fleet.inventory import Instance
from nexus_tasks.fleet.targets import Target
from nexus_tasks.measurement import from_options, http_engine, options, presets, progress
from nexus_tasks.measurement.llama_bench import engine as llama_bench
from nexus_tasks.measurement.llama_bench import tool_plan
from nexus_tasks.measurement.plan import Plan
from nexus_tasks.records import store
from nexus_tasks.records.benchmark_rows import Part
from nexus_tasks.servers import route


def _parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        prog="nox -s benchmark --",
        description="Measure servers over HTTP and write run records.",
        epilog="\n".join(["presets:", *options.preset_lines(), "", "docs/benchmarks.md says more, with examples."]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "targets",
        metavar="TARGET",
        nargs="*",
        help="a pattern, HOST/INSTANCE, @NAME of llama_endpoints, or a base URL (http://...) whose key is in "
        f"{route.KEY_VARIABLE} (default: all on {inventory.FLEET}, or on {inventory.HERE} while that is empty)",
    )
    parser.add_argument("--model", metavar="NAME", help="the model to ask for, of a server that has several")
    group = options.add_to(parser)
    group.add_argument("--save-baseline", metavar="NAME", help="what later runs are held against")
    group.add_argument("--against", metavar="NAME", help="compare with a baseline, a tag or a run; 3 when it is worse")
    group.add_argument("--json", action="store_true", help="print the summaries as JSON and nothing else")
    group.add_argument(
        "--results", type=Path, default=store.ROOT, metavar="DIR", help="where the records go (default: %(default)s)"
    )
    return parser


@command_line
def main(argv: Sequence[str] | None = None) -> int:
    """Measure the targets: 0 when all went well, 1 when anything failed, and what compare says with --against."""
    given = arguments.parse(_parser(), argv)
    if given.tag is not None:
        naming.check_name(given.tag, "a tag")
    plan = from_options.plan(given)
    console = Console(stderr=True) if given.json else Console()
    measured = targets.find(given.targets)
    if given.model:
        measured = [dataclasses.replace(target, model=given.model) for target in measured]
    _check_targets(given, measured)
    paths, errors = _measure(given, plan, measured, console)
    records = [store.load(path) for path in paths]
    if given.json:
        sys.stdout.write(json.dumps([_as_json(record) for record in records], indent=2) + "\n")
    else:
        for record in records:
            progress.print_summary(record, console)
    if given.save_baseline and records:
        baselines.save(given.save_baseline, records, given.results)
    if errors:
        raise EndpointError("; ".join(error.message for error in errors), hint=errors[0].hint)
    good = all(record.summary and record.summary.ok and record.summary.valid for record in records)
    if given.against and good:
        return gate.against(given.against, records, root=given.results, console=console)
    return 0 if good else 1


def _check_targets(given: argparse.Namespace, measured: Sequence[Target]) -> None:
    if given.engine != "http":
        if any(target.instance is None and not target.lost for target in measured):
            raise UsageError(f"--engine {given.engine} needs instances of the inventory", hint="name HOST/INSTANCE")
        from_options.refuse_for_tools(given)
    if given.interleave and len(measured) != 2:
        names = ", ".join(target.name for target in measured)
        raise UsageError(f"--interleave needs two targets, not {len(measured)}: {names}", hint="name the two of them")
    if given.save_baseline and len(measured) > 1:
        raise UsageError(
            f"--save-baseline needs one target, not {len(measured)}", hint="name one, or save each with nox -s compare"
        )
    if given.stop_server and given.engine == "http":
        raise UsageError("--stop-server needs an engine that works without the server", hint="add --engine llama-bench")


def _measure(
    given: argparse.Namespace, plan: Plan, measured: Sequence[Target], console: Console
) -> tuple[list[Path], list[NexusError]]:
    declared = exporters.beside(measured)
    if given.interleave:
        return http_engine.run_interleaved(measured, plan, exporters=declared, root=given.results, console=console), []
    paths: list[Path] = []
    errors: list[NexusError] = []
    for target in measured:
        try:
            target.must_be_there()
            if target.instance and given.engine != "http":
                paths.append(_by_tool(given, plan, target.instance, console))
            else:
                path = http_engine.run(target, plan, exporters=declared, root=given.results, console=console)
                paths.append(path)
        except (EndpointError, UsageError) as error:  # the others may well be up, and have room for it
            errors.append(error)
    return paths, errors


def _by_tool(given: argparse.Namespace, plan: Plan, instance: Instance, console: Console) -> Path:
    """Measure with a tool of llama.cpp, what it has of the plan."""
    repetitions = given.requests or presets.preset(given.preset).requests
    asked = tool_plan.from_plan(instance, given.engine, plan, repetitions)
    return llama_bench.run(
        instance, asked, root=given.results, console=console, tag=plan.tag, stop_server=given.stop_server
    )


def _as_json(record: store.BenchmarkRecord) -> dict[str, Any]:
    return {
        "target": record.header.target,
        "run_id": record.run_id,
        "record": str(record.path),
        "stages": [_plain(row) for row in record.stages],
        **(_plain(record.summary) if record.summary else {}),
    }


def _plain(row: Part) -> dict[str, Any]:
    """A row as JSON has it, without its type."""
    plain: dict[str, Any] = msgspec.to_builtins(row)
    return {key: value for key, value in plain.items() if key != "type"}


if __name__ == "__main__":
    sys.exit(main())
