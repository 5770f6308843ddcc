"""Which servers a TARGET names, and what is said where there is no way to one."""

from __future__ import annotations

from typing import Any

import pytest

from nexus_tasks import inventory, targets
from nexus_tasks.errors import EndpointDown, UsageError
from nexus_tasks.inventory import Instance
from nexus_tasks.targets import Target
from tests.conftest import free_port

KNOWN: dict[str, Any] = {
    "openai": {"base_url": "https://api.example.com/", "api_key_env": "THEIR_KEY", "model": "gpt"},
    "beta": {"base_url": "http://gw:80/llm", "api_path": "v1beta/openai/"},
    "none": {"url": "http://gw"},
    "odd": {"base_url": "http://gw", "colour": "red"},
}


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "external_endpoints", lambda: KNOWN)


@pytest.mark.parametrize(
    "text", ["http://gpu1:8600", "http://gpu1:8600/", "http://gpu1:8600/v1", "http://gpu1:8600/v1/"]
)
def test_an_address_is_the_same_target_however_it_ends(text: str) -> None:
    assert targets.find([text], {}) == [Target("http://gpu1:8600", "http://gpu1:8600")]


def test_a_target_that_is_named_twice_is_measured_once() -> None:
    assert len(targets.find(["http://a:1", "http://b:1", "http://a:1/v1"], {})) == 2


def test_an_external_endpoint_brings_its_model_its_path_and_its_key_from_the_environment() -> None:
    [openai, beta] = targets.find(["@openai", "@beta"], {"THEIR_KEY": "sk-theirs", "LLAMA_NEXUS_API_KEY": "sk-ours"})
    assert (openai.base_url, openai.model, openai.api_key) == ("https://api.example.com", "gpt", "sk-theirs")
    assert (beta.base_url, beta.api_path, beta.api_key) == ("http://gw/llm", "/v1beta/openai", None)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("@nobody", "llama_endpoints has no 'nobody'", "beta, none, odd, openai"),
        ("@openai", "llama_endpoints.openai in group_vars needs an API key", "environment variable THEIR_KEY"),
        ("@none", "llama_endpoints.none in group_vars is no endpoint: unknown url", "give it base_url"),
        ("@odd", "llama_endpoints.odd in group_vars is no endpoint: unknown colour", "api_path"),
    ],
)
def test_an_external_endpoint_that_can_not_be_used_is_told(text: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        targets.find([text], {})
    assert caught.value.message == message
    assert hint in caught.value.hint


def on_loopback(*ssh: str) -> Target:
    instance = Instance("rig", "main", "http://127.0.0.1:8600", None, None, {}, [], "log", ssh=ssh)
    return Target("rig/main", instance.base_url, instance=instance)


def test_a_host_that_ssh_can_not_reach_is_told_with_what_ssh_said() -> None:
    with (
        pytest.raises(EndpointDown, match=r"^no ssh tunnel to rig: .*Connection refused") as caught,
        targets.reach(on_loopback("ssh", "-p", str(free_port()), "127.0.0.1")),
    ):
        pass
    assert "ssh 127.0.0.1 true" in caught.value.hint


def test_a_server_that_is_reached_directly_is_left_as_it_is() -> None:
    direct = Target("t", "http://gpu1:8600")
    with targets.reach(direct) as reached:
        assert reached is direct
