"""Chat templates chosen by name, rendered on the controller before a host is touched.

    problems(chosen, folder)  what is wrong with them, one line each
    texts(names, folder)      their texts by name, as llama-server gives them back

A template that llama-server can't parse keeps it from starting; one that renders without the user's words serves a
model that never sees the question. Both are found here with Jinja, which is what llama-server's own engine follows, by
chat_template_check.py in a process of its own. Where the two differ, the proof finds it (proof/template.py).
"""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

CHECK = Path(__file__).with_name("chat_template_check.py")
WAIT_SECONDS = 120  # on a machine with other work; of computing the process gets less

# What llama-server itself rewrites in a template, because its own messages never need the check that is there.
REWRITTEN = {
    '{%- if "<|channel|>analysis<|message|>" in message.content or '
    '"<|channel|>final<|message|>" in message.content %}': "{%- if false %}",
    "{%- if (message['content'] is none or message['content'] == '' or message['content']|length == 0) and "
    "(message['tool_calls'] is not defined or message['tool_calls'] is none or "
    "message['tool_calls']|length == 0) %}": "{%- if false %}",
}


def file_problem(path: Path, kwargs: Mapping[str, Any]) -> str | None:
    """The first thing wrong with a template, with its file and line; None when it renders what it should.

    ``kwargs``: the instance's chat_template_kwargs.
    """
    try:
        changed_ns = path.stat().st_mtime_ns
    except OSError as error:
        return f"{path} can't be read ({error.strerror}): write it again"
    return _checked(path, changed_ns, json.dumps(kwargs, default=str))


@functools.cache  # Ansible evaluates a variable each time that it is named
def _checked(path: Path, changed_ns: int, kwargs: str) -> str | None:
    """The same; ``changed_ns`` is when the file changed, ``kwargs`` is JSON."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", CHECK, path], input=kwargs, capture_output=True, text=True, timeout=WAIT_SECONDS,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"{path} takes more than {WAIT_SECONDS} s to render a few words: mend its loops"
    if done.returncode == 0:
        problem: str | None = json.loads(done.stdout)
        return problem
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"{path} does not end, or takes too long, to render a few words: mend its loops"
    why = done.stderr.strip().rpartition("\n")[2] or f"status {done.returncode}"
    return f"{path} can't be rendered ({why}): mend the template"


def _problems(chosen: Iterable[Mapping[str, Any]], folder: Path) -> Iterator[str]:
    known = sorted(file.name.removesuffix(".jinja") for file in folder.glob("*.jinja"))
    for choice in chosen:
        name = choice["name"]
        if name not in known:
            yield (
                f"there is no chat template {name!r}: use one of {', '.join(known) or 'none'}, or write "
                f"{folder}/NAME.jinja"
            )
            continue
        problem = file_problem(folder / f"{name}.jinja", choice["kwargs"])
        if problem:
            yield f"chat template {problem}"


def problems(chosen: Iterable[Mapping[str, Any]], folder: str) -> list[str]:
    """Problems of templates in ``folder``, one line each; an empty list when nothing is.

    ``chosen``: for each its ``name``, and ``kwargs``, the chat_template_kwargs that it is chosen with.
    """
    return list(dict.fromkeys(_problems(chosen, Path(folder).resolve())))


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
        with (Path(folder) / f"{name}.jinja").open(encoding="utf-8-sig", newline="") as stream:
            templates[name] = normalized(stream.read())
    return templates
