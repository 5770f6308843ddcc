"""Addresses and keys, before anything is sent."""

from __future__ import annotations

import pytest

from nexus_tasks.core.errors import UsageError
from nexus_tasks.servers import endpoint


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("http://gpu1:8600", "http://gpu1:8600"),
        ("http://gpu1:8600/", "http://gpu1:8600"),
        ("http://gpu1:8600/v1", "http://gpu1:8600"),
        ("http://gpu1:8600/v1/", "http://gpu1:8600"),
        (" https://host/proxy/llama/v1 ", "https://host/proxy/llama"),
        ("http://[::1]:8600/v1", "http://[::1]:8600"),
        ("http://host/v10", "http://host/v10"),
    ],
)
def test_an_address_is_the_same_with_and_without_its_ending(text: str, address: str) -> None:
    assert endpoint.base_url(text) == address


@pytest.mark.parametrize("text", ["ftp://host", "gpu1:8600", "http://", "http://host:port", "://"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="address"):
        endpoint.base_url(text)


@pytest.mark.parametrize("text", ["http://user:secret@host", "http://secret@host", "http://host/?api_key=secret"])
def test_an_address_with_a_secret_in_it_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        endpoint.base_url(text)
    assert "secret" not in caught.value.message + caught.value.hint
    assert endpoint.API_KEY_VARIABLE in caught.value.hint


def test_the_key_is_in_the_authorization_header_and_in_no_repr() -> None:
    with endpoint.connect("http://gpu1:8600", "sk-secret") as client:
        assert client.headers["authorization"] == "Bearer sk-secret"
        assert "sk-secret" not in repr(client) + repr(client.headers)


@pytest.mark.parametrize("key", ["sk-secret\n", " sk-secret", "sk-geheim-ß"])
def test_a_key_that_no_header_can_carry_is_refused_without_repeating_it(key: str) -> None:
    with pytest.raises(UsageError) as caught:
        endpoint.connect("http://gpu1:8600", key)
    assert key.strip() not in caught.value.message + caught.value.hint


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("rig.localhost", True),
        ("gpu1", False),
        ("10.0.0.1", False),
    ],
)
def test_loopback_is_told_from_other_hosts(host: str, loopback: bool) -> None:
    assert endpoint.leads_to_loopback(host) is loopback
