"""HTTP answers are read as h11 reads them, in whatever pieces they come."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import formatdate

import h11
import pytest

from nexus_tasks.load.sender.http_answer import HttpAnswer, NotHttpError, retry_after_s


@dataclass
class Seen:
    """What a reader made of an answer."""

    status: int = 0
    body: bytes = b""
    complete: bool = False
    headers: dict[str, str] = field(default_factory=dict)


def by_h11(raw: bytes, *, closed: bool) -> Seen:
    """The answer as h11 reads it; ``closed`` where the connection ends with it."""
    client = h11.Connection(our_role=h11.CLIENT)
    client.send(h11.Request(method="POST", target="/", headers=[("Host", "a"), ("Content-Length", "0")]))
    client.send(h11.EndOfMessage())
    client.receive_data(raw)
    if closed:
        client.receive_data(b"")
    seen = Seen()
    while (event := client.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
        match event:
            case h11.Response():
                seen.status = event.status_code
                for name, value in event.headers:
                    seen.headers[name.decode()] = ", ".join(
                        filter(None, [seen.headers.get(name.decode()), value.decode()])
                    )
            case h11.Data():
                seen.body += event.data
            case h11.EndOfMessage():
                seen.complete = True
                break
            case h11.ConnectionClosed():
                break
    return lowered(seen)


def lowered(seen: Seen) -> Seen:
    # h11 writes some values in small letters.
    seen.headers = {name: value.lower() for name, value in seen.headers.items()}
    return seen


def by_us(pieces: list[bytes], *, closed: bool) -> Seen:
    seen = Seen()

    def take(body: bytes) -> None:
        seen.body += body

    answer = HttpAnswer(take)
    for piece in pieces:
        assert not answer.complete
        answer.feed(piece)
    seen.status, seen.headers = answer.status, answer.headers
    seen.complete = answer.complete or (closed and answer.until_closed)
    return lowered(seen)


def answers(seed: int) -> Iterator[tuple[bytes, bool]]:
    """Answers of all the forms that RFC 9112 has, and whether the connection ends with them."""
    chance = random.Random(seed)  # noqa: S311 - forms, not secrets
    while True:
        raw = b"".join(
            chance.choice([b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nX: y\r\n\r\n"])
            for _ in range(chance.choice([0, 0, 0, 1, 2]))
        )
        status = chance.choice([200, 200, 200, 204, 304, 404, 503])
        version = chance.choice([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0"])
        raw += b"%s %d%s\r\n" % (version, status, chance.choice([b" OK", b" ", b" not quite: fine"]))
        raw += b"".join(
            chance.sample([b"Content-Type: text/event-stream\r\n", b"X-Empty:\r\n", b"Connection: close\r\n",
                           b"connection: keep-alive\r\n", b"X-Blanks:  \t a  b \t\r\n"], chance.randrange(4))
        )  # fmt: skip
        bodies = [chance.randbytes(chance.choice([1, 5, 15, 16, 300])) for _ in range(chance.randrange(5))]
        bodies += [b"data: {}\r\n\r\n", b"0\r\n\r\n"] * chance.randrange(2)
        form = chance.choice(["chunked", "chunked", "length", "closed"]) if version == b"HTTP/1.1" else "length"
        if status in (204, 304):
            yield raw + b"\r\n", False
        elif form == "chunked":
            raw += chance.choice([b"Transfer-Encoding: chunked\r\n", b"transfer-encoding:Chunked\r\n"]) + b"\r\n"
            for body in bodies:
                size = chance.choice([b"%x", b"%X", b"000%x"]) % len(body)
                raw += size + chance.choice([b"", b"", b";a=b", b";a", b';a="b c";d=e']) + b"\r\n" + body + b"\r\n"
            trailers = [b"X-Sum: 1\r\n", b"Content-Length: 7\r\n", b"Server-Timing: a;b=1\r\n"]
            raw += chance.choice([b"0", b"000", b"0;last"]) + b"\r\n"
            raw += b"".join(chance.sample(trailers, chance.randrange(3)))
            yield raw + b"\r\n", False
        elif form == "length":
            yield raw + b"Content-Length: %d\r\n\r\n" % sum(map(len, bodies)) + b"".join(bodies), False
        else:
            yield raw + b"\r\n" + b"".join(bodies), True


@pytest.mark.parametrize("seed", range(20))
def test_an_answer_is_what_h11_says_it_is_wherever_it_is_cut(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - places, not secrets
    for raw, closed in itertools.islice(answers(seed), 40):
        expected = by_h11(raw, closed=closed)
        assert expected.complete, raw
        cuts = [[], list(range(1, len(raw))), sorted(chance.sample(range(1, len(raw)), 5))]
        for places in cuts:
            edges = itertools.pairwise([0, *places, len(raw)])
            assert by_us([raw[begin:end] for begin, end in edges], closed=closed) == expected, raw


@pytest.mark.parametrize("seed", range(5))
def test_an_answer_that_was_cut_off_is_not_complete(seed: int) -> None:
    for raw, closed in itertools.islice(answers(seed), 20):
        if not closed:
            for end in range(1, len(raw)):
                assert not by_us([raw[:end]], closed=True).complete, raw[:end]


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloo\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused(raw: bytes) -> None:
    with pytest.raises(NotHttpError, match=r"^not HTTP: "):
        HttpAnswer().feed(raw)


@pytest.mark.parametrize("extension", [b"; a", b";a =b", b";a= b", b";a ;c"])
def test_chunk_extensions_with_blanks_inside_are_refused(extension: bytes) -> None:
    """No server may send them (RFC 9112, 7.1.1), llhttp knows no leniency for them, and docs/benchmarks.md says so."""
    with pytest.raises(NotHttpError, match="in chunk extensions"):
        HttpAnswer().feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5%s\r\nhello\r\n" % extension)


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5  \r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5 \t;a=b;c\r\nhello\r\n0 ;last\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ],
)
def test_what_a_client_may_take_is_taken(raw: bytes) -> None:
    seen = by_us([raw], closed=False)
    assert (seen.status, seen.body, seen.complete) == (200, b"hello", True)


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        (b"Content-Encoding: gzip", "gzip"),
        (b"Content-Encoding: identity", None),
        (b"Transfer-Encoding: gzip, chunked", "gzip, chunked"),
        (b"Transfer-Encoding: chunked", None),
    ],
)
def test_a_coding_that_nobody_asked_for_is_named(header: bytes, coding: str | None) -> None:
    answer = HttpAnswer()
    answer.feed(b"HTTP/1.1 200 OK\r\n%s\r\n\r\n" % header)
    assert answer.coding == coding


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("3", 3.0), ("0.5", 0.5), (None, None), ("-1", None), ("inf", None), ("nan", None), ("", None), ("soon", None),
        ("Wed, 21 Oct 2026 07:28:30 GMT", 30.0), ("Wednesday, 21-Oct-26 07:29:00 GMT", 60.0),
        ("Wed Oct 21 07:28:05 2026", 5.0), ("Wed, 21 Oct 2026 07:27:00 GMT", 0.0),
        ("Wed, 99 Oct 2026 07:28:30 GMT", None),
    ],
)  # fmt: skip
def test_retry_after_is_taken_in_seconds_or_as_a_date_by_the_server_s_clock(
    value: str | None, seconds: float | None
) -> None:
    sent = {"date": "Wed, 21 Oct 2026 07:28:00 GMT"}
    assert retry_after_s(sent if value is None else {**sent, "retry-after": value}) == seconds


def test_a_date_to_retry_after_of_an_answer_without_one_is_held_against_this_machine_s_clock() -> None:
    soon = formatdate(time.time() + 100, usegmt=True)
    assert 90 < (retry_after_s({"retry-after": soon}) or 0) <= 100
