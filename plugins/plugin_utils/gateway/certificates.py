"""Certificates of a gateway: a pair that is given, checked, or one of an authority of the gateway's own.

problems = pair_problems(certificate, key, now)        # one line each
files = own_files(kept, names, now)                    # {"tls/ca.pem": …, "tls/ca.key": …, "tls/gateway.pem": …}

An authority of its own lies on the gateway, and nowhere else: who takes the gateway over could speak for it anyway.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PAIR, AUTHORITY, AUTHORITY_KEY = "tls/gateway.pem", "tls/ca.pem", "tls/ca.key"
AUTHORITY_DAYS, DAYS = 3650, 397
RENEWED_BEFORE_DAYS = 60
EARLIER = datetime.timedelta(hours=1)  # clocks of clients differ


def gateway_tls(settings: Mapping[str, Any], pair: Mapping[str, str], kept: Mapping[str, str]) -> dict[str, Any]:
    """Files of a gateway's certificate by their place below its folder, and ``problems``; no files without TLS.

    Args:
        settings: of :func:`settings.gateway_settings`.
        pair: ``certificate`` and ``key``, PEM texts; empty where none is given.
        kept: the files of its own authority that are on the gateway.
    """
    now = datetime.datetime.now(datetime.UTC)
    if bool(settings["certificate_file"]) != bool(settings["key_file"]):
        return {"files": {}, "problems": ["gateway_certificate_file and gateway_key_file go together: set both"]}
    if not settings["tls"]:
        problem = "gateway_certificate_file is set and gateway_tls is not, so that nothing would be encrypted: set both"
        return {"files": {}, "problems": [f"{problem} (gateway {settings['name']})"] if pair else []}
    if not pair:
        names = settings["certificate_names"]
        odd = [name for name in names if not _is_name(name)]
        problems = [f"{name!r} is no name that a certificate can hold: see gateway_tls_names" for name in odd]
        return {"files": {} if problems else own_files(kept, names, now), "problems": problems}
    found = [*mode_problems(settings["key_file"], pair["key"]), *pair_problems(**pair, now=now)]
    problems = [f"{problem} (gateway {settings['name']})" for problem in found]
    return {"files": {PAIR: "\n".join([pair["certificate"], pair["key"], ""])}, "problems": problems}


def mode_problems(path: str, key: str) -> Iterator[str]:
    """Problems of who may read the key's file on the controller; one that ansible-vault encrypted may be read."""
    try:
        found = Path(path).expanduser()
        status = found.stat()
        is_plain = found.read_text(encoding="utf-8", errors="replace").strip() == key.strip()
    except OSError:
        return  # found by Ansible elsewhere, below a folder of files
    if is_plain and status.st_mode & 0o077:
        yield f"gateway_key_file {path} can be read by others: chmod 600 {path}"


def pair_problems(certificate: str, key: str, now: datetime.datetime) -> Iterator[str]:
    """Problems of a pair that is given: PEM texts, the certificate with the chain below it."""
    try:
        chain = x509.load_pem_x509_certificates(certificate.encode())
    except ValueError:
        yield "gateway_certificate_file holds no certificate in PEM: give the file with the certificate, chain below it"
        return
    try:
        private = serialization.load_pem_private_key(key.encode(), password=None)
    except TypeError:
        yield "gateway_key_file is encrypted: decrypt it (Ansible reads a file that ansible-vault encrypted)"
        return
    except ValueError:
        yield "gateway_key_file holds no private key in PEM: give the one that the certificate was made for"
        return
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if chain[0].public_key().public_bytes(*form) != private.public_key().public_bytes(*form):
        yield "gateway_certificate_file and gateway_key_file don't belong together: give the key of that certificate"
    if chain[0].not_valid_after_utc <= now:
        yield f"the certificate in gateway_certificate_file ended on {chain[0].not_valid_after_utc:%Y-%m-%d}: renew it"
    if chain[0].not_valid_before_utc > now + EARLIER:
        yield f"the certificate in gateway_certificate_file begins on {chain[0].not_valid_before_utc:%Y-%m-%d} only"


def own_files(kept: Mapping[str, str], names: Sequence[str], now: datetime.datetime) -> dict[str, str]:
    """Files of a pair of the gateway's own authority; those that are kept, while they will do.

    Args:
        kept: the files that are on the gateway, by the same names; empty at first.
        names: names and addresses that clients use for it.
    """
    if all(kept.get(name) for name in (PAIR, AUTHORITY, AUTHORITY_KEY)) and _will_do(kept, names, now):
        return {name: kept[name] for name in (PAIR, AUTHORITY, AUTHORITY_KEY)}
    authority, authority_key = _authority(kept, now)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder(_name("Llama Nexus gateway"), authority.subject, key.public_key(), now, DAYS)
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    return {
        PAIR: _pem(certificate) + _pem(authority) + _pem_key(key),
        AUTHORITY: _pem(authority),
        AUTHORITY_KEY: _pem_key(authority_key),
    }


def _will_do(kept: Mapping[str, str], names: Sequence[str], now: datetime.datetime) -> bool:
    """True for a kept pair of the kept authority that is for these names and will not end soon."""
    try:
        certificate = x509.load_pem_x509_certificate(kept[PAIR].encode())
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(kept[AUTHORITY].encode()))
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):  # damaged, or one that was given before
        return False
    return certificate.not_valid_after_utc - now > datetime.timedelta(days=RENEWED_BEFORE_DAYS) and {
        str(name.value) for name in alternatives
    } == {str(_general(name).value) for name in names}


def _authority(kept: Mapping[str, str], now: datetime.datetime) -> tuple[x509.Certificate, Any]:
    """The authority that is kept, while it outlasts a new certificate; else a new one, which clients have to learn."""
    try:
        authority = x509.load_pem_x509_certificate(kept.get(AUTHORITY, "").encode())
        kept_key: Any = serialization.load_pem_private_key(kept.get(AUTHORITY_KEY, "").encode(), password=None)
    except (ValueError, TypeError):  # none, or damaged
        pass
    else:
        lasts = authority.not_valid_after_utc - now > datetime.timedelta(days=DAYS)
        if lasts and authority.public_key() == kept_key.public_key():
            return authority, kept_key
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("Llama Nexus gateway authority")
    usage = {
        "digital_signature": False, "content_commitment": False, "key_encipherment": False, "data_encipherment": False,
        "key_agreement": False, "key_cert_sign": True, "crl_sign": True, "encipher_only": False, "decipher_only": False,
    }  # fmt: skip
    authority = (
        _builder(name, name, key.public_key(), now, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return authority, key


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime.datetime, days: int
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - EARLIER)
    return builder.not_valid_after(now + datetime.timedelta(days=days))


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name.strip("[]")))
    except ValueError:
        return x509.DNSName(name)


def _is_name(name: str) -> bool:
    try:
        _general(name)
    except ValueError:
        return False
    return True


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _pem_key(key: Any) -> str:
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return str(key.private_bytes(serialization.Encoding.PEM, *form).decode())
