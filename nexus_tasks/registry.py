"""The registry of models: what is known of them, how much they are used, what they are worth, and where they can run.

    python -m nexus_tasks.registry add ggml-org/gpt-oss-20b-GGUF qwen3-8b
    python -m nexus_tasks.registry list
    python -m nexus_tasks.registry show qwen3-8b
    python -m nexus_tasks.registry rate qwen3-8b 4 --note "good at short answers"
    python -m nexus_tasks.registry recommend qwen3-8b -l gpu-hosts -c 32768
    python -m nexus_tasks.registry export --out registry.json

MODEL is a repository of the Hugging Face hub, a profile of the catalogue, a path, or an http(s) address. Usage is read
from run records. docs/models.md explains it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from nexus_tasks.core.arguments import parse
from nexus_tasks.core.errors import UsageError, command_line
from nexus_tasks.fleet import hardware, terminal
from nexus_tasks.hostlib.terminal_text import plain
from nexus_tasks.model_store import advice, lookup, registry_text
from nexus_tasks.model_store.advice import Host
from nexus_tasks.model_store.model_sources import catalogue_of
from nexus_tasks.model_store.overview import Entry, entry_of, overview
from nexus_tasks.model_store.registry import RATINGS, Rating, Registry, read_record
from nexus_tasks.records import store
from nexus_tasks.views.model_uses import Use, uses_of

ACTIONS = {
    "add": ("MODEL ...", "Look models up, and remember what hub or file tell of them; again for what is new."),
    "list": ("[--json]", "Show all models that are known, used or rated."),
    "show": ("MODEL [--json]", "Show all that is known of a model."),
    "rate": ("MODEL 1-5 [--note TEXT]", "Say what a model is worth."),
    "recommend": ("MODEL [-l PATTERN] [-c TOKENS] [--json]", "Tell which hosts can run which variant, the best first."),
    "export": ("[--out FILE]", "Write models and ratings as JSON; usage is in the records."),
    "import": ("FILE", "Take what an export has."),
}
KINDS = ("deployment", "benchmark", "batch")
"""Kinds of records that tell of the use of models."""
QUIET_S = 2.0  # after which progress is shown
USUAL_CTX = 8192


def _actions() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nox -s registry --",
        description="Keep what is known of models, and tell where they can run.",
        epilog="\n".join(f"{action:<9} {usage}\n          {what}" for action, (usage, what) in ACTIONS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", metavar="ACTION", choices=ACTIONS, help=", ".join(ACTIONS))
    parser.add_argument("arguments", metavar="ARGUMENT", nargs=argparse.REMAINDER, help="ACTION --help lists them")
    return parser


def _tokens(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) < 1 << 31:
        raise argparse.ArgumentTypeError(f"must be a number of tokens, not {text!r}")
    return int(text)


def _parser(action: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"nox -s registry -- {action}", description=ACTIONS[action][1])
    if action == "add":
        parser.add_argument(
            "models", metavar="MODEL", nargs="+", help="a repository of the hub, profile, path or address"
        )
    elif action in ("show", "rate", "recommend"):
        parser.add_argument(
            "model", metavar="MODEL", help="its name, a profile, what an instance calls it, or where it was added from"
        )
    if action == "rate":
        parser.add_argument("rating", metavar="RATING", help="from 1, useless, to 5, excellent")
        parser.add_argument("--note", default="", help="why")
    if action == "recommend":
        parser.add_argument("-l", "--limit", metavar="PATTERN", dest="pattern", help="hosts of the inventory")
        parser.add_argument("-c", "--ctx-size", metavar="TOKENS", type=_tokens, default=USUAL_CTX,
                            help="the context that it should have at least (default: %(default)s)")  # fmt: skip
    if action == "export":
        parser.add_argument("--out", metavar="FILE", type=Path, help="where it goes (default: the terminal)")
    if action == "import":
        parser.add_argument("file", metavar="FILE", type=Path, help="what export wrote")
    if action in ("list", "show", "recommend"):
        parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    if action in ("list", "show", "rate", "recommend"):
        parser.add_argument(
            "--results", metavar="DIR", type=Path, default=store.ROOT, help="where records are (default: %(default)s)"
        )
    return parser


@command_line
def main(argv: Sequence[str] | None = None) -> int:
    """Command line of this module; see the module's docstring."""
    begun = _actions().parse_args(argv)
    given = parse(_parser(begun.action), begun.arguments)
    work: dict[str, Callable[[argparse.Namespace], int]] = {
        "add": _add, "list": _list, "show": _show, "rate": _rate, "recommend": _recommend, "export": _export,
        "import": _import,
    }  # fmt: skip
    return work[begun.action](given)


def _add(given: argparse.Namespace) -> int:
    catalogue = catalogue_of()
    failed = 0
    for name in dict.fromkeys(given.models):
        try:
            with Registry.opened() as registry:
                known = registry.models()
            model = lookup.look_up(name, catalogue, known, Progress())
        except UsageError as error:
            if len(given.models) == 1:
                raise
            sys.stderr.write(plain(f"{name}: {error.message}; {error.hint}\n"))
            failed += 1
            continue
        with Registry.opened() as registry:
            registry.put(model)
        planned = sum(bool(variant.needs) for variant in model.variants)
        sys.stdout.write(plain(f"{model.name}: {len(model.variants)} variants, plans of {planned}\n"))
    return 1 if failed else 0


