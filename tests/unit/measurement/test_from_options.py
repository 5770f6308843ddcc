"""Plans that options come to, and options that make no sense."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from nexus_tasks.core.errors import UsageError
from nexus_tasks.measurement import from_options, options, presets
from nexus_tasks.measurement.plan import Plan, Sweep
from nexus_tasks.workloads import sizes


def plan(*argv: str) -> Plan:
    parser = argparse.ArgumentParser()
    options.add_to(parser)
    return from_options.plan(parser.parse_args(argv))


def test_without_options_it_is_the_standard_preset() -> None:
    assert plan() == presets.preset("standard")


def test_a_preset_keeps_its_name_only_while_nothing_differs_from_it() -> None:
    assert plan("--preset", "quick").spec.preset == "quick"
    assert plan("--preset", "quick", "--api", "chat").spec.preset == "quick"
    for option in (["--prompt-tokens", "129"], ["--requests", "4"], ["--same-prompt"], ["--concurrency", "2"]):
        assert plan("--preset", "quick", *option).spec.preset is None


def test_several_concurrencies_are_stages_whose_first_wave_does_not_count() -> None:
    made = plan("--concurrency", "1,4,16", "--preset", "quick")
    assert made.axis == "concurrency"
    assert [(stage.concurrency, stage.requests, stage.warmup) for stage in made.stages] == [
        (1, 3, 1), (4, 12, 4), (16, 48, 16),
    ]  # fmt: skip
    assert [stage.requests for stage in plan("--concurrency", "4", "--requests", "7").stages] == [7]
    assert [stage.warmup for stage in plan("--concurrency", "4", "--warmup", "0").stages] == [0]


@pytest.mark.parametrize(
    ("options", "mode"), [([], "constant"), (["--poisson"], "poisson"), (["--burst", "4"], "burst")]
)
def test_a_rate_lasts_half_a_minute_unless_told_otherwise(options: list[str], mode: str) -> None:
    [stage] = plan("--rate", "2.5", *options).stages
    assert (stage.mode, stage.rate_per_s, stage.duration_s, stage.requests) == (mode, 2.5, 30.0, None)
    assert plan("--rate", "1", "--duration", "5", *options).stages[0].duration_s == 5
    assert plan("--rate", "1", "--requests", "9", *options).stages[0].duration_s is None


def test_a_sweep_begins_at_one_user_or_half_a_request_per_second() -> None:
    by_users, by_rate = plan("--sweep"), plan("--sweep", "rate", "--most", "8")
    assert by_users.sweep == Sweep("concurrency", 1, 256)
    assert by_rate.sweep == Sweep("rate_per_s", 0.5, 8)
    assert by_rate.stages[0].duration_s == 30


def test_lengths_are_a_stage_each() -> None:
    made = plan("--lengths", "100..1k")
    assert (made.spec.kind, made.spec.lengths, made.axis) == ("context", (100, 200, 400, 800, 1024), "prompt_tokens")
    assert len(made.stages) == 5


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        (["--turns", "3"], "conversations"),
        (["--prefix-tokens", "100"], "shared-prefix"),
        (["--embeddings"], "embeddings"),
        (["--rerank", "5"], "rerank"),
    ],
)
def test_each_workload_has_its_option(options: list[str], kind: str) -> None:
    assert plan(*options).spec.kind == kind


def test_a_file_of_prompts_says_how_long_they_are_and_ends_where_the_model_does(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Hello\nWhat is a llama?\n")
    spec = plan("--prompts-file", str(prompts)).spec
    assert (spec.kind, spec.prompt_tokens, spec.output_tokens, spec.ignore_eos) == ("file", None, None, False)
    assert plan("--prompts-file", str(prompts), "--output-tokens", "9").spec.output_tokens == sizes.fixed(9)


def test_objectives_and_an_end_come_from_their_options() -> None:
    made = plan("--slo", "ttft_ms=500", "--slo", "itl_p95_ms=50", "--until", "ttft_ms:ci=2%")
    assert made.slo == {"ttft_ms": 500, "itl_p95_ms": 50}
    assert made.until == ("ttft_ms", 2.0)
    assert plan("--until", "ci=5%").until == ("decode_tps", 5.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--preset", "fast"], "unknown preset 'fast'"),
        (["--prompt-tokens", "0"], "must be a number of tokens from 1 on, not '0'"),
        (["--requests", "0"], "--requests must be 1 or more, not 0"),
        (["--warmup", "-1"], "--warmup must be 0 or more, not -1"),
        (["--concurrency", "0"], "--concurrency must be 1 or more, not 0"),
        (["--concurrency", "two"], "--concurrency must be numbers, not two"),
        (["--rate", "0"], "--rate must be more than 0, not 0"),
        (["--duration", "0"], "--duration must be more than 0, not 0"),
        (["--ramp", "-1"], "--ramp must be 0 or more, not -1"),
        (["--timeout", "0"], "--timeout must be more than 0, not 0"),
        (["--request-timeout", "-3"], "--request-timeout must be more than 0, not -3"),
        (["--max-error-rate", "2"], "--max-error-rate must be from 0 to 1, not 2"),
        (["--processes", "0"], "--processes must be 1 or more, not 0"),
        (["--processes", "1000"], "--processes must be at most 256, not 1000"),
        (["--concurrency", "100000"], "--concurrency must be at most 65535, not 100000"),
        (["--rate", "1", "--burst", "100000"], "--burst must be at most 65535, not 100000"),
        (["--sweep", "--most", "100000"], "--most must be at most 65535, not 100000"),
        (["--rate", "nan"], "--rate must be numbers, not nan: each must be a number"),
        (["--rate", "1,inf"], "--rate must be numbers, not 1,inf"),
        (["--concurrency", "1_0"], "--concurrency must be numbers, not 1_0"),
        (["--rate", "1", "--concurrency", "1"], "--concurrency and --rate exclude each other"),
        (["--rate", "1", "--poisson", "--burst", "2"], "--poisson and --burst exclude each other"),
        (["--requests", "1", "--duration", "1"], "--requests and --duration exclude each other"),
        (["--embeddings", "--rerank", "2"], "--embeddings and --rerank exclude each other"),
        (["--lengths", "1,2", "--turns", "2"], "--turns and --lengths exclude each other"),
        (["--lengths", "1,2", "--concurrency", "1,2"], "--lengths needs one --concurrency or --rate"),
        (["--poisson"], "--poisson needs --rate or --sweep rate"),
        (["--most", "4"], "--most needs --sweep"),
        (["--interleave", "3", "--sweep"], "--interleave and --sweep exclude each other"),
        (["--slo", "speed=1"], "the name must be of a latency that requests have, not 'speed'"),
        (["--sweep", "--lengths", "100,200"], "--sweep and --lengths exclude each other"),
        (["--sweep", "--most", "0"], "--most must be 1 or more, not 0"),
        (["--lengths", "100,200", "--prompt-tokens", "5"], "--prompt-tokens and --lengths exclude each other"),
        (["--embeddings", "--output-tokens", "5"], "--output-tokens and --embeddings exclude each other"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        plan(*options)
    assert message in caught.value.message
    assert caught.value.hint
