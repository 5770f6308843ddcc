"""The benchmark against a real llama-server, and against servers that misbehave over real HTTP."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nexus_tasks import benchmark, endpoint, inventory, prompts, results
from nexus_tasks.benchmark import Target, Workload
from nexus_tasks.errors import EndpointDown, EndpointError, NotOpenAI, Unauthorized, UsageError
from nexus_tasks.inventory import Instance
from nexus_tasks.provenance import ROOT
from tests.conftest import RunningServer, free_port, run_server

SMALL = Workload(32, 8, runs=3, warmup=1)
KEY = "sk-integration-0123456789abcdef"


def measured(base_url: str, workload: Workload, root: Path, **options: Any) -> results.Record:
    return results.load(benchmark.run(Target("local/test", base_url), workload, root=root, **options))


def summary(record: results.Record) -> dict[str, Any]:
    assert record.summary is not None
    return record.summary


# --- a real llama-server


@pytest.mark.parametrize("length", [1, 32, 700])
def test_completions_have_exactly_the_lengths_asked_for(server: RunningServer, tmp_path: Path, length: int) -> None:
    record = measured(server.base_url, Workload(length, 9, runs=2, warmup=1), tmp_path)
    assert summary(record)["ok"] is True
    assert [row["phase"] for row in record.requests] == ["warmup", "run", "run"]
    for row in record.requests:
        assert (row["prompt_tokens"], row["output_tokens"], row["finish_reason"]) == (length, 9, "limit")
        assert len(row["itl_ms"]) == 8
        assert row["server"]["prompt_n"] + row["server"]["cache_n"] == length
        assert row["server"]["predicted_n"] == 9
        assert 0 < row["ttft_ms"] < row["total_ms"]
        assert sum(row["itl_ms"]) == pytest.approx(row["decode_ms"], abs=0.02)


@pytest.mark.parametrize("length", [40, 41, 42, 300])
def test_chats_have_exactly_the_prompt_length_with_their_template(
    server: RunningServer, tmp_path: Path, length: int
) -> None:
    record = measured(server.base_url, Workload(length, 9, runs=2, warmup=1, api="chat"), tmp_path)
    assert summary(record)["ok"] is True
    for row in record.requests:
        assert (row["prompt_tokens"], row["output_tokens"]) == (length, 9)
        assert row["server"]["prompt_n"] == length


@pytest.mark.parametrize("api", ["completion", "chat"])
def test_no_prompt_is_helped_by_the_prefix_cache_even_in_a_second_run(
    server: RunningServer, tmp_path: Path, api: str
) -> None:
    workload = Workload(64, 4, runs=3, warmup=1, api=api)
    for _ in range(2):
        record = measured(server.base_url, workload, tmp_path)
        assert [row["server"]["cache_n"] for row in record.requests] == [0, 0, 0, 0]
        assert all(row["prefill_tps"] > 0 for row in record.requests)
        assert record.header["workload"]["prompts"] == "unique"


def test_the_same_prompt_is_answered_from_the_cache_when_that_is_asked_for(
    server: RunningServer, tmp_path: Path
) -> None:
    record = measured(server.base_url, Workload(64, 4, runs=2, warmup=1, same_prompt=True), tmp_path)
    assert [row["server"]["cache_n"] for row in record.requests[1:]] == [63, 63]
    assert [row["prefill_tps"] for row in record.requests[1:]] == [None, None]
    assert summary(record)["metrics"]["prefill_tps"] is None
    assert record.header["workload"]["prompts"] == "same"


def test_the_client_times_decoding_as_the_server_does(server: RunningServer, tmp_path: Path) -> None:
    record = measured(server.base_url, Workload(64, 128, runs=3, warmup=1), tmp_path)
    assert abs(summary(record)["agreement"]["difference_percent"]) < 2


def test_the_record_says_what_was_measured(server: RunningServer, tmp_path: Path) -> None:
    record = measured(server.base_url + "/v1/", SMALL, tmp_path)
    header = record.header
    assert header["endpoint"]["engine"] == "llama.cpp"
    assert header["endpoint"]["model"] == "tiny"
    assert header["endpoint"]["base_url"] == server.base_url
    assert header["model"]["path"] == str(server.model)
    assert header["model"]["size_bytes"] == server.model.stat().st_size
    assert header["model"]["n_params"] > 0
    assert (header["server"]["n_ctx"], header["server"]["total_slots"]) == (4096, 1)
    assert header["server"]["build"]
    assert header["client"]["local"] is True
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
        record = measured(address, Workload(32, 8, runs=2, warmup=1, api="completion"), tmp_path)
    assert record.header["endpoint"]["engine"] == "openai"
    assert record.header["workload"]["ignore_eos"] is False
    assert summary(record)["failed"] == 0
    for row in record.requests:
        assert row["output_tokens"] == 8
        assert row["prompt_tokens"] > 1
        assert len(row["itl_ms"]) == 7


def test_a_workload_larger_than_the_context_is_refused_before_anything_is_written(
    server: RunningServer, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="4000 prompt and 97 output tokens are 4097, more than the 4096"):
        measured(server.base_url, Workload(4000, 97, runs=1, warmup=0), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_whole_context_can_be_used(server: RunningServer, tmp_path: Path) -> None:
    record = measured(server.base_url, Workload(4088, 8, runs=1, warmup=0), tmp_path)
    assert summary(record)["ok"] is True


def test_a_chat_shorter_than_its_template_is_refused(server: RunningServer, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the chat template alone takes"):
        measured(server.base_url, Workload(1, 8, runs=1, warmup=0, api="chat"), tmp_path)


def test_drawn_token_ids_are_no_special_tokens(server: RunningServer) -> None:
    with endpoint.connect(server.base_url, None) as client:
        specials = {*endpoint.tokenize(client, "<|end|>", special=True)}
        assert len(specials) == 1
        drawn = prompts.completions(client, 500, 4)
    assert not specials & {token for prompt in drawn for token in prompt}


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
            with endpoint.connect(doomed.base_url, None) as client:
                while client.get("/slots").json()[0].get("next_token", [{}])[0].get("n_decoded", 0) < 5:
                    time.sleep(0.01)
            doomed.process.kill()

        killer = threading.Thread(target=kill_in_the_second_answer)
        killer.start()
        record = measured(doomed.base_url, Workload(8, 400, runs=2, warmup=1), tmp_path)
        killer.join()
    assert [row["ok"] for row in record.requests] == [True, False, False]
    cut, refused = record.requests[1:]
    assert (cut["error"]["kind"], refused["error"]["kind"]) == ("disconnected", "disconnected")
    assert 0 < len(cut["itl_ms"]) < 399
    assert cut["decode_tps"] is None
    assert refused["ttft_ms"] is None
    assert (summary(record)["ok"], summary(record)["failed"]) == (False, 2)


def test_a_key_opens_the_server_and_appears_nowhere(
    llama_server_bin: Path,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    key_file = tmp_path / "key"
    key_file.write_text(KEY)
    argv = ["--prompt-tokens", "16", "--output-tokens", "4", "--runs", "1", "--results", str(tmp_path / "results")]
    with run_server(llama_server_bin, tiny_model, tmp_path / "log", "--api-key-file", str(key_file)) as locked:
        monkeypatch.delenv(endpoint.API_KEY_VARIABLE, raising=False)
        assert benchmark.main([locked.base_url, *argv]) == 1
        captured = capfd.readouterr()
        assert f"error: {locked.base_url} wants an API key (HTTP 401)" in captured.err
        assert endpoint.API_KEY_VARIABLE in captured.err

        monkeypatch.setenv(endpoint.API_KEY_VARIABLE, KEY + "x")
        assert benchmark.main([locked.base_url, *argv]) == 1
        captured = capfd.readouterr()
        assert f"error: {locked.base_url} refuses the key it was given (HTTP 401)" in captured.err
        assert KEY not in captured.err + captured.out

        monkeypatch.setenv(endpoint.API_KEY_VARIABLE, KEY)
        assert benchmark.main([locked.base_url, *argv]) == 0
        captured = capfd.readouterr()
    [path] = results.paths("benchmark", tmp_path / "results")
    assert KEY not in path.read_text() + captured.out + captured.err


def test_json_is_all_that_is_printed_when_it_is_asked_for(server: RunningServer, tmp_path: Path) -> None:
    run = command(server.base_url, "--runs", "2", "--output-tokens", "4", "--json", root=tmp_path)
    output, errors = run.communicate(timeout=120)
    [answer] = json.loads(output)
    assert run.returncode == 0
    assert answer["ok"] is True
    assert answer["metrics"]["ttft_ms"]["n"] == 2
    record = results.load(Path(answer["record"]))
    assert record.run_id == answer["run_id"]
    assert "run 2/2" in errors


def test_the_table_for_people_fits_80_columns(server: RunningServer, tmp_path: Path) -> None:
    run = command(server.base_url, "--preset", "quick", root=tmp_path)
    output, errors = run.communicate(timeout=120)
    assert run.returncode == 0, errors
    [path] = results.paths("benchmark", tmp_path)
    lines = [line for line in output.splitlines() if str(path) not in line]
    assert max(map(len, lines)) <= 80
    assert re.search(r"TTFT, ms .*\d", output)
    assert "decode time against the server's own timings: " in output
    assert f"record: {path}" in output


def test_ctrl_c_finishes_the_record_and_exits_as_shells_expect(server: RunningServer, tmp_path: Path) -> None:
    run = command(server.base_url, "--runs", "1000", root=tmp_path)
    deadline = time.monotonic() + 120
    while not any('"run"' in path.read_text() for path in tmp_path.glob("benchmark/*.jsonl")):
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    output, _ = run.communicate(timeout=120)
    assert run.returncode == 130
    [path] = results.paths("benchmark", tmp_path)
    outcome = summary(results.load(path))
    assert (outcome["interrupted"], outcome["ok"]) == (True, False)
    assert outcome["metrics"]["ttft_ms"]["n"] >= 1
    assert str(path) in output


def test_a_target_that_is_down_does_not_keep_the_others_from_being_measured(
    server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def instance(name: str, base_url: str) -> Instance:
        return Instance("gpu1", name, base_url, None, {"name": "tiny"}, {"name": "b1"}, ["llama-server"], "server.log")

    dead = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setattr(
        inventory, "deployed_instances", lambda pattern: [instance("down", dead), instance("up", server.base_url)]
    )
    sizes = ["--prompt-tokens", "16", "--output-tokens", "4", "--runs", "1"]
    assert benchmark.main(["gpu-hosts", *sizes, "--results", str(tmp_path)]) == 1
    assert f"error: {dead} does not answer: connection refused" in capsys.readouterr().err
    [path] = results.paths("benchmark", tmp_path)
    header = results.load(path).header
    assert header["target"] == "gpu1/up"
    assert header["endpoint"]["instance"] == "up"
    assert header["server"]["release"] == "b1"
    assert header["server"]["argv"] == ["llama-server"]
    assert header["workload"]["preset"] is None


def command(*arguments: str, root: Path) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "nexus_tasks.benchmark", *arguments, "--results", str(root)]
    environment = {name: value for name, value in os.environ.items() if name != endpoint.API_KEY_VARIABLE}
    return subprocess.Popen(argv, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


# --- servers that misbehave


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers by the function that :func:`serving` was given."""

    protocol_version = "HTTP/1.1"
    respond: Callable[[Handler], None]

    def do_GET(self) -> None:
        type(self).respond(self)

    do_POST = do_GET  # noqa: N815 - the name that http.server looks for

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in http.server
        pass

    def answer(self, body: bytes, status: int = 200, content_type: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def answer_json(self, value: object, status: int = 200) -> None:
        self.answer(json.dumps(value).encode(), status)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def begin_stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def send(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def relay(self, base_url: str) -> None:
        """Pass a POST on to another server and its stream back."""
        with (
            endpoint.connect(base_url, None) as client,
            client.stream("POST", self.path, content=self.body()) as response,
        ):
            self.begin_stream()
            for chunk in response.iter_raw():
                self.send(chunk)
            self.send(b"")


@contextlib.contextmanager
def serving(respond: Callable[[Handler], None]) -> Iterator[str]:
    """A server of the test's own; its address."""
    handler = type("Responding", (Handler,), {"respond": staticmethod(respond)})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_address[1]}"
        finally:
            running.shutdown()
            thread.join()


def openai(stream: Callable[[Handler], None]) -> Callable[[Handler], None]:
    """A server with one model that answers chats by ``stream``."""

    def respond(handler: Handler) -> None:
        if handler.path == "/v1/models":
            handler.answer_json({"object": "list", "data": [{"id": "scripted", "max_model_len": 2048}]})
        elif handler.command == "POST":
            handler.body()
            stream(handler)
        else:
            handler.answer_json({"detail": "Not Found"}, 404)

    return respond


def word(text: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": {"content": text}}]}).encode() + b"\n\n"


END = b'data: {"choices":[],"usage":{"prompt_tokens":30,"completion_tokens":2}}\n\ndata: [DONE]\n\n'


def good(handler: Handler) -> None:
    handler.begin_stream()
    for part in (b": hello\n\n", word("a"), word("b"), END, b""):
        handler.send(part)


def test_a_server_without_llama_servers_api_is_measured_by_chat_and_usage(tmp_path: Path) -> None:
    with serving(openai(good)) as address:
        record = measured(address, SMALL, tmp_path)
    assert summary(record)["ok"] is True
    assert summary(record)["agreement"] is None
    assert record.header["workload"]["api"] == "chat"
    assert record.header["server"]["n_ctx"] == 2048
    assert (record.requests[0]["prompt_tokens"], record.requests[0]["output_tokens"]) == (30, 2)


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
    time.sleep(1.5)


def nothing_but_comments(handler: Handler) -> None:
    handler.begin_stream()
    handler.send(word("a"))
    with contextlib.suppress(OSError):
        for _ in range(30):
            handler.send(b":\n\n")
            time.sleep(0.1)


def no_json(handler: Handler) -> None:
    handler.begin_stream()
    for part in (word("a"), b"data: <html>\n\n", END, b""):
        handler.send(part)


@pytest.mark.parametrize(
    ("stream", "kind", "message"),
    [
        (unavailable, "http_status", "HTTP 503: Loading model"),
        (error_inside, "in_stream", "slot was evicted"),
        (no_end, "disconnected", "the stream stopped without its end, after 1 tokens"),
        (cut, "disconnected", "peer closed connection"),
        (silence, "timeout", "nothing arrived for 0.5 s"),
        (nothing_but_comments, "timeout", "nothing but keep-alive comments for 0.5 s"),
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
        record = measured(address, SMALL, tmp_path, timeout_s=0.5)
    assert [row["ok"] for row in record.requests] == [True, False, True, True]
    assert record.requests[1]["error"]["kind"] == kind
    assert message in record.requests[1]["error"]["message"]
    assert (summary(record)["ok"], summary(record)["failed"]) == (False, 1)
    assert summary(record)["metrics"]["ttft_ms"]["n"] == 2


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
        path = benchmark.run(Target("t", address, KEY), SMALL, root=tmp_path)
    assert KEY not in path.read_text()
    assert results.load(path).requests[0]["error"]["message"] == "HTTP 400: bad key Bearer ***"


# --- addresses that cannot be measured


def probe(address: str) -> endpoint.Endpoint:
    with endpoint.connect(address, None, timeout_s=0.5) as client:
        return endpoint.probe(client)


def test_a_refused_connection_is_told_with_the_remedy() -> None:
    address = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(EndpointDown, match=f"^{address} does not answer: connection refused$") as caught:
        probe(address)
    assert caught.value.hint == "start the server, or check the port"


def test_an_unknown_host_name_is_told() -> None:
    with pytest.raises(EndpointDown, match="does not answer: its host name is unknown"):
        probe("http://no-such-host.invalid:8600")


def test_tls_towards_a_server_without_it_is_told() -> None:
    with serving(no_model) as address, pytest.raises(EndpointDown, match="TLS failed") as caught:
        probe(address.replace("http:", "https:"))
    assert "check https against http" in caught.value.hint


def test_a_server_that_accepts_but_never_answers_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"http://127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(EndpointDown, match=f"{address} accepts connections but does not answer /health"):
            probe(address)


def test_a_server_that_does_not_speak_http_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def speak() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
                connection.recv(4096)

        thread = threading.Thread(target=speak)
        thread.start()
        with pytest.raises(NotOpenAI, match="does not speak HTTP"):
            probe(f"http://127.0.0.1:{listener.getsockname()[1]}")
        thread.join()


def html(handler: Handler) -> None:
    handler.answer(b"<!doctype html><h1>router</h1>", content_type="text/html; charset=utf-8")


def not_found(handler: Handler) -> None:
    handler.answer(b"<h1>no</h1>", 404, "text/html")


def other_json(handler: Handler) -> None:
    handler.answer_json({"status": "fine"})


def no_model(handler: Handler) -> None:
    handler.answer_json({"data": []})


def loading(handler: Handler) -> None:
    handler.answer_json({"error": {"message": "Loading model", "code": 503}}, 503)


def forbidden(handler: Handler) -> None:
    handler.answer_json({"error": "forbidden"}, 403)


def redirect(handler: Handler) -> None:
    handler.send_response(301)
    handler.send_header("Location", "https://elsewhere.example/v1/models?token=secret")
    handler.send_header("Content-Length", "0")
    handler.end_headers()


@pytest.mark.parametrize(
    ("respond", "error", "message"),
    [
        (html, NotOpenAI, "/v1/models answers with text/html instead of JSON"),
        (not_found, NotOpenAI, "/v1/models answers HTTP 404: Not Found"),
        (other_json, NotOpenAI, "/v1/models answers with JSON that is no list of models"),
        (no_model, NotOpenAI, "serves no model"),
        (loading, EndpointDown, "is not ready: Loading model"),
        (forbidden, Unauthorized, "wants an API key (HTTP 403)"),
        (redirect, NotOpenAI, "redirects to https://elsewhere.example/v1/models"),
    ],
)
def test_a_server_that_is_not_what_it_should_be_is_told_in_one_line(
    respond: Callable[[Handler], None], error: type[EndpointError], message: str
) -> None:
    with serving(respond) as address, pytest.raises(error) as caught:
        probe(address)
    assert caught.value.message == f"{address}{message}" or caught.value.message == f"{address} {message}"
    assert caught.value.hint
    assert "\n" not in caught.value.message + caught.value.hint


def test_a_router_of_llama_server_is_taken_for_an_openai_server() -> None:
    def router(handler: Handler) -> None:
        if handler.path == "/props":
            handler.answer_json({"role": "router", "build_info": "b1", "default_generation_settings": {"n_ctx": 0}})
        else:
            handler.answer_json({"data": [{"id": "a"}, {"id": "b"}]})

    with serving(router) as address:
        found = probe(address)
    assert (found.engine, found.model, found.n_ctx) == ("openai", "a", None)
