"""Settings of gateways, taken from the variables of hosts."""

from __future__ import annotations

from typing import Any

import pytest

from plugins.plugin_utils.gateway.settings import former_gateways, gateway_names, gateway_settings

GROUPS = {"gateways": ["front", "off"], "local": ["localhost"], "gpu-hosts": ["rig-1"]}
HOSTVARS: dict[str, dict[str, Any]] = {
    "front": {"llama_nexus_prefix": "/opt/llama-nexus"}, "off": {"gateway_enabled": False},
    "localhost": {"ansible_connection": "local", "llama_nexus_prefix": "/home/me"},
}  # fmt: skip


def test_hosts_of_the_group_are_gateways_and_the_local_one_where_it_says_so() -> None:
    assert gateway_names(GROUPS, HOSTVARS) == ["front"]
    assert former_gateways(GROUPS, HOSTVARS) == ["off", "localhost"]
    asking = {**HOSTVARS, "localhost": {"gateway_enabled": "true"}}
    assert gateway_names(GROUPS, asking) == ["front", "localhost"]
    assert gateway_names({}, {}) == []


def test_what_is_not_declared_has_its_default() -> None:
    settings = gateway_settings(HOSTVARS["front"], "front", GROUPS)
    assert (settings["root"], settings["port"], settings["hosts"]) == (
        "/opt/llama-nexus/gateway", 3000, ["rig-1", "front"],
    )  # fmt: skip
    assert (settings["is_here"], settings["problems"], settings["users"]) == (False, [], {})
    assert gateway_settings(HOSTVARS["localhost"], "localhost", GROUPS)["is_here"] is True


@pytest.mark.parametrize(
    ("variable", "value"), [("gateway_port", "many"), ("gateway_runtime", "docker"), ("gateway_users", "alice")]
)
def test_a_value_of_the_wrong_kind_is_one_line_that_names_it(variable: str, value: str) -> None:
    [problem] = gateway_settings({**HOSTVARS["front"], variable: value}, "front", GROUPS)["problems"]
    assert variable in problem
    assert problem.endswith("(gateway front)")


def test_a_host_that_the_inventory_lacks_is_named() -> None:
    variables = {**HOSTVARS["front"], "gateway_hosts": ["rig-1", "rig-9"]}
    groups = {**GROUPS, "all": ["front", "off", "localhost", "rig-1"]}
    [problem] = gateway_settings(variables, "front", groups)["problems"]
    assert problem == "gateway_hosts names rig-9, which the inventory lacks (gateway front)"
