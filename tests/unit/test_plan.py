"""The command ``plan``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nexus_tasks import plan
from tests.memory_model_list import MODELS
from tests.memory_models import write


@pytest.fixture
def model(tmp_path: Path) -> str:
    """The path of a model with experts."""
    return str(write(tmp_path / "m.gguf", MODELS["qwen3moe"]))


def test_json_is_for_programs(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        plan.main([model, "--gpus", "24576,16384", "--json", "-c", "8192", "--temp", "0.5", "--host-memory", "64000"])
        == 0
    )
    made = json.loads(capsys.readouterr().out)
    assert [device["name"] for device in made["devices"]] == ["CUDA0", "CUDA1", "host"]
    assert made["devices"][2]["free_mib"] == 64000
    assert made["options_without_effect"] == ["--temp"]


def test_the_table_is_for_people_and_says_what_would_fit(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan.main([model, "--gpus", "3000", "-c", "8192", "-a", "ignored"]) == 0
    shown = capsys.readouterr().out
    assert "verdict: does not fit" in shown
    assert "would fit: experts in the host's memory (--n-cpu-moe " in shown


def test_options_may_stand_before_the_model(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan.main(["--gpus", "24576", model, "-ngl", "0"]) == 0
    assert "0 of 9 layers on GPUs" in capsys.readouterr().out


def test_short_options_of_llama_server_that_begin_like_the_commands_own_are_its(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-lm", "none", "-lv", "3", "-lcs", "x", "-lcd", "y", "-lzm", "-n", "3"]
    assert plan.main([model, *words, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["devices"][-1]["mapped_mib"] == 0
    assert made["options_without_effect"] == ["-lv", "-lcs", "-lcd", "-lzm", "-n"]


@pytest.mark.parametrize("words", [["-l=rig"], ["-l", "rig"], ["--limit=rig"], ["--limit", "rig"]])
def test_hosts_are_named_with_their_option_alone(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert plan.main([*words, "-c", "4096"]) == 1
    assert "-l plans what the inventory declares" in capsys.readouterr().err


def test_the_value_of_an_option_before_the_model_is_not_taken_for_it(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan.main(["-c", "4096", model]) == 1
    assert "name a MODEL, before options of llama-server" in capsys.readouterr().err
    assert plan.main(["-c", "4096", "--gpus", "24576", model]) == 0
    assert "4,096 tokens" in capsys.readouterr().out


REFUSED = {
    "--bogus": "llama-server has no option --bogus",
    "--ctxsize 5": "did you mean --ctx-size?",
    "-c many": "-c many is no whole number",
    "-sm row": "doesn't cover --split-mode row",
}


@pytest.mark.parametrize("options", REFUSED)
def test_mistakes_are_told_in_one_line(options: str, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan.main([model, "--gpus", "24576", *options.split()]) == 1
    said = capsys.readouterr().err
    assert REFUSED[options] in said
    assert "Traceback" not in said


def test_gpus_are_numbers(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        plan.main([model, "--gpus", "lots"])
    assert "must be the free MiB of each GPU" in capsys.readouterr().err
