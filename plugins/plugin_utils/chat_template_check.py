"""One chat template, rendered: what is wrong with it. A process of its own, which is bounded in time and memory.

    python chat_template_check.py PATH <<< '{"reasoning_effort": "low"}'     # the instance's chat_template_kwargs

It prints the first problem as JSON, null where there is none. A template is a program, and who wrote it is not always
who deploys it: loops without an end and texts of gigabytes are ended by the system. Only chat_templates.py runs it, and
it imports nothing of the collection.
"""

from __future__ import annotations

import contextlib
import copy
import json
import resource
import sys
import traceback
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

CPU_SECONDS = 10
MEMORY_BYTES = 1 << 30

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

# How Go's text/template begins what it puts between braces, beside a dot or a dollar sign.
GO_WORDS = frozenset(
    [
        "if", "else", "range", "with", "eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not", "len", "index", "slice",
        "printf", "print", "block", "template", "define",
    ]
)  # fmt: skip


class Declined(Exception):
    """The template itself says that it can't render this."""


class Generation(jinja2.ext.Extension):
    """``{% generation %}`` marks what the assistant wrote, for training; it changes nothing."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    """Jinja as those who write chat templates expect it."""

    def raise_exception(message: str) -> None:
        raise Declined(message)

    def tojson(value: object, indent: int | None = None, ensure_ascii: bool = False, **options: Any) -> str:
        # What map and select give are lists in llama-server's engine.
        return json.dumps(value, indent=indent, ensure_ascii=ensure_ascii, default=list, **options)

    made = jinja2.sandbox.ImmutableSandboxedEnvironment(
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


def go_syntax(made: jinja2.Environment, source: str) -> tuple[int, str] | None:
    """The line and the begin of what is Go's template syntax; None where nothing is.

    In Jinja no expression begins with a dot or a dollar sign. Told by Jinja's own tokens, so that what stands in
    quotes, in a comment or between raw and endraw is not taken for it.
    """
    within: list[tuple[str, str]] = []  # the tokens between these braces so far
    try:
        for line, kind, text in made.lex(source):
            if kind == "variable_begin":
                within = [(kind, text)]
            elif kind == "variable_end":
                within = []
            elif within:
                first = next((word for what, word in within[1:] if what != "whitespace"), text)
                opens = len(within) > 1 and (within[-2][0] in ("variable_begin", "whitespace") or within[-2][1] == "(")
                within.append((kind, text))
                if kind == "name" and opens and within[-2][1] == "." and (first == "." or first in GO_WORDS):
                    return line, "".join(word for _, word in within)
    except jinja2.TemplateSyntaxError as error:
        if within and "'$'" in str(error.message):
            return error.lineno, "".join(word for _, word in within) + "$"
    return None


def forms(conversation: Conversation) -> Iterator[Conversation]:
    """A conversation with texts, and with lists of parts, which some templates want; llama-server obliges."""
    yield copy.deepcopy(conversation)
    in_parts = copy.deepcopy(conversation)
    for message in in_parts["messages"]:
        message["content"] = [{"type": "text", "text": message["content"]}]
    yield in_parts


def conversation_problem(template: jinja2.Template, path: Path, what: str, kwargs: Mapping[str, Any]) -> str | None:
    """The reason for which a template can't render a kind of conversation in any form; None when it can."""
    problems = []
    options = f" with chat_template_kwargs {', '.join(map(str, kwargs))}" if kwargs else ""
    for conversation in CONVERSATIONS[what]:
        asked = [message["content"] for message in conversation["messages"] if message["role"] == "user"]
        for form in forms(conversation):
            try:
                text = template.render({**CONTEXT, **kwargs}, **form)
            except Exception as error:  # a template can raise anything that Python can
                if isinstance(error, Declined) and what in MAY_DECLINE:
                    return None
                exception = f"{type(error).__name__}: {error}"
                problems.append(
                    f"{line_of(error, path)}: it can't render {what}{options}: {exception}: mend the template"
                )
                continue
            missing = [words for words in asked if words not in text]
            if not missing:
                return None
            problems.append(
                f": it renders {what}{options} without the user's words {missing[0]!r}: render message.content"
            )
    return problems[0]


def file_problem(path: Path, kwargs: Mapping[str, Any]) -> str | None:
    """The first thing wrong with a template, with its file and line; None when it renders what it should."""
    try:
        source = path.read_text(encoding="utf-8-sig")  # chat_templates.texts() drops a byte order mark, too
    except (OSError, UnicodeDecodeError) as error:
        return f"{path} can't be read as UTF-8 text ({error}): write it again"
    if source.endswith("\n\n"):  # it would lose one line with each hand it passes through
        return f"{path} ends with an empty line: remove it"
    made = environment()
    if found := go_syntax(made, source):
        return (
            f"{path} line {found[0]}: {found[1]} is Go's template syntax, as in Ollama's Modelfiles; llama.cpp needs "
            "Jinja: take the model's own template, or write it in Jinja"
        )
    try:
        code = made.compile(source, filename=str(path))
        template = jinja2.Template.from_code(made, code, made.make_globals(None))
    except (jinja2.TemplateError, RecursionError, MemoryError, SyntaxError) as error:
        return f"{path}{line_of(error, path)}: {error or type(error).__name__}: mend the template"
    for what in CONVERSATIONS:
        problem = conversation_problem(template, path, what, kwargs)
        if problem:
            return f"{path}{problem}"
    return None


def bound() -> None:
    """Have the system end this process when it computes or holds too much."""
    for what, limit in (
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(OSError, ValueError):  # one that the system has not, or that is lower already
            resource.setrlimit(what, (limit, limit))


def main() -> None:
    path, kwargs = Path(sys.argv[1]), json.load(sys.stdin)
    bound()
    problem = file_problem(path, kwargs)
    if problem:  # a template's own words may hold anything
        problem = "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(problem.split()))
    json.dump(problem, sys.stdout)


if __name__ == "__main__":
    main()
