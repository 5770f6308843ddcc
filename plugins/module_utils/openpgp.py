"""OpenPGP keys of repositories, held against their fingerprints, and their two forms, without GnuPG.

    data = open("key.asc", "rb").read()
    require_key(data, "C95B321B61E88C1809C4F759DDCAE044F796ECB0")
    apt_keyring.write(binary(data))

Hosts need not have GnuPG. Whoever trusts a key asks ``require_key``, and compares no fingerprint itself: the end of
one, such as the eight digits that name NVIDIA's files, is forged in minutes.

Python 3.9's standard library only. Formats are those of RFC 9580.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator

BLOCK = re.compile(rb"-----BEGIN PGP PUBLIC KEY BLOCK-----(.*?)-----END PGP PUBLIC KEY BLOCK-----", re.DOTALL)
MAX_BYTES = 1 << 20  # of a file of keys
FINGERPRINT = re.compile(r"[0-9A-F]{40}|[0-9A-F]{64}")
PUBLIC_KEY, SECRET_KEYS = 6, (5, 7)


class OpenPgpError(Exception):
    """One line that says why something is not one public key."""


class OtherKey(OpenPgpError):
    """It is a key, and not the wanted one."""


def whole_fingerprint(text: str) -> str:
    """A fingerprint as ``fingerprint`` gives it, of one with spaces between its digits.

    Raises OpenPgpError where it is only a part of one.
    """
    digits = re.sub(r"\s", "", text).upper()
    if not FINGERPRINT.fullmatch(digits):
        raise OpenPgpError(f"'{text}' is no whole fingerprint: write all of its 40 or 64 hexadecimal digits")
    return digits


def require_key(data: bytes, wanted: str) -> None:
    """Refuse what is not the one key of a fingerprint, in either form of it.

    Raises OtherKey for another key, and OpenPgpError for what is none or several, and for a part of a fingerprint.
    """
    digits, actual = whole_fingerprint(wanted), fingerprint(data)
    if actual != digits:
        raise OtherKey(f"key {actual}, not {digits}")


def fingerprint(data: bytes) -> str:
    """The fingerprint of the one primary key in a file, armored or binary: upper-case hexadecimal digits.

    Raises OpenPgpError where there is none, or more than one: whoever trusts the file would trust each of them.
    """
    keys = fingerprints(data)
    if len(keys) != 1:
        raise OpenPgpError(f"{len(keys)} keys ({', '.join(keys)})" if keys else "no OpenPGP key")
    return keys[0]


def fingerprints(data: bytes) -> list[str]:
    """The fingerprints of all primary keys in a file.

    Raises OpenPgpError where it is cut short, or holds a secret key or one of an outdated version.
    """
    digests = []
    for tag, body in _packets(binary(data)):
        if tag in SECRET_KEYS:
            raise OpenPgpError("a secret key")
        if tag == PUBLIC_KEY:
            if body[:1] == b"\x04":
                digest = hashlib.sha1(b"\x99" + len(body).to_bytes(2, "big") + body, usedforsecurity=False)
                digests.append(digest.hexdigest().upper())
            elif body[:1] == b"\x06":
                digests.append(hashlib.sha256(b"\x9b" + len(body).to_bytes(4, "big") + body).hexdigest().upper())
            else:
                raise OpenPgpError(f"a key of the outdated version {body[0]}" if body else "an empty key")
    return digests


def binary(data: bytes) -> bytes:
    """The binary form of keys, as apt reads it in files named ``.gpg``."""
    if not data.lstrip().startswith(b"-----BEGIN "):
        return data
    blocks = BLOCK.findall(data)
    if not blocks:
        raise OpenPgpError("no OpenPGP key")
    return b"".join(map(_decoded, blocks))


def armored(data: bytes) -> bytes:
    """The text form of keys, as rpm reads it, and apt in files named ``.asc``."""
    if data.lstrip().startswith(b"-----BEGIN "):
        return data
    text = base64.b64encode(data)
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    checksum = b"=" + base64.b64encode(_crc24(data).to_bytes(3, "big"))
    begin, end = (b"-----%s PGP PUBLIC KEY BLOCK-----" % word for word in (b"BEGIN", b"END"))
    return b"\n".join([begin, b"", *lines, checksum, end, b""])


def _decoded(block: bytes) -> bytes:
    """Bytes that a block of text holds: headers, an empty line, base64, and perhaps a checksum."""
    _, _, text = block.replace(b"\r", b"").partition(b"\n\n")
    lines = [line.strip() for line in text.splitlines()]
    try:
        return base64.b64decode(b"".join(line for line in lines if not line.startswith(b"=")), validate=True)
    except binascii.Error as error:
        raise OpenPgpError("a damaged key") from error


def _crc24(data: bytes) -> int:
    crc = 0xB704CE
    for byte in data:
        crc ^= byte << 16
        for _ in range(8):
            crc = (crc << 1) ^ (0x1864CFB if crc & 0x800000 else 0)
    return crc & 0xFFFFFF


def _packets(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The type and the body of each packet."""
    at = 0
    while at < len(data):
        head = data[at]
        if not head & 0x80:
            raise OpenPgpError("no OpenPGP key" if at == 0 else "a damaged key")
        at += 1
        if head & 0x40:  # the format that is called new
            tag, first = head & 0x3F, data[at] if at < len(data) else 0
            if first < 192:
                size, width = first, 1
            elif first < 224:
                size, width = ((first - 192) << 8) + 192 + int.from_bytes(data[at + 1 : at + 2], "big"), 2
            elif first == 255:
                size, width = int.from_bytes(data[at + 1 : at + 5], "big"), 5
            else:
                raise OpenPgpError("no OpenPGP key")  # in parts, which only messages are
        else:
            tag, kind = (head >> 2) & 0x0F, head & 3
            if kind == 3:
                raise OpenPgpError("no OpenPGP key")  # to the end of the file, which only messages are
            width = 1 << kind
            size = int.from_bytes(data[at : at + width], "big")
        at += width
        body = data[at : at + size]
        if len(body) < size:
            raise OpenPgpError("a key that is cut short")
        yield tag, body
        at += size
