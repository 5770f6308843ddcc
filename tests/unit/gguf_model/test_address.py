"""Addresses of models as people write them."""

from __future__ import annotations

import base64

import pytest

from plugins.module_utils.gguf_model.address import asked

ASKED = {
    "https://host/m.gguf": "https://host/m.gguf",
    "http://host:8080": "http://host:8080/",
    "https://HOST/M.gguf?a=b&c": "https://host/M.gguf?a=b&c",
    "https://host/My Model.gguf": "https://host/My%20Model.gguf",
    "https://host/My%20Model.gguf": "https://host/My%20Model.gguf",
    "https://host/größe/模型.gguf?n=é": "https://host/gr%C3%B6%C3%9Fe/%E6%A8%A1%E5%9E%8B.gguf?n=%C3%A9",
    "https://bücher.example/m.gguf": "https://xn--bcher-kva.example/m.gguf",
    "http://[::1]:80/m.gguf": "http://[::1]:80/m.gguf",
    "https://host/a@b.gguf#part": "https://host/a@b.gguf",
    "https://host/m.gguf?X-Amz-Signature=ab%2Fc+d": "https://host/m.gguf?X-Amz-Signature=ab%2Fc+d",
}


@pytest.mark.parametrize("url", ASKED)
def test_an_address_is_asked_for_as_a_browser_would(url: str) -> None:
    assert asked(url) == (ASKED[url], None)


@pytest.mark.parametrize(
    ("user", "pair"), [("me:pw", "me:pw"), ("me:p%40w%2F", "me:p@w/"), ("me:p@w", "me:p@w"), ("tökén", "tökén:")]
)
def test_user_and_password_become_a_header_and_leave_the_address(user: str, pair: str) -> None:
    expected = "Basic " + base64.b64encode(pair.encode()).decode()
    assert asked(f"https://{user}@host/m.gguf") == ("https://host/m.gguf", expected)


@pytest.mark.parametrize(
    "url",
    [
        "https://me:sesame@host/m\n.gguf", "https://me:sesame@host/\x1b[2Jm.gguf", "https://me:sesame@host:port/m.gguf",
        "https://me:sesame/@host/m.gguf", "https://me:sesame#@host/m.gguf", "https://me:sesame?@host/m.gguf",
        "ftp://me:sesame@host/m.gguf", "https://", "https:///m.gguf", "sesame", "https://me:sesame@[::/m.gguf",
        "https://me:sesame@ho st/m.gguf", "https://me:sesame@" + "ü" * 80 + "/m.gguf", "https://host?sesame=a@b",
        "https://me:sesame@host:99999/m.gguf",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match=r"^(it|its) ") as caught:
        asked(url)
    assert "sesame" not in str(caught.value)
    assert str(caught.value).isprintable()
