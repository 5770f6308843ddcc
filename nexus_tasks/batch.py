"""Put many prompts to the fleet's servers, and lose none: jobs that are begun, resumed, looked at and exported.

    python -m nexus_tasks.batch prompts.jsonl gpu-hosts --name night
    python -m nexus_tasks.batch resume night
    python -m nexus_tasks.batch status night --json
    python -m nexus_tasks.batch export night --format csv --out answers.csv

A file that has a command's name is given as ``./resume``. The work is in batches/; docs/batches.md explains it.
"""

from __future__ import annotations

import argparse
import functools
import shlex
import signal
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from rich.console import Console

from nexus_tasks.batches import command_options, job, screens, sessions, sources, summary
from nexus_tasks.batches.asking import Asking
from nexus_tasks.batches.exports import files
from nexus_tasks.batches.index import Index
from nexus_tasks.batches.inputs import Input
from nexus_tasks.batches.job import Folder, Job
from nexus_tasks.batches.options import COMPLETE, INTERRUPTED, Options
from nexus_tasks.batches.sessions import Done, Place
from nexus_tasks.batches.shards import plan, ray_engine
from nexus_tasks.batches.shards import screens as shard_screens
from nexus_tasks.batches.shards.work import Batch
from nexus_tasks.core import arguments, json_text, numbers
from nexus_tasks.core.errors import BatchError, UsageError, command_line
from nexus_tasks.fleet import inventory
from nexus_tasks.records import store
from nexus_tasks.servers import route

UNKNOWN = Index(0, 0, {}, "")  # of an input that is not read yet
AUTO, SHARD_ROWS = "auto", 10_000
TARGETS = (
    "a pattern, HOST/INSTANCE, @NAME of llama_endpoints, or a base URL (http://...) whose key is in "
    f"{route.KEY_VARIABLE}"
)
EXIT = "Exit status: 0 every row has its answer, 1 rows failed, 2 a mistake of the command line, 130 interrupted."
HELP = (
    "commands, each with more in COMMAND --help; a file of such a name is ./NAME:",
    "  resume JOB [TARGET ...] [--allow-change]  go on with a job",
    "  retry-failed JOB                          the same, and ask again what failed",
    "  cancel JOB                                end the process that works on it",
    "  status JOB [--json]                       how far it is, beside that process",
    "  export JOB [--format NAME] [--out FILE]   what came of each row",
    "  list [--json]                             all jobs",
)


def _parser(command: str, text: str, *, with_job: bool = True) -> argparse.ArgumentParser:
    """The options that all commands have."""
    parser = argparse.ArgumentParser(prog=f"nox -s batch -- {command}".rstrip(), description=text, epilog=EXIT)
    if with_job:
        parser.add_argument("job", metavar="JOB", help="its name, as the command list shows it")
    parser.add_argument(
        "--jobs", metavar="DIR", type=Path, default=job.ROOT, help="where the jobs are (default: %(default)s)"
    )
    return parser


def _add_results(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--results", metavar="DIR", type=Path, default=store.ROOT, help="where the record goes (default: %(default)s)"
    )


def _begin(argv: Sequence[str]) -> int:
    parser = _parser("", "Put the prompts of a file to servers, as a job that can be resumed.", with_job=False)
    parser.epilog = "\n".join([*HELP, "", *textwrap.wrap(EXIT, 79)])
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("file", metavar="FILE", help=f"the prompts: {', '.join(sources.FORMATS)}")
    left_out = f"(default: all on {inventory.FLEET}, or on {inventory.HERE} while that is empty)"
    parser.add_argument("targets", metavar="TARGET", nargs="*", help=f"{TARGETS} {left_out}")
    parser.add_argument("--name", metavar="JOB", help="of the job (default: of the file and the time)")
    parser.add_argument("--format", choices=sources.FORMATS, help="of the file (default: by its name)")
    parser.add_argument("--model", metavar="NAME", help="the model to ask for, of a server that has several")
    _add_results(parser)
    _add_engine(parser.add_argument_group("beyond one machine"))
    command_options.add_to(parser)
    given = arguments.parse(parser, argv)
    _check_engine(given)
    if given.engine == "ray":
        return _in_shards(given, Console(stderr=True))
    if given.file == "-":
        raise UsageError("standard input can't be read twice, which a job does", hint="write it to a file first")
    given.file = Path(given.file)
    if str(given.file) in COMMANDS and not given.file.exists():
        raise UsageError(f"{given.file} must be the first word", hint=f"nox -s batch -- {given.file} JOB")
    if not str(given.file.absolute()).isprintable():  # a name that is not UTF-8, or has line ends
        raise UsageError(
            f"{str(given.file.absolute())!a} can't be kept as the input of a job", hint="rename the file, or its folder"
        )
    source = sources.find(given.file.absolute(), given.format)
    asked = Job(
        name=job.free_name(given.jobs, given.file, datetime.now(UTC)) if given.name is None else given.name,
        created_at="", input=Input(source, command_options.asking(given, Asking())), index=UNKNOWN,
        targets=given.targets, options=command_options.running(given, Options()), model=given.model,
    )  # fmt: skip
    place = Place(Console(stderr=True), given.results)
    return _ended(sessions.begin(given.jobs, asked, place), place.console)


