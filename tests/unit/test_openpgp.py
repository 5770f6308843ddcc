"""OpenPGP keys, held against what GnuPG says of them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from plugins.module_utils import openpgp
from tests.conftest import ROOT

DEBIAN = {
    "bookworm-stable": "4D64FEC119C2029067D6E791F8D2585B8783D481",
    "bookworm-automatic": "B8B80B5B623EAB6AD8775C45B7C5D7D6350947F8",
}


@pytest.mark.parametrize(("name", "fingerprint"), DEBIAN.items())
def test_the_fingerprint_of_a_key_is_that_which_gnupg_shows(name: str, fingerprint: str, tmp_path: Path) -> None:
    files = [Path(f"/usr/share/keyrings/debian-archive-{name}.{ending}") for ending in ("gpg", "pgp", "asc")]
    data = next((path.read_bytes() for path in files if path.exists()), None)
    if data is None:
        pytest.skip("needs Debian's archive keys (apt-get install debian-archive-keyring)")
    assert openpgp.fingerprint(data) == fingerprint
    text = openpgp.armored(openpgp.binary(data))
    assert openpgp.fingerprint(text) == fingerprint
    assert openpgp.binary(text) == openpgp.binary(data)
    assert openpgp.fingerprint(text.replace(b"\n", b"\r\n")) == fingerprint


def test_what_is_not_one_public_key_is_no_key() -> None:
    key = packet(6, b"\x04" + bytes(50))
    assert re.fullmatch("[0-9A-F]{40}", openpgp.fingerprint(key))
    assert openpgp.fingerprint(key + packet(13, b"name") + packet(14, b"\x04" + bytes(9))) == openpgp.fingerprint(key)
    for data, why in (
        (b"", "no OpenPGP key"),
        (b"<html>404</html>", "no OpenPGP key"),
        (b"-----BEGIN PGP SIGNATURE-----\n\nxx\n", "no OpenPGP key"),
        (b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n%%%\n-----END PGP PUBLIC KEY BLOCK-----\n", "a damaged key"),
        (key[:-1], "cut short"),
        (key + b"\n", "a damaged key"),
        (key + packet(6, b"\x04" + bytes(51)), r"2 keys \([0-9A-F]{40}, [0-9A-F]{40}\)"),
        (packet(5, b"\x04" + bytes(50)), "a secret key"),
        (packet(6, b"\x03" + bytes(50)), "the outdated version 3"),
    ):
        with pytest.raises(openpgp.OpenPgpError, match=why):
            openpgp.fingerprint(data)


def test_a_key_is_trusted_by_its_whole_fingerprint() -> None:
    key = packet(6, b"\x04" + bytes(50))
    digits = openpgp.fingerprint(key)
    spaced = " ".join(digits[at : at + 4] for at in range(0, 40, 4))
    for wanted in (digits, digits.lower(), spaced, f" {spaced}\n"):
        openpgp.require_key(key, wanted)
    with pytest.raises(openpgp.OtherKey, match=rf"key {digits}, not {'A' * 40}"):
        openpgp.require_key(key, "A" * 40)
    for part in (
        "",
        digits[-8:],
        digits[-16:],
        digits[1:],
        digits[:-1],
        digits + "0",
        "0x" + digits,
        digits[:-1] + "G",
    ):
        with pytest.raises(openpgp.OpenPgpError, match="is no whole fingerprint: write all of its 40 or 64"):
            openpgp.require_key(key, part)


def test_nobody_else_compares_fingerprints() -> None:
    others = [path for path in (ROOT / "plugins").rglob("*.py") if path.name != "openpgp.py"]
    imports = [
        (path.name, alias.name)
        for path in others
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and "openpgp" in f"{node.module} {[alias.name for alias in node.names]}"
        for alias in node.names
    ]
    assert {name for name, _ in imports} == {"container_engine_key.py", "epel.py", "packages.py", "repositories.py"}
    assert not {name for _, name in imports} & {"openpgp", "fingerprint", "fingerprints"}


@pytest.mark.parametrize("size", [10, 191, 192, 300, 8383, 8384, 70000])
def test_a_key_counts_at_any_length_in_either_format(size: int) -> None:
    body = b"\x04" + bytes(size - 1)
    if size < 65536:  # a version 4 key has no more
        assert openpgp.fingerprint(packet(6, body)) == openpgp.fingerprint(packet(6, body, old=True))
    assert openpgp.fingerprints(packet(6, b"\x04key") + packet(2, body) + packet(6, b"\x04yek")) == [
        openpgp.fingerprint(packet(6, b"\x04key")), openpgp.fingerprint(packet(6, b"\x04yek")),
    ]  # fmt: skip


def packet(tag: int, body: bytes, *, old: bool = False) -> bytes:
    """A packet, its length in the shortest way there is."""
    size = len(body)
    if old:
        kind = next(kind for kind in range(3) if size < 1 << (8 << kind))
        return bytes([0x80 | tag << 2 | kind]) + size.to_bytes(1 << kind, "big") + body
    if size < 192:
        length = bytes([size])
    elif size < 8384:
        length = bytes([192 + (size - 192 >> 8), size - 192 & 0xFF])
    else:
        length = b"\xff" + size.to_bytes(4, "big")
    return bytes([0xC0 | tag]) + length + body
