"""Addresses of models as people write them: with spaces, letters of all languages, users and passwords.

    address, authorization = asked("https://me:pw@host/My Model.gguf")   # https://host/My%20Model.gguf, "Basic …"

Python 3.9's standard library only.
"""

from __future__ import annotations

from urllib.parse import quote, urlsplit, urlunsplit

from ..hostlib.http_client import basic_authorization, origin_of, without_user
from .local_file import is_local

KEPT = "%/:@!$&'()*+,;=~?"  # what stands in a path or query as it is; what is escaped already stays so


def asked(url: str) -> tuple[str, str | None]:
    """The address that is asked for, without user and password, and the Authorization that stands for those.

    It is that of a server, or of a file of this host (file:///).

    Raises ValueError for what can't be asked. Its message holds nothing of the address, which may be secret.
    """
    if not url.isprintable():
        raise ValueError("it has a line end or a control character")
    if is_local(url):
        return url, None
    bare, authorization = without_user(url), basic_authorization(url)
    try:
        parts, (_, host, port) = urlsplit(bare), origin_of(bare)
    except ValueError:
        raise ValueError("it is no http(s) address of a host, or its port is no number") from None
    if (bare == url) != (authorization is None):  # an '@' that only one of them takes for the end of a user
        raise ValueError("its host is no name of one: begin the path with '/'")
    if any(character in host for character in "@ %\\"):
        raise ValueError("its host is no name of one: escape '/', '?', '#' and '@' in user and password")
    try:
        host = host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        raise ValueError("its host is no name of one") from None
    place = f"[{host}]" if ":" in host else host
    if parts.port:
        place += f":{port}"
    path, query = quote(parts.path or "/", safe=KEPT), quote(parts.query, safe=KEPT)
    return urlunsplit((parts.scheme, place, path, query, "")), authorization
