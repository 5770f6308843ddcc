"""Patterns of hosts mean what is written: an empty word never means all."""

from __future__ import annotations

import pytest

from nexus_tasks import control
from nexus_tasks.core.errors import UsageError
from nexus_tasks.fleet import inventory, patterns, playbook, targets, verbs

WHOLE = [
    "gpu-hosts",
    "rig-*",
    "rig-1,rig-2",
    "gpu-hosts:!rig-1",
    "all:&lab",
    "rig-[1:4]",
    "~(web|db):x",
    "fe80::1",
    "[::1]",
    " a ",
]
EMPTY = ["", " ", ",", "rig-1,", ",rig-1", "gpu-hosts:!", "rig-1::rig-2", "a:&", "!", "a, ,b"]


@pytest.mark.parametrize("pattern", WHOLE)
def test_a_pattern_of_words_is_taken(pattern: str) -> None:
    assert patterns.check(pattern) == pattern
    assert patterns.split(pattern) == (pattern, "")
    patterns.check_limits(["-l", pattern, f"--limit={pattern}", "-v"])


@pytest.mark.parametrize("pattern", EMPTY)
def test_an_empty_word_is_refused_wherever_a_pattern_is_taken(pattern: str) -> None:
    ways = (
        lambda: patterns.check(pattern),
        lambda: patterns.split(f"{pattern}/main"),
        lambda: patterns.check_limits(["--check", "-l", pattern]),
        lambda: patterns.check_limits([f"--limit={pattern}"]),
        lambda: patterns.check_limits(["--lim", pattern]),
        lambda: patterns.check_limits(["-vCl", pattern]),
        lambda: playbook.run("deploy.yml", "-l", pattern),
        lambda: playbook.run_on(pattern, "playbooks/status.yml"),
        lambda: inventory.deployed(pattern),
        lambda: targets.find([pattern]),
        lambda: verbs.run("restart", verbs.chosen_pattern("restart", pattern), [], lines=1, console=None),  # type: ignore[arg-type]  # not come to
    )
    for way in ways:
        with pytest.raises(UsageError, match="would mean all hosts"):
            way()


def test_a_limit_without_a_value_is_empty() -> None:
    with pytest.raises(UsageError, match="an empty pattern of hosts"):
        patterns.check_limits(["--check", "-l"])


def test_a_slash_needs_an_instance() -> None:
    assert patterns.split("rig-1/main") == ("rig-1", "main")
    for target in ("rig-1/", "rig-1/ "):
        with pytest.raises(UsageError, match="has no instance behind its slash"):
            patterns.split(target)


@pytest.mark.parametrize(
    "argv", [["restart", ""], ["stop", "rig-1", "--instance", ""], ["status", "/main"], ["stop", "rig-1/"]]
)
def test_verbs_refuse_what_would_mean_more_than_was_written(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert control.main(argv) == 1
    assert "is a variable of the command line not set?" in capsys.readouterr().err
