from __future__ import annotations

import hashlib
from typing import Any

import pytest

from plugins.plugin_utils.gateway.users import token_limits, user_maps, user_problems

KEY = "b6f3a1c09d5e42778c1f0aa93be4d651"
OTHER = "77d0e95a4c2b418fb3a6c8d21f90e354"


def problems(users: Any, models: list[str] | None = None) -> list[str]:
    return list(user_problems(users, models))


def test_users_with_keys_limits_and_models_are_right() -> None:
    users = {
        "alice": {"key": KEY, "requests_per_minute": 60, "concurrent_requests": 4, "tokens_per_day": 10**6},
        "bob@lab": {"key": OTHER, "models": ["tiny"]},
    }
    assert problems(users, ["tiny", "big"]) == []
    assert problems({}) == []


@pytest.mark.parametrize(
    ("users", "said"),
    [
        ([], "is no dict"),
        ({"alice": None}, "alice is no dict"),
        ({"alice": KEY}, "alice is no dict"),
        ({"alice": {}}, "gateway_users.alice has no key"),
        ({"alice": {"key": None}}, "gateway_users.alice has no key"),
        ({"alice": {"key": ""}}, "key is empty"),
        ({"alice": {"key": "short-kEy1"}}, "fewer than 16"),
        ({"alice": {"key": "with a space " + KEY}}, "white space"),
        ({"alice": {"key": "schlüssel-" + KEY}}, "white space or what is no visible ASCII"),
        ({"alice": {"key": KEY + "\n"}}, "white space"),
        ({"alice": {"key": "changeme-changeme"}}, "placeholder"),
        ({"alice": {"key": [KEY]}}, "no text"),
        ({"alice": {"key": KEY}, "bob": {"key": KEY}}, "alice and bob have the same key"),
        ({"a/b": {"key": KEY}}, "a name in gateway_users is none"),
        ({"a b": {"key": KEY}}, "a name in gateway_users is none"),
        ({KEY * 3: {"key": KEY}}, "a name in gateway_users is none"),
        ({"alice": {"key": KEY, "rpm": 3}}, "rpm, which is no option"),
        ({"alice": {"key": KEY, "requests_per_minute": 0}}, "requests_per_minute is no number from 1"),
        ({"alice": {"key": KEY, "tokens_per_day": "many"}}, "tokens_per_day is no number"),
        ({"alice": {"key": KEY, "concurrent_requests": True}}, "concurrent_requests is no number"),
        ({"alice": {"key": KEY, "tokens_per_day": 2**31}}, "tokens_per_day is no number"),
        ({"alice": {"key": KEY, "models": "tiny"}}, "models is no list"),
        ({"alice": {"key": KEY, "models": []}}, "models is no list"),
        ({"alice": {"key": KEY, "models": ["huge"]}}, "names huge, which no instance serves: it has big, tiny"),
    ],
)
def test_what_is_wrong_with_users_is_said_in_one_line_without_a_key(users: Any, said: str) -> None:
    (line,) = problems(users, ["tiny", "big"])
    assert said in line
    assert "\n" not in line
    assert KEY not in line


def test_maps_hold_hashes_of_keys_and_limits_by_user() -> None:
    users = {
        "alice": {"key": KEY, "requests_per_minute": 60, "tokens_per_day": 5},
        "bob": {"key": OTHER, "models": ["x"]},
    }
    maps = user_maps(users)
    assert maps["maps/keys.map"] == {
        hashlib.sha256(KEY.encode()).hexdigest().upper(): "alice",
        hashlib.sha256(OTHER.encode()).hexdigest().upper(): "bob",
    }
    assert maps["maps/user_models.map"] == {"alice/*": "1", "bob/x": "1"}
    assert maps["maps/requests_per_minute.map"] == {"alice": "60"}
    assert maps["maps/concurrent_requests.map"] == {}
    assert token_limits(users) == {"alice": 5}
    assert KEY not in str(maps)


def test_a_name_of_digits_is_a_name() -> None:
    users: Any = {1001: {"key": "k" * 20, "requests_per_minute": 3, "tokens_per_day": 7}}
    maps = user_maps(users)
    assert [type(word) for entries in maps.values() for pair in entries.items() for word in pair] == [str] * 6
    assert token_limits(users) == {"1001": 7}
