"""Asking addresses what they are: a real llama-server, and whatever else may be there."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

import pytest

from nexus_tasks.core.errors import EndpointDown, EndpointError, NotOpenAI, Unauthorized, UsageError
from nexus_tasks.servers import endpoint
from nexus_tasks.servers.client import connect
from tests.conftest import RunningServer, free_port
from tests.support.scripted_server import Handler, serving


def probe(address: str, model: str | None = None, api_path: str = "/v1", *, timeout_s: float = 30) -> endpoint.Endpoint:
    with connect(address, None, timeout_s=timeout_s) as client:
        return endpoint.probe(client, model=model, api_path=api_path)


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
        with pytest.raises(EndpointDown, match=f"{address} accepts connections but does not answer /v1/models"):
            probe(address, timeout_s=0.5)


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


def two_models(handler: Handler) -> None:
    handler.answer_json({"data": [{"id": "a"}, {"id": "b", "max_model_len": 2048}]})


def test_one_of_several_models_can_be_asked_for() -> None:
    with serving(two_models) as address:
        assert probe(address).model == "a"
        found = probe(address, "b")
    assert (found.model, found.n_ctx) == ("b", 2048)


def test_a_model_that_the_server_does_not_have_is_refused_with_those_it_has() -> None:
    with serving(two_models) as address, pytest.raises(UsageError) as caught:
        probe(address, "gpt-oss")
    assert caught.value.message == f"{address} does not serve 'gpt-oss'"
    assert caught.value.hint == "it serves a, b"


def test_llama_server_serves_its_model_by_its_name_only(server: RunningServer) -> None:
    assert probe(server.base_url, "tiny").model == "tiny"
    with pytest.raises(UsageError, match="does not serve 'other'"):
        probe(server.base_url, "other")


def test_the_openai_api_may_be_elsewhere_below_the_address() -> None:
    def elsewhere(handler: Handler) -> None:
        if handler.path == "/v1beta/openai/models":
            handler.answer_json({"data": [{"id": "a"}]})
        else:
            handler.send_error(404)

    with serving(elsewhere) as address:
        assert probe(address, api_path="/v1beta/openai").api_path == "/v1beta/openai"
        with pytest.raises(NotOpenAI):
            probe(address)


@pytest.mark.parametrize(
    "models",
    [
        [{"id": "a"}],
        ["a"],
        {"data": ["a"]},
        {"data": [{"name": "a", "id": None}]},
        {"data": [{"id": "a", "aliases": None}]},
    ],
)
def test_a_list_of_models_has_several_forms(models: object) -> None:
    with serving(lambda handler: handler.answer_json(models)) as address:
        assert probe(address).model == "a"
        assert probe(address, "a").model == "a"


def nothing(handler: Handler) -> None:
    handler.answer_json({"object": "list", "data": None})


def bare_nothing(handler: Handler) -> None:
    handler.answer_json(None)


@pytest.mark.parametrize("respond", [not_found, nothing, bare_nothing, other_json, no_model, html])
def test_a_server_without_a_list_of_models_is_measured_by_a_models_name(respond: Callable[[Handler], None]) -> None:
    with serving(respond) as address:
        assert probe(address, "mine").model == "mine"
        with pytest.raises(EndpointError, match="model"):
            probe(address)


@pytest.mark.parametrize("path", ["/health", "/props"])
@pytest.mark.parametrize("hangs", [True, False])
def test_what_only_llama_server_has_is_not_waited_for_elsewhere(path: str, hangs: bool) -> None:
    ended = threading.Event()

    def gateway(handler: Handler) -> None:
        if handler.path == path:
            if hangs:
                ended.wait(60)
            handler.answer_json({"error": {"message": "2 of 40 models do not answer"}}, 503)
        elif handler.path == "/v1/models":
            handler.answer_json({"data": [{"id": "a", "owned_by": "openai"}]})
        else:
            handler.answer_json({}, 404)

    began = time.monotonic()
    with serving(gateway) as address:
        found = probe(address)
        ended.set()
    assert (found.engine, found.model) == ("openai", "a")
    assert time.monotonic() - began < 25


def test_a_llama_server_that_is_loading_is_waited_for_by_its_user() -> None:
    def loading_model(handler: Handler) -> None:
        if handler.path == "/v1/models":
            handler.answer_json({"data": [{"id": "a", "owned_by": "llamacpp"}]})
        else:
            loading(handler)

    with serving(loading_model) as address, pytest.raises(EndpointDown, match="is not ready: Loading model"):
        probe(address)


def test_numbers_and_texts_that_are_none_are_unknown() -> None:
    def odd(handler: Handler) -> None:
        body = b'{"data": [{"id": "a\\ud83e", "meta": {"n_ctx": -Infinity, "n_params": 1e300}, "max_model_len": NaN}]}'
        props = b'{"build_info": 7, "total_slots": NaN, "default_generation_settings": {"n_ctx": 1e999}}'
        handler.answer(body if handler.path == "/v1/models" else props)

    with serving(odd) as address:
        found = probe(address)
    assert (found.model, found.n_ctx, found.n_params, found.build, found.engine) == (
        "a\ufffd",
        None,
        None,
        None,
        "openai",
    )


def test_a_key_that_a_server_repeats_is_masked() -> None:
    def repeat(handler: Handler) -> None:
        handler.answer_json({"error": f"no such key: {handler.headers['Authorization'].removeprefix('Bearer ')}"}, 500)

    with serving(repeat) as address, connect(address, "sk-0123456789") as client, pytest.raises(NotOpenAI) as caught:
        endpoint.probe(client)
    assert "sk-0123456789" not in caught.value.message
    assert "no such key" in caught.value.message
