"""Addresses and the way to them, before anything is sent."""

from __future__ import annotations

import pytest

from nexus_tasks.core.errors import EndpointDown, UsageError
from nexus_tasks.servers import route


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
        ("http://host/a%2Fb/v1", "http://host/a%2Fb"),
        ("http://host/a%0d%0aX:%20y", "http://host/a%0d%0aX:%20y"),
        ("http://host/a b", "http://host/a%20b"),
        ("http://host./v1", "http://host."),
    ],
)
def test_an_address_is_the_same_with_and_without_its_ending(text: str, address: str) -> None:
    assert route.base_url(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "ftp://host", "gpu1:8600", "http://", "http://host:port", "://", "http://gpu1..lan", "http://.lan",
        "http://" + 70 * "a", "http://" + ".".join([60 * "a"] * 5), "http://a_-.b", "http://host:0", "http://host:99999",
        "http://[::1", "http://a b", "http://a\nb", "http://-a", "http://*", "http://a%0ab",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="address"):
        route.base_url(text)


@pytest.mark.parametrize("text", ["http://user:secret@host", "http://secret@host", "http://host/?api_key=secret"])
def test_an_address_with_a_secret_in_it_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        route.base_url(text)
    assert "secret" not in caught.value.message + caught.value.hint
    assert route.KEY_VARIABLE in caught.value.hint


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
    assert route.leads_to_loopback(host) is loopback


def test_a_way_has_what_all_requests_need() -> None:
    way = route.to("https://gpu1.lan:8600/a%2Fb/v1/")
    assert (way.host, way.port, way.authority, way.prefix) == ("gpu1.lan", 8600, "gpu1.lan:8600", "/a%2Fb")
    assert way.trust is not None
    assert (route.to("http://[::1]").host, route.to("http://[::1]").authority) == ("::1", "[::1]")
    assert route.to("http://h").port == 80
    assert route.to("http://h").trust is None


def test_a_way_is_resolved_once() -> None:
    assert route.to("http://localhost:8600").addresses == ()
    assert set(route.to("http://localhost:8600").resolved().addresses) <= {"127.0.0.1", "::1"}
    with pytest.raises(EndpointDown, match="its host name is unknown"):
        route.to("http://no-such-host.invalid").resolved()


@pytest.mark.parametrize(
    ("text", "path"),
    [("v1", "/v1"), ("/v1beta/openai/", "/v1beta/openai"), ("a%2Fb", "/a%2Fb"), ("a b", "/a%20b"), ("", "/")],
)
def test_the_path_of_an_api_is_encoded_once(text: str, path: str) -> None:
    assert route.api_path(text) == path


@pytest.mark.parametrize("text", ["v1?key=a", "v1\r\nX: y", "v1#a"])
def test_what_is_no_path_of_an_api_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="path of an API"):
        route.api_path(text)


@pytest.mark.parametrize(
    ("address", "environment", "variable"),
    [
        ("http://gpu1:8600", {"HTTP_PROXY": "http://proxy:3128"}, "HTTP_PROXY"),
        ("http://gpu1:8600", {"http_proxy": "http://proxy:3128"}, "http_proxy"),
        ("https://gpu1:8600", {"HTTP_PROXY": "http://proxy:3128"}, None),
        ("https://gpu1:8600", {"ALL_PROXY": "socks5://proxy:1080"}, "ALL_PROXY"),
        ("http://gpu1:8600", {"HTTP_PROXY": "http://proxy:3128", "NO_PROXY": "other,gpu1"}, None),
        ("http://gpu1.lan", {"HTTP_PROXY": "http://proxy:3128", "NO_PROXY": ".lan"}, None),
        ("http://gpu1", {"HTTP_PROXY": "http://proxy:3128", "no_proxy": "*"}, None),
        ("http://127.0.0.1:8600", {"HTTP_PROXY": "http://proxy:3128"}, None),
        ("http://gpu1", {"HTTP_PROXY": ""}, None),
    ],
)
def test_a_proxy_that_is_not_used_is_named(address: str, environment: dict[str, str], variable: str | None) -> None:
    assert route.unused_proxy(address, environment) == variable
    said = route.hint(address, "check DNS", environment)
    assert said == (
        f"check DNS; {variable} is not used: measurements go straight to the server" if variable else "check DNS"
    )
