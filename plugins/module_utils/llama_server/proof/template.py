"""Chat templates: the one in use, and whether the prompts that the server itself makes by it hold what users say.

Jinja and llama-server's own engine differ. A template that renders well elsewhere, as on the controller, may leave out
every word here, and the model then answers a question that nobody asked.
"""

from __future__ import annotations

import os
from typing import Any

from ...hostlib import masking
from .probe import error_message
from .subject import Subject

CHECK = "prompt"  # behind the name of a model where there are several
FIRST = "Do violet turbines hum beneath the quiet harbour?"
SECOND = "And do amber lanterns sleep above the northern pier?"


def prove_template(subject: Subject, props: dict[str, Any]) -> None:
    """Check the chat template, of which the declaration holds the text as this server gives it back: a byte of
    difference is another one.
    """
    with open(os.path.join(subject.config.folder, "chat_template.jinja"), encoding="utf-8", newline="") as stream:
        same = stream.read() == props.get("chat_template")
    given = props.get("chat_template") or ""
    summary = "the declared template" if same else f"another one, which begins {given[:40]!r}"
    cause = "the server chose a template by itself"
    subject.checks.add("chat template", "the declared template", summary, same, cause)


def prove_prompt(subject: Subject, model: str | None = None) -> None:
    """Have the server make prompts of conversations, and look for the words of their users.

    The model's own template is asked for less than a declared one: it may be for one question at a time, or for no chat
    at all, and is then not refused for it.

    ``model``: which of a router's.
    """
    checks, declared = subject.checks, subject.config.has_template
    check = f"{model} {CHECK}" if model else CHECK
    remedy = "mend the template" if declared else "declare a chat_template"
    turns = [("user", FIRST), ("assistant", "They do."), ("user", SECOND)]
    for what, said in (("a question", turns[:1]), ("several turns", turns))[: 2 if declared else 1]:
        status, prompt = _prompt(subject, model, said)
        if status != 200:
            cause = f"no prompt can be made of {what}: {masking.excerpt(prompt, 200, subject.key)}"
            if not declared:
                cause += "; chat fails with the model's own template, other requests don't need it"
                checks.warn(check, f"HTTP {status}", cause)
                return
            checks.add(check, "HTTP 200", f"HTTP {status}", False, f"{cause}; {remedy}")
            return
        if any(words not in prompt for who, words in said if who == "user"):
            found = f"without them {masking.excerpt(prompt, 60, subject.key)!r}"
            cause = f"so llama-server's own engine renders {what}, and the model never sees it: {remedy}"
            checks.add(check, "the user's words", found, False, cause)
            return
    checks.add(check, "the user's words", "the user's words", True, "")


def _prompt(subject: Subject, model: str | None, said: list[tuple[str, str]]) -> tuple[int, str]:
    """The status and the prompt that the server makes, or why it makes none.

    Some templates, as of models that read pictures, take what is said as a list of parts only.
    """
    as_text = _apply(subject, model, [{"role": who, "content": words} for who, words in said])
    if as_text[0] == 200:
        return as_text
    as_parts = _apply(
        subject, model, [{"role": who, "content": [{"type": "text", "text": words}]} for who, words in said]
    )
    return as_parts if as_parts[0] == 200 else as_text


def _apply(subject: Subject, model: str | None, messages: list[dict[str, Any]]) -> tuple[int, str]:
    body = {"messages": messages, **({"model": model} if model else {})}
    status, answer = subject.server.ask("/apply-template", key=subject.key, body=body)
    if status != 200:
        return status, " ".join(error_message(answer).split())
    prompt = answer.get("prompt") if isinstance(answer, dict) else None
    return status, prompt if isinstance(prompt, str) else ""
