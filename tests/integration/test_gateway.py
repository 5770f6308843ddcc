"""One address for a fleet: real HAProxy and real llama-servers, deployed by the real playbooks, asked as users do."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.conftest import changed, free_port, said, wait_for
from tests.support.gateway_fleet import FRONT_KEY, GatewayFleet
from tests.support.haproxy import needs_haproxy

pytestmark = needs_haproxy

HELLO: Any = [{"role": "user", "content": "a quiet evening"}]
SLOTS = 3  # of tiny-babble: two on rig-1, one on rig-2


@pytest.fixture(scope="module")
def fleet(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayFleet]:
    made = GatewayFleet(tmp_path_factory.mktemp("fleet"), release)
    try:
        made.play("-l", "gpu-hosts:gateways", playbook="deploy.yml")
        yield made
    finally:
        made.remove()


@pytest.fixture
def client(fleet: GatewayFleet) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{fleet.url}/v1", api_key="none", max_retries=0, timeout=300)


def test_its_list_has_all_models_of_all_hosts(fleet: GatewayFleet, client: openai.OpenAI) -> None:
    assert sorted(model.id for model in client.models.list()) == ["beta", "org/alpha", "tiny-babble", "tiny-embed"]
    assert client.models.retrieve("org/alpha").id == "org/alpha"
    assert httpx.get(f"{fleet.url}/health").json() == {"status": "ok"}


@pytest.mark.parametrize("model", ["tiny-babble", "org/alpha", "beta"])
def test_a_chat_reaches_a_server_of_its_model(fleet: GatewayFleet, client: openai.OpenAI, model: str) -> None:
    named = {"X-Request-Id": f"chat-{uuid.uuid4()}"}
    answer = client.chat.completions.create(model=model, messages=HELLO, max_tokens=4, extra_headers=named)
    assert answer.usage
    assert answer.usage.completion_tokens == 4
    row = fleet.logged(named["X-Request-Id"])
    assert (row["model"], row["status"], row["path"]) == (model, 200, "/v1/chat/completions")
    assert row["server"] in ("rig-1_main", "rig-2_main" if model == "tiny-babble" else "rig-2_router")


def test_embeddings_go_to_the_server_that_makes_them(client: openai.OpenAI) -> None:
    made = client.embeddings.create(model="tiny-embed", input=["one", "two"])
    assert [len(one.embedding) > 8 for one in made.data] == [True, True]


def test_a_stream_comes_token_by_token(fleet: GatewayFleet, client: openai.OpenAI) -> None:
    asked: Any = {"model": "tiny-babble", "messages": HELLO, "max_tokens": 40, "stream": True}
    arrived = [time.monotonic() for _ in client.chat.completions.create(**asked)]
    assert len(arrived) >= 40
    # In one burst they would come within a millisecond or two.
    assert arrived[-1] - arrived[0] > 0.05
    assert len({round(moment, 3) for moment in arrived}) > 10


def test_how_many_slots_a_server_has_is_what_was_proven(fleet: GatewayFleet) -> None:
    _, *models = (fleet.root / "haproxy.cfg").read_text().split("\nbackend model_")
    lines = [line.split() for model in models for line in model.partition("\nbackend ")[0].splitlines()]
    servers = [words for words in lines if words[:1] == ["server"]]
    assert sorted((words[1], int(words[words.index("maxconn") + 1])) for words in servers) == [
        ("rig-1_embed", 1), ("rig-1_main", 2), ("rig-2_main", 1), ("rig-2_router", 1), ("rig-2_router", 3),
    ]  # fmt: skip


def test_an_unknown_model_is_openais_404_with_the_names(fleet: GatewayFleet, client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as error:
        client.chat.completions.create(model='no "such"\nthing', messages=HELLO)
    assert error.value.code == "model_not_found"
    said_to_users: Any = error.value.body
    assert 'no "such"\nthing' in said_to_users["message"]
    assert "beta, org/alpha, tiny-babble, tiny-embed" in said_to_users["message"]


WRONG = {
    "not JSON": (b"hello", 400, "is not a JSON object"),
    "cut off": (b'{"model": "tiny-babble", "messages": [', 400, "ends too early"),
    "something behind it": (b'{"model": "tiny-babble"} {}', 400, "something follows its end"),
    "no model": (b'{"messages": []}', 400, "names no model"),
    "no body": (b"", 400, "is not a JSON object"),
    "a model twice": (b'{"model": "beta", "messages": [], "model": "tiny-babble"}', 400, "names a model twice"),
    "a model twice, in disguise": (b'{"mod\\u0065l": "beta", "model": "tiny-babble"}', 400, "names a model twice"),
    "a number for a model": (b'{"model": 7}', 400, "something else than a text"),
    "an endless name": (b'{"model": "%s"}' % (b"x" * 300), 400, "more than 256 characters"),
    "a front end's field": (b'{"model": "beta", "grammar_triggers": []}', 400, "grammar_triggers is for"),
    "a front end's field, in disguise": (b'{"model": "beta", "chat_p\\u0061rser": ""}', 400, "chat_parser is for"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_body_that_can_not_be_served_is_one_error_in_json(fleet: GatewayFleet, case: str) -> None:
    body, status, words = WRONG[case]
    answer = fleet.ask(body)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"]["message"]
    assert answer.headers["content-type"] == "application/json"
    assert fleet.logged(answer)["server"] == "<NOSRV>"


def test_text_that_looks_like_a_model_is_no_model(fleet: GatewayFleet) -> None:
    tricky = 'say {"model": "beta"} and \\"model\\": "x" \\\\'
    body = {
        "messages": [{"role": "user", "content": tricky, "model": "inner"}],
        "model": "tiny-babble",
        "max_tokens": 1,
    }
    answer = fleet.ask(body)
    assert answer.status_code == 200
    assert fleet.logged(answer)["model"] == "tiny-babble"


def test_compressed_bodies_other_methods_and_places_are_refused(fleet: GatewayFleet) -> None:
    zipped = fleet.ask(b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
    assert (zipped.status_code, zipped.json()["error"]["code"]) == (415, "unsupported_encoding")
    got = httpx.get(f"{fleet.url}/v1/chat/completions")
    assert (got.status_code, got.headers["allow"], got.json()["error"]["code"]) == (405, "POST", "method_not_allowed")
    for path in ("/slots/0?action=erase", "/props", "/models/load", "/lora-adapters"):
        elsewhere = fleet.ask({"model": "beta"}, path)
        assert (elsewhere.status_code, elsewhere.json()["error"]["code"]) == (404, "unknown_url"), path


def test_pages_of_other_sites_get_nothing(fleet: GatewayFleet) -> None:
    foreign = fleet.ask({"model": "beta"}, headers={"Origin": "https://elsewhere.example"})
    assert (foreign.status_code, foreign.json()["error"]["code"]) == (403, "foreign_origin")
    own = fleet.ask({"model": "beta", "messages": HELLO, "max_tokens": 1}, headers={"Origin": fleet.url})
    assert own.status_code == 200
    assert "access-control-allow-origin" not in own.headers


@pytest.mark.parametrize("chunked", [False, True], ids=["with a length", "in chunks"])
def test_one_and_a_half_megabytes_before_the_model_are_routed_and_more_is_refused(
    fleet: GatewayFleet, chunked: bool
) -> None:
    def sent(size: int) -> httpx.Response:
        text = json.dumps({"messages": [{"role": "user", "content": "a \\ " * (size // 5)}], "model": "tiny-babble"})
        parts = [text[at : at + 65536].encode() for at in range(0, len(text), 65536)]
        body: Any = iter(parts) if chunked else text.encode()
        headers = {"Content-Type": "application/json"}
        return httpx.post(f"{fleet.url}/v1/chat/completions", content=body, headers=headers, timeout=300)

    fits = sent(1_500_000)
    assert (fits.status_code, fits.json()["error"]["type"]) == (400, "exceed_context_size_error")  # the server's own
    assert fleet.logged(fits)["server"] in ("rig-1_main", "rig-2_main")
    large = sent(3_000_000)
    assert large.status_code == 413, large.text
    assert "2048 KiB" in large.json()["error"]["message"]


def test_headers_have_a_limit(fleet: GatewayFleet) -> None:
    many = fleet.ask({"model": "beta"}, headers={f"X-{number}": "x" * 1000 for number in range(30)})
    assert (many.status_code, many.json()["error"]["code"]) == (400, "headers_too_large")
    flood = fleet.ask({"model": "beta"}, headers={f"X-{number}": "x" for number in range(200)})
    assert (flood.status_code, flood.json()["error"]["code"]) == (400, "headers_too_large")


@pytest.mark.parametrize("sent", [b"no request\r\n\r\n", b"POST /v1/ch", b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 1100])
def test_what_is_no_request_is_logged_as_one_that_was_refused(fleet: GatewayFleet, sent: bytes) -> None:
    before = len(fleet.log())
    with socket.create_connection(("127.0.0.1", fleet.port)) as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        while client.recv(65536):
            pass
    refused = wait_for(lambda: [row for row in fleet.log()[before:] if row["id"] == "-"], "its row", 30)
    assert [(row["status"], row["usage"], row["events"]) for row in refused] == [(400, "-", 0)]


def test_a_request_has_a_name_from_the_client_to_the_log(fleet: GatewayFleet) -> None:
    body = {"model": "beta", "messages": [{"role": "user", "content": "unmistakable words"}], "max_tokens": 2}
    named = fleet.ask(body, headers={"X-Request-Id": "of-the-client.7"})
    assert named.headers["x-request-id"] == "of-the-client.7"
    assert fleet.logged("of-the-client.7")["status"] == 200
    unnamed = fleet.ask(body, headers={"X-Request-Id": 'with "quotes"'})
    assert fleet.logged(unnamed)["id"] != 'with "quotes"'
    text = "".join(path.read_text() for path in (fleet.root / "log").rglob("*.jsonl"))
    assert "unmistakable" not in text
    assert unnamed.json()["choices"][0]["message"]["content"] not in text


def test_requests_wait_at_the_gateway_and_never_at_a_busy_server(fleet: GatewayFleet) -> None:
    """As many clients as four times the slots, on servers with two slots and one."""
    begun, stop, deferred = len(fleet.log()), threading.Event(), []

    def watch() -> None:
        while not stop.is_set():
            deferred.append(max(fleet.metric(host, "requests_deferred") for host in ("rig-1", "rig-2")))

    def asks(number: int) -> int:
        messages = [{"role": "user", "content": f"client {number}"}]
        body = {"model": "tiny-babble", "messages": messages, "max_tokens": 12}
        return sum(fleet.ask(body).status_code == 200 for _ in range(3))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        with ThreadPoolExecutor(4 * SLOTS) as clients:
            assert sum(clients.map(asks, range(4 * SLOTS))) == 12 * SLOTS
    finally:
        stop.set()
        watching.join()
    wait_for(lambda: len(fleet.log()) >= begun + 12 * SLOTS, "all rows")
    rows = fleet.log()[begun:]
    assert len(rows) == 12 * SLOTS
    assert {row["server"] for row in rows} == {"rig-1_main", "rig-2_main"}
    assert max(row["queue_ms"] for row in rows) > 0
    assert deferred
    assert max(deferred) == 0


def test_a_conversation_goes_back_to_its_server_and_elsewhere_when_that_is_busy(fleet: GatewayFleet) -> None:
    messages = [{"role": "system", "content": "short"}, {"role": "user", "content": "the tale of a river"}]
    body = {"model": "tiny-babble", "messages": messages, "max_tokens": 2}
    servers = []
    for _ in range(6):
        answer = fleet.ask(body)
        servers.append(fleet.logged(answer)["server"])
        messages += [answer.json()["choices"][0]["message"], {"role": "user", "content": "go on"}]
    assert len(set(servers)) == 1, servers
    # Take all slots of that server: the conversation moves to the other one and does not wait.
    taken = 2 if servers[0] == "rig-1_main" else 1
    long = {**body, "max_tokens": 3000, "stream": True, "ignore_eos": True}
    with ThreadPoolExecutor(taken) as others:
        stop = threading.Event()

        def hold() -> None:
            with httpx.stream("POST", f"{fleet.url}/v1/chat/completions", json=long, timeout=300) as held:
                for _ in held.iter_lines():
                    if stop.is_set():
                        return

        holding = [others.submit(hold) for _ in range(taken)]
        host = servers[0].partition("_")[0]
        wait_for(lambda: fleet.metric(host, "requests_processing") >= taken, "a busy server")
        assert fleet.logged(fleet.ask(body))["server"] not in ("<NOSRV>", servers[0])
        stop.set()
        for one in holding:
            one.result()


def test_deploying_one_host_again_changes_nothing_and_keeps_the_others(fleet: GatewayFleet) -> None:
    again = fleet.play("-l", "rig-1", playbook="deploy.yml")
    assert changed(again.stdout) == 0, again.stdout[-3000:]
    assert fleet.models() == ["beta", "org/alpha", "tiny-babble", "tiny-embed"]


def test_an_instance_leaves_and_joins_while_a_stream_goes_on(fleet: GatewayFleet) -> None:
    body = {"model": "org/alpha", "messages": HELLO, "max_tokens": 1500, "stream": True, "ignore_eos": True}
    with httpx.stream("POST", f"{fleet.url}/v1/chat/completions", json=body, timeout=600) as stream:
        lines = stream.iter_lines()
        next(lines)
        declared = fleet.instances["rig-1"].pop("embed")
        fleet.write()
        try:
            planned = fleet.play("-l", "rig-1", "--check", "--diff")
            assert changed(planned.stdout) == 1
            assert "-backend model_tiny-embed" in planned.stdout
            assert FRONT_KEY not in planned.stdout
            assert "tiny-embed" in fleet.models()
            assert changed(fleet.play("-l", "rig-1").stdout) == 1
            assert fleet.models() == ["beta", "org/alpha", "tiny-babble"]
        finally:
            fleet.instances["rig-1"]["embed"] = declared
            fleet.write()
            fleet.play("-l", "rig-1")
        assert "tiny-embed" in fleet.models()
        assert [line for line in lines if line.startswith("data: ")][-1] == "data: [DONE]"


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "beyond loopback without users": ({"gateway_host": "0.0.0.0"}, "name its users and their keys in gateway_users"),  # noqa: S104 - refused
    "a word for a port": ({"gateway_port": "many"}, "gateway_port"),
    "half a pair": ({"gateway_tls": True, "gateway_key_file": "/k.pem"}, "go together: set both"),
    "no buffer": ({"gateway_max_body_kib": 1}, "gateway_max_body_kib of front is 1: use 64 or more"),
    "a user that the address is not for": ({"gateway_host": "127.0.0.1 # x"}, "gateway_host"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_not_be_right_is_refused_and_what_runs_goes_on(fleet: GatewayFleet, case: str) -> None:
    variables, words = REFUSED[case]
    failed = fleet.play("-l", "front", check=False, **variables)
    assert failed.returncode != 0
    assert words in said(failed.stdout)
    assert "Traceback" not in failed.stdout
    assert httpx.get(f"{fleet.url}/health").status_code == 200


def test_a_port_that_something_has_is_named_and_what_runs_goes_on(fleet: GatewayFleet) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        failed = fleet.play("-l", "front", check=False, gateway_port=port)
    assert f"port {port} of 127.0.0.1 is taken: set gateway_port to another" in said(failed.stdout)
    assert fleet.models()


def test_with_tls_it_has_a_certificate_of_its_own_authority_and_speaks_http_2(fleet: GatewayFleet) -> None:
    port = free_port()
    try:
        fleet.play("-l", "front", gateway_port=port, gateway_tls=True)
        assert changed(fleet.play("-l", "front", gateway_port=port, gateway_tls=True).stdout) == 0
        trust = ssl.create_default_context(cafile=fleet.root / "tls" / "ca.pem")
        answer = httpx.get(f"https://localhost:{port}/v1/models", verify=trust)
        assert "beta" in answer.text
        trust.set_alpn_protocols(["h2", "http/1.1"])
        with (
            socket.create_connection(("127.0.0.1", port)) as plain,
            trust.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
        ):
            assert secured.selected_alpn_protocol() == "h2"
        assert (fleet.root / "tls" / "ca.key").stat().st_mode & 0o777 == 0o600
    finally:
        fleet.play("-l", "front")
    assert fleet.models()
