"""Workloads, rows and verdicts of a benchmark, without a server."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from nexus_tasks import benchmark, provenance
from nexus_tasks.benchmark import PRESETS, Target, Workload
from nexus_tasks.endpoint import Endpoint
from nexus_tasks.errors import UsageError
from nexus_tasks.inventory import Instance
from nexus_tasks.stream import Reading, StreamError
from nexus_tasks.telemetry import Gpus

LLAMA = Endpoint("http://127.0.0.1:1", "llama.cpp", "tiny", n_ctx=1024, total_slots=1)
OTHER = Endpoint("http://127.0.0.1:1", "openai", "gpt")
WORK = Workload(8, 3, runs=2, warmup=1, api="completion")
TIMINGS = {"prompt_n": 8, "prompt_ms": 4.0, "predicted_n": 3, "predicted_ms": 1000.0, "cache_n": 0}


def reading(**changes: Any) -> Reading:
    whole = Reading(
        tokens=[10.5, 11.0, 11.6], end=11.7, prompt_tokens=8, output_tokens=3, finish_reason="limit",
        timings=dict(TIMINGS),
    )  # fmt: skip
    return dataclasses.replace(whole, **changes)


def row(found: Endpoint = LLAMA, **changes: Any) -> dict[str, Any]:
    return benchmark.request_row(found, WORK, reading(**changes), sent=10.0, ended=11.7)


def test_the_presets_are_those_of_the_documentation() -> None:
    sizes = {name: (w.prompt_tokens, w.output_tokens, w.runs, w.warmup) for name, w in PRESETS.items()}
    assert sizes == {
        "quick": (128, 64, 3, 1),
        "standard": (512, 256, 5, 1),
        "long-context": (2048, 512, 3, 1),
        "max-speed": (64, 128, 5, 2),
    }
    documentation = (provenance.ROOT / "docs" / "benchmarks.md").read_text()
    for name, numbers in sizes.items():
        assert f"| `{name}` | " + " | ".join(map(str, numbers)) + " |" in documentation


def test_an_unknown_preset_is_refused_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main(["http://127.0.0.1:1", "--preset", "fast"]) == 1
    assert capsys.readouterr().err == (
        "error: unknown preset 'fast'\n hint: the presets are quick, standard, long-context, max-speed\n"
    )


def test_an_address_without_its_scheme_is_refused_with_the_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main(["localhost:8600"]) == 1
    assert "hint: write http://localhost:8600" in capsys.readouterr().err


@pytest.mark.parametrize("changes", [{"prompt_tokens": 0}, {"output_tokens": -1}, {"runs": 0}, {"warmup": -1}])
def test_sizes_that_make_no_sense_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="is too few"):
        benchmark.settle(dataclasses.replace(WORK, **changes), LLAMA)


def test_more_tokens_than_a_slot_holds_are_refused_with_the_numbers() -> None:
    benchmark.settle(dataclasses.replace(WORK, prompt_tokens=1021), LLAMA)
    with pytest.raises(UsageError, match="1022 prompt and 3 output tokens are 1025, more than the 1024 of one slot"):
        benchmark.settle(dataclasses.replace(WORK, prompt_tokens=1022), LLAMA)


def test_other_servers_are_asked_by_chat_unless_told_otherwise() -> None:
    unset = dataclasses.replace(WORK, api=None)
    assert benchmark.settle(unset, LLAMA).api == "completion"
    assert benchmark.settle(unset, OTHER).api == "chat"
    assert benchmark.settle(WORK, OTHER).api == "completion"


def test_a_good_request_has_the_times_of_its_tokens() -> None:
    good = row()
    assert good["ok"] is True
    assert good["error"] is None
    assert good["ttft_ms"] == 500
    assert good["itl_ms"] == [500, 600]
    assert good["decode_ms"] == 1100
    assert good["total_ms"] == 1700
    assert good["decode_tps"] == pytest.approx(2 / 1.1)
    assert good["prefill_tps"] == 2000
    assert good["server"] == TIMINGS


def test_a_prompt_that_was_partly_cached_has_no_prefill_speed() -> None:
    assert row(timings={**TIMINGS, "prompt_n": 7, "cache_n": 1})["prefill_tps"] is None


def test_fewer_tokens_than_asked_for_are_a_failure_where_the_length_is_exact() -> None:
    short = row(output_tokens=2)
    assert short["ok"] is False
    assert short["error"] == {"kind": "short", "message": "2 of 3 output tokens (limit)"}
    assert row(OTHER, output_tokens=2)["ok"] is True


def test_another_prompt_length_than_asked_for_is_a_failure_where_the_length_is_exact() -> None:
    wrong = row(timings={**TIMINGS, "prompt_n": 9})
    assert wrong["error"] == {"kind": "protocol", "message": "the server saw 9 of 8 prompt tokens"}
    assert row(OTHER, timings={**TIMINGS, "prompt_n": 9})["ok"] is True


def test_a_failed_request_keeps_what_arrived_but_has_no_speed() -> None:
    failed = row(end=None, output_tokens=None, timings=None, failure=StreamError("disconnected", "it is gone"))
    assert failed["error"] == {"kind": "disconnected", "message": "it is gone"}
    assert (failed["ttft_ms"], failed["itl_ms"], failed["output_tokens"]) == (500, [500, 600], 3)
    assert (failed["decode_ms"], failed["decode_tps"], failed["prefill_tps"]) == (None, None, None)


def test_a_single_token_has_no_decode_speed() -> None:
    one = row(OTHER, tokens=[10.5], output_tokens=1)
    assert (one["itl_ms"], one["decode_ms"], one["decode_tps"]) == ([], 0, None)


def phased(phase: str, **changes: Any) -> dict[str, Any]:
    return {"phase": phase, **row(**changes)}


def test_figures_are_of_counted_requests_that_did_not_fail() -> None:
    broken = phased("run", end=None, failure=StreamError("timeout", "silence"))
    outcome = benchmark.summarise(
        [phased("warmup", tokens=[99.0]), phased("run"), broken, phased("run")], interrupted=False, wall_s=9.0
    )
    assert (outcome["ok"], outcome["requests"], outcome["failed"]) == (False, 4, 1)
    assert outcome["metrics"]["ttft_ms"]["points"] == [500, 500]
    assert outcome["metrics"]["itl_ms"]["points"] == [500, 600, 500, 600]


def test_a_failed_warm_up_makes_the_verdict_bad() -> None:
    bad = phased("warmup", end=None, failure=StreamError("http_status", "HTTP 503"))
    assert benchmark.summarise([bad, phased("run")], interrupted=False, wall_s=1.0)["ok"] is False


def test_an_interrupted_run_is_not_ok() -> None:
    assert benchmark.summarise([phased("run")], interrupted=True, wall_s=1.0)["ok"] is False


def test_without_counted_requests_every_metric_is_null() -> None:
    outcome = benchmark.summarise([], interrupted=True, wall_s=1.0)
    assert set(outcome["metrics"].values()) == {None}
    assert outcome["agreement"] is None


def test_the_agreement_compares_the_sums_of_both_clocks() -> None:
    rows = [phased("run"), phased("run", timings={**TIMINGS, "predicted_ms": 1400.0})]
    assert benchmark.summarise(rows, interrupted=False, wall_s=1.0)["agreement"] == {
        "client_decode_ms": 2200,
        "server_decode_ms": 2400,
        "difference_percent": pytest.approx(-100 / 12),
    }


SECRET = "sk-very-secret-0123456789"  # noqa: S105 - the value whose absence is tested


def instance(*argv: str) -> Instance:
    return Instance(
        "gpu1", "main", "http://127.0.0.1:1", SECRET, {"name": "tiny", "path": "/models/tiny.gguf"},
        {"name": "b1-cpu"}, ["llama-server", *argv], "server.log",
    )  # fmt: skip


@pytest.mark.parametrize("argv", [("--api-key", SECRET), (f"--api-key={SECRET}",), ("--x", f"a{SECRET}b")])
def test_a_key_that_somebody_put_into_argv_reaches_no_record(argv: tuple[str, ...]) -> None:
    deployed = instance("--port", "1", *argv)
    target = Target(deployed.target, deployed.base_url, SECRET, deployed)
    header = benchmark.header(target, LLAMA, WORK, Gpus())
    assert SECRET not in str(header)
    assert header["server"]["argv"][:3] == ["llama-server", "--port", "1"]
    assert len(header["server"]["argv"]) == 3 + len(argv)


def test_a_target_does_not_show_its_key() -> None:
    deployed = instance()
    assert SECRET not in repr(Target(deployed.target, deployed.base_url, SECRET, deployed))


def test_the_header_has_the_keys_of_the_documentation() -> None:
    deployed = instance()
    header = benchmark.header(Target("gpu1/main", "http://127.0.0.1:1", None, deployed), LLAMA, WORK, Gpus())
    documentation = (provenance.ROOT / "docs" / "records.md").read_text()
    for key, value in header.items():
        assert f"`{key}`" in documentation
        for inner in value if isinstance(value, dict) else ():
            assert f"`{inner}`" in documentation


def test_a_server_whose_model_file_is_elsewhere_does_not_run_here() -> None:
    deployed = instance()
    tunnel = Target("gpu1/main", "http://127.0.0.1:1", None, deployed)
    assert benchmark.header(tunnel, LLAMA, WORK, Gpus())["client"]["local"] is False


def test_a_server_on_loopback_with_its_model_file_here_is_local(tmp_path: Path) -> None:
    model = tmp_path / "m.gguf"
    model.write_bytes(b"GGUF")
    found = dataclasses.replace(LLAMA, model_path=str(model))
    header = benchmark.header(Target("t", "http://127.0.0.1:1", None), found, WORK, Gpus())
    assert header["client"]["local"] is True
    assert header["model"]["size_bytes"] == 4
