"""TLS towards servers, the same for all that talks to one. The standard library only.

tls.context(("/etc/ssl/certs/ca-certificates.crt", None))
"""

from __future__ import annotations

import ssl

Trust = tuple[str | None, str | None]
"""A file and a folder of certificates that are trusted."""


def context(trusted: Trust) -> ssl.SSLContext:
    """A context for connections to servers. OSError where the certificates can't be read."""
    made = ssl.create_default_context(cafile=trusted[0], capath=trusted[1])
    made.set_alpn_protocols(["http/1.1"])
    return made
