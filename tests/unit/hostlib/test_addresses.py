"""Addresses of a machine's own."""

from __future__ import annotations

import pytest

from plugins.module_utils.hostlib.addresses import is_loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_loopback_is_known_by_address_and_name(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "gpu1", "rig.localhost", "localhost.example.org", ""])  # noqa: S104 - not bound
def test_what_may_be_elsewhere_is_not_loopback(host: str) -> None:
    assert not is_loopback(host)
