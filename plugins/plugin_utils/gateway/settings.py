"""Settings of gateways: which hosts are some, and what is declared for one, checked as Ansible checks variables.

A deployment of some hosts changes gateways that are not among them. So their variables are taken from ``hostvars``, and
their defaults from the role's argument specs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ...module_utils.hostlib.connections import is_local

ROLE = Path(__file__).resolve().parents[3] / "roles" / "gateway"
PREFIX = "gateway_"
GROUP, FLEET, HERE = "gateways", "gpu-hosts", "local"
HOST_NAME = re.compile(r"[A-Za-z0-9._:\[\]-]+")
SPEC_KEYS = ("type", "elements", "choices", "default")

Variables = Mapping[str, Any]


def gateway_names(groups: Mapping[str, Iterable[str]], hostvars: Mapping[str, Variables]) -> list[str]:
    """The hosts that are gateways, in the inventory's order; of group local one has to ask for it."""
    return [name for name in _candidates(groups) if is_enabled(name, groups, hostvars[name])]


def former_gateways(groups: Mapping[str, Iterable[str]], hostvars: Mapping[str, Variables]) -> list[str]:
    """The hosts that might have been gateways and are none."""
    return [name for name in _candidates(groups) if not is_enabled(name, groups, hostvars[name])]


def _candidates(groups: Mapping[str, Iterable[str]]) -> list[str]:
    return list(dict.fromkeys([*groups.get(GROUP, ()), *groups.get(HERE, ())]))


def is_enabled(name: str, groups: Mapping[str, Iterable[str]], variables: Variables) -> bool:
    """True where a host is a gateway."""
    said = variables.get("gateway_enabled")
    if said is None or said == "":
        return name in groups.get(GROUP, ())
    return str(said).lower() in ("true", "yes", "on", "1")


def gateway_settings(variables: Variables, name: str, groups: Mapping[str, Iterable[str]]) -> dict[str, Any]:
    """Settings of a gateway by the names of the role's variables without their prefix, and what makes it.

    Beside those: ``name``; ``root``, its folder; ``certificate_names``; ``host_names``, as browsers send them;
    ``is_here``, whether it is the machine that Ansible runs on; and ``problems``, what is of a wrong type, a line each.

    Args:
        variables: the host's, ``hostvars[name]``.
    """
    specs = {key: {part: spec[part] for part in SPEC_KEYS if part in spec} for key, spec in _specs().items()}
    prefix = variables.get("gateway_prefix") or variables["llama_nexus_prefix"]
    given = {key: variables[key] for key in specs if variables.get(key) is not None} | {"gateway_prefix": prefix}
    result = ArgumentSpecValidator(specs).validate(given)
    values = {key.removeprefix(PREFIX): value for key, value in result.validated_parameters.items() if key in specs}
    values["hosts"] = values["hosts"] or [*groups.get(FLEET, ()), *([] if name in groups.get(FLEET, ()) else [name])]
    unknown = sorted(set(map(str, values["hosts"])) - set(groups.get("all", values["hosts"])))
    problems = [" ".join(str(message).split()) for message in result.error_messages]
    problems += [f"gateway_hosts names {', '.join(unknown)}, which the inventory lacks"] if unknown else []
    address = str(variables.get("ansible_host") or name)
    names = list(dict.fromkeys([name, address, "localhost", "127.0.0.1", *values["tls_names"]]))
    return {
        **values,
        "name": name,
        "certificate_names": names,
        "host_names": sorted({one.lower() for one in (*names, values["host"], "[::1]") if HOST_NAME.fullmatch(one)}),
        "root": f"{prefix}/gateway",
        "is_here": is_local(variables.get("ansible_connection")),
        "problems": [f"{problem} (gateway {name})" for problem in problems],
    }


@lru_cache(maxsize=1)
def _specs() -> dict[str, Any]:
    text = (ROLE / "meta" / "argument_specs.yml").read_text(encoding="utf-8")
    options: dict[str, Any] = yaml.safe_load(text)["argument_specs"]["main"]["options"]
    return options
