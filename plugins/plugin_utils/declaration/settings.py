"""Problems of the role's variables on a host, and of sampling presets."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from .options import parsed
from .recommendations import recommendation_problems
from .rules import RULES, SAMPLING, Settings, instance_spec

# Variables of the role that are numbers, by their names in the settings.
NUMBERS = {
    "start_timeout": "llama_server_start_timeout",
    "start_timeout_per_gib": "llama_server_start_timeout_per_gib",
    "tokens": "llama_server_verify_tokens",
    "drain_timeout": "llama_server_drain_timeout",
}
SOCKET_LENGTH = 107  # bytes of the path of a unix socket
PID_LENGTH = 8  # of what supervisord appends to it until the socket listens


def settings_problems(instances: Mapping[str, Any], settings: Settings) -> Iterator[str]:
    """Problems of the role's variables."""
    host = settings["host"]
    chosen = [options.get("runtime") for options in instances.values() if isinstance(options, Mapping)]
    used = sorted({str(runtime or settings["runtime"]) for runtime in [*chosen, None]})
    # A home folder may be called anything, and what is below it runs under supervisor.
    spaces = " " if used == ["supervisor"] else ""
    if not re.fullmatch(rf"/[A-Za-z0-9._/@+{spaces}-]+", str(settings["prefix"])):
        yield (
            f"the prefix '{settings['prefix']}' on {host} holds a character that is special to "
            f"{' or '.join(used)}: use letters, digits and . _ - @ +{' and spaces' if spaces else ''} only"
        )
    socket = len(f"{settings['prefix']}/instances/supervisor.sock".encode()) + PID_LENGTH - SOCKET_LENGTH
    if socket > 0 and {"supervisor", "auto"} & set(used):
        yield (
            f"the prefix '{settings['prefix']}' on {host} is too long by {socket} for supervisor's socket, whose path "
            f"may have {SOCKET_LENGTH} bytes: shorten llama_nexus_prefix, or set llama_server_runtime to docker"
        )
    runtimes = RULES.specs["main"]["llama_server_runtime"]["choices"]
    if settings["runtime"] not in runtimes:
        yield f"llama_server_runtime of {host} is {settings['runtime']}: use one of {', '.join(runtimes)}"
    yield from (f"{problem} (of {host})" for problem in floor_problems(settings, "llama_server_"))
    for name, variable in NUMBERS.items():
        if not is_amount(settings[name]):
            yield f"{variable} of {host} is {settings[name]}: use a number, 0 or more"
    problem = image_problem(settings["docker_image"])
    if problem and "docker" in used:
        yield f"llama_server_docker_image of {host} {problem}"
    presets = settings["sampling_presets"]
    if isinstance(presets, Mapping):
        for name, preset in presets.items():
            yield from preset_problems(name, preset)
    else:
        yield f"llama_sampling_presets of {host} is no dict: write NAME: OPTIONS for each preset"
    yield from recommendation_problems(settings)


def is_amount(value: object) -> bool:
    """True for what is a number or the text of one, and not below 0."""
    try:
        return not isinstance(value, bool) and 0 <= float(str(value)) < math.inf
    except ValueError:
        return False


def floor_problems(options: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Problems of the speeds that a proof asks for."""
    ranges = {"min_decode_tps": (math.inf, "0 or more"), "max_regression": (1.0, "a part from 0 to 1, as 0.2")}
    for name, (most, use) in ranges.items():
        value = options.get(name)
        if value is None:
            continue
        try:
            right = 0 <= float(value) <= most
        except (TypeError, ValueError):
            right = False
        if not right:
            yield f"{prefix}{name} is {value}: use {use}"


def image_problem(image: Any) -> str | None:
    """The first problem of llama_server_docker_image; None where it is right."""
    forms = "{base: IMAGE}, {archive: PATH, sha256: HASH} or {ref: NAME@sha256:HASH}"
    if not isinstance(image, Mapping) or set(image) not in ({"base"}, {"archive", "sha256"}, {"ref"}):
        return f"does not say what containers are made of: set it to {forms}"
    if "archive" in image and not str(image["archive"]).startswith("/"):
        return "has an archive that is no absolute path: write it from / on, as it is on the host"
    if "archive" in image and not re.fullmatch("[0-9a-f]{64}", str(image["sha256"])):
        return "has a sha256 that is not 64 hexadecimal digits: copy it again"
    if "ref" in image and not re.fullmatch(r"[^@\s]+@sha256:[0-9a-f]{64}", str(image["ref"])):
        return "has a ref without a digest: write NAME@sha256:HASH, a tag can move"
    return None


def preset_problems(name: str, preset: Any) -> Iterator[str]:
    """Problems of one sampling preset, one line each."""
    where = f"sampling preset {name} in llama_sampling_presets"
    if not isinstance(preset, Mapping):
        yield f"{where} is no dict: write options such as temperature under its name"
        return
    for key in sorted(set(map(str, preset)) - set(SAMPLING)):
        yield f"{where} has the unknown key {key}: it may hold {', '.join(SAMPLING)}"
    known = {key: value for key, value in preset.items() if key in SAMPLING}
    _, wrong = parsed(known, {key: instance_spec()[key] for key in SAMPLING})
    yield from (f"{where}: {problem}" for problem in wrong)
