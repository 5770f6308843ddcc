"""Chat templates: what is refused, with its file and line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from plugins.plugin_utils import chat_template_check, chat_templates
from tests.conftest import ROOT

TEMPLATES = ROOT / "templates" / "chat"
NAMES = sorted(path.stem for path in TEMPLATES.glob("*.jinja"))

TURNS = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"

# By name a template and what is said of it; nothing is where it is right.
CHECKED = {
    "plain": (TURNS, ""),
    "loop controls and helpers": (
        "{%- set seen = namespace(n=0) -%}{% for m in messages %}{% if m.role == 'tool' %}{% continue %}{% endif %}"
        "{% set seen.n = seen.n + 1 %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
        "{{ strftime_now('%Y') ~ (tools | default([]) | map(attribute='type') | tojson) }}",
        "",
    ),
    "no system prompt": (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system prompt') }}{% endif %}" + TURNS, ""
    ),
    "no tools": (
        "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('roles must alternate') }}{% endif %}"
        "{{ m.content }}{% endfor %}", "",
    ),
    "arguments as text": (
        TURNS + "{% for m in messages %}{% for call in m.tool_calls or [] %}{{ 'call ' + call.function.arguments }}"
        "{% endfor %}{% endfor %}", "",
    ),
    "a comment on Go": ("{# not {{ .Prompt }}\n#}" + TURNS, ""),
    "Go in quotes": (TURNS + "{{ '{{ .Name }}' }}{% raw %}{{ .Prompt }}{{ $x }}{% endraw %}", ""),
    "words of Go": (TURNS + "{{ not messages[0].content }}{{ range(3) | list }}{{ (messages | last).role }}", ""),
    "parts, each a text": (
        "{% for m in messages %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}", ""
    ),
    "parts alone": (
        "{% for m in messages %}{% if m.content is string %}{{ raise_exception('parts') }}{% endif %}"
        "{{ m.content | map(attribute='text') | join }}{% endfor %}", "",
    ),
    "a syntax error": ("one\n{% for message in messages %}\n{{ message.content }\n{% endfor %}", r" line 3: .*: mend"),
    "an unknown tag": (TURNS + "\n{% esle %}", r" line 3: Encountered unknown tag 'esle'"),
    "an unknown filter": (TURNS + "{{ messages | frobnicate }}", r" line 2: No filter named 'frobnicate'"),
    "Ollama's prompt": ("{{ .Prompt }}", r" line 1: \{\{ \.Prompt is Go's template syntax, as in Ollama's Mod.* needs"),
    "Ollama's loop": ("x\n\n{{- range .Messages }}{{ .Content }}{{ end }}", r" line 3: \{\{- range \.Messages is Go's"),
    "Ollama's condition": ("{{ if .System }}{{ .System }}{{ end }}", r" line 1: \{\{ if \.System is Go's"),
    "Ollama's comparison": ("\n{{ if eq .Role \"user\" }}x{{ end }}", r" line 2: \{\{ if eq \.Role is Go's"),
    "Ollama's variable": ("{{ $last := 1 }}", r" line 1: \{\{ \$ is Go's"),
    "Ollama's function": ("{{ if and (ne .Role \"x\") .Content }}", r" line 1: \{\{ if and \(ne \.Role is Go's"),
    "nothing": ("", ": it renders a question without the user's words 'Is it warm in Paris"),
    "another field": (
        "{% for message in messages %}{{ message.text }}{% endfor %}",
        r": it renders a question without the user's words 'Is it warm in Paris\?': render message\.content",
    ),
    "the last turn only": (
        "{{ messages[-1].content }}", r": it renders several turns without the user's words 'Is it warm in Paris\?'"
    ),
    "what fails": (
        "{% for message in messages %}\n{{ message.content + 1 }}\n{% endfor %}",
        r" line 2: it can't render a question: TypeError: .*: mend the template",
    ),
    "what declines a question": ("{{ raise_exception('no') }}", r" line 1: it can't render a question: Declined: no"),
    "what fails at tools": (
        "{% for m in messages %}\n{{ m.content }}{{ m.tool_calls[0].nothing.more if m.tool_calls }}\n{% endfor %}",
        r" line 2: it can't render a tool: UndefinedError",
    ),
    "what reaches out": (
        TURNS + "{{ messages.__class__.__mro__ }}", r" line 2: it can't render a question: SecurityError"
    ),
    "what empties the conversation": (
        "{{ messages.clear() }}", r" line 1: it can't render a question: SecurityError: .* 'clear'"
    ),
    "what removes from it": ("{{ messages.pop() }}", r" line 1: it can't render a question: SecurityError: .* 'pop'"),
    "a loop without an end": (
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}" + TURNS,
        r" does not end, or takes too long, to render a few words: mend its loops",
    ),
    "a number without an end": ("{{ 9 ** (9 ** 9) }}" + TURNS, r" does not end, or takes too long"),
    "a text of gigabytes": ("{{ 'x' * 9999999999 }}" + TURNS, r" line 1: it can't render a question: MemoryError"),
    "a depth without an end": ("{{ " + "(" * 9999 + "1" + ")" * 9999 + " }}" + TURNS, r".*: mend the template"),
    "a call without an end": (
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", r".*it can't render a question: RecursionError: .*: mend"
    ),
    "words for a terminal": ("{{ raise_exception('\x1b]0;x\x07\n') }}", r" line 1: .*: Declined: \\x1b\]0;x\\x07"),
    "an empty line at the end": (TURNS + "\n\n", " ends with an empty line: remove it"),
}  # fmt: skip


def chosen(*names: str, **kwargs: Any) -> list[dict[str, Any]]:
    return [{"name": name, "kwargs": kwargs} for name in names]


def said(folder: Path, **kwargs: Any) -> list[str]:
    """What is said of the template of the test, chosen with these chat_template_kwargs."""
    return chat_templates.problems(chosen("mine", **kwargs), str(folder))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let the process compute for two seconds: what does not end takes as long as it may."""
    check = tmp_path / "check.py"
    source = Path(chat_template_check.__file__).read_text()
    assert "CPU_SECONDS = 10\n" in source
    check.write_text(source.replace("CPU_SECONDS = 10\n", "CPU_SECONDS = 2\n"))
    monkeypatch.setattr(chat_templates, "CHECK", check)


