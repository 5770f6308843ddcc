"""Chat templates in a real llama-server: given back as declared, and rendered as the checks render them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from plugins.module_utils.hostlib.instances import Instance
from plugins.module_utils.llama_server.client import Server
from plugins.module_utils.llama_server.proof.checks import Checks
from plugins.module_utils.llama_server.proof.template import prove_prompt
from plugins.plugin_utils import chat_template_check, chat_templates
from tests.conftest import ROOT, RunningServer, run_server

TEMPLATES = ROOT / "templates" / "chat"
NAMES = sorted(path.stem for path in TEMPLATES.glob("*.jinja"))

TURNS = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"


OPENAI = (
    '{%- if "<|channel|>analysis<|message|>" in message.content or "<|channel|>final<|message|>" in message.content %}'
)
MISTRAL = (
    "{%- if (message['content'] is none or message['content'] == '' or message['content']|length == 0) and "
    "(message['tool_calls'] is not defined or message['tool_calls'] is none or message['tool_calls']|length == 0) %}"
)


@pytest.mark.parametrize(
    "source",
    [
        TURNS, TURNS + "\n", TURNS.replace("\n", "\r\n") + "\r\n", "\n  " + TURNS + "  ", "{# Größe → 漢 #}" + TURNS,
        TURNS + "{% for message in messages %}" + OPENAI + "x{% endif %}{% endfor %}",
        TURNS + "{% for message in messages %}" + MISTRAL + "[TOOL_CALLS]{% endif %}{% endfor %}",
    ],
    ids=["bare", "newline", "CRLF", "spaces", "UTF-8", "OpenAI", "Mistral"],
)  # fmt: skip
def test_llama_server_gives_a_template_back_as_declared(
    llama_server_bin: Path, tiny_model: Path, tmp_path: Path, source: str
) -> None:
    (tmp_path / "mine.jinja").write_bytes(source.encode())
    (text,) = chat_templates.texts(["mine"], str(tmp_path)).values()
    declared = tmp_path / "declared.jinja"
    declared.write_bytes(text.encode())
    # The host gets the declared text; the source itself leads the server to the same.
    for file in (declared, tmp_path / "mine.jinja"):
        with run_server(llama_server_bin, tiny_model, tmp_path / "log", "--chat-template-file", str(file)) as server:
            assert httpx.get(f"{server.base_url}/props").json()["chat_template"] == text


@pytest.fixture(scope="module", params=NAMES)
def with_template(
    request: pytest.FixtureRequest, llama_server_bin: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, RunningServer]]:
    """A server with each template of this repository, and the template's name."""
    log = tmp_path_factory.mktemp("template") / "server.log"
    path = TEMPLATES / f"{request.param}.jinja"
    with run_server(llama_server_bin, tiny_model, log, "--chat-template-file", str(path)) as server:
        yield request.param, server


def rendered(server: RunningServer, **body: Any) -> str:
    """What a template makes of a conversation, in the server."""
    response = httpx.post(f"{server.base_url}/apply-template", json=body)
    assert response.status_code == 200, response.text
    prompt: str = response.json()["prompt"]
    return prompt


def as_sent(conversation: dict[str, Any]) -> dict[str, Any]:
    """A conversation as clients of the API send it: the arguments of calls are texts."""
    sent: dict[str, Any] = json.loads(json.dumps(conversation))
    for message in sent["messages"]:
        for call in message.get("tool_calls", []):
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
    return sent


def test_llama_server_renders_what_the_check_renders(with_template: tuple[str, RunningServer]) -> None:
    name, server = with_template
    template = chat_template_check.environment().from_string((TEMPLATES / f"{name}.jinja").read_text())
    for conversations in chat_template_check.CONVERSATIONS.values():
        expected = template.render(chat_template_check.CONTEXT, **conversations[0])
        assert rendered(server, **as_sent(conversations[0])) == expected


def call(number: int, tool: str) -> dict[str, Any]:
    return {"id": f"c{number}", "type": "function", "function": {"name": tool, "arguments": '{"a": "k"}'}}


