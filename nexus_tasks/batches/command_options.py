"""Options of a batch's command line, and what they come to: for a new job, and for one that is resumed with others.

command_options.add_to(parser)
given = parser.parse_args(argv)
asking = command_options.asking(given, before=Asking())     # what is not given stays as it was
options = command_options.running(given, before=Options())
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from nexus_tasks.batches import parameters, templates
from nexus_tasks.batches.asking import APIS, Asking, check_schema
from nexus_tasks.batches.columns import Columns
from nexus_tasks.batches.items import CannotAsk
from nexus_tasks.batches.options import Options
from nexus_tasks.core.errors import UsageError
from nexus_tasks.core.numbers import number, whole
from nexus_tasks.fleet import inventory

PARAMETERS: Mapping[str, tuple[Any, str, str]] = {
    "max_tokens": (whole, "N", "tokens of each answer at most"),
    "temperature": (number, "T", "0 takes the likeliest token each time"),
    "top_p": (number, "P", "and likewise --top-k, --min-p, --repeat-penalty, --frequency-penalty, --presence-penalty"),
    "top_k": (whole, "K", argparse.SUPPRESS),
    "min_p": (number, "P", argparse.SUPPRESS),
    "repeat_penalty": (number, "X", argparse.SUPPRESS),
    "frequency_penalty": (number, "X", argparse.SUPPRESS),
    "presence_penalty": (number, "X", argparse.SUPPRESS),
    "seed": (whole, "N", "of the first sample of each row; the next ones have N + 1 and so on"),
}
"""Options that are one parameter of each request: type, stand-in for the value, help."""
FILES = {
    "json_schema": "a JSON Schema that each answer must satisfy, and is checked against",
    "grammar": "a grammar (GBNF) that each answer follows",
    "tools": "tools that the model may call, as the OpenAI API has them in JSON",
}
"""Options that name a file with one parameter of each request."""
COLUMNS = {
    "prompt": "the prompt (default: prompt)",
    "messages": "the messages of a chat (default: messages)",
    "id": "the id of a row (default: id, where there is one; else the line)",
    "system": "the system prompt (default: system)",
    "parameters": "an object with parameters of the row's own request (default: parameters)",
}
RUNNING: Mapping[str, tuple[str, Any, str, str]] = {
    "attempts": ("attempts", whole, "N", "requests of a row at most, of those that failed for reasons of its own"),
    "stall_timeout": ("token_s", number, "SECONDS", "the longest silence within an answer, or before it"),
    "request_timeout": ("request_s", number, "SECONDS", "the longest answer (default: any)"),
    "connect_timeout": ("connect_s", number, "SECONDS", "the longest wait for a connection"),
    "wait": ("wait_s", number, "SECONDS", "the longest wait for any server when all are gone"),
    "concurrency": ("concurrency", whole, "N", "requests at a time of a server that doesn't tell its slots"),
}
"""Options of the execution: the field of Options, type, stand-in for the value, help."""
MAX_SAMPLES = 10_000
_HELP = "see nox -s batch -- --help"
_SURROGATE = re.compile("[\ud800-\udfff]")  # bytes that are no UTF-8, as Python has them


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add the options, in groups. Those that are not given are missing in what is parsed."""
    _add_asked(parser.add_argument_group("what is asked", argument_default=argparse.SUPPRESS))
    _add_columns(parser.add_argument_group("columns of the input", argument_default=argparse.SUPPRESS))
    _add_running(parser.add_argument_group("how it is asked", argument_default=argparse.SUPPRESS))


def asking(given: argparse.Namespace, before: Asking) -> Asking:
    """Read what is asked about each row: by the options that are given, and else as before.

    Raises:
        UsageError: a value makes no sense, or a file can't be read.
    """
    options = vars(given)
    _check_texts(options)
    values = before.parameters | _preset(options) | _of_files(options)
    values |= {name: options[name] for name in PARAMETERS if name in options}
    if "stop" in options:
        values["stop"] = options["stop"]
    plain = {name: options[name] for name in ("api", "samples", "sampling") if name in options}
    texts = {name: _text(options[name]) for name in ("system", "template") if name in options}
    made = msgspec.structs.replace(
        before, parameters=_checked(values), columns=_columns(options, before.columns), **plain, **texts
    )
    if made.template is not None:
        templates.parse(made.template)
    if not 1 <= made.samples <= MAX_SAMPLES:
        raise UsageError(f"--samples must be from 1 to {MAX_SAMPLES:,}, not {made.samples:,}", hint=_HELP)
    return made


def running(given: argparse.Namespace, before: Options) -> Options:
    """Read in what way it is asked: by the options that are given, and else as before.

    Raises:
        UsageError: a value makes no sense.
    """
    options = vars(given)
    values = {field: options[name] for name, (field, *_) in RUNNING.items() if name in options}
    for name, (field, *_) in RUNNING.items():
        if values.get(field, 1) <= 0:
            raise UsageError(f"--{name.replace('_', '-')} must be more than 0, not {values[field]:g}", hint=_HELP)
    if "dedupe" in options:
        values["dedupe"] = options["dedupe"]
    return dataclasses.replace(before, **values)