def _add_engine(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--engine", choices=("here", "ray"), default="here", help="ray: on the workers of a Ray cluster")
    group.add_argument(
        "--out", metavar="ADDRESS", help="with ray: the folder for the answers, as Parquet; FILE is an address, too"
    )
    group.add_argument(
        "--address", metavar="CLUSTER", default=AUTO,
        help=f"with ray: of the cluster; auto finds that of this machine, {ray_engine.LOCAL} runs one for the batch "
        "(default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--shard-rows", metavar="N", type=numbers.whole, default=SHARD_ROWS,
        help="with ray: rows of a shard (default: %(default)s)",
    )  # fmt: skip
    group.add_argument("--allow-change", action="store_true", help="with ray: as for the command resume")


def _check_engine(given: argparse.Namespace) -> None:
    """Refuse options that the engine knows nothing of, rather than pass them over."""
    if given.engine == "ray":
        away = [f"--{name}" for name in ("name", "format") if getattr(given, name) is not None]
        if away:
            raise UsageError(f"{away[0]} says nothing with --engine ray", hint="leave it out; see docs/batches.md")
        if given.shard_rows < 1:
            raise UsageError(
                f"--shard-rows must be 1 or more, not {given.shard_rows}", hint="leave it out, or say more"
            )
        return
    if given.out is not None:
        raise UsageError("--out needs --engine ray", hint="nox -s batch -- export JOB --out FILE writes the answers")
    ray_s = {"--address": given.address != AUTO, "--shard-rows": given.shard_rows != SHARD_ROWS}
    for name, is_given in {**ray_s, "--allow-change": given.allow_change}.items():
        if is_given:
            hint = "the command resume takes it" if name == "--allow-change" else "leave it out, or say --engine ray"
            raise UsageError(f"{name} needs --engine ray", hint=hint)


def _in_shards(given: argparse.Namespace, console: Console) -> int:
    if given.out is None:
        raise UsageError("--engine ray needs --out ADDRESS", hint="name a folder that all nodes of the cluster reach")
    if not given.targets or not all("://" in target for target in given.targets):
        raise UsageError("--engine ray takes base URLs", hint="name servers as the nodes reach them: http://HOST:PORT")
    batch = Batch(
        plan.absolute(given.file), plan.absolute(given.out), given.targets, command_options.asking(given, Asking()),
        command_options.running(given, Options()), given.model, given.allow_change,
    )  # fmt: skip
    shards = plan.planned(batch.address, given.shard_rows)
    try:
        status = shard_screens.follow(ray_engine.run(batch, shards, given.address), shards, batch.out, console)
    except (BatchError, KeyboardInterrupt):
        shard_screens.tell_record(batch, shards, given.results, console)
        raise
    shard_screens.tell_record(batch, shards, given.results, console)
    return status


def _go_on(argv: Sequence[str], *, retry_failed: bool) -> int:
    command = "retry-failed" if retry_failed else "resume"
    text = (
        "Ask again what was set aside." if retry_failed else "Go on with a job; its options stay unless they are given."
    )
    parser = _parser(command, text)
    parser.add_argument("targets", metavar="TARGET", nargs="*", help=f"{TARGETS} (default: as before)")
    parser.add_argument(
        "--allow-change", action="store_true",
        help="go on though the input, what is asked, or the model or build of a server changed: what differs or is "
        "unfinished is asked again",
    )  # fmt: skip
    _add_results(parser)
    command_options.add_to(parser)
    given = arguments.parse(parser, argv)

    def changed(before: Job) -> Job:
        return msgspec.structs.replace(
            before,
            input=msgspec.structs.replace(before.input, asking=command_options.asking(given, before.input.asking)),
            options=command_options.running(given, before.options),
            targets=given.targets or before.targets,
        )

    place = Place(Console(stderr=True), given.results)
    folder = job.find(given.jobs, given.job)
    done = sessions.resume(folder, changed, place, allow_change=given.allow_change, retry_failed=retry_failed)
    return _ended(done, place.console)


def _ended(done: Done, console: Console) -> int:
    """Show a job whose session ended; its exit status."""
    made = summary.made(done.folder, done.job, done.state)
    screens.show(made, console)
    screens.show_session(done.outcome, console)
    ended = done.outcome.ended
    if ended == INTERRUPTED:
        sys.stderr.write(f"interrupted; go on with: nox -s batch -- {_resuming(done.folder)}\n")
        return 130
    if ended != COMPLETE:
        raise BatchError(ended, hint=done.outcome.hint)
    return 0 if made.answered == made.items else 1


def _resuming(folder: Folder) -> str:
    """The words that go on with a job."""
    elsewhere = [] if folder.path.parent == job.ROOT else ["--jobs", str(folder.path.parent)]
    return shlex.join(["resume", folder.name, *elsewhere])


def _cancel(argv: Sequence[str]) -> int:
    given = arguments.parse(_parser("cancel", "End the process that works on a job, and mark the job."), argv)
    done = job.cancel(job.find(given.jobs, given.job))
    told = f"{given.job}: {'cancelled' if done.is_cancelled else 'is complete, there was nothing to cancel'}"
    told += f", process {done.pid} ended" if done.pid else ""
    Console().print(told, markup=False, highlight=False)
    return 0


def _status(argv: Sequence[str]) -> int:
    parser = _parser("status", "Show a job, also beside the process that works on it.")
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    given = arguments.parse(parser, argv)
    found = summary.summary_of(job.find(given.jobs, given.job))
    if given.json:
        _print_json(found)
    else:
        screens.show(found, Console())
    return 0


def _list(argv: Sequence[str]) -> int:
    parser = _parser("list", "List the jobs, oldest first.", with_job=False)
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    given = arguments.parse(parser, argv)
    found, damaged = [], []
    for folder in job.folders(given.jobs):
        try:
            found.append(summary.summary_of(folder))
        except BatchError as error:  # the others can be shown
            damaged.append(error)
    if given.json:
        _print_json(found)
    elif found:
        screens.show_all(found, Console())
    elif not damaged:
        Console().print(f"no jobs in {given.jobs}", markup=False, highlight=False)
    if damaged:
        raise BatchError("; ".join(error.message for error in damaged), hint=damaged[0].hint)
    return 0


def _export(argv: Sequence[str]) -> int:
    parser = _parser("export", "Write what came of each row, in the order of the input.")
    parser.add_argument("--format", choices=files.FORMATS, default="jsonl", help="(default: %(default)s)")
    parser.add_argument("--out", metavar="FILE", type=Path, help="where to (default: standard output)")
    parser.add_argument("--json", action="store_true", help="print the paths of the files as JSON")
    given = arguments.parse(parser, argv)
    if given.json and given.out is None:
        raise UsageError("--json tells where files are, and needs --out FILE", hint="--format json exports as JSON")
    written = files.write(job.find(given.jobs, given.job), given.format, given.out)
    if given.json:
        _print_json([str(path) for path in written])
    else:
        for path in written:
            Console(soft_wrap=True).print(str(path), markup=False, highlight=False)
    return 0


def _print_json(value: object) -> None:
    sys.stdout.write(msgspec.json.format(json_text.encoded(value)).decode() + "\n")


COMMANDS: Mapping[str, Callable[[Sequence[str]], int]] = {
    "resume": functools.partial(_go_on, retry_failed=False),
    "cancel": _cancel,
    "status": _status,
    "retry-failed": functools.partial(_go_on, retry_failed=True),
    "export": _export,
    "list": _list,
}


@functools.partial(command_line, usage_status=2)
def main(argv: Sequence[str] | None = None) -> int:
    """Begin a job, or do one of the commands; see the module's docstring."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in COMMANDS:
        return COMMANDS[words[0]](words[1:])
    return _begin(words)


if __name__ == "__main__":
    for stopping in (signal.SIGTERM, signal.SIGHUP):  # before and after the requests, too
        if signal.getsignal(stopping) is not signal.SIG_IGN:  # as nohup wants it
            signal.signal(stopping, signal.default_int_handler)
    sys.exit(main())
