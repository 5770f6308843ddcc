"""The benchmark refuses what can't be measured, before anything is asked."""

from __future__ import annotations

from typing import Any

import pytest

from nexus_tasks import benchmark
from nexus_tasks.fleet import inventory
from nexus_tasks.fleet.inventory import Deployed, Instance
from nexus_tasks.measurement.presets import PRESETS


def told(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """What is said about a command that is refused before anything is measured."""
    assert benchmark.main(list(argv)) == 1
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "error", "hint"),
    [
        (["http://a:1", "--preset", "fast"], "unknown preset 'fast'", "the presets are quick, standard"),
        (
            ["http://a:1", "--tag", "last-good"],
            "the name of a tag must be a word that means nothing else, not 'last-good'",
            "",
        ),
        (["http://a:1", "--tag", "a,b"], "the name of a tag must be a word that means nothing else, not 'a,b'", ""),
        (
            ["localhost:8600"],
            "an address must begin with http:// or https://, which localhost:8600 lacks",
            "write http://localhost:8600",
        ),
        (["http://a:1", "--interleave"], "--interleave needs two targets, not 1", "name the two of them"),
        (["http://a:1", "http://b:1", "--save-baseline", "x"], "--save-baseline needs one target, not 2", "name one"),
        (
            ["http://a:1", "--stop-server"],
            "--stop-server needs an engine that works without the server",
            "--engine llama-bench",
        ),
        (["http://a:1", "--engine", "llama-bench"], "--engine llama-bench needs instances", "HOST/INSTANCE"),
    ],
)
def test_what_can_not_be_done_with_the_targets_is_said_before_they_are_asked(
    capsys: pytest.CaptureFixture[str], argv: list[str], error: str, hint: str
) -> None:
    said = told(capsys, *argv)
    assert f"error: {error}" in said
    assert hint in said


def test_llama_cpps_own_tools_refuse_what_they_do_not_have(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    instance = Instance("rig", "main", "http://127.0.0.1:1", None, None, {}, [], "log", here=True)
    monkeypatch.setattr(inventory, "deployed", lambda pattern: Deployed([instance], {}))
    for option in (["--interleave", "2"], ["--api", "chat"], ["--rate", "1"], ["--slo", "ttft_ms=5"], ["--seed", "1"]):
        said = told(capsys, "rig/main", "--engine", "llama-bench", *option)
        assert f"error: {option[0]} needs --engine http; llama-bench has no equal" in said


def test_the_help_names_every_preset(capsys: pytest.CaptureFixture[Any]) -> None:
    with pytest.raises(SystemExit):
        benchmark.main(["--help"])
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in PRESETS)
