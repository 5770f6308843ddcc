"""Chat templates chosen by name, rendered on the controller before a host is touched.

    problems(names, folder)   what is wrong with them, one line each
    texts(names, folder)      their texts by name, as llama-server gives them back

A template that llama-server can't parse keeps it from starting; one that renders without the user's words serves a
model that never sees the question. Both are found here with Jinja, which is what llama-server's own engine follows.
"""

from __future__ import annotations

import json
import re
import traceback
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

Conversation = dict[str, Any]

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "The city's name."},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "description": "Of the answer."},
                "days": {"type": "array", "items": {"type": "integer"}, "description": "How far ahead."},
            },
            "required": ["city"],
        },
    },
}


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def calling(arguments: object) -> Conversation:
    """A question, a call of a tool, its result, an answer and another question."""
    call = {"id": "call00001", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
    return {
        "messages": [
            user("Is it warm in Paris?"),
            assistant("", tool_calls=[call]),
            {"role": "tool", "name": "get_weather", "tool_call_id": "call00001", "content": "21 degrees"},
            assistant("It is."),
            user("And in Rome?"),
        ],
        "tools": [WEATHER],
    }


# What llama-server adds to each conversation.
CONTEXT = {"bos_token": "<s>", "eos_token": "</s>", "enable_thinking": True, "add_generation_prompt": True}

# By what a template has to cope with; of the variants of one, a template needs one.
CONVERSATIONS: dict[str, list[Conversation]] = {
    "a question": [{"messages": [user("Is it warm in Paris?")]}],
    "several turns": [
        {"messages": [user("Is it warm in Paris?"), assistant("It is."), user("And in Rome?")]},
    ],
    "a system prompt": [
        {"messages": [{"role": "system", "content": "Be brief."}, user("Is it warm in Paris?")]},
    ],
    # Some templates want the arguments of a call as an object, some as text; llama-server finds out and obliges.
    "a tool": [calling({"city": "Paris"}), calling('{"city": "Paris"}')],
}
# A template may say that it has no such thing; llama-server then puts the text elsewhere.
MAY_DECLINE = {"a system prompt", "a tool"}

# What llama-server itself rewrites in a template, because its own messages never need the check that is there.
REWRITTEN = {
    '{%- if "<|channel|>analysis<|message|>" in message.content or '
    '"<|channel|>final<|message|>" in message.content %}': "{%- if false %}",
    "{%- if (message['content'] is none or message['content'] == '' or message['content']|length == 0) and "
    "(message['tool_calls'] is not defined or message['tool_calls'] is none or "
    "message['tool_calls']|length == 0) %}": "{%- if false %}",
}

COMMENT = re.compile(r"\{#.*?#\}", re.DOTALL)
# In Jinja no expression begins with a dot or a dollar sign; in Go's text/template nearly all do.
GO = re.compile(r"\{\{-?\s*(?:(?:if|else if|range|with|eq|ne|and|or|not|len)\b[^}]*?[\s(])?[.$][A-Za-z_]\w*")


class Declined(Exception):
    """The template itself says that it can't render this."""


class Generation(jinja2.ext.Extension):
    """``{% generation %}`` marks what the assistant wrote, for training; it changes nothing."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def environment() -> jinja2.sandbox.SandboxedEnvironment:
    """Jinja as those who write chat templates expect it."""

    def raise_exception(message: str) -> None:
        raise Declined(message)

    def tojson(value: object, indent: int | None = None, ensure_ascii: bool = False, **options: Any) -> str:
        # What map and select give are lists in llama-server's engine.
        return json.dumps(value, indent=indent, ensure_ascii=ensure_ascii, default=list, **options)

    made = jinja2.sandbox.SandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation]
    )
    made.filters["tojson"] = tojson
    made.globals["raise_exception"] = raise_exception
    made.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return made


def line_of(error: BaseException, path: Path) -> str:
    """The place in the template of an error, as `` line 7``; empty where Jinja does not say."""
    if isinstance(error, jinja2.TemplateSyntaxError):
        return f" line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f" line {lines[-1]}" if lines else ""


def conversation_problem(template: jinja2.Template, path: Path, what: str) -> str | None:
    """The reason for which a template can't render a kind of conversation; None when it can."""
    problem = None
    for conversation in CONVERSATIONS[what]:
        try:
            text = template.render(CONTEXT, **conversation)
        except Exception as error:  # a template can raise anything that Python can
            if isinstance(error, Declined) and what in MAY_DECLINE:
                return None
            exception = f"{type(error).__name__}: {' '.join(str(error).split())}"
            problem = f"{line_of(error, path)}: it can't render {what}: {exception}: mend the template"
            continue
        asked = [message["content"] for message in conversation["messages"] if message["role"] == "user"]
        missing = [words for words in asked if words not in text]
        if missing:
            return f": it renders {what} without the user's words {missing[0]!r}: render message.content"
        return None
    return problem


def file_problem(path: Path) -> str | None:
    """The first thing wrong with a template, with its file and line; None when it renders what it should."""
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return f"{path} can't be read as UTF-8 text ({error}): write it again"
    if source.endswith("\n\n"):  # it would lose one line with each hand it passes through
        return f"{path} ends with an empty line: remove it"
    uncommented = COMMENT.sub(lambda comment: re.sub(r"[^\n]", " ", comment[0]), source)
    go_syntax = GO.search(uncommented)
    if go_syntax:
        line = uncommented[: go_syntax.start()].count("\n") + 1
        return (
            f"{path} line {line}: {go_syntax[0]} is Go's template syntax, as in Ollama's Modelfiles; llama.cpp needs "
            "Jinja: take the model's own template, or write it in Jinja"
        )
    try:
        made = environment()
        code = made.compile(source, filename=str(path))
        template = jinja2.Template.from_code(made, code, made.make_globals(None))
    except jinja2.TemplateError as error:
        return f"{path}{line_of(error, path)}: {' '.join(str(error.message).split())}: mend the template"
    for what in CONVERSATIONS:
        problem = conversation_problem(template, path, what)
        if problem:
            return f"{path}{problem}"
    return None


def _problems(names: Iterable[str], folder: Path) -> Iterator[str]:
    for name in sorted(set(names)):
        path = folder / f"{name}.jinja"
        known = sorted(file.name.removesuffix(".jinja") for file in folder.glob("*.jinja"))
        if name not in known:
            yield (
                f"there is no chat template {name!r}: use one of {', '.join(known) or 'none'}, or write "
                f"{folder}/NAME.jinja"
            )
            continue
        problem = file_problem(path)
        if problem:
            yield f"chat template {problem}"


def problems(names: Iterable[str], folder: str) -> list[str]:
    """Problems of the templates ``names`` in ``folder``, one line each; an empty list when nothing is."""
    return list(_problems(names, Path(folder).resolve()))


def normalized(source: str) -> str:
    """A template as llama-server gives it back at /props, so that the two can be compared."""
    text = source.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n")
    for condition, replacement in REWRITTEN.items():
        text = text.replace(condition, replacement)
    return text


def texts(names: Iterable[str], folder: str) -> dict[str, str]:
    """The templates ``names`` in ``folder``, which must be there, as llama-server gives them back."""
    templates = {}
    for name in sorted(set(names)):
        with (Path(folder) / f"{name}.jinja").open(encoding="utf-8", newline="") as stream:
            templates[name] = normalized(stream.read())
    return templates
