"""The way to a server: its address, checked, and how each connection to it is made.

    way = route.to("https://gpu1:8600/v1")      # no request is sent
    way = way.resolved()                        # the host's addresses, asked for once: a run measures one place

It is one decision for all that talks to a server: the look at it beforehand, the load, the telemetry. Connections go
straight there. A proxy of the environment has no part in them: its time would be measured as the server's.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import re
import socket
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from nexus_tasks.core import tls
from nexus_tasks.core.errors import EndpointDown, UsageError
from nexus_tasks.hostlib.addresses import is_loopback
from nexus_tasks.servers import certificates

KEY_VARIABLE = "LLAMA_NEXUS_API_KEY"
PORTS = {"http": 80, "https": 443}
_ADDRESS_HINT = "write it as http://HOST:PORT, with or without /v1"
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_MAX_NAME = 253


@dataclass(frozen=True)
class Route:
    """A way to a server.

    Args:
        base_url: without a trailing slash or ``/v1``.
        host: in ASCII, without brackets; what a certificate has to be for.
        authority: host and port as the ``Host`` header has them.
        prefix: the path that all requests begin with, percent-encoded as it was given.
        trust: the certificates; None without TLS.
        addresses: IP addresses, tried in this order; empty where they are asked for with each connection.
    """

    base_url: str
    host: str
    port: int
    authority: str
    prefix: str
    trust: tls.Trust | None = None
    addresses: tuple[str, ...] = ()

    def resolved(self) -> Route:
        """The way with the host's addresses.

        Raises:
            EndpointDown: the host's name is unknown.
        """
        try:
            return dataclasses.replace(self, addresses=addresses_of(self.host, self.port))
        except OSError as error:
            raise EndpointDown(
                f"{self.base_url} does not answer: its host name is unknown",
                hint=hint(self.base_url, "check the spelling, and DNS"),
            ) from error


def to(text: str, environment: Mapping[str, str] = os.environ) -> Route:
    """The way to the server at an address. Nothing is asked.

    Raises:
        UsageError: as :func:`base_url`, or certificates that the environment names can't be read.
    """
    address = base_url(text)
    url = httpx.URL(address)
    return Route(
        base_url=address,
        host=url.raw_host.decode(),
        port=url.port or PORTS[url.scheme],
        authority=url.netloc.decode(),
        prefix=url.raw_path.decode().rstrip("/"),
        trust=certificates.trust(environment) if url.scheme == "https" else None,
    )


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
            hint=f"give http://HOST:PORT alone; the key comes from the environment's {KEY_VARIABLE}",
        )
    if url.scheme not in PORTS or not url.host:
        raise UsageError(f"the address must be http or https, and have a host: {text!r}", hint=_ADDRESS_HINT)
    if url.port is not None and not 0 < url.port < 1 << 16:
        raise UsageError(f"the port of an address must be from 1 to 65535: {text!r}", hint=_ADDRESS_HINT)
    _check_host(url.raw_host.decode(), text)
    path = url.raw_path.partition(b"?")[0].decode().rstrip("/").removesuffix("/v1").rstrip("/")
    return str(url.copy_with(raw_path=(path or "/").encode(), fragment=None)).rstrip("/")


def api_path(text: str) -> str:
    """The place of an API below a base URL: percent-encoded, with a slash before it and none behind.

    Raises:
        UsageError: it is no path.
    """
    try:
        raw = httpx.URL(f"http://host/{text.strip('/')}").raw_path.decode()
    except httpx.InvalidURL as error:
        raise UsageError(f"{text!r} is no path of an API: {error}", hint="write it like /v1") from error
    if "?" in raw or "#" in text:
        raise UsageError(f"the path of an API must be without a query: {text!r}", hint="write it like /v1")
    return raw


def _check_host(host: str, text: str) -> None:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        name = host.removesuffix(".")
        wrong = [label for label in name.split(".") if not _LABEL.fullmatch(label)]
        if wrong or len(name) > _MAX_NAME:
            what = "an empty part" if "" in wrong else f"the part {wrong[0]!r}" if wrong else f"{len(name)} letters"
            raise UsageError(
                f"the host of an address can't have {what}: {text!r}",
                hint="the parts of a name are of 1 to 63 letters, digits and hyphens, with a dot between two",
            ) from None


def addresses_of(host: str, port: int) -> tuple[str, ...]:
    """The IP addresses of a host, each once; OSError where there is none."""
    try:
        entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # of a name that no resolver is asked for
        raise OSError(str(error)) from error
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in entries))


def leads_to_loopback(host: str) -> bool:
    """True for a host name or address by which a client gets to its own machine's loopback: names below localhost too,
    which RFC 6761 has resolvers keep there.
    """
    return is_loopback(host) or host.endswith(".localhost")


def hint(address: str, remedy: str, environment: Mapping[str, str] = os.environ) -> str:
    """A remedy for a server that can't be reached, with the proxy that might have been meant to help."""
    proxy = unused_proxy(address, environment)
    return f"{remedy}; {proxy} is not used: measurements go straight to the server" if proxy else remedy


def unused_proxy(address: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """The variable of the environment whose proxy other programs would take to get there; None where there is none."""
    url = httpx.URL(address)
    excepted = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    bypass = urllib.request.proxy_bypass_environment  # type: ignore[attr-defined]  # of the library, not of its stubs
    if leads_to_loopback(url.host) or bypass(url.netloc.decode(), {"no": excepted}):
        return None
    names = [f"{url.scheme}_proxy", f"{url.scheme}_proxy".upper(), "all_proxy", "ALL_PROXY"]
    return next((name for name in names if environment.get(name)), None)
