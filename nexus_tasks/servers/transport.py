"""Requests of httpx over a :class:`Route`: straight to its addresses, and with answers that end.

    httpx.Client(base_url=way.base_url, transport=Transport(way))

An answer is over after the time that the request has for reading, whatever comes in between, and at a number of bytes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import Any

import httpcore
import httpx

from nexus_tasks.core import tls
from nexus_tasks.servers.answers import MAX_DOCUMENT_BYTES
from nexus_tasks.servers.route import Route, addresses_of


class Transport(httpx.BaseTransport):
    """The way of a client's requests; one at a time.

    Args:
        keep_alive: whether a connection serves several.
    """

    def __init__(self, way: Route, *, keep_alive: bool = True) -> None:
        self._wires = _Wires(way)
        self._pool = httpcore.ConnectionPool(
            ssl_context=None if way.trust is None else tls.context(way.trust),
            max_keepalive_connections=None if keep_alive else 0,
            network_backend=self._wires,
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request. httpx's own exceptions are raised, RemoteProtocolError for an answer in a coding as well."""
        timeout: dict[str, float | None] = request.extensions.get("timeout", {})
        self._wires.begin(timeout.get("read"))
        url = request.url
        with _httpx_errors(request):
            answer = self._pool.handle_request(
                httpcore.Request(
                    method=request.method,
                    url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions=request.extensions,
                )
            )
        headers = httpx.Headers(answer.headers)
        if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            answer.close()
            raise httpx.RemoteProtocolError(
                f"the answer is in {headers['content-encoding']}, which nobody asked for", request=request
            )
        if not isinstance(answer.stream, Iterable):
            raise TypeError("the answer of a synchronous pool is read synchronously")
        return httpx.Response(
            answer.status, headers=answer.headers, stream=_Body(answer, request), extensions=answer.extensions
        )

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()


class _Body(httpx.SyncByteStream):
    def __init__(self, answer: httpcore.Response, request: httpx.Request) -> None:
        self._answer, self._request = answer, request

    def __iter__(self) -> Iterator[bytes]:
        with _httpx_errors(self._request):
            yield from self._answer.iter_stream()

    def close(self) -> None:
        self._answer.close()


class _Wires(httpcore.NetworkBackend):
    """Makes connections, and knows how long and how large the present answer may be."""

    def __init__(self, way: Route) -> None:
        self._way = way
        self._inner = httpcore.SyncBackend()
        self._deadline: float | None = None
        self._left = MAX_DOCUMENT_BYTES

    def begin(self, seconds: float | None) -> None:
        """Give the next answer its time and its bytes; the time begins when it is asked for."""
        self._seconds, self._deadline, self._left = seconds, None, MAX_DOCUMENT_BYTES

    def connect_tcp(self, host: str, port: int, *args: Any, **options: Any) -> httpcore.NetworkStream:
        """Connect to the first address that takes it."""
        try:
            addresses = self._way.addresses or addresses_of(host, port)
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        for address in addresses[:-1]:
            with contextlib.suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                return _Wire(self, self._inner.connect_tcp(address, port, *args, **options))
        return _Wire(self, self._inner.connect_tcp(addresses[-1], port, *args, **options))

    def time_left(self, timeout: float | None) -> float | None:
        """Seconds that the next read has. ReadTimeout where there are none."""
        if self._seconds is None:
            return timeout
        now = time.monotonic()
        self._deadline = self._deadline or now + self._seconds
        if now >= self._deadline:
            raise httpcore.ReadTimeout("the answer has not ended in time")
        return self._deadline - now

    def count(self, size: int) -> None:
        """Take note of bytes that came. RemoteProtocolError where they are too many."""
        self._left -= size
        if self._left < 0:
            raise httpcore.RemoteProtocolError(f"the answer is larger than {MAX_DOCUMENT_BYTES >> 20} MiB, and goes on")


class _Wire(httpcore.NetworkStream):
    """A connection, plain or with TLS."""

    def __init__(self, wires: _Wires, inner: httpcore.NetworkStream) -> None:
        self._wires, self._inner = wires, inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data = self._inner.read(max_bytes, self._wires.time_left(timeout))
        self._wires.count(len(data))
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, timeout)

    def close(self) -> None:
        self._inner.close()

    def start_tls(self, *args: Any, **options: Any) -> httpcore.NetworkStream:
        return _Wire(self._wires, self._inner.start_tls(*args, **options))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


@contextlib.contextmanager
def _httpx_errors(request: httpx.Request) -> Iterator[None]:
    """The errors of httpcore as those of httpx, which have the same names."""
    try:
        yield
    except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError) as error:
        raise getattr(httpx, type(error).__name__)(str(error), request=request) from error
