"""The load generator connects to servers, keeps connections and loses them, and sends the key."""

from __future__ import annotations

import datetime
import ipaddress
import json
import ssl
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from nexus_tasks.core.errors import EndpointDown
from nexus_tasks.load.requests import Stage
from tests.conftest import free_port
from tests.support.load_runs import drive, error, one
from tests.support.raw_server import Peer, serving, stop, token

pytestmark = pytest.mark.alone


KEY = "sk-integration-0123456789abcdef"


def test_a_server_that_is_not_there_is_a_failure_of_each_request() -> None:
    rows, _ = drive(f"http://127.0.0.1:{free_port()}", Stage("closed", concurrency=2, requests=3))
    assert [error(row) for row in rows] == [("connect", "Connection refused")] * 3
    assert [row.ttft_ms for row in rows] == [None] * 3


def test_an_unknown_host_is_refused() -> None:
    with pytest.raises(EndpointDown, match="host name is unknown"):
        drive("http://no-such-host.invalid:8600")


def test_a_connection_serves_many_requests_where_the_server_lets_it() -> None:
    connections = set()

    def answer(peer: Peer) -> bool:
        connections.add(peer.line)
        peer.completion(1)
        peer.end()
        return True

    with serving(answer) as address:
        rows, _ = drive(address, Stage("closed", concurrency=1, requests=5))
    assert [row.ok for row in rows] == [True] * 5
    assert len(connections) == 1


@pytest.mark.parametrize("pause_s", [0.0, 0.05])
def test_a_server_that_hangs_up_after_each_answer_makes_no_failures(pause_s: float) -> None:
    def answer(peer: Peer) -> None:
        peer.completion(2)
        peer.end()
        time.sleep(pause_s)

    with serving(answer) as address:
        rows, _ = drive(address, Stage("closed", concurrency=3, requests=12))
    assert [row.error for row in rows] == [None] * 12
    assert sorted(row.index for row in rows) == list(range(12))


def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    def answer(peer: Peer) -> None:
        peer.raw(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        peer.raw(*(b"data: " + json.dumps(message).encode() + b"\n\n" for message in (token(1), token(2), stop(2))))

    row = one(answer)
    assert (row.ok, row.output_tokens) == (True, 2)


def test_servers_with_tls_are_measured_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    today = datetime.datetime.now(datetime.UTC)
    loopback = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([loopback]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)

    def answer(peer: Peer) -> bool:
        peer.completion(3)
        peer.end()
        return True

    with serving(answer, context) as address:
        refused, _ = drive(address)
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        trusted, _ = drive(address, Stage("closed", concurrency=2, requests=4))
    assert error(refused[0]) == ("connect", "TLS failed: CERTIFICATE_VERIFY_FAILED")
    assert [(row.ok, row.output_tokens) for row in trusted] == [(True, 3)] * 4


def test_the_key_is_sent_and_never_told() -> None:
    def answer(peer: Peer) -> None:
        sent = peer.head.decode().partition("Authorization: Bearer ")[2].split("\r\n")[0]
        body = json.dumps({"error": {"message": f"bad key {sent}"}}).encode()
        peer.raw(b"HTTP/1.1 401 No\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    with serving(answer) as address:
        rows, _ = drive(address, api_key=KEY)
    assert error(rows[0]) == ("http_status", "HTTP 401: bad key ***")