def _list(given: argparse.Namespace) -> int:
    entries = _known(given.results)
    if given.json:
        sys.stdout.write(json.dumps([registry_text.as_json(entry) for entry in entries], indent=2) + "\n")
    elif entries:
        sys.stdout.write(registry_text.listing(entries, terminal.width(Console())) + "\n")
    else:
        sys.stdout.write("no model is known yet: nox -s registry -- add MODEL looks one up\n")
    return 0


def _show(given: argparse.Namespace) -> int:
    entry = _entry(given)
    if given.json:
        sys.stdout.write(json.dumps(registry_text.as_json(entry), indent=2) + "\n")
    else:
        sys.stdout.write(registry_text.page(entry, terminal.width(Console())) + "\n")
    return 0


def _rate(given: argparse.Namespace) -> int:
    if given.rating not in map(str, RATINGS):
        raise UsageError(f"a rating is a whole number from 1 to 5, not {given.rating}", hint="rate MODEL 4 --note WHY")
    entry = _entry(given)
    name = entry.name if entry.lies_at(given.model) else given.model  # a path may be one of this folder only
    moment = store.utc_now()
    rating = Rating(id=store.new_run_id(name), model=name, rating=int(given.rating), note=given.note, rated_at=moment)
    with Registry.opened() as registry:
        registry.rate(rating)
    return 0


def _recommend(given: argparse.Namespace) -> int:
    entry = _entry(given)
    if entry.known is None:
        raise UsageError(
            f"of {entry.name} nothing is known but its use", hint=f"nox -s registry -- add {given.model} looks it up"
        )
    memory = hardware.of_pattern(given.pattern, given.results)
    hosts = {name: Host(one.gpus_mib, one.memory_mib) for name, one in memory.known.items() if one.gpus_mib}
    unknown = {**dict.fromkeys(memory.known.keys() - hosts.keys(), "it has no GPU"), **memory.problems}
    found = advice.advise(entry.known, hosts, ctx_size=given.ctx_size, progress=Progress())
    if given.json:
        sys.stdout.write(json.dumps(registry_text.advice_as_json(found, unknown), indent=2) + "\n")
    elif found.offers:
        sys.stdout.write(registry_text.advice(found, terminal.width(Console())) + "\n")
    elif hosts:
        sys.stdout.write(plain(f"no variant of {entry.name} fits on any of these hosts\n"))
    else:
        sys.stdout.write("of none of these hosts the GPUs are known\n")
    for name, why in {**unknown, **found.unplanned}.items():
        sys.stderr.write(plain(f"{name}: {why}\n"))
    return 0 if found.offers else 1


def _export(given: argparse.Namespace) -> int:
    with Registry.opened() as registry:
        content = registry.export()
    if given.out is None:
        sys.stdout.write(content.decode())
        return 0
    if not given.out.parent.is_dir():
        raise UsageError(f"there is no folder {given.out.parent}", hint="make it, or name another FILE")
    beside = given.out.with_name(f".{given.out.name}.partial")
    beside.write_bytes(content)
    beside.replace(given.out)
    return 0


def _import(given: argparse.Namespace) -> int:
    try:
        content = given.file.read_bytes()
    except FileNotFoundError as error:
        raise UsageError(
            f"there is no file {given.file}", hint="name one that nox -s registry -- export wrote"
        ) from error
    with Registry.opened() as registry:
        taken = registry.take(content, str(given.file))
    sys.stdout.write(f"{len(taken.models)} models and {len(taken.ratings)} ratings taken\n")
    return 0


def _entry(given: argparse.Namespace) -> Entry:
    return entry_of(given.model, _known(given.results), catalogue_of())


def _known(results: Path) -> list[Entry]:
    """All models that are known, brought up to date with the records."""
    root, progress = results.absolute(), Progress()

    def read(kind: str) -> Callable[[Path], list[Use]]:
        def uses(path: Path) -> list[Use]:
            progress(path.name)
            return uses_of(store.load(path, kind))  # type: ignore[call-overload]  # one of its three

        return uses

    kinds = {path: kind for kind in KINDS for path in store.paths(kind, root, required=False)}
    with Registry.opened() as registry:
        changed = registry.changed_records(kinds)
    # Not in a transaction: thousands take a while, in which other commands work.
    told = [read_record(path, read(kinds[path])) for path in changed]
    with Registry.opened() as registry:
        problems = registry.remember(told, root, kinds)
        entries = overview(registry.models(), registry.uses(root), registry.ratings(), catalogue_of())
    for line in problems:
        sys.stderr.write(plain(f"{line}\n"))
    return entries


class Progress:
    """A line on stderr for what takes more than two seconds."""

    def __init__(self) -> None:
        self._since, self._shown = time.monotonic(), False

    def __call__(self, what: str) -> None:
        """Tell what is looked at now."""
        if time.monotonic() - self._since >= QUIET_S:
            self._since = time.monotonic()
            sys.stderr.write(plain(f"looking at {what} …\n"))


if __name__ == "__main__":
    sys.exit(main())