@pytest.mark.parametrize("name", CHECKED)
def test_a_template_is_refused_with_its_file_and_line(tmp_path: Path, name: str) -> None:
    source, expected = CHECKED[name]
    (tmp_path / "mine.jinja").write_text(source)
    found = said(tmp_path)
    if not expected:
        assert found == []
        return
    (line,) = found
    assert re.match(re.escape(f"chat template {tmp_path}/mine.jinja") + expected, line), line
    assert line.isprintable()


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_bytes(b"\xff\xfe{{ messages }}")
    (line,) = said(tmp_path)
    assert "mine.jinja can't be read as UTF-8 text" in line


def test_a_link_to_nowhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").symlink_to(tmp_path / "nothing")
    assert said(tmp_path) == [
        f"chat template {tmp_path}/mine.jinja can't be read (No such file or directory): write it again"
    ]


@pytest.mark.parametrize("name", ["chatlm", "../chat/chatml", "chatml.jinja"])
def test_a_template_that_is_not_there_is_refused_with_those_that_are(name: str) -> None:
    (line,) = chat_templates.problems(chosen(name, "chatml"), str(TEMPLATES))
    assert line.startswith(f"there is no chat template '{name}': use one of {', '.join(NAMES)}, or write {TEMPLATES}/")


def test_the_templates_of_this_repository_are_right() -> None:
    assert {"chatml", "gpt-oss-plain-math"} <= set(NAMES)
    assert chat_templates.problems(chosen(*NAMES), str(TEMPLATES)) == []


def test_a_byte_order_mark_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_bytes(b"\xef\xbb\xbf" + TURNS.encode())
    assert said(tmp_path) == []
    assert chat_templates.texts(["mine"], str(tmp_path)) == {"mine": TURNS.removesuffix("\n")}


def test_a_template_is_rendered_with_what_the_instance_hands_to_it(tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text("{{ raise_exception('no') if effort == 'low' else '' }}" + TURNS)
    assert said(tmp_path, effort="high") == []
    (line,) = said(tmp_path, effort="low")
    assert " line 1: it can't render a question with chat_template_kwargs effort: Declined: no" in line
    both = chosen("mine", effort="low") + chosen("mine", effort="low")
    assert len(chat_templates.problems(both, str(tmp_path))) == 1


def test_a_check_that_ends_by_itself_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.jinja").write_text(TURNS)
    (tmp_path / "fails.py").write_text("raise SystemExit('no jinja2 here')")
    monkeypatch.setattr(chat_templates, "CHECK", tmp_path / "fails.py")
    (line,) = said(tmp_path)
    assert line == f"chat template {tmp_path}/mine.jinja can't be rendered (no jinja2 here): mend the template"
