"""The server at an address: its kind, its model, its limits.

    with endpoint.connect("http://gpu1:8600", api_key) as client:
        server = endpoint.probe(client)
        server.engine, server.model, server.n_ctx

``engine`` is ``llama.cpp`` where the server offers llama-server's own API (exact prompts, timings), else
``openai``: anything that speaks the OpenAI protocol, llama-server's router among it.
"""

from __future__ import annotations

import errno
import socket
import ssl
from dataclasses import dataclass
from typing import Any

import httpx

from nexus_tasks.core.errors import EndpointDown, EndpointError, NotOpenAI, Unauthorized, UsageError
from nexus_tasks.hostlib.addresses import is_loopback

API_KEY_VARIABLE = "LLAMA_NEXUS_API_KEY"
LLAMA_CPP = "llama.cpp"
OPENAI = "openai"
API_PATH = "/v1"
"""The place of the OpenAI API below a base URL, on nearly every server."""

CONNECT_TIMEOUT_S = 10.0
PROBE_TIMEOUT_S = 30.0
MODELS_NAMED = 8


@dataclass(frozen=True)
class Endpoint:
    """A server as it describes itself; what it does not tell is None. Sizes in bytes, lengths in tokens."""

    base_url: str
    engine: str
    model: str
    n_params: int | None = None
    n_ctx_train: int | None = None
    tensor_bytes: int | None = None
    model_path: str | None = None
    build: str | None = None
    api_path: str = API_PATH
    n_ctx: int | None = None
    """The context of one slot: what a prompt and its answer share."""
    total_slots: int | None = None


def base_url(text: str) -> str:
    """The address without a trailing slash or ``/v1``.

    Raises:
        UsageError: it is not the address of a server, or a secret is part of it.
    """
    try:
        url = httpx.URL(text.strip())
    except httpx.InvalidURL as error:
        raise UsageError(f"{text!r} is not an address: {error}", hint=_ADDRESS_HINT) from error
    if url.userinfo or url.query:
        # Not repeated here: messages end up in logs.
        raise UsageError(
            "the address must be without user, password and query",
            hint=f"give http://HOST:PORT alone; the key comes from the environment's {API_KEY_VARIABLE}",
        )
    if url.scheme not in ("http", "https") or not url.host:
        raise UsageError(f"the address must be http or https, and have a host: {text!r}", hint=_ADDRESS_HINT)
    path = url.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return str(url.copy_with(path=path or "/", fragment=None)).rstrip("/")


_ADDRESS_HINT = "write it as http://HOST:PORT, with or without /v1"


def connect(
    address: str, api_key: str | None, *, timeout_s: float = PROBE_TIMEOUT_S, keep_alive: bool = True
) -> httpx.Client:
    """A client for a server's :func:`base_url`. The key is in its Authorization header and nowhere else.

    Args:
        timeout_s: the longest silence.
        keep_alive: without it, each request has a connection of its own. llama-server hangs up after each
            streamed answer, and a next request on that connection may be sent before that is noticed.

    Raises:
        UsageError: the address or the key cannot be used.
    """
    address = base_url(address)
    if api_key is not None and not (api_key.isascii() and api_key.isprintable() and api_key.strip() == api_key):
        raise UsageError(
            "the API key must be printable ASCII without spaces around it",
            hint=f"look for quotes, spaces or a line end in {API_KEY_VARIABLE} or the vault",
        )
    # Not compressed: a stream is read as it comes off the wire.
    headers = {"Accept-Encoding": "identity", **({"Authorization": f"Bearer {api_key}"} if api_key else {})}
    return httpx.Client(
        base_url=address,
        headers=headers,
        timeout=httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S),
        limits=httpx.Limits(max_keepalive_connections=None if keep_alive else 0),
        # A proxy of the environment cannot reach this machine's loopback; elsewhere it may be the only way.
        trust_env=not leads_to_loopback(httpx.URL(address).host),
    )


