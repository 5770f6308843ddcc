"""HTTP requests of modules on hosts: a credential goes to the origin that it is for, and nowhere else.

    with open_address(url, {"Range": "bytes=10-"}, authorization="Bearer hf_…") as answer:
        answer.read()

urllib repeats every header to whatever address it is redirected to. Python 3.9's standard library only.
"""

from __future__ import annotations

import base64
import re
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from http.client import HTTPMessage, HTTPResponse
from typing import IO

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
    handlers: Sequence[urllib.request.BaseHandler] = (),
) -> HTTPResponse:  # fmt: skip
    """Ask for an address and follow where it leads; the answer is to be closed.

    Args:
        headers: what every server on the way gets.
        authorization: what the address's own origin gets, and no other. An address on the way that holds a user and a
            password has them for its origin.
        handlers: of certificates and proxies, where they are not those of the environment.

    Raises OSError and http.client.HTTPException as urllib does, and ValueError for an address that can't be asked.
    """
    held = {origin_of(url): authorization} if authorization else {}
    answer: HTTPResponse = urllib.request.build_opener(_Redirects(held), *handlers).open(
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


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, and gives each origin the credential that is held for it."""

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
        followed = super().redirect_request(req, fp, code, msg, headers, bare)
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
