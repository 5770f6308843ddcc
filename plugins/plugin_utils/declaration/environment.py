"""Variables of a server's process."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from .arguments import FILES
from .options import mode_of
from .rules import REFERENCE, Options

# llama-server takes options from a file in the user's configuration, too. Nobody declared those.
NOWHERE = "/nonexistent"
OWN_ENVIRONMENT = {"XDG_CONFIG_HOME": NOWHERE}
# A router offers what lies in the user's cache of the hub beside its own models, and fetches more when it is asked to.
ROUTER_ENVIRONMENT = {"HF_HUB_CACHE": NOWHERE, "MODEL_ENDPOINT": "http://127.0.0.1:9/"}
# It starts each model's process with its own environment, and without the flag of the key file.
KEY_FILE = {"LLAMA_ARG_API_KEY_FILE": FILES["api_keys"]}
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def environment_problems(values: Options) -> Iterator[str]:
    """Problems of an instance's environment, one line each."""
    own = {**OWN_ENVIRONMENT, **(ROUTER_ENVIRONMENT if mode_of(values) == "router" else {})}
    for name, value in values.get("environment", {}).items():
        if not VARIABLE.fullmatch(str(name)):
            yield f"environment has the name '{name}': use letters, digits and _"
        elif str(name).startswith("LLAMA_"):
            yield f"environment sets {name}: llama-server would take it for an option; set the option ({REFERENCE})"
        elif name in own:
            yield f"environment sets {name}, by which the role keeps out what nobody declared: leave it out"
        elif "gpus" in values and name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
            yield f"environment sets {name}, and so does gpus: use one of them"
        if value is None or isinstance(value, bool | list | Mapping):
            yield f"environment has no text for {name}: put it in quotes"
        elif re.search(r"[\n\r\0]", str(value)):
            yield f"environment has more than one line for {name}: use one"


def environment_of(values: Options, runtime: str) -> dict[str, str]:
    """The variables that a server is started with: the declared, its GPUs' and the role's own."""
    environment = {str(name): str(value) for name, value in values.get("environment", {}).items()}
    if "gpus" in values and runtime != "docker":  # a container is given its devices
        environment |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(values["gpus"])}
    if mode_of(values) == "router":
        environment |= ROUTER_ENVIRONMENT | (KEY_FILE if values.get("api_keys") else {})
    return environment | OWN_ENVIRONMENT
