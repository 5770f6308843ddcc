"""From a fresh clone to a report: deploy on this machine, measure, render.

    python -m nexus_tasks.quickstart
    python -m nexus_tasks.quickstart --model qwen3-0.6b

Nothing here is done that the parts don't do by themselves: ``ansible-playbook deploy.yml -l local``,
``nox -s benchmark -- local --preset quick`` and ``nox -s report``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence

from rich.console import Console

from nexus_tasks.core.errors import command_line
from nexus_tasks.fleet import playbook, targets
from nexus_tasks.measurement import http_engine, presets, progress
from nexus_tasks.records import store
from nexus_tasks.reports import site


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nox -s quickstart --",
        description="Build llama.cpp on this machine, serve a model, verify it, measure it and render the report.",
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="a profile of group_vars/all/models.yml (default: what group_vars/local.yml says)",
    )
    parser.add_argument(
        "--preset", metavar="NAME", default="quick", help="the benchmark's workload (default: %(default)s)"
    )
    return parser


@command_line
def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    plan = presets.preset(arguments.preset)  # a wrong name is said now, not after a build
    console = Console()
    started = time.monotonic()

    log = playbook.new_log()
    variables = {"quickstart_model": arguments.model} if arguments.model else {}
    playbook.run("deploy.yml", "--limit", "local", "--extra-vars", json.dumps(variables), console=console, log=log)

    records: list[store.BenchmarkRecord] = []
    places: list[tuple[str, str]] = []
    for target in targets.find(["local"]):
        path = http_engine.run(target, plan, console=console)
        console.print("rendering the report")
        page = site.render_run(path)
        records.append(store.load(path))
        places.append(("report", page.resolve().as_uri()))
        if target.instance:
            places.append(("server", f"{target.base_url}, its log is {target.instance.log}"))
    places += [("all reports", site.write_index().resolve().as_uri()), ("deploy log", str(log))]

    for record in records:
        console.print()
        progress.print_summary(record, console)
    console.print()
    for name, place in places:
        console.print(f"{name:<12} {place}", soft_wrap=True, highlight=False)
    console.print(f"done in {time.monotonic() - started:.0f} s; the server goes on: nox -s stop -- local ends it")
    return 0 if all(record.summary and record.summary.ok for record in records) else 1


if __name__ == "__main__":
    sys.exit(main())
