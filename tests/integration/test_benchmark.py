"""The benchmark against a real llama-server, and against servers that misbehave over real HTTP."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from nexus_tasks import benchmark
from nexus_tasks.core.errors import UsageError
from nexus_tasks.core.provenance import ROOT
from nexus_tasks.fleet import inventory
from nexus_tasks.fleet.exporters import Exporter
from nexus_tasks.fleet.inventory import Deployed, Instance
from nexus_tasks.fleet.targets import Target
from nexus_tasks.load.requests import Limits, Stage
from nexus_tasks.measurement import http_engine
from nexus_tasks.measurement.plan import Plan
from nexus_tasks.records import store
from nexus_tasks.records.benchmark_rows import BenchmarkSummary
from nexus_tasks.servers import route
from nexus_tasks.servers.client import connect
from nexus_tasks.workloads import sizes
from nexus_tasks.workloads.workload import Spec
from tests.conftest import RunningServer, free_port, run_server
from tests.support.known import known
from tests.support.scripted_server import Handler, openai, serving

KEY = "sk-integration-0123456789abcdef"


def asked(prompt: int, output: int, *, runs: int, warmup: int, **spec: Any) -> Plan:
    """A plan of requests one after another."""
    lengths = Spec(prompt_tokens=sizes.fixed(prompt), output_tokens=sizes.fixed(output))
    stage = Stage("closed", concurrency=1, requests=runs, warmup=warmup)
    return Plan(dataclasses.replace(lengths, **spec), (stage,))


SMALL = asked(32, 8, runs=3, warmup=1)


def measured(base_url: str, plan: Plan, root: Path) -> store.BenchmarkRecord:
    return store.load(http_engine.run(Target("local/test", base_url), plan, root=root))


def summary(record: store.BenchmarkRecord) -> BenchmarkSummary:
    return known(record.summary)


def expected_status(record: store.BenchmarkRecord) -> int:
    """Of a run in which nothing failed: other tests may keep the load generator from its work, and then it says so."""
    assert summary(record).failed == 0
    return 0 if summary(record).valid else 1


# --- a real llama-server


@pytest.mark.parametrize("length", [1, 32, 700])
def test_completions_have_exactly_the_lengths_asked_for(server: RunningServer, tmp_path: Path, length: int) -> None:
    record = measured(server.base_url, asked(length, 9, runs=2, warmup=1), tmp_path)
    assert summary(record).ok is True
    assert [row.phase for row in record.requests] == ["warmup", "run", "run"]
    for row in record.requests:
        assert (row.prompt_tokens, row.output_tokens, row.finish_reason) == (length, 9, "limit")
        assert len(row.itl_ms) == 8 or row.untimed  # a busy machine may have taken all at once
        timings = known(row.server)
        assert known(timings.prompt_n) + known(timings.cache_n) == length
        assert timings.predicted_n == 9
        assert 0 < known(row.ttft_ms) < known(row.total_ms)
        assert sum(row.itl_ms) == pytest.approx(row.decode_ms or 0.0, abs=0.02)


@pytest.mark.parametrize("length", [40, 41, 42, 300])
def test_chats_have_exactly_the_prompt_length_with_their_template(
    server: RunningServer, tmp_path: Path, length: int
) -> None:
    record = measured(server.base_url, asked(length, 9, runs=2, warmup=1, api="chat"), tmp_path)
    assert summary(record).ok is True
    for row in record.requests:
        assert (row.prompt_tokens, row.output_tokens) == (length, 9)
        assert known(row.server).prompt_n == length


@pytest.mark.parametrize("api", ["completion", "chat"])
def test_no_prompt_is_helped_by_the_prefix_cache_even_in_a_second_run(
    server: RunningServer, tmp_path: Path, api: str
) -> None:
    plan = asked(64, 4, runs=3, warmup=1, api=api)
    for _ in range(2):
        record = measured(server.base_url, plan, tmp_path)
        assert [known(row.server).cache_n for row in record.requests] == [0, 0, 0, 0]
        assert all(known(row.prefill_tps) > 0 for row in record.requests)
        assert record.header.workload.prompts == "unique"


def test_the_same_prompt_is_answered_from_the_cache_when_that_is_asked_for(
    server: RunningServer, tmp_path: Path
) -> None:
    record = measured(server.base_url, asked(64, 4, runs=2, warmup=1, prompts="same"), tmp_path)
    assert [known(row.server).cache_n for row in record.requests[1:]] == [63, 63]
    assert [row.prefill_tps for row in record.requests[1:]] == [None, None]
    assert summary(record).metrics["prefill_tps"] is None
    assert record.header.workload.prompts == "same"


@pytest.mark.alone
def test_the_client_times_decoding_as_the_server_does(server: RunningServer, tmp_path: Path) -> None:
    record = measured(server.base_url, asked(64, 128, runs=3, warmup=1), tmp_path)
    assert abs(known(summary(record).agreement).difference_percent) < 2


def test_the_record_says_what_was_measured(server: RunningServer, tmp_path: Path) -> None:
    record = measured(server.base_url + "/v1/", SMALL, tmp_path)
    header = record.header
    assert header.endpoint.engine == "llama.cpp"
    assert header.endpoint.model == "tiny"
    assert header.endpoint.base_url == server.base_url
    assert header.model.path == str(server.model)
    assert header.model.size_bytes == server.model.stat().st_size
    assert known(header.model.n_params) > 0
    assert (header.server.n_ctx, header.server.total_slots) == (4096, 1)
    assert header.server.build
    assert header.client.local is True
    assert record.samples


def test_text_completions_of_the_openai_api_are_measured_too(server: RunningServer, tmp_path: Path) -> None:
    # As a gateway shows it: the OpenAI API alone.
    def only_openai(handler: Handler) -> None:
        if not handler.path.startswith("/v1/"):
            handler.send_error(404)
        elif handler.command == "GET":
            handler.answer_json({"data": [{"id": "tiny"}]})
        else:
            handler.relay(server.base_url)

    with serving(only_openai) as address:
        record = measured(address, asked(32, 8, runs=2, warmup=1, api="completion"), tmp_path)
    assert record.header.endpoint.engine == "openai"
    assert record.header.workload.ignore_eos is False
    assert summary(record).failed == 0
    for row in record.requests:
        assert row.output_tokens == 8
        assert known(row.prompt_tokens) > 1
        assert len(row.itl_ms) == 7


def test_a_workload_larger_than_the_context_is_refused_before_anything_is_written(
    server: RunningServer, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="4000 prompt and 97 output tokens are 4097, more than the 4096"):
        measured(server.base_url, asked(4000, 97, runs=1, warmup=0), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_whole_context_can_be_used(server: RunningServer, tmp_path: Path) -> None:
    record = measured(server.base_url, asked(4088, 8, runs=1, warmup=0), tmp_path)
    assert summary(record).ok is True


def test_a_chat_shorter_than_its_template_is_refused(server: RunningServer, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the chat template alone takes"):
        measured(server.base_url, asked(1, 8, runs=1, warmup=0, api="chat"), tmp_path)


def test_an_unwritable_results_folder_stops_before_the_first_request(
    server: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results").write_text("a file")
    argv = [server.base_url, "--preset", "quick", "--results", str(tmp_path / "results")]
    assert benchmark.main(argv) == 1
    captured = capsys.readouterr()
    assert "cannot write a run record to" in captured.err
    assert "warm-up" not in captured.out


def test_a_server_that_dies_in_the_middle_is_a_row_with_its_cause(
    llama_server_bin: Path, tiny_model: Path, tmp_path: Path
) -> None:
    with run_server(llama_server_bin, tiny_model, tmp_path / "log") as doomed:

        def kill_in_the_second_answer() -> None:
            while not any('"request"' in path.read_text() for path in tmp_path.glob("benchmark/*.jsonl")):
                time.sleep(0.01)
            with connect(doomed.base_url, None) as client:
                while client.get("/slots").json()[0].get("next_token", [{}])[0].get("n_decoded", 0) < 5:
                    time.sleep(0.01)
            doomed.process.kill()

        killer = threading.Thread(target=kill_in_the_second_answer)
        killer.start()
        record = measured(doomed.base_url, asked(8, 400, runs=2, warmup=1), tmp_path)
        killer.join()
    assert [row.ok for row in record.requests] == [True, False, False]
    cut, refused = record.requests[1:]
    assert known(cut.error).kind == "disconnected"
    # What is left of a killed server may still take a connection, and breaks it off.
    assert known(refused.error).kind in ("connect", "disconnected")
    assert 0 < len(cut.itl_ms) < 399
    assert cut.decode_tps is None
    assert refused.ttft_ms is None
    assert (summary(record).ok, summary(record).failed) == (False, 2)


def test_a_key_opens_the_server_and_appears_nowhere(
    llama_server_bin: Path,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    key_file = tmp_path / "key"
    key_file.write_text(KEY)
    argv = ["--prompt-tokens", "16", "--output-tokens", "4", "--requests", "1", "--results", str(tmp_path / "results")]
    with run_server(llama_server_bin, tiny_model, tmp_path / "log", "--api-key-file", str(key_file)) as locked:
        monkeypatch.delenv(route.KEY_VARIABLE, raising=False)
        assert benchmark.main([locked.base_url, *argv]) == 1
        captured = capfd.readouterr()
        assert f"error: {locked.base_url} wants an API key (HTTP 401)" in captured.err
        assert route.KEY_VARIABLE in captured.err

        monkeypatch.setenv(route.KEY_VARIABLE, KEY + "x")
        assert benchmark.main([locked.base_url, *argv]) == 1
        captured = capfd.readouterr()
        assert f"error: {locked.base_url} refuses the key it was given (HTTP 401)" in captured.err
        assert KEY not in captured.err + captured.out

        monkeypatch.setenv(route.KEY_VARIABLE, KEY)
        status = benchmark.main([locked.base_url, *argv])
        captured = capfd.readouterr()
    [path] = store.paths("benchmark", tmp_path / "results")
    assert status == expected_status(store.load(path))
    assert KEY not in path.read_text() + captured.out + captured.err


def test_json_is_all_that_is_printed_when_it_is_asked_for(server: RunningServer, tmp_path: Path) -> None:
    run = command(server.base_url, "--requests", "2", "--output-tokens", "4", "--json", root=tmp_path)
    output, errors = run.communicate(timeout=120)
    [answer] = json.loads(output)
    assert run.returncode == expected_status(store.load(Path(answer["record"])))
    assert answer["ok"] is True
    assert answer["metrics"]["ttft_ms"]["n"] == 2
    record = store.load(Path(answer["record"]))
    assert record.run_id == answer["run_id"]
    assert "run 2: TTFT" in errors


def test_the_table_for_people_fits_80_columns(server: RunningServer, tmp_path: Path) -> None:
    run = command(server.base_url, "--preset", "quick", root=tmp_path)
    output, errors = run.communicate(timeout=120)
    [path] = store.paths("benchmark", tmp_path)
    assert run.returncode == expected_status(store.load(path)), errors
    lines = [line for line in output.splitlines() if str(path) not in line]
    assert max(map(len, lines)) <= 80
    assert re.search(r"TTFT, ms .*\d", output)
    assert "decode time against the server's own timings: " in output
    assert f"record: {path}" in output


def test_ctrl_c_finishes_the_record_and_exits_as_shells_expect(server: RunningServer, tmp_path: Path) -> None:
    sizes = ["--prompt-tokens", "64", "--output-tokens", "64"]
    run = command(server.base_url, *sizes, "--requests", "1000", root=tmp_path)
    deadline = time.monotonic() + 120
    while not any('"run"' in path.read_text() for path in tmp_path.glob("benchmark/*.jsonl")):
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    output, _ = run.communicate(timeout=120)
    assert run.returncode == 130
    [path] = store.paths("benchmark", tmp_path)
    outcome = summary(store.load(path))
    assert (outcome.interrupted, outcome.ok) == (True, False)
    assert known(outcome.metrics["ttft_ms"]).n >= 1
    assert str(path) in output


def test_a_target_that_is_down_does_not_keep_the_others_from_being_measured(
    server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def instance(name: str, base_url: str) -> Instance:
        argv = ["llama-server"]
        return Instance("gpu1", name, base_url, None, {"name": "tiny"}, {"name": "b1"}, argv, "server.log", here=True)

    dead = f"http://127.0.0.1:{free_port()}"
    found = Deployed([instance("down", dead), instance("up", server.base_url)], {"gpu2": "no route to host"})
    monkeypatch.setattr(inventory, "deployed", lambda pattern: found)
    sizes = ["--prompt-tokens", "16", "--output-tokens", "4", "--requests", "1"]
    assert benchmark.main(["gpu-hosts", *sizes, "--results", str(tmp_path)]) == 1
    assert f"error: {dead} does not answer: connection refused; gpu2: no route to host" in capsys.readouterr().err
    [path] = store.paths("benchmark", tmp_path)
    header = store.load(path).header
    assert header.target == "gpu1/up"
    assert header.endpoint.instance == "up"
    assert header.server.release == "b1"
    assert header.server.argv == ["llama-server"]
    assert header.workload.preset is None


@pytest.mark.parametrize(
    ("exporter", "problem"),
    [
        (Exporter("gpu1", "{dead}"), "connection refused"),
        (Exporter("gpu1", "{server}"), "is no exporter of role telemetry"),
        (Exporter("gpu1", "{dead}", ("false",)), "ssh"),
    ],
)
def test_an_exporter_that_does_not_tell_is_told_and_the_server_is_measured(
    server: RunningServer, tmp_path: Path, exporter: Exporter, problem: str
) -> None:
    there = httpx.URL(server.base_url).netloc.decode()
    address = exporter.address.format(dead=f"127.0.0.1:{free_port()}", server=there)
    instance = Instance("gpu1", "main", server.base_url, None, {"name": "tiny"}, {"name": "b1"}, [], "server.log")
    target = Target("gpu1/main", server.base_url, instance=instance, tunnel="gpu1")
    console = Console(file=io.StringIO(), width=200)
    exporters = {"gpu1": dataclasses.replace(exporter, address=address)}
    record = store.load(http_engine.run(target, SMALL, exporters=exporters, root=tmp_path, console=console))
    assert summary(record).ok
    assert isinstance(console.file, io.StringIO)
    assert re.search(f"telemetry of gpu1 is missing: .*{problem}", console.file.getvalue())


def command(*arguments: str, root: Path) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "nexus_tasks.benchmark", *arguments, "--results", str(root)]
    environment = {name: value for name, value in os.environ.items() if name != route.KEY_VARIABLE}
    return subprocess.Popen(argv, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


# --- servers that misbehave


def word(text: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": {"content": text}}]}).encode() + b"\n\n"


END = (
    b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":30,"completion_tokens":2}}\n\ndata: [DONE]\n\n'
)


def good(handler: Handler) -> None:
    handler.begin_stream()
    for part in (b": hello\n\n", word("a"), word("b"), END, b""):
        handler.send(part)


def test_a_server_without_llama_servers_api_is_measured_by_chat_and_usage(tmp_path: Path) -> None:
    with serving(openai(good)) as address:
        record = measured(address, SMALL, tmp_path)
    assert summary(record).ok is True
    assert summary(record).agreement is None
    assert record.header.workload.api == "chat"
    assert record.header.server.n_ctx == 2048
    assert (record.requests[0].prompt_tokens, record.requests[0].output_tokens) == (30, 2)


def unavailable(handler: Handler) -> None:
    handler.answer_json({"error": {"message": "Loading model", "code": 503}}, 503)


def error_inside(handler: Handler) -> None:
    handler.begin_stream()
    for part in (word("a"), b'data: {"error":{"message":"slot was evicted"}}\n\n', b""):
        handler.send(part)


def no_end(handler: Handler) -> None:
    handler.begin_stream()
    handler.send(word("a"))
    handler.send(b"")


def cut(handler: Handler) -> None:
    handler.begin_stream()
    handler.send(word("a"))
    handler.close_connection = True


def silence(handler: Handler) -> None:
    handler.begin_stream()
    handler.send(word("a"))
    handler.rfile.read(1)  # until the client gives up


def nothing_but_comments(handler: Handler) -> None:
    handler.begin_stream()
    handler.send(word("a"))
    with contextlib.suppress(OSError):
        while True:
            handler.send(b":\n\n")
            time.sleep(0.1)


def no_json(handler: Handler) -> None:
    handler.begin_stream()
    for part in (word("a"), b"data: <html>\n\n", END, b""):
        handler.send(part)


def test_a_sweep_of_a_server_that_counts_no_tokens_goes_by_its_requests(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one_at_a_time = threading.Lock()

    def stream(handler: Handler) -> None:
        with one_at_a_time:
            time.sleep(0.02)
            handler.begin_stream()
            for delta, reason in (({"content": "a"}, None), ({"content": "b"}, "stop")):
                choice = {"index": 0, "delta": delta, "finish_reason": reason}
                handler.send(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")
            handler.send(b"data: [DONE]\n\n")
            handler.send(b"")

    with serving(openai(stream)) as address:
        benchmark.main(
            [address, "--sweep", "--most", "4", "--requests", "12", "--output-tokens", "2", "--results", str(tmp_path)]
        )
    [path] = tmp_path.rglob("*.jsonl")
    record = store.load(path)
    assert {1, 2} <= {row.concurrency for row in record.stages}
    assert all(row.throughput and row.throughput.output_tps is None for row in record.stages)
    assert summary(record).knee is not None
    said = " ".join(capsys.readouterr().out.split())
    assert "the server does not say how many tokens" in said
    assert "knee" in said


@pytest.mark.parametrize(
    ("stream", "kind", "message"),
    [
        (unavailable, "http_status", "HTTP 503: Loading model"),
        (error_inside, "in_stream", "slot was evicted"),
        (no_end, "disconnected", "the stream stopped without its end, after 1 tokens"),
        (cut, "disconnected", "the stream stopped without its end, after 1 tokens"),
        (silence, "timeout", "nothing arrived for 2 s"),
        (nothing_but_comments, "timeout", "nothing but keep-alive messages for 2 s"),
        (no_json, "protocol", "not a JSON object: <html>"),
    ],
)
def test_a_request_that_fails_is_a_row_with_its_cause_and_the_run_goes_on(
    tmp_path: Path, stream: Callable[[Handler], None], kind: str, message: str
) -> None:
    seen: list[str] = []

    def fails_once(handler: Handler) -> None:
        seen.append(handler.path)
        (stream if len(seen) == 2 else good)(handler)

    with serving(openai(fails_once)) as address:
        record = measured(address, dataclasses.replace(SMALL, limits=Limits(token_s=2)), tmp_path)
    assert [row.ok for row in record.requests] == [True, False, True, True]
    assert known(record.requests[1].error).kind == kind
    assert message in known(record.requests[1].error).message
    assert (summary(record).ok, summary(record).failed) == (False, 1)
    assert known(summary(record).metrics["ttft_ms"]).n == 2


def test_failed_requests_make_the_exit_status_1_and_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(openai(error_inside)) as address:
        assert benchmark.main([address, "--preset", "quick", "--results", str(tmp_path)]) == 1
    assert "in_stream: slot was evicted" in capsys.readouterr().out


def test_a_server_that_repeats_the_key_does_not_get_it_into_the_record(tmp_path: Path) -> None:
    def gossip(handler: Handler) -> None:
        handler.answer_json({"error": {"message": f"bad key {handler.headers['Authorization']}"}}, 400)

    with serving(openai(gossip)) as address:
        path = http_engine.run(Target("t", address, KEY), SMALL, root=tmp_path)
    assert KEY not in path.read_text()
    assert known(store.load(path).requests[0].error).message == "HTTP 400: bad key Bearer ***"
