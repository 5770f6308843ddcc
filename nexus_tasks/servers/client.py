"""Clients of servers, and one request of one, whose failure is an error that says what to do.

    with client.connect("http://gpu1:8600", api_key) as connected:
        client.ask(connected, "GET", "/v1/models").status_code

All that talks to a server goes the way that :mod:`nexus_tasks.servers.route` says, and sends :func:`request_headers`.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Mapping
from typing import Any

import httpx

from nexus_tasks.core.errors import EndpointDown, NotOpenAI, UsageError
from nexus_tasks.servers import route
from nexus_tasks.servers.route import KEY_VARIABLE, Route
from nexus_tasks.servers.transport import Transport

CONNECT_TIMEOUT_S = 10.0
PROBE_TIMEOUT_S = 30.0
NOT_OPENAI_HINT = "give the address of an OpenAI-compatible server, such as llama-server's http://HOST:PORT"


def connect(
    way: str | Route, api_key: str | None, *, timeout_s: float = PROBE_TIMEOUT_S, keep_alive: bool = True
) -> httpx.Client:
    """A client for a server. The key is in its Authorization header and nowhere else.

    Args:
        way: an address, or the way there; an address is resolved anew with each connection.
        timeout_s: the longest answer.
        keep_alive: without it, each request has a connection of its own. llama-server hangs up after each
            streamed answer, and a next request on that connection may be sent before that is noticed.

    Raises:
        UsageError: the address or the key cannot be used.
    """
    way = route.to(way) if isinstance(way, str) else way
    return httpx.Client(
        base_url=way.base_url,
        headers=request_headers(api_key),
        timeout=httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S),
        transport=Transport(way, keep_alive=keep_alive),
        trust_env=False,  # neither proxies nor passwords of ~/.netrc
    )


def request_headers(api_key: str | None, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The headers of every request to a server.

    Raises:
        UsageError: the key or another header can't be sent.
    """
    if api_key is not None and not (_can_be_sent(api_key) and api_key.strip() == api_key):
        raise UsageError(
            "the API key must be printable ASCII without spaces around it",
            hint=f"look for quotes, spaces or a line end in {KEY_VARIABLE} or the vault",
        )
    headers = {
        "User-Agent": "llama-nexus",
        "Accept": "*/*",
        "Accept-Encoding": "identity",  # a stream is read as it comes off the wire
        **({"Authorization": f"Bearer {api_key}"} if api_key else {}),
        **(more or {}),
    }
    if not all(map(_can_be_sent, [*headers, *headers.values()])):
        raise UsageError("headers must be printable ASCII", hint="look for quotes or spaces that were pasted")
    return headers


def _can_be_sent(text: str) -> bool:
    return text.isascii() and text.isprintable()


def ask(
    client: httpx.Client, method: str, path: str, body: Any = None, *, timeout_s: float | None = None
) -> httpx.Response:
    """Send one request, and take whatever answer comes.

    Args:
        body: sent as JSON, or as it is where it is bytes.
        timeout_s: the longest answer, where it is not the client's.

    Raises:
        EndpointDown: there is no answer.
        NotOpenAI: it is not one of HTTP.
    """
    address = str(client.base_url).rstrip("/")
    content: dict[str, Any] = {"json": body} if body is not None else {}
    if isinstance(body, bytes):
        content = {"content": body, "headers": {"Content-Type": "application/json"}}
    timeout = client.timeout if timeout_s is None else httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S)
    try:
        return client.request(method, path, timeout=timeout, **content)
    except httpx.ConnectTimeout as error:
        raise EndpointDown(
            f"{address} does not answer: no connection within {CONNECT_TIMEOUT_S:g} s",
            hint=route.hint(address, "check the address, https against http, and firewalls on the way"),
        ) from error
    except httpx.TimeoutException as error:
        raise EndpointDown(
            f"{address} accepts connections but does not answer {path}",
            hint="the server hangs or is busy: look into its log, or restart it",
        ) from error
    except httpx.ConnectError as error:
        reason, remedy = reason_of(error)
        raise EndpointDown(f"{address} does not answer: {reason}", hint=route.hint(address, remedy)) from error
    except httpx.RemoteProtocolError as error:
        raise NotOpenAI(f"{address} does not speak HTTP: {error}", hint=NOT_OPENAI_HINT) from error
    except httpx.TransportError as error:
        reason = str(error) or reason_of(error)[0]
        raise EndpointDown(
            f"{address} broke the connection off: {reason}", hint="look into the server's log"
        ) from error


def reason_of(error: BaseException) -> tuple[str, str]:
    """The reason for which a connection failed, and a remedy: from the operating system's error below httpx's."""
    cause: BaseException | None = error
    while cause is not None:
        match cause:
            case socket.gaierror():
                return "its host name is unknown", "check the spelling, and DNS"
            case ssl.SSLCertVerificationError():
                return (
                    f"its certificate is not trusted: {cause.verify_message}",
                    "have SSL_CERT_FILE name the certificate that it is signed with, if it is yours",
                )
            case ssl.SSLError():
                return f"TLS failed: {cause.reason or cause}", "check https against http, and the certificate"
            case OSError(errno=errno.ECONNREFUSED):
                return "connection refused", "start the server, or check the port"
            case OSError(errno=errno.EHOSTUNREACH | errno.ENETUNREACH):
                return "no route to it", "check the address and the network"
            case _:
                cause = cause.__cause__ or cause.__context__
    return str(error), "check the address, and that the server runs"
