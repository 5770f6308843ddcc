from __future__ import annotations

import json

import pytest

from nexus_tasks.batches import failures
from nexus_tasks.batches.entries import KINDS
from nexus_tasks.batches.failures import Problem, Verdict

LONG = {"code": 400, "type": "exceed_context_size_error", "n_prompt_tokens": 5014, "n_ctx": 1024, "message": "exceeds"}


def http(status: int, retry_after_s: float | None = None, error: object = None) -> Problem:
    body = json.dumps({"error": error or {"message": "words"}}).encode()
    return failures.of_http(status, body, retry_after_s)


@pytest.mark.parametrize(
    ("problem", "kind", "verdict"),
    [
        (http(400), "refused", Verdict.NEVER),
        (http(422), "refused", Verdict.NEVER),
        (http(400, error=LONG), "too_long", Verdict.NEVER),
        (http(400, error={"message": "x: JSON schema error at #: unrecognized type y"}), "schema", Verdict.NEVER),
        (
            http(400, error={"message": "Failed to initialize samplers: failed to parse grammar"}),
            "schema",
            Verdict.NEVER,
        ),
        (http(413), "too_large", Verdict.NEVER),
        (http(401), "unauthorized", Verdict.UNUSABLE),
        (http(403), "unauthorized", Verdict.UNUSABLE),
        (http(404), "http_status", Verdict.AGAIN),
        (http(408), "http_status", Verdict.AGAIN),
        (http(500), "http_status", Verdict.AGAIN),
        (http(501), "http_status", Verdict.AGAIN),
        (http(429), "rate_limited", Verdict.ELSEWHERE),
        (http(503, 2.0), "rate_limited", Verdict.ELSEWHERE),
        (http(503), "http_status", Verdict.ELSEWHERE),
        (Problem("connect", "refused"), "connect", Verdict.ELSEWHERE),
        (Problem("disconnected", "reset"), "disconnected", Verdict.CUT),
        (Problem("stalled", "silence"), "stalled", Verdict.AGAIN),
        (Problem("timeout", "too long"), "timeout", Verdict.AGAIN),
        (Problem("protocol", "html"), "protocol", Verdict.AGAIN),
        (failures.of_stream({"error": {"message": "oom"}}, "oom"), "in_stream", Verdict.AGAIN),
        (failures.of_stream({"error": {"code": 500}}, "oom"), "in_stream", Verdict.AGAIN),
        (failures.of_stream({"error": LONG}, "exceeds"), "too_long", Verdict.NEVER),
    ],
    ids=range(23),
)
def test_a_problem_has_its_kind_and_its_consequence(problem: Problem, kind: str, verdict: Verdict) -> None:
    assert problem.kind == kind
    assert kind in KINDS
    assert failures.judge(problem) is verdict


def test_a_prompt_that_is_too_long_is_told_with_its_numbers() -> None:
    message = http(400, error=LONG).message
    assert message == "the prompt has 5014 tokens (n_prompt_tokens), and the context of a slot 1024 (n_ctx)"


def test_a_pause_that_a_server_asks_for_is_part_of_the_problem() -> None:
    assert http(429, 7.0).retry_after_s == 7.0


def test_pauses_grow_to_a_limit_and_are_drawn_from_nothing_up() -> None:
    longest = [failures.backoff_s(attempts, chance=lambda: 1.0) for attempts in range(10)]
    assert longest[:4] == [0.5, 1.0, 2.0, 4.0]
    assert longest[-1] == failures.MAX_BACKOFF_S
    assert failures.backoff_s(9, chance=lambda: 0.0) == 0.0
