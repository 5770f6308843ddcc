"""Certificates are those that the environment names, or this machine's."""

from __future__ import annotations

import ssl
import types
from pathlib import Path

import certifi
import pytest

from nexus_tasks.core import tls
from nexus_tasks.core.errors import UsageError
from nexus_tasks.servers import certificates


def test_those_of_the_environment_count() -> None:
    assert certificates.trust({"SSL_CERT_FILE": certifi.where()}) == (certifi.where(), None)
    assert len(tls.context((certifi.where(), None)).get_ca_certs()) > 10


def test_those_of_this_machine_count_where_the_environment_names_none(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = ssl.get_default_verify_paths()
    assert certificates.trust({"SSL_CERT_FILE": ""}) == (
        (usual.cafile, usual.capath) if usual.cafile or usual.capath else (certifi.where(), None)
    )
    nothing = types.SimpleNamespace(cafile=None, capath=None)
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: nothing)
    assert certificates.trust({}) == (certifi.where(), None)


def test_a_folder_counts(tmp_path: Path) -> None:
    assert certificates.trust({"SSL_CERT_DIR": str(tmp_path)}) == (None, str(tmp_path))


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_what_isnt_there_is_named(variable: str) -> None:
    with pytest.raises(UsageError, match=f"{variable} names /nowhere, which isn't there"):
        certificates.trust({variable: "/nowhere"})


def test_a_file_without_certificates_is_named(tmp_path: Path) -> None:
    file = tmp_path / "empty.pem"
    file.write_text("nothing")
    with pytest.raises(UsageError, match=r"SSL_CERT_FILE names .*, which holds no certificates"):
        certificates.trust({"SSL_CERT_FILE": str(file)})
