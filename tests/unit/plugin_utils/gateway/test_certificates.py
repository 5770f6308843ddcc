"""Certificates of a gateway: pairs that are given, and its own authority."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from cryptography import x509

from plugins.plugin_utils.gateway.certificates import (
    AUTHORITY,
    AUTHORITY_KEY,
    PAIR,
    gateway_tls,
    own_files,
    pair_problems,
)

NOW = datetime.datetime(2030, 5, 1, tzinfo=datetime.UTC)
NAMES = ["front", "192.0.2.10", "localhost", "127.0.0.1"]
DAY = datetime.timedelta(days=1)


def test_its_own_certificate_is_kept_and_renewed_before_it_ends() -> None:
    first = own_files({}, NAMES, NOW)
    assert own_files(first, NAMES, NOW + 300 * DAY) == first
    renewed = own_files(first, NAMES, NOW + 350 * DAY)
    assert renewed[PAIR] != first[PAIR]
    assert (renewed[AUTHORITY], renewed[AUTHORITY_KEY]) == (first[AUTHORITY], first[AUTHORITY_KEY])
    assert own_files(renewed, [*NAMES, "llm.example"], NOW + 350 * DAY)[PAIR] != renewed[PAIR]


def test_an_authority_that_would_end_before_its_certificate_is_replaced() -> None:
    first = own_files({}, NAMES, NOW)
    later = own_files(first, NAMES, NOW + 3300 * DAY)
    assert later[AUTHORITY] != first[AUTHORITY]


def test_its_certificate_is_signed_by_the_authority_for_all_names() -> None:
    files = own_files({}, NAMES, NOW)
    certificate, authority = x509.load_pem_x509_certificates(files[PAIR].encode())
    certificate.verify_directly_issued_by(authority)
    assert authority == x509.load_pem_x509_certificate(files[AUTHORITY].encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == NAMES


def parts(files: dict[str, str]) -> tuple[str, str]:
    """Certificate with its chain, and key."""
    chain, _, key = files[PAIR].partition("-----BEGIN PRIVATE KEY-----")
    return chain, f"-----BEGIN PRIVATE KEY-----{key}"


def test_a_pair_that_is_right_has_no_problem() -> None:
    assert list(pair_problems(*parts(own_files({}, NAMES, NOW)), NOW)) == []


WRONG = {
    "of two pairs": "don't belong together",
    "ended": "ended on 2031-06-02: renew it",
    "not yet begun": "begins on 2030-04-30 only",
    "no certificate": "holds no certificate in PEM",
    "no key": "holds no private key in PEM",
}


@pytest.mark.parametrize("case", WRONG)
def test_a_pair_that_is_wrong_is_one_line_that_holds_no_key(case: str) -> None:
    certificate, key = parts(own_files({}, NAMES, NOW))
    other_key = parts(own_files({}, NAMES, NOW))[1]
    certificate = "nonsense" if case == "no certificate" else certificate
    key = {"of two pairs": other_key, "no key": "nonsense"}.get(case, key)
    now = {"ended": NOW + 400 * DAY, "not yet begun": NOW - 400 * DAY}.get(case, NOW)
    [problem] = pair_problems(certificate, key, now)
    assert WRONG[case] in problem
    assert key[60:90] not in problem or case == "no key"


def test_half_a_pair_is_refused_and_without_tls_there_is_nothing() -> None:
    settings = {"tls": True, "certificate_file": "/c.pem", "key_file": "", "certificate_names": NAMES, "name": "front"}
    [problem] = gateway_tls(settings, {}, {})["problems"]
    assert problem == "gateway_certificate_file and gateway_key_file go together: set both"
    assert gateway_tls({**settings, "tls": False, "certificate_file": ""}, {}, {}) == {"files": {}, "problems": []}


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    now = datetime.datetime.now(datetime.UTC)
    certificate, key = parts(own_files({}, NAMES, now))
    file = tmp_path / "gateway.key"
    file.write_text(key)
    settings = {
        "tls": True, "certificate_file": "/c.pem", "key_file": str(file), "certificate_names": NAMES, "name": "front",
    }  # fmt: skip
    pair = {"certificate": certificate, "key": key}
    file.chmod(0o644)
    assert gateway_tls(settings, pair, {})["problems"] == [
        f"gateway_key_file {file} can be read by others: chmod 600 {file} (gateway front)"
    ]
    file.chmod(0o600)
    made = gateway_tls(settings, pair, {})
    assert made["problems"] == []
    assert made["files"][PAIR].count("-----BEGIN PRIVATE KEY-----") == 1
    file.write_text("$ANSIBLE_VAULT;1.1;AES256")
    file.chmod(0o644)
    assert gateway_tls(settings, pair, {})["problems"] == []


@pytest.mark.parametrize("name", [PAIR, AUTHORITY])
@pytest.mark.parametrize("text", ["", "damaged", "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"])
def test_what_is_damaged_is_made_anew(name: str, text: str) -> None:
    first = own_files({}, NAMES, NOW)
    made = own_files({**first, name: text}, NAMES, NOW)
    certificate, authority = x509.load_pem_x509_certificates(made[PAIR].encode())
    certificate.verify_directly_issued_by(authority)
    assert (made[AUTHORITY] == first[AUTHORITY]) == (name == PAIR)


def test_a_pair_of_another_authority_that_was_given_before_is_replaced() -> None:
    first, other = own_files({}, NAMES, NOW), own_files({}, NAMES, NOW)
    made = own_files({**first, PAIR: other[PAIR]}, NAMES, NOW)
    assert made[AUTHORITY] == first[AUTHORITY]
    assert made[PAIR] not in (first[PAIR], other[PAIR])


def test_names_that_no_certificate_holds_and_a_pair_without_tls_are_refused() -> None:
    settings = {"tls": True, "certificate_file": "", "key_file": "", "certificate_names": ["münchen"], "name": "front"}
    assert gateway_tls(settings, {}, {})["problems"] == [
        "'münchen' is no name that a certificate can hold: see gateway_tls_names"
    ]
    without = {**settings, "tls": False, "certificate_file": "/c.pem", "key_file": "/k.pem"}
    [problem] = gateway_tls(without, {"certificate": "c", "key": "k"}, {})["problems"]
    assert "gateway_tls is not" in problem
