"""HTTP requests of modules on hosts: a credential goes to the origin that it is for, and nowhere else.

    with open_address(url, {"Range": "bytes=10-"}, authorization="Bearer hf_…") as answer:
        answer.read()

urllib repeats every header to whatever address it is redirected to, and waits for ever for a server that sends a byte
now and then. Python 3.9's standard library only.
"""

from __future__ import annotations

import base64
import http.client
import re
import ssl
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from http.client import HTTPMessage, HTTPResponse
from typing import IO, Any

from .limited_socket import MAX_BYTES, limit

PORTS = {"http": 80, "https": 443}
# What a redirect does not take along; each request gets its own, a proxy's from urllib.
CREDENTIALS = ("authorization", "proxy-authorization", "cookie")


class RefusedRedirectError(ValueError):
    """A redirect that is not followed; why, in one line."""


def origin_of(url: str) -> tuple[str, str, int]:
    """Scheme, host and port of an http(s) address. ValueError for another scheme, or no host."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in PORTS or not parts.hostname:
        raise ValueError(f"{parts.scheme}://{parts.hostname or ''} is no http(s) address")
    return parts.scheme, parts.hostname.rstrip("."), parts.port or PORTS[parts.scheme]


def basic_authorization(url: str) -> str | None:
    """The header that stands for user and password of an http(s) address; None where it has none."""
    given = re.match(r"https?://([^/?#]*)@", url)
    if given is None:
        return None
    user, _, password = given.group(1).partition(":")
    pair = f"{urllib.parse.unquote(user)}:{urllib.parse.unquote(password)}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


def without_user(url: str) -> str:
    """An address without user and password, be it SCHEME://… or git's short form, USER@HOST:PATH."""
    return re.sub(r"^([^:/]+://)[^/]*@" if "://" in url else r"^()[^/]*@(?=[^/@:]+:)", r"\1", url)


def open_address(
    url: str, headers: Mapping[str, str] | None = None, *, authorization: str | None = None, timeout: float = 60,
    max_bytes: int | None = MAX_BYTES, context: ssl.SSLContext | None = None,
    handlers: Sequence[urllib.request.BaseHandler] = (),
) -> HTTPResponse:  # fmt: skip
    """Ask for an address and follow where it leads; the answer is to be closed.

    Args:
        headers: what every server on the way gets.
        authorization: what the address's own origin gets, and no other. An address on the way that holds a user and a
            password has them for its origin.
        timeout: seconds for each answer on the way, all of it.
        max_bytes: how long an answer may be. None for a stream: it may be of any length and take its time, as long as
            it goes on (limited_socket.py).
        context: of certificates, where they are not those of the environment.
        handlers: of proxies, likewise.

    Raises OSError and http.client.HTTPException as urllib does, of the limits socket.timeout and AnswerTooLong, also
    while the answer is read, and ValueError for an address that can't be asked.
    """
    held = {origin_of(url): authorization} if authorization else {}
    limits = timeout, max_bytes
    limited = (_LimitedHTTP(limits), _LimitedHTTPS(limits, context))
    answer: HTTPResponse = urllib.request.build_opener(_Redirects(held), *limited, *handlers).open(
        _request(url, headers or {}, held), timeout=timeout
    )
    return answer


def _request(url: str, headers: Mapping[str, str], held: Mapping[tuple[str, str, int], str]) -> urllib.request.Request:
    authorization = held.get(origin_of(url)) if held else None
    # A mirror may be a folder of the host (file:); no redirect leads to one.
    request = urllib.request.Request(url, headers={"User-Agent": "llama-nexus", **headers})  # noqa: S310 - as said
    if authorization:
        # Not among the headers that urllib repeats: each request gets its own here.
        request.add_unredirected_header("Authorization", authorization)
    return request


class _Limited(urllib.request.AbstractHTTPHandler):
    """Opens connections that are limited from the request on; their opening has its own timeout."""

    limits: tuple[float, int | None]

    def do_open(self, http_class: Any, req: urllib.request.Request, **http_conn_args: Any) -> HTTPResponse:
        def limited(host: str, **options: Any) -> http.client.HTTPConnection:
            connection: http.client.HTTPConnection = http_class(host, **options)
            connect = connection.connect

            def connected() -> None:
                connect()
                limit(connection, *self.limits)

            setattr(connection, "connect", connected)  # noqa: B010 - of plain and TLS, which urllib tells apart
            return connection

        opening: Any = limited  # in the place of a class, which is only called
        return super().do_open(opening, req, **http_conn_args)


class _LimitedHTTP(_Limited, urllib.request.HTTPHandler):
    def __init__(self, limits: tuple[float, int | None]) -> None:
        super().__init__()
        self.limits = limits


class _LimitedHTTPS(_Limited, urllib.request.HTTPSHandler):
    def __init__(self, limits: tuple[float, int | None], context: ssl.SSLContext | None) -> None:
        super().__init__(context=context)
        self.limits = limits


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, and gives each origin the credential that is held for it."""

    http_error_308 = urllib.request.HTTPRedirectHandler.http_error_302  # Python follows it since 3.11 only

    def __init__(self, held: dict[tuple[str, str, int], str]) -> None:
        self.held = held

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        bare = without_user(newurl)
        try:
            self._check(req, bare)
        except RefusedRedirectError:
            fp.close()
            raise
        given = basic_authorization(newurl)
        if given:
            self.held[origin_of(bare)] = given
        known = 307 if code == 308 else code  # which is to be followed in the same way
        followed = super().redirect_request(req, fp, known, msg, headers, bare)
        if followed is None:
            return None
        # A proxy's credential is set anew where the next request goes by way of that proxy.
        kept = {name: value for name, value in followed.header_items() if name.lower() not in CREDENTIALS}
        request = _request(followed.full_url, kept, self.held)
        request.method, request.data = followed.get_method(), followed.data
        return request

    def _check(self, request: urllib.request.Request, url: str) -> None:
        try:
            scheme = origin_of(url)[0]
        except ValueError as error:
            raise RefusedRedirectError(f"redirected to an address that can't be asked: {error}") from error
        if self.held and scheme == "http" and request.type == "https":
            raise RefusedRedirectError(
                f"with a credential, it is not followed from https to {url.split('?')[0]}: name an address that stays "
                "with https"
            )
