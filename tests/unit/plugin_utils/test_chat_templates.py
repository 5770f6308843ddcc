"""Chat templates: what is refused, with its file and line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from plugins.plugin_utils import chat_templates
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
    "a syntax error": ("one\n{% for message in messages %}\n{{ message.content }\n{% endfor %}", r" line 3: .*: mend"),
    "an unknown tag": (TURNS + "\n{% esle %}", r" line 3: Encountered unknown tag 'esle'"),
    "an unknown filter": (TURNS + "{{ messages | frobnicate }}", r" line 2: No filter named 'frobnicate'"),
    "Ollama's prompt": ("{{ .Prompt }}", r" line 1: \{\{ \.Prompt is Go's template syntax, as in Ollama's Mod.* needs"),
    "Ollama's loop": ("x\n\n{{- range .Messages }}{{ .Content }}{{ end }}", r" line 3: \{\{- range \.Messages is Go's"),
    "Ollama's condition": ("{{ if .System }}{{ .System }}{{ end }}", r" line 1: \{\{ if \.System is Go's"),
    "Ollama's comparison": ("\n{{ if eq .Role \"user\" }}x{{ end }}", r" line 2: \{\{ if eq \.Role is Go's"),
    "Ollama's variable": ("{{ $last := 1 }}", r" line 1: \{\{ \$last is Go's"),
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
    "an empty line at the end": (TURNS + "\n\n", " ends with an empty line: remove it"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHECKED)
def test_a_template_is_refused_with_its_file_and_line(tmp_path: Path, name: str) -> None:
    source, expected = CHECKED[name]
    (tmp_path / "mine.jinja").write_text(source)
    found = chat_templates.problems(["mine"], str(tmp_path))
    if not expected:
        assert found == []
        return
    (line,) = found
    assert re.match(re.escape(f"chat template {tmp_path}/mine.jinja") + expected, line), line
    assert "\n" not in line


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_bytes(b"\xff\xfe{{ messages }}")
    (line,) = chat_templates.problems(["mine"], str(tmp_path))
    assert "mine.jinja can't be read as UTF-8 text" in line


@pytest.mark.parametrize("name", ["chatlm", "../chat/chatml", "chatml.jinja"])
def test_a_template_that_is_not_there_is_refused_with_those_that_are(name: str) -> None:
    (line,) = chat_templates.problems([name, "chatml"], str(TEMPLATES))
    assert line.startswith(f"there is no chat template '{name}': use one of {', '.join(NAMES)}, or write {TEMPLATES}/")


def test_the_templates_of_this_repository_are_right() -> None:
    assert {"chatml", "gpt-oss-plain-math"} <= set(NAMES)
    assert chat_templates.problems(NAMES, str(TEMPLATES)) == []
