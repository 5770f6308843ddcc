"""What servers write in JSON is read whatever they write, and their errors are told from answers."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from nexus_tasks.servers import answers
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b'{"a": 1}', {"a": 1}),
        ('{"a": "\\ud83e"}', {"a": "\ud83e"}),
        (b"[NaN, Infinity, -Infinity, 1e999, -1e999]", [None] * 5),
        (b"\xef\xbb\xbf[]", []),
        (b'["\xff"]', ["\ufffd"]),
        (b"12345678901234567890123", 12345678901234567890123),
    ],
)
def test_json_is_read_as_servers_write_it(text: bytes | str, value: object) -> None:
    assert answers.json_of(text) == value


@pytest.mark.parametrize("text", [b"", b"{", b"<html>", b"[" * 100_000, b"1" * 10_000, b"nan", b"\x00"])
def test_what_is_no_json_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError, match="JSON"):
        answers.json_of(text)


def values(chance: random.Random, depth: int = 0) -> Any:
    kinds: list[Any] = [None, True, 0, -7, 2**63, 0.1, -1e-300, 1e300, "", "é🦙\u2028", "\ud83e", "\udd99x"]
    if depth < 3 and chance.random() < 0.6:
        inner = [values(chance, depth + 1) for _ in range(chance.randrange(4))]
        return inner if chance.random() < 0.5 else {str(entry)[:5]: entry for entry in inner}
    return chance.choice(kinds)


def test_json_is_read_as_the_standard_library_reads_it() -> None:
    chance = random.Random(1)  # noqa: S311 - values, not secrets
    for _ in range(1000):
        text = json.dumps(values(chance))
        assert answers.json_of(text) == json.loads(text), text


def test_halves_of_a_letter_are_put_together_and_lone_ones_replaced() -> None:
    assert answers.text_of("\ud83e" + "\udd99") == "🦙"
    assert answers.text_of("a\ud83e") == "a\ufffd"
    assert answers.text_of(7) is None


@pytest.mark.parametrize(
    ("value", "count", "number"),
    [
        (5, 5, 5), (5.0, 5, 5.0), (0, 0, 0), (5.5, None, 5.5), (-1, None, None), (1e300, None, None),
        (10**400, None, None), (float("nan"), None, None), (float("inf"), None, None), (True, None, None),
        ("5", None, None), (None, None, None), (1e-300, 0, 0), ([5], None, None),
    ],
)  # fmt: skip
def test_quantities_are_such_as_can_be_reckoned_with(value: object, count: int | None, number: float | None) -> None:
    assert answers.count_of(value) == count
    assert answers.number_of(value) == number


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"error": {"message": "out of\nmemory", "code": 500}}, "out of memory"),
        ({"error": "no"}, "no"),
        ({"error": {"code": 500}}, '{"code": 500}'),
        ({"choices": [], "error": {"message": "late"}}, "late"),
        ({"object": "error", "message": "no such model"}, "no such model"),
        ({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, "Overloaded"),
        ({"detail": "Not Found"}, "Not Found"),
        ({"detail": [{"loc": ["body"], "msg": "field required"}]}, "field required"),
        ({"error_code": 50001, "text": "worker died"}, "worker died"),
        ({"errors": [{"message": "a"}, {"message": "b"}]}, "a"),
        ({"code": "InvalidParameter", "message": "bad"}, "bad"),
        ({"status": 500, "message": "bad"}, "bad"),
        ({"choices": [{"delta": {"content": "a"}}]}, None),
        ({"choices": [], "error": None, "error_code": 0, "errors": []}, None),
        ({"content": "a", "tokens_predicted": 1, "message": "x", "status": 0}, None),
        ({"object": "chat.completion.chunk"}, None),
        ({}, None),
        ([1], None),
        (None, None),
    ],
)
def test_errors_are_told_from_answers(value: object, told: str | None) -> None:
    assert answers.error_in(value) == told


@pytest.mark.parametrize("room", ["servers", "load", "workloads"])
def test_answers_of_servers_are_read_in_one_place(room: str) -> None:
    for path in (ROOT / "nexus_tasks" / room).rglob("*.py"):
        if path.name in ("answers.py", "prompt_file.py", "messages.py"):  # messages.py: what is ordinary, many at once
            continue
        text = path.read_text()
        for way in ("json.loads(", "json.decode(", ".json()"):
            assert way not in text, f"{path}: {way} is answers.json_of"


KEY = "sk-0123456789abcdefghijklmnopqrstuv"


@pytest.mark.parametrize("before", [0, 100, *range(258, 302, 3), 400])
@pytest.mark.parametrize("form", ['{{"error": {{"message": "{}"}}}}', '{{"detail": "{}"}}', "{}", '{{"error": "{}"}}'])
def test_of_a_key_that_a_server_echoes_nothing_is_left_wherever_its_words_are_cut(before: int, form: str) -> None:
    body = form.format("x" * before + KEY + "y" * 600).encode()
    shown = answers.shown(answers.excerpt(body), KEY)
    assert len(shown) <= answers.EXCERPT
    assert not any(KEY[start : start + 4] in shown for start in range(len(KEY) - 4))


@pytest.mark.parametrize(
    "body", [b'{"error": "\\u001b]0;owned\\u0007no\\u202e model"}', b"\x1b]0;owned\x07no\xe2\x80\xae model"]
)
def test_what_a_server_says_does_not_control_a_terminal(body: bytes) -> None:
    assert answers.excerpt(body) == "no model"
    assert answers.name_of("ti\x1b[2Jny\nmodel") == "tiny model"


def test_what_servers_say_is_cut_and_named_by_these_functions_alone() -> None:
    files = [
        path for room in ("load", "servers", "measurement") for path in (ROOT / "nexus_tasks" / room).rglob("*.py")
    ]
    cutting = {path.name for path in files if "EXCERPT]" in path.read_text()}
    assert cutting == set()
    exact = {path.name for path in files if "text_of(" in path.read_text()} - {"answers.py"}
    assert exact == {"messages.py", "endpoint.py"}  # of answers, and of a model's name, by which it is asked for