def _check_texts(options: Mapping[str, Any]) -> None:
    """Refuse an argument that is no UTF-8: it can neither be sent nor written to a job's declaration."""
    for name, value in options.items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and _SURROGATE.search(text):
                raise UsageError(f"{_flag(name)}: {text!a} is not UTF-8", hint="give it as UTF-8, or in a file")


def _add_asked(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--api", choices=APIS, help="what is asked for (default: chat)")
    group.add_argument("--system", metavar="TEXT", help="the system prompt; @FILE reads it from a file")
    group.add_argument(
        "--template", metavar="TEXT", help="the prompt, with columns as in {{ column }}; @FILE reads it from a file"
    )
    group.add_argument(
        "--sampling", metavar="NAME", help="a preset of llama_sampling_presets; options beside it count more"
    )
    for name, (kind, stand_in, text) in PARAMETERS.items():
        group.add_argument(_flag(name), type=kind, metavar=stand_in, help=text)
    group.add_argument("--stop", metavar="TEXT", action="append", help="ends an answer; may be given again")
    for name, text in FILES.items():
        group.add_argument(_flag(name), metavar="FILE", type=Path, help=text)
    group.add_argument("--samples", type=whole, metavar="N", help="answers to each row (default: 1)")


def _add_columns(group: argparse._ArgumentGroup) -> None:
    for name, text in COLUMNS.items():
        group.add_argument(f"--{name}-column", metavar="NAME", help=text)
    group.add_argument("--no-ids", action="store_true", help="go by lines, and leave a column id as metadata")
    group.add_argument(
        "--column", metavar="PARAMETER=NAME", action="append",
        help="a column with one parameter of the row's request, as max_tokens=limit; may be given again",
    )  # fmt: skip


def _add_running(group: argparse._ArgumentGroup) -> None:
    defaults = Options()
    for name, (field, kind, stand_in, text) in RUNNING.items():
        default = getattr(defaults, field)
        shown = text if default is None else f"{text} (default: {default:g})"
        group.add_argument(_flag(name), type=kind, metavar=stand_in, help=shown)
    group.add_argument("--dedupe", action=argparse.BooleanOptionalAction, help="ask once what several rows ask alike")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _columns(options: Mapping[str, Any], before: Columns) -> Columns:
    named = {name: options[f"{name}_column"] for name in COLUMNS if f"{name}_column" in options}
    single = dict(before.single)
    for pair in options.get("column", ()):
        parameter, sign, column = pair.partition("=")
        if not sign or not column or parameter not in parameters.NAMES:
            known = ", ".join(parameters.NAMES)
            raise UsageError(f"--column {pair} must be PARAMETER=NAME", hint=f"PARAMETER is one of {known}")
        single[parameter] = column
    # What a user names is meant instead of the other column that might say what is asked.
    asked = {"prompt", "messages"}
    if len(asked & named.keys()) == 1:
        named |= dict.fromkeys(asked - named.keys())
    if options.get("no_ids"):
        if "id" in named:
            raise UsageError("--no-ids and --id-column exclude each other", hint=_HELP)
        named["id"] = None
    return msgspec.structs.replace(before, single=single, **named)


def _preset(options: Mapping[str, Any]) -> dict[str, Any]:
    """The sampling of a preset, which the inventory has."""
    name = options.get("sampling")
    if name is None:
        return {}
    presets = inventory.sampling_presets()
    if name not in presets:
        raise UsageError(
            f"there is no sampling preset {name}", hint=f"llama_sampling_presets has {', '.join(presets) or 'none'}"
        )
    return dict(presets[name])


def _of_files(options: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in FILES:
        if name in options:
            text = _content(options[name])
            values[name] = text if name == "grammar" else _json(options[name], text)
            if values[name] is None:
                raise UsageError(f"{options[name]} is null", hint=f"leave {_flag(name)} out, or mend the file")
    return values


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    try:
        checked = parameters.checked(values)
        if "json_schema" in checked:
            check_schema(checked["json_schema"])
    except ValueError as error:
        raise UsageError(f"what is asked can't be: {error}", hint=_HELP) from error
    except CannotAsk as error:
        raise UsageError(f"--json-schema: {error.misfit.message}", hint="mend the schema") from error
    return checked


def _text(value: str) -> str:
    """A text of the command line, or of the file that it names with ``@``."""
    if value == "@":
        raise UsageError("@ names no file", hint="write @FILE, or the text itself")
    return _content(Path(value[1:])).removesuffix("\n") if value.startswith("@") else value


def _content(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}", hint="check the path") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8", hint="save it as UTF-8") from error
    if not text.strip():
        raise UsageError(f"{path} is empty", hint="write something into it, or leave the option out")
    return text


def _json(path: Path, text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON: {error}", hint="mend the file") from error
