"""Everything that is wrong with the instances of a host, found before the host is touched."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ...module_utils.hostlib.addresses import is_loopback
from .environment import environment_problems
from .flags import argument_problems, release_problems
from .instances import name_problems
from .keys import key_problems
from .models import mode_problems, router_problems, single_problems
from .options import given, one_line, parsed
from .peers import peer_problems, port_problems
from .rules import REFERENCE, Options, Settings, instance_spec
from .settings import floor_problems, settings_problems

INSTANCE_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
ADDRESS = re.compile(r"[A-Za-z0-9.:_%-]+")
GPU = re.compile(r"\d+|(?:GPU|MIG)-[0-9a-fA-F-]+")


def host_problems(
    instances: Any,
    settings: Settings,
    hostvars: Mapping[str, Any],
    hosts: Iterable[str],
) -> list[str]:
    """Everything wrong with the instances of one host, one line each.

    Args:
        instances: llama_server_instances.
        settings: the role's variables, and ``host``, its name in the inventory.
        hostvars: the variables of hosts, by name.
        hosts: the names of all hosts of the play.
    """
    host = settings["host"]
    if not isinstance(instances, Mapping):
        return [f"llama_server_instances of {host} is no dict: write NAME: OPTIONS for each server"]
    problems = list(settings_problems(instances, settings))
    problems += [f"{problem} (on {host})" for problem in name_problems(instances)]
    for name, options in instances.items():
        problems += [f"instance {name} on {host}: {problem}" for problem in instance_problems(name, options, settings)]
    problems += port_problems(instances, host)
    problems += peer_problems(instances, host, {name: hostvars[name] for name in hosts})
    return [one_line(problem) for problem in problems]


def instance_problems(name: str, options: Any, settings: Settings) -> Iterator[str]:
    """Everything wrong with one instance, one line each."""
    if not INSTANCE_NAME.fullmatch(str(name)):
        yield "its name can't be that of a file and a service: use lower-case letters, digits and hyphens"
    yield from form_problems(options)
    if not isinstance(options, Mapping):
        return
    keys = given(options).get("api_keys", {})
    values, _ = parsed(_without_keys(options), instance_spec())
    yield from key_problems(keys)
    yield from address_problems(values, has_keys=bool(keys))
    if ("model" in options) != ("models" in options):  # else there is a problem of form
        yield from (router_problems if "models" in values else single_problems)(values, settings)
    yield from mode_problems(values, settings)
    yield from floor_problems(values)
    yield from argument_problems(values.get("extra_args", []), settings)
    yield from release_problems(values, settings)
    yield from environment_problems(values)


def form_problems(options: Any) -> Iterator[str]:
    """Problems of an instance's form, for which nothing but itself has to be known."""
    if not isinstance(options, Mapping):
        yield f"it is no dict: write its options under its name ({REFERENCE})"
        return
    if "api_key" in given(options):
        yield "api_key is api_keys now: write api_keys: {NAME: KEY}, a key for each client or group of clients"
    options = _without_keys(options)
    values, wrong = parsed(options, instance_spec())
    yield from wrong
    yield from gpu_problems(values.get("gpus"))
    if "model" in options and "models" in options:
        yield "it has both model and models: use models for a router that loads several on demand, else model"
    elif "model" not in options and "models" not in options:
        yield "it serves nothing: set model to a profile of llama_models"


def _without_keys(options: Mapping[str, Any]) -> Options:
    """Options without keys, which a message might repeat."""
    return {name: value for name, value in given(options).items() if name not in ("api_key", "api_keys")}


def address_problems(values: Options, has_keys: bool) -> Iterator[str]:
    """Problems of an instance's address and port, and of one that is open to all."""
    host, port = values.get("host", "127.0.0.1"), values.get("port")
    if isinstance(port, int) and not 1 <= port <= 65535:
        yield f"port {port} is none: use a number from 1 to 65535"
    if not ADDRESS.fullmatch(host) or host.endswith(".sock"):
        yield f"host '{host}' is not one address: use an address of the host, 0.0.0.0 or ::, without port and brackets"
    elif not has_keys and not is_loopback(host):
        yield (
            f"it listens on {host} without a key: set api_keys, from Vault or the environment, or leave host at "
            "127.0.0.1"
        )


def gpu_problems(gpus: list[str] | None) -> Iterator[str]:
    """Problems of the choice of GPUs, one line each."""
    if gpus is None:
        return
    if not gpus:
        yield "gpus is empty: leave it out for all of them, or set device: none for the processor"
    for gpu in gpus:
        if not GPU.fullmatch(gpu):
            yield f"gpus has '{gpu}': use an index or a UUID, as nvidia-smi -L shows them"
    if len(set(gpus)) != len(gpus):
        yield "gpus names one twice: name each once"
