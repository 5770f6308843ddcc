"""EPEL's release package for RHEL, whose signature dnf does not look at where it is given an address.

    with release_package("9") as path:
        run(["dnf", "-q", "-y", "install", path])

Python 3.9's standard library only.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from http.client import HTTPException

from ..hostlib import programs
from ..hostlib.http_client import open_address
from ..openpgp import OpenPgpError, require_key
from .errors import DriverError

ADDRESS = "https://dl.fedoraproject.org/pub/epel"
# Of the keys that EPEL signs with, by the major version of RHEL.
FINGERPRINTS = {"9": "FF8AD1344597106ECE813B918A3872BF3228467C", "10": "7D8D15CBFC4E62688591FB2633D98517E37ED158"}


@contextlib.contextmanager
def release_package(major: str, address: str = ADDRESS, fingerprint: str = "") -> Iterator[str]:
    """The file of the package, signed by EPEL's key; it is gone when the block is left.

    Raises DriverError where it can't be had, or is not what EPEL signed.
    """
    key_url, url = f"{address}/RPM-GPG-KEY-EPEL-{major}", f"{address}/epel-release-latest-{major}.noarch.rpm"
    with tempfile.TemporaryDirectory() as folder:
        key, package, database = (os.path.join(folder, name) for name in ("key", "epel-release.rpm", "rpmdb"))
        try:
            _fetch(key_url, key)
            with open(key, "rb") as stream:
                require_key(stream.read(), fingerprint or FINGERPRINTS[major])
            _fetch(url, package)
            # In a database of its own: the system comes to trust the key by the package, as it does by hand.
            rpmkeys = ["rpmkeys", "--dbpath", database]
            imported = programs.run([*rpmkeys, "--import", key])
            checked = programs.run([*rpmkeys, "--checksig", package])
        except OpenPgpError as error:
            raise DriverError(f"{key_url} is not EPEL's key: {error}; nothing was installed") from error
        except (programs.ProgramError, OSError, ValueError, HTTPException) as error:
            raise DriverError(f"EPEL can't be had from {address} ({error}): enable it by hand") from error
        # What bears no signature at all has its digests in order, and an exit status of 0.
        if imported.status or checked.status or "signatures OK" not in checked.output:
            reason = programs.last_lines(f"{imported.output}\n{checked.output}")
            raise DriverError(f"{url} is not signed by EPEL ({reason}): nothing was installed")
        yield package


def _fetch(url: str, path: str) -> None:
    with open_address(url) as answer, open(path, "wb") as stream:
        stream.write(answer.read())
