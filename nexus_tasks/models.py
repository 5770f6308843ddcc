"""Look after the models on the hosts: what lies there, fetch, verify again, remove; bundle for those without a network.

    python -m nexus_tasks.models list -l gpu-hosts
    python -m nexus_tasks.models fetch qwen3-8b -l rig-1
    python -m nexus_tasks.models verify -l rig-1 --json
    python -m nexus_tasks.models remove --unused -l rig-1
    python -m nexus_tasks.models bundle rig.bundle -l rig-1

Names are those of profiles (docs/models.md). A model that an instance serves or may go back to, or that a process has
open, is never touched.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from nexus_tasks.core.arguments import parse
from nexus_tasks.core.errors import DeployError, UsageError, command_line
from nexus_tasks.core.text import memory
from nexus_tasks.fleet import bundle, bundling, inventory, stored_models, terminal
from nexus_tasks.fleet.inventory import FLEET, HERE
from nexus_tasks.fleet.stored_models import Found

LINE_S = 2.0
ACTIONS = {
    "list": "Show the models on the hosts, what they take of the disk, and who uses them.",
    "fetch": "Have models on the hosts: those named, or those that their instances need.",
    "verify": "Read the models again, and compare each file's sha256 with the recorded one.",
    "remove": "Remove models that nothing uses.",
    "bundle": "Write all that the hosts are deployed from to one file, for a controller without a network.",
}

USAGE = {
    "list": "[MODEL ...] [-l PATTERN] [--all] [--json]",
    "fetch": "[MODEL ...] [-l PATTERN]",
    "verify": "[MODEL ...] [-l PATTERN] [--json]",
    "remove": "MODEL ... | --unused -l PATTERN [--json]",
    "bundle": "FILE -l PATTERN [--check]",
}


def _actions() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nox -s models --",
        description="Look after the models on the hosts.",
        epilog="\n".join(f"{action:<7} {USAGE[action]}\n        {what}" for action, what in ACTIONS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", metavar="ACTION", choices=ACTIONS, help=", ".join(ACTIONS))
    parser.add_argument("arguments", metavar="ARGUMENT", nargs=argparse.REMAINDER, help="ACTION --help lists them")
    return parser


def _parser(action: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"nox -s models -- {action}", description=ACTIONS[action])
    parser.add_argument("names", metavar="MODEL", nargs="*", help="a profile's name (default: all)")
    default = "needed" if action == "remove" else f"default: {FLEET}, or {HERE} while that is empty"
    parser.add_argument("-l", "--limit", metavar="PATTERN", dest="pattern", help=f"inventory pattern ({default})")
    if action == "list":
        parser.add_argument("--all", action="store_true", help="also profiles of the catalogue that are not there")
    if action == "remove":
        parser.add_argument("--unused", action="store_true", help="all that nothing uses and nobody declares")
    if action != "fetch":
        parser.add_argument("--json", action="store_true", help="print them as JSON, for programs")
    return parser


@command_line
def main(argv: Sequence[str] | None = None) -> int:
    begun = _actions().parse_args(argv)
    defaults = argparse.Namespace(all=False, unused=False, json=False)
    if begun.action == "bundle":
        return _bundle(parse(_bundle_parser(), begun.arguments))
    given = parse(_parser(begun.action), begun.arguments, defaults)
    if begun.action == "remove" and bool(given.names) == given.unused:
        raise UsageError("remove needs names of models, or --unused", hint="nox -s models -- list shows what there is")
    if begun.action == "remove" and given.pattern is None:
        raise UsageError("remove needs -l PATTERN: hosts are not chosen for you", hint=f"-l {FLEET}, or -l HOST")
    pattern = inventory.default_pattern() if given.pattern is None else given.pattern
    console = Console(stderr=given.json)
    if begun.action == "fetch":
        try:
            outcome = stored_models.fetch(pattern, given.names, console=console)
        except KeyboardInterrupt:
            sys.stderr.write(
                f"what a host has begun to fetch goes on there: nox -s models -- list -l {pattern} shows it\n"
            )
            raise
        if outcome.failures:
            raise DeployError(outcome.problem(), hint="mend it and fetch again: what came of a download is continued")
        given.names = []
    done = {"fetch": "listed", "list": "listed", "verify": "verified", "remove": "removed"}[begun.action]
    found = stored_models.run(
        done, pattern, given.names, unused=given.unused, catalogue=given.all, console=None if given.json else console
    )
    return _shown(found, console, as_json=given.json)


def _bundle_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nox -s models -- bundle", description=ACTIONS["bundle"])
    parser.add_argument("file", metavar="FILE", type=Path, help="what is written")
    parser.add_argument("-l", "--limit", metavar="PATTERN", dest="pattern", required=True, help="inventory pattern")
    parser.add_argument("--check", action="store_true", help="only tell what it would hold")
    return parser


def _bundle(given: argparse.Namespace) -> int:
    console = Console(highlight=False, markup=False, soft_wrap=True)
    bundle.require_place(given.file)
    collected = bundling.collect(given.pattern, check=given.check, console=console)
    if collected.failures:
        problems = [f"{host}: {message}" for host, message in collected.failures.items()]
        raise DeployError("\n".join(problems), hint="mend it and run it again: what was fetched is kept")
    if given.check:
        console.print(bundling.text(collected))
        return 0
    size = bundling.pack(given.file, collected, Lines())
    console.print(
        f"{given.file}: {memory(size / (1 << 20))}; ansible-playbook deploy.yml -l HOSTS -e bundle={given.file}"
    )
    return 0


class Lines:
    """Lines on stderr that tell how far it is, one in a few seconds."""

    def __init__(self) -> None:
        self._at = time.monotonic()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Tell it, where it is time to."""
        if time.monotonic() - self._at >= LINE_S:
            self._at = time.monotonic()
            sys.stderr.write(f"{memory(done / (1 << 20))} of {memory(total / (1 << 20))}, {what}\n")


def _shown(found: Found, console: Console, *, as_json: bool) -> int:
    """Print what was found; the exit status is 1 where a model is damaged.

    Raises:
        DeployError: some hosts could not be asked.
    """
    if as_json:
        sys.stdout.write(json.dumps(stored_models.as_json(found), indent=2) + "\n")
    else:
        terminal.show(console, stored_models.text(found, terminal.width(console)))
    if found.failures:
        problems = [f"{host}: {message}" for host, message in found.failures.items()]
        raise DeployError("\n".join(problems), hint="mend it and run it again")
    for model in found.damaged():
        console.print(f"{model} is not what was verified: fetch or deploy again", highlight=False, markup=False)
    return 1 if found.damaged() else 0


if __name__ == "__main__":
    sys.exit(main())
