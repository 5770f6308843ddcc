"""Certificates that servers are trusted by: those of ``SSL_CERT_FILE`` and ``SSL_CERT_DIR``, else this machine's."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from pathlib import Path

import certifi

from nexus_tasks.core import tls
from nexus_tasks.core.errors import UsageError

_FILE, _FOLDER = "SSL_CERT_FILE", "SSL_CERT_DIR"


def trust(environment: Mapping[str, str] = os.environ) -> tls.Trust:
    """The place of the certificates.

    Raises:
        UsageError: a variable of the environment names what isn't there, or holds no certificate.
    """
    file, folder = environment.get(_FILE) or None, environment.get(_FOLDER) or None
    if file is None and folder is None:
        usual = ssl.get_default_verify_paths()
        # Small images have no store of their own; httpx brings one.
        return (usual.cafile, usual.capath) if usual.cafile or usual.capath else (certifi.where(), None)
    for name, value, is_there in ((_FILE, file, Path.is_file), (_FOLDER, folder, Path.is_dir)):
        # OpenSSL takes several folders, as PATH has them.
        parts = [] if value is None else value.split(os.pathsep) if name == _FOLDER else [value]
        if any(not is_there(Path(part)) for part in parts):
            raise UsageError(
                f"{name} names {value}, which isn't there", hint=f"mend the environment's {name}, or unset it"
            )
    try:
        tls.context((file, folder))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{_FILE} names {file}, which holds no certificates: {error}", hint=f"mend the environment's {_FILE}"
        ) from error
    return file, folder