def leads_to_loopback(host: str) -> bool:
    """True for a host name or address by which a client gets to its own machine's loopback: names below localhost too,
    which RFC 6761 has resolvers keep there.
    """
    return is_loopback(host) or host.endswith(".localhost")


def probe(client: httpx.Client, *, model: str | None = None, api_path: str = API_PATH) -> Endpoint:
    """Ask a server what it is.

    Args:
        model: the one to ask for, of those that it serves; None takes the first.
        api_path: where its OpenAI API is below the base URL.

    Raises:
        UsageError: it does not serve this model.
        EndpointDown: nothing answers, or it is still loading its model.
        Unauthorized: it wants a key, or another one.
        NotOpenAI: it answers, but not as an OpenAI-compatible server does.
    """
    address = str(client.base_url).rstrip("/")
    health = _get(client, "/health")
    if health.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        raise EndpointDown(
            f"{address} is not ready: {_message(health)}",
            hint="wait until its model is loaded; the server's log shows how far it is",
        )
    served = _model(client, address, api_path, model)
    props = _props(client)
    meta = _object(served.get("meta"))
    settings = _object(props.get("default_generation_settings"))
    is_llama_server = "build_info" in props and bool(_count(props.get("total_slots")))
    return Endpoint(
        base_url=address,
        engine=LLAMA_CPP if is_llama_server else OPENAI,
        model=str(served["id"]),
        n_params=_count(meta.get("n_params")),
        n_ctx_train=_count(meta.get("n_ctx_train")),
        tensor_bytes=_count(meta.get("size")),
        model_path=_text(props.get("model_path")) if is_llama_server else None,
        build=_text(props.get("build_info")),
        n_ctx=_count(settings.get("n_ctx")) or _count(meta.get("n_ctx")) or _count(served.get("max_model_len")),
        api_path=api_path,
        total_slots=_count(props.get("total_slots")),
    )


def tokenize(client: httpx.Client, text: str, *, special: bool = False) -> list[int]:
    """The token ids of a text, by llama-server. With ``special``, special tokens count and BOS is added."""
    tokens = _post(client, "/tokenize", {"content": text, "add_special": special, "parse_special": special})
    ids = tokens.get("tokens")
    if not isinstance(ids, list) or not all(isinstance(token, int) for token in ids):
        raise NotOpenAI(f"{client.base_url} gave no token ids at /tokenize", hint=_NOT_OPENAI_HINT)
    return ids


def apply_template(client: httpx.Client, messages: list[dict[str, str]]) -> str:
    """The prompt that a chat becomes, by llama-server."""
    prompt = _post(client, "/apply-template", {"messages": messages}).get("prompt")
    if not isinstance(prompt, str):
        raise NotOpenAI(f"{client.base_url} gave no prompt at /apply-template", hint=_NOT_OPENAI_HINT)
    return prompt


_NOT_OPENAI_HINT = "give the address of an OpenAI-compatible server, such as llama-server's http://HOST:PORT"