CALLS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "", "reasoning_content": "old thought", "tool_calls": [call(1, "first")]},
    {"role": "tool", "tool_call_id": "c1", "content": "result 1"},
    {"role": "assistant", "content": "One."},
    {"role": "user", "content": "Two?"},
    {"role": "assistant", "content": "", "reasoning_content": "new thought",
     "tool_calls": [call(2, "first"), call(3, "second")]},
    {"role": "tool", "tool_call_id": "c3", "content": "result 3"},
    {"role": "tool", "tool_call_id": "c2", "content": "result 2"},
]  # fmt: skip
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "first",
            "description": "Does\nthis.",
            "parameters": {
                "type": "object",
                "properties": {
                    "a": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                    "b": {"type": ["integer", "null"], "default": 3},
                    "c": {
                        "type": "object",
                        "properties": {"x": {"type": "number", "description": "Deep."}},
                        "required": ["x"],
                    },
                    "d": {"type": "array", "items": {"enum": ["p", "q"]}},
                    "e": {"type": "string", "default": "z"},
                    "f": {},
                    "g": {"type": "array"},
                    "h": {"type": "boolean", "nullable": True},
                },
                "required": ["a"],
            },
        },
    },
    {"type": "function", "function": {"name": "second", "description": "Does that."}},
]


FUNCTIONS = """\
## functions

namespace functions {

// Does
// this.
type first = (_: {
a: string | null,
b?: number | null, // default: 3
c?: {
// Deep.
x: number,
},
d?: ("p" | "q")[],
e?: string, // default: z
f?: any,
g?: any[],
h?: boolean | null,
}) => any;

// Does that.
type second = () => any;

} // namespace functions"""


def test_gpt_oss_plain_math_is_harmony(llama_server_bin: Path, tiny_model: Path, tmp_path: Path) -> None:
    path, log = TEMPLATES / "gpt-oss-plain-math.jinja", tmp_path / "log"
    flags = ["--chat-template-file", str(path), "--log-verbosity", "5"]
    with run_server(llama_server_bin, tiny_model, log, *flags) as server:
        prompt = rendered(server, messages=CALLS, tools=TOOLS, chat_template_kwargs={"reasoning_effort": "high"})
    # By its markers llama-server knows how to tell thoughts and calls from the answer.
    assert "Using specialized template: GPT-OSS" in log.read_text()
    system, developer, *turns = prompt.split("<|start|>")[1:]
    assert re.fullmatch(
        r"system<\|message\|>You are ChatGPT, a large language model trained by OpenAI\.\nKnowledge cutoff: 2024-06\n"
        r"Current date: \d{4}-\d\d-\d\d\n\nReasoning: high\n\n# Valid channels: analysis, commentary, final\. "
        r"Channel must be included for every message\.\nCalls to these tools must go to the commentary channel: "
        r"'functions'\.<\|end\|>",
        system,
    )
    assert developer.startswith("developer<|message|># Instructions\n\nBe brief.\n\nWrite mathematics as plain text, ")
    assert developer.partition("\n\n# Tools\n\n")[2] == FUNCTIONS + "<|end|>"
    assert turns == [
        "user<|message|>One?<|end|>",
        'assistant<|channel|>commentary to=functions.first <|constrain|>json<|message|>{"a": "k"}<|call|>',
        "functions.first to=assistant<|channel|>commentary<|message|>result 1<|end|>",
        "assistant<|channel|>final<|message|>One.<|end|>",
        "user<|message|>Two?<|end|>",
        "assistant<|channel|>analysis<|message|>new thought<|end|>",
        'assistant<|channel|>commentary to=functions.first <|constrain|>json<|message|>{"a": "k"}<|call|>',
        'assistant<|channel|>commentary to=functions.second <|constrain|>json<|message|>{"a": "k"}<|call|>',
        "functions.second to=assistant<|channel|>commentary<|message|>result 3<|end|>",
        "functions.first to=assistant<|channel|>commentary<|message|>result 2<|end|>",
        "assistant",
    ]


