"""Addresses of sources that hold credentials: shown without them, and opened with them.

Python 3.9's standard library only.
"""

from __future__ import annotations

import re
import urllib.parse
from http.client import HTTPResponse
from typing import Any

from ..hostlib.http_client import basic_authorization, open_address, without_user


def public_url(url: str) -> str:
    """An address without what may be secret: user and password, and what follows a question mark or a hash."""
    return re.split("[?#]", without_user(url))[0] if "://" in url else without_user(url)


def secrets_of(source: dict[str, Any]) -> set[str]:
    """Secrets that :func:`public_source` leaves out, in pieces."""
    secrets = set()
    for url in [source.get("url") or "", *(entry["url"] for entry in source.get("archives") or ())]:
        start, bare = len(url) - len(re.sub(r"^[^:/]+://", "", url)), without_user(url)
        secrets |= {url[start : start + len(url) - len(bare)], bare[len(public_url(url)) :]}
    return secrets - {""}


def public_source(source: dict[str, Any]) -> dict[str, Any]:
    """A source as manifests and records show it. The same source with other credentials makes the same release."""
    public = {key: value for key, value in sorted(source.items()) if value is not None}
    if "url" in public:
        public["url"] = public_url(public["url"])
    if "archives" in public:
        public["archives"] = [{**entry, "url": public_url(entry["url"])} for entry in public["archives"]]
    return public


def open_archive(url: str) -> HTTPResponse:
    """Open an address with the credentials that it holds, as a stream of any length."""
    return open_address(without_user(url), authorization=basic_authorization(url), max_bytes=None)


def git_environment(url: str) -> dict[str, str]:
    """Variables that give git the credentials of an address: its arguments can be read by all."""
    shown, userinfo = public_url(url), re.match(r"https?://([^/]*)@", url)
    if shown == url:
        return {}
    if userinfo is None:
        return {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"url.{url}.insteadOf", "GIT_CONFIG_VALUE_0": shown}
    # Asked by git for this origin alone. A header of its own (http.extraHeader) it would repeat to whatever server it
    # is redirected to. The empty one is for the user's helpers: they would keep what they see.
    user, _, password = userinfo.group(1).partition(":")
    place = "/".join(shown.split("/")[:3])
    return {
        "GIT_CONFIG_COUNT": "2",
        "GIT_CONFIG_KEY_0": "credential.helper",
        "GIT_CONFIG_VALUE_0": "",
        "GIT_CONFIG_KEY_1": f"credential.{place}.helper",
        "GIT_CONFIG_VALUE_1": '!printf "username=%s\\npassword=%s\\n" "$NEXUS_GIT_USER" "$NEXUS_GIT_PASSWORD"; :',
        "NEXUS_GIT_USER": urllib.parse.unquote(user),
        "NEXUS_GIT_PASSWORD": urllib.parse.unquote(password),
    }