def _model(client: httpx.Client, address: str, api_path: str, wanted: str | None) -> dict[str, Any]:
    where = f"{api_path}/models"
    response = _get(client, where)
    status = response.status_code
    if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        given = "refuses the key it was given" if "authorization" in client.headers else "wants an API key"
        raise Unauthorized(
            f"{address} {given} (HTTP {status})",
            hint=f"put the server's key into the environment variable {API_KEY_VARIABLE}; "
            "that of an inventory's instance belongs into its vault",
        )
    if response.is_redirect:
        to = response.headers.get("location", "").partition("?")[0]
        raise NotOpenAI(f"{address} redirects to {to or 'elsewhere'}", hint="give the address it redirects to")
    if status != httpx.codes.OK:
        raise NotOpenAI(f"{address}{where} answers HTTP {status}: {_message(response)}", hint=_NOT_OPENAI_HINT)
    try:
        answer = response.json()
    except ValueError as error:
        kind = response.headers.get("content-type", "something").partition(";")[0]
        raise NotOpenAI(f"{address}{where} answers with {kind} instead of JSON", hint=_NOT_OPENAI_HINT) from error
    models = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(models, list) or not all(isinstance(m, dict) and "id" in m for m in models):
        raise NotOpenAI(f"{address}{where} answers with JSON that is no list of models", hint=_NOT_OPENAI_HINT)
    if not models:
        raise NotOpenAI(f"{address} serves no model", hint="load one, then measure again")
    if wanted is None:
        return dict(models[0])
    # llama-server knows its model by further names.
    for model in models:
        if wanted == model["id"] or wanted in (model.get("aliases") or ()):
            return {**model, "id": wanted}
    served = ", ".join(str(model["id"]) for model in models[:MODELS_NAMED])
    more = f" and {len(models) - MODELS_NAMED} more" if len(models) > MODELS_NAMED else ""
    raise UsageError(f"{address} does not serve {wanted!r}", hint=f"it serves {served}{more}")


def _props(client: httpx.Client) -> dict[str, Any]:
    """llama-server's properties; empty where there are none, as on every other server."""
    response = _get(client, "/props")
    if response.status_code != httpx.codes.OK:
        return {}
    try:
        return _object(response.json())
    except ValueError:
        return {}


def _post(client: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    response = _request(client, "POST", path, body)
    if response.status_code != httpx.codes.OK:
        raise EndpointError(
            f"{client.base_url} answers HTTP {response.status_code} at {path}: {_message(response)}",
            hint="look into the server's log",
        )
    try:
        return _object(response.json())
    except ValueError:
        return {}


def _get(client: httpx.Client, path: str) -> httpx.Response:
    return _request(client, "GET", path, None)


def _request(client: httpx.Client, method: str, path: str, body: dict[str, Any] | None) -> httpx.Response:
    address = str(client.base_url).rstrip("/")
    try:
        return client.request(method, path, json=body)
    except httpx.ConnectTimeout as error:
        raise EndpointDown(
            f"{address} does not answer: no connection within {CONNECT_TIMEOUT_S:g} s",
            hint="check the address, https against http, and firewalls on the way",
        ) from error
    except httpx.TimeoutException as error:
        raise EndpointDown(
            f"{address} accepts connections but does not answer {path}",
            hint="the server hangs or is busy: look into its log, or restart it",
        ) from error
    except httpx.ConnectError as error:
        raise EndpointDown(f"{address} does not answer: {_reason(error)[0]}", hint=_reason(error)[1]) from error
    except httpx.RemoteProtocolError as error:
        raise NotOpenAI(f"{address} does not speak HTTP: {error}", hint=_NOT_OPENAI_HINT) from error
    except httpx.TransportError as error:
        raise EndpointDown(f"{address} broke the connection off: {error}", hint="look into the server's log") from error


def _reason(error: BaseException) -> tuple[str, str]:
    """The reason for which a connection failed, and a remedy: from the operating system's error below httpx's."""
    cause: BaseException | None = error
    while cause is not None:
        match cause:
            case socket.gaierror():
                return "its host name is unknown", "check the spelling, and DNS"
            case ssl.SSLError():
                return f"TLS failed: {cause.reason or cause}", "check https against http, and the certificate"
            case OSError(errno=errno.ECONNREFUSED):
                return "connection refused", "start the server, or check the port"
            case OSError(errno=errno.EHOSTUNREACH | errno.ENETUNREACH):
                return "no route to it", "check the address and the network"
            case _:
                cause = cause.__cause__ or cause.__context__
    return str(error), "check the address, and that the server runs"


def _message(response: httpx.Response) -> str:
    """The message in an error answer, or its reason phrase."""
    try:
        error = response.json()["error"]
        return " ".join(str(error["message"] if isinstance(error, dict) else error).split())
    except (ValueError, KeyError, TypeError):
        return response.reason_phrase or "no reason given"


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