def test_chatml_puts_tools_between_tags(llama_server_bin: Path, tiny_model: Path, tmp_path: Path) -> None:
    path = TEMPLATES / "chatml.jinja"
    with run_server(llama_server_bin, tiny_model, tmp_path / "log", "--chat-template-file", str(path)) as server:
        prompt = rendered(server, messages=CALLS, tools=TOOLS)
        caps = httpx.get(f"{server.base_url}/props").json()["chat_template_caps"]
    system, rest = prompt.split("<|im_end|>\n", 1)
    assert system.startswith("<|im_start|>system\nBe brief.\n\n# Tools\n")
    listed = system.split("<tools>\n")[1].split("\n</tools>")[0].splitlines()
    assert [json.loads(line)["function"]["name"] for line in listed] == ["first", "second"]
    one_call = '<tool_call>\n{"name": "%s", "arguments": {"a": "k"}}\n</tool_call>'
    assert rest == (
        "<|im_start|>user\nOne?<|im_end|>\n"
        f"<|im_start|>assistant\n{one_call % 'first'}<|im_end|>\n"
        "<|im_start|>user\n<tool_response>\nresult 1\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\nOne.<|im_end|>\n"
        "<|im_start|>user\nTwo?<|im_end|>\n"
        f"<|im_start|>assistant\n{one_call % 'first'}\n{one_call % 'second'}<|im_end|>\n"
        "<|im_start|>user\n<tool_response>\nresult 3\n</tool_response>\n"
        "<tool_response>\nresult 2\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert caps["supports_tools"]
    assert caps["supports_tool_calls"]


# --- What the proof sees of it ---

PARTS_ONLY = (
    "{% for m in messages %}{% if m.content is string %}{{ raise_exception('a list of parts') }}{% endif %}"
    "{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}"
)
# By name a template, and what is said of it where it is declared and where it is the model's own; nothing where all is
# well.
LOST = "prompt: expected the user's words, found without them "
PROVEN = {
    "turns": (TURNS, "", ""),
    # llama-server's engine has no such filter, and leaves the form as it is.
    "format": (
        "{% for m in messages %}{{ '%s: %s' | format(m.role, m.content) }} {% endfor %}",
        LOST + "'%s: %s ",
        LOST + "'%s: %s ",
    ),
    "constant": ("Answer!", LOST + "'Answer!' (so llama-server's own engine renders a question", LOST + "'Answer!'"),
    "the last turn": ("{{ messages[-1].content }}", LOST + "'And do amber", ""),
    "parts": (PARTS_ONLY, "", ""),
    "declines": (
        "{{ raise_exception('never') if messages[0].content | length > 30 }}" + TURNS,
        "prompt: expected HTTP 200, found HTTP 400 (no prompt can be made of a question: ",
        "",
    ),
}


@pytest.mark.parametrize("name", PROVEN)
def test_the_proof_looks_for_the_users_words_in_the_servers_own_prompts(
    llama_server_bin: Path, tiny_model: Path, tmp_path: Path, name: str
) -> None:
    source, *said = PROVEN[name]
    (tmp_path / "mine.jinja").write_text(source)
    flags = ["--chat-template-file", str(tmp_path / "mine.jinja")]
    with run_server(llama_server_bin, tiny_model, tmp_path / "log", *flags) as server:
        for has_template, expected in zip((True, False), said, strict=True):
            config = Instance.from_json({"name": "main", "local_url": server.base_url, "has_template": has_template})
            subject = SimpleNamespace(
                config=config, server=Server(config, server.process.pid), key=None, checks=Checks()
            )
            prove_prompt(cast(Any, subject))
            (row,) = subject.checks.rows
            found = "".join(subject.checks.failures())
            assert found.startswith(expected) if expected else not found, found
            assert found.isprintable()
            assert bool(row["cause"]) == bool(expected or name == "declines")
        prove_prompt(cast(Any, subject), "tiny")  # as of a router
        assert subject.checks.rows[-1] == {**row, "check": "tiny prompt"}
