"""Ansible filters: what instances are declared to be, and what is wrong with that, found before a host is touched.

    instances | llama_server_problems(settings, hostvars, hosts)          what is wrong, one line each
    instances | llama_server_declaration(settings, release, files, …)     what the modules on the host are given
    rows | llama_server_limits(action, instances, settings)               what the proof of a start asks for
    instances | llama_server_exposure(host)                               who can reach them, and what they start with
    instances | llama_server_keys                                         the keys, by instance and name
    instances | llama_server_model_names                                  the profiles of llama_models that they need
    instances | llama_server_chat_template_names                          the templates that they choose

``settings`` are the role's variables and its host's name. The flags and argument specs are read from their files:
Ansible takes long to hand them over, each time anew. No message holds a key, nor what may be one.
"""

from __future__ import annotations

import difflib
import ipaddress
import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleFilterError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

Options = dict[str, Any]
Settings = Mapping[str, Any]

REFERENCE = "docs/reference.md lists the options"

# Options that name a profile of llama_models, beside `lora`, which holds several.
PROFILES = ("model", "mmproj", "model_draft")
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "frequency_penalty", "presence_penalty")
# What a router can have neither at its own level nor a model's.
NOT_OF_ROUTERS = ("chat_template", "min_decode_tps", "max_regression")
# Options whose argument is a file that the host gets with the instance; the host replaces the word by its path.
FILES = {"api_keys": "@keys", "chat_template": "@chat_template.jinja", "models": "@models.ini"}

EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where such a server is asked from its own host
GIB = 1024**3
UNKNOWN_BYTES = 64 * GIB  # of a model that nobody tells: what waits too long costs time, too short a rollback
KEY_LENGTH = 16
QUIET = 4  # below this verbosity llama.cpp does not say where it put what

# llama-server takes options from a file in the user's configuration, too. Nobody declared those.
NOWHERE = "/nonexistent"
OWN_ENVIRONMENT = {"XDG_CONFIG_HOME": NOWHERE}
# A router offers what lies in the user's cache of the hub beside its own models, and fetches more when it is asked to.
ROUTER_ENVIRONMENT = {"HF_HUB_CACHE": NOWHERE, "MODEL_ENDPOINT": "http://127.0.0.1:9/"}

INSTANCE_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")
KEY_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,14}")  # shorter than any key, so that none can be told as a name
ADDRESS = re.compile(r"[A-Za-z0-9.:_%-]+")
GPU = re.compile(r"\d+|(?:GPU|MIG)-[0-9a-fA-F-]+")
FLAG = re.compile(r"--?[A-Za-z]")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# The types of the argument specs.
TYPES: dict[str, type | tuple[type, ...]] = {
    "str": str, "int": int, "float": (int, float), "bool": bool, "dict": dict, "list": list,
}  # fmt: skip
# What people leave in examples: these words alone, with digits and signs between them.
PLACEHOLDER = re.compile(
    r"(?:sk|change|me|your|own|my|put|insert|enter|set|replace|with|this|the|it|a|api|access|auth|key|keys|token|here|"
    r"placeholder|example|sample|dummy|default|secret|secrets|password|passwd|test|testing|demo|todo|tbd|none|null|"
    r"foo|bar|baz|abc|x{3,})+"
)


def read_rules() -> dict[str, Any]:
    """The tables of this role: ``flags``, ``other_spellings``, ``refused_flags``, ``tool_flags``, ``router_options``,
    ``specs``."""
    role = Path(__file__).resolve().parents[2] / "roles" / "llama_server"
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    tables = yaml.load((role / "vars" / "main.yml").read_text(encoding="utf-8"), Loader=loader)  # noqa: S506 - safe ones
    specs = yaml.load((role / "meta" / "argument_specs.yml").read_text(encoding="utf-8"), Loader=loader)  # noqa: S506 - safe ones
    prefix = "__llama_server_"
    names = ("flags", "other_spellings", "refused_flags", "tool_flags", "router_options")
    return {**{name: tables[prefix + name] for name in names}, "specs": specs["argument_specs"]}


RULES = read_rules()


# ---- options


def given(options: Mapping[str, Any]) -> Options:
    """The options that are set; null means unset."""
    return {str(name): value for name, value in options.items() if value is not None}


def instance_spec() -> Options:
    spec: Options = RULES["specs"]["instance"]["options"]
    return spec


def router_model_spec() -> Options:
    """The options of one of a router's models: its own, and those of an instance that are about a model."""
    ours = instance_spec()
    theirs = [name for name in RULES["flags"] if name not in RULES["router_options"] and name not in NOT_OF_ROUTERS]
    return {**RULES["specs"]["router_model"]["options"], **{name: ours[name] for name in [*theirs, "sampling_preset"]}}


def parsed(options: Mapping[str, Any], spec: Options) -> tuple[Options, list[str]]:
    """The options that are of the right type, with defaults, and what is wrong with the others, one line each."""
    options = given(options)
    wrong = []
    for name in sorted(set(options) - set(spec)):
        close = difflib.get_close_matches(name, spec, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        wrong.append(f"there is no option {name}: {hint}({REFERENCE})")
    known = {name: value for name, value in options.items() if name in spec}
    for name, value in list(known.items()):
        problem = misfit(value, spec[name])
        if problem:
            del known[name]
            wrong.append(f"{name} {problem} ({REFERENCE})")
    validator = ArgumentSpecValidator({name: usable(entry) for name, entry in spec.items()})
    result = validator.validate(known)
    wrong += [f"{one_line(message)} ({REFERENCE})" for message in result.error_messages]
    values = {
        name: value for name, value in given(result.validated_parameters).items()
        if name in spec and isinstance(value, TYPES[spec[name]["type"]])
    }  # fmt: skip
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            wrong.append(f"{name} is {value}: use a number")
    return values, wrong


def usable(entry: Mapping[str, Any]) -> Options:
    """An entry of the argument specs without what only its readers need."""
    kept = {key: value for key, value in entry.items() if key not in ("description", "options")}
    if "options" in entry:
        kept["options"] = {name: usable(option) for name, option in entry["options"].items()}
    return kept


def misfit(value: object, entry: Mapping[str, Any]) -> str | None:
    """What is wrong with a value that Ansible would make fit, as an unquoted yes, of which it makes the text True."""
    quote = "holds what is no text: put it in quotes"
    if entry["type"] == "list" and isinstance(value, list):
        if entry["elements"] == "dict" and not all(isinstance(item, Mapping) for item in value):
            return f"holds what is no dict: write each item with its {' and '.join(entry['options'])}"
        if entry["elements"] == "str" and any(item is None or isinstance(item, bool | list | dict) for item in value):
            return quote
    if entry["type"] == "str" and isinstance(value, list | dict):
        return quote
    # An unquoted on or off is meant where these are choices.
    if entry["type"] == "str" and isinstance(value, bool) and "choices" not in entry:
        return quote
    return None


def one_line(message: object) -> str:
    return " ".join(str(message).split()).rstrip(".")


def mode_of(options: Options) -> str:
    if options.get("models"):
        return "router"
    if options.get("embeddings"):
        return "embedding"
    return "reranking" if options.get("reranking") else "completion"


def uses_gpu(values: Options, backend: str) -> bool:
    """Whether a model's layers are to be on a GPU: said so, or what a CUDA release does by itself."""
    layers = values.get("n_gpu_layers")
    return bool(values.get("device") != "none" and (layers != 0 if layers is not None else backend == "cuda"))


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# ---- problems


def llama_server_problems(
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
    found = list(settings_problems(instances, settings))
    for name, options in instances.items():
        found += [f"instance {name} on {host}: {said}" for said in instance_problems(name, options, settings)]
    found += port_problems(instances, host)
    found += peer_problems(instances, host, {name: hostvars[name] for name in hosts})
    return found


def settings_problems(instances: Mapping[str, Any], settings: Settings) -> Iterator[str]:
    """What is wrong with the role's variables."""
    host = settings["host"]
    if not re.fullmatch(r"/[A-Za-z0-9._/@+-]+", str(settings["prefix"])):
        yield (
            f"the prefix '{settings['prefix']}' on {host} holds a character that is special to supervisor: use "
            "letters, digits and . _ - @ + only"
        )
    runtimes = RULES["specs"]["main"]["options"]["llama_server_runtime"]["choices"]
    if settings["runtime"] not in runtimes:
        yield f"llama_server_runtime of {host} is {settings['runtime']}: use one of {', '.join(runtimes)}"
    yield from (f"{said} (of {host})" for said in floor_problems(settings, "llama_server_"))
    chosen = [options.get("runtime") for options in instances.values() if isinstance(options, Mapping)]
    problem = image_problem(settings["docker_image"])
    if problem and "docker" in [runtime or settings["runtime"] for runtime in chosen]:
        yield f"llama_server_docker_image of {host} {problem}"
    presets = settings["sampling_presets"]
    if isinstance(presets, Mapping):
        for name, preset in presets.items():
            yield from preset_problems(name, preset)
    else:
        yield f"llama_sampling_presets of {host} is no dict: write NAME: OPTIONS for each preset"


def floor_problems(options: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """What is wrong with the speeds that a proof asks for."""
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
    """What is wrong with llama_server_docker_image."""
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
    where = f"sampling preset {name} in llama_sampling_presets"
    if not isinstance(preset, Mapping):
        yield f"{where} is no dict: write options such as temperature under its name"
        return
    for key in sorted(set(map(str, preset)) - set(SAMPLING)):
        yield f"{where} has the unknown key {key}: it may hold {', '.join(SAMPLING)}"
    known = {key: value for key, value in preset.items() if key in SAMPLING}
    _, wrong = parsed(known, {key: instance_spec()[key] for key in SAMPLING})
    yield from (f"{where}: {problem}" for problem in wrong)


def instance_problems(name: str, options: Any, settings: Settings) -> Iterator[str]:
    if not INSTANCE_NAME.fullmatch(str(name)):
        yield "its name can't be that of a file and a service: use lower-case letters, digits and hyphens"
    if not isinstance(options, Mapping):
        yield f"it is no dict: write its options under its name ({REFERENCE})"
        return
    options = given(options)
    if "api_key" in options:
        del options["api_key"]
        yield "api_key is api_keys now: write api_keys: {NAME: KEY}, a key for each client or group of clients"
    # Keys are looked at here only, and not by what might repeat them in a message.
    keys = options.pop("api_keys", {})
    values, wrong = parsed(options, instance_spec())
    yield from wrong
    yield from key_problems(keys)
    yield from address_problems(values, has_keys=bool(keys))
    if "model" in options and "models" in options:
        yield "it has both model and models: use models for a router that loads several on demand, else model"
    elif "model" not in options and "models" not in options:
        yield "it serves nothing: set model to a profile of llama_models"
    elif "models" in values:
        yield from router_problems(values, settings)
    else:
        yield from single_problems(values, settings)
    yield from mode_problems(values, settings)
    yield from floor_problems(values)
    yield from argument_problems(values.get("extra_args", []), settings)
    yield from release_problems(values, settings)
    yield from environment_problems(values)
    yield from gpu_problems(values.get("gpus"))


def key_problems(keys: Any) -> Iterator[str]:
    """What is wrong with the keys; their names are told, they themselves never are."""
    if not isinstance(keys, Mapping):
        yield "api_keys is no dict: write NAME: KEY, a key for each client or group of clients"
        return
    named: dict[str, str] = {}
    for name, key in keys.items():
        if not KEY_NAME.fullmatch(str(name)):
            yield "a name in api_keys is none: use up to 15 letters, digits and . _ -, and write the key behind it"
            continue
        problem = key_problem("" if key is None else key)
        if problem:
            yield f"key {name} {problem}"
        named[str(name)] = str(key)
    for one, other in itertools.combinations(named, 2):
        if named[one] and named[one] == named[other]:
            yield f"keys {one} and {other} are the same: draw another for one of them"


def key_problem(key: Any) -> str | None:
    draw = "draw one, as with openssl rand -hex 24"
    if isinstance(key, bool | list | Mapping):
        return f"is no text: {draw}"
    key = str(key)
    if not key:
        return "is empty: set the variable of the environment that it is taken from, or leave it out"
    if not re.fullmatch(r"[!-~]+", key):
        return f"holds white space or what is no visible ASCII character: {draw}"
    if key.startswith("#"):
        return f"begins with #, which makes it a comment for llama-server: {draw}"
    words = re.sub(r"[^a-z]", "", key.lower())
    if (words and PLACEHOLDER.fullmatch(words)) or re.fullmatch("<.*>", key) or len(set(key)) < 5:
        return f"is a placeholder: {draw}"
    if len(key) < KEY_LENGTH:
        return f"has fewer than {KEY_LENGTH} characters: {draw}"
    return None


def address_problems(values: Options, has_keys: bool) -> Iterator[str]:
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


def single_problems(values: Options, settings: Settings) -> Iterator[str]:
    """What is wrong with an instance that serves one model."""
    yield from choice_problems(values, settings)
    for name in ("models_max", "models_autoload"):
        if name in values:
            yield f"{name} is for routers: set models, or leave it out"


def router_problems(values: Options, settings: Settings) -> Iterator[str]:
    """What is wrong with an instance that serves several models."""
    if not values["models"]:
        yield "models is empty: name at least one"
    misplaced = sorted(set(values) - set(RULES["router_options"]) - set(NOT_OF_ROUTERS))
    if misplaced:
        yield f"it is a router, so {', '.join(misplaced)} belong to each of its models: move them there"
    for name in NOT_OF_ROUTERS:
        if name in values:
            yield f"it is a router, which has no {name}: leave it out, or serve the model by an instance of its own"
    for name, options in values["models"].items():
        yield from (f"model {name}: {said}" for said in router_model_problems(str(name), options, settings))


def router_model_problems(name: str, options: Any, settings: Settings) -> Iterator[str]:
    if not MODEL_NAME.fullmatch(name) or name == "default":
        yield "its name can't be that of a section: use letters, digits and . _ / -, and not default"
    if not isinstance(options, Mapping):
        yield f"it is no dict: write its options under its name ({REFERENCE})"
        return
    options = given(options)
    for option in sorted(set(options) & (set(RULES["router_options"]) - {"models"})):
        del options[option]
        yield f"{option} is the router's: set it for the instance"
    for option in sorted(set(options) & set(NOT_OF_ROUTERS)):
        del options[option]
        yield f"a router's models have no {option}: leave it out, or serve the model by an instance of its own"
    values, wrong = parsed(options, router_model_spec())
    yield from wrong
    yield from choice_problems(values, settings)
    if values.get("embeddings") and values.get("reranking"):
        yield "it can't serve both embeddings and reranking: choose one"
    for option, value in values.items():
        if re.search(r"[;#\n\r]", text(value)):
            yield f"{option} holds ; or # or a new line, which end a value in a router's file: serve it by an instance"


def choice_problems(values: Options, settings: Settings) -> Iterator[str]:
    preset, presets = values.get("sampling_preset"), settings["sampling_presets"]
    if preset is not None and preset not in presets:
        known = ", ".join(sorted(presets)) or "none"
        yield f"there is no sampling preset {preset}: use one of {known}, or add it to llama_sampling_presets"
    pair = f"{values.get('cache_type_k', 'f16')}-{values.get('cache_type_v', 'f16')}"
    compiled = settings["fa_quants"] if settings["gpu"] and uses_gpu(values, "cuda") else []
    on_gpu = values.get("flash_attn") != "off" and values.get("kv_offload") is not False
    if on_gpu and compiled and not {pair, "all"} & {*compiled, "f16-f16"}:
        yield (
            f"its K and V caches are {pair}, for which the release has no FlashAttention kernels, so they would be "
            f"converted at every step: add {pair} to llama_cpp_fa_quants, or use one of {', '.join(compiled)}"
        )


def mode_problems(values: Options, settings: Settings) -> Iterator[str]:
    mode = mode_of(values)
    if values.get("embeddings") and values.get("reranking"):
        yield "it can't serve both embeddings and reranking: make two instances"
    if mode in ("embedding", "reranking"):
        for name in ("chat_template", "sampling_preset", "min_decode_tps", "max_regression"):
            if name in values:
                yield f"{name} means nothing where there is no chat (embeddings, reranking): leave it out"
    if "chat_template" in values and values.get("jinja") is False:
        yield "chat_template needs the Jinja engine: leave jinja out"
    verbosity = values.get("log_verbosity", QUIET)
    if verbosity < QUIET and settings["gpu"] and uses_gpu(values, "cuda"):
        yield (
            f"log_verbosity {verbosity} hides the lines that prove what lies on the GPU: leave it at {QUIET}, or above"
        )


def spellings() -> dict[str, str]:
    """By flag the option that says it, in every spelling."""
    found = {}
    for option, entry in RULES["flags"].items():
        for flag in [entry] if isinstance(entry, str) else entry:
            if flag:
                found[flag] = option
    for option, flags in RULES["other_spellings"].items():
        found.update(dict.fromkeys(flags, option))
    return found


def argument_problems(words: list[str], settings: Settings) -> Iterator[str]:
    """What extra_args may not hold: options a second time, and what makes the process something else."""
    owned = spellings()
    refused = {flag: group["because"] for group in RULES["refused_flags"] for flag in group["flags"]}
    flags = [(word, canonical(word)) for word in words]
    twice = {word: owned[flag] for word, flag in flags if flag in owned}
    if twice:
        options = ", ".join(dict.fromkeys(twice.values()))
        yield f"extra_args hold {', '.join(map(flag_of, twice))}: set {options} instead, which is checked"
    reasons: dict[str, list[str]] = {}
    for word, flag in flags:
        if flag in refused:
            reasons.setdefault(refused[flag], []).append(flag_of(word))
    tools = [flag_of(word) for word, flag in flags if flag in RULES["tool_flags"]]
    if tools and not settings["allow_tools"]:
        yield (
            f"extra_args hold {', '.join(dict.fromkeys(tools))}: whoever sends it a request could run programs with "
            "the server's rights; leave it out, or set llama_server_allow_tools: true"
        )
    for reason, said in reasons.items():
        yield f"extra_args hold {', '.join(dict.fromkeys(said))}: {reason}"
    for word, flag in flags:
        if re.match(r"--[\w-]+=", word) and flag not in owned and flag not in refused:
            yield f"extra_args hold {flag_of(word)}=…: write the value as an item of its own"


def release_problems(values: Options, settings: Settings) -> Iterator[str]:
    """What the release that the host has does not know; nothing where there is no release yet."""
    known = {canonical(flag): value for flag, value in settings["flags"].items()}
    if not known:
        return
    lacking: dict[str, list[str]] = {}
    for option, flag in said_flags(values):
        if option != "extra_args" and flag not in known:
            lacking.setdefault(option, []).append(flag)
    for option, flags in lacking.items():
        yield (
            f"{option} becomes {', '.join(dict.fromkeys(flags))}, which llama-server of release {settings['release']} "
            "does not know: leave it out, or move llama_cpp_ref"
        )
    values_left = 0  # of the flag before, which may begin with a hyphen
    for word in values.get("extra_args", []):
        if values_left:
            values_left -= 1
        elif FLAG.match(word):
            values_left = len(known.get(canonical(word), "").split())
            if canonical(word) not in known:
                close = difflib.get_close_matches(canonical(word), known, n=1)
                hint = f"did you mean {close[0]}? llama-server --help lists them" if close else "leave it out"
                yield (
                    f"extra_args hold {flag_of(word)}, which llama-server of release {settings['release']} does not "
                    f"know: {hint}"
                )


def flag_of(word: str) -> str:
    """A word without the value that was glued to it, which may be a secret."""
    return word.split("=", 1)[0]


def canonical(word: str) -> str:
    """A flag as llama-server compares it, which takes underscores for hyphens."""
    flag = flag_of(word)
    return flag.replace("_", "-") if flag.startswith("--") else flag


def environment_problems(values: Options) -> Iterator[str]:
    own = {**OWN_ENVIRONMENT, **(ROUTER_ENVIRONMENT if mode_of(values) == "router" else {})}
    for name, value in values.get("environment", {}).items():
        if not VARIABLE.fullmatch(str(name)):
            yield f"environment has the name '{name}': use letters, digits and _"
        elif name.startswith("LLAMA_"):
            yield f"environment sets {name}: llama-server would take it for an option; set the option ({REFERENCE})"
        elif name in own:
            yield f"environment sets {name}, by which the role keeps out what nobody declared: leave it out"
        elif "gpus" in values and name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
            yield f"environment sets {name}, and so does gpus: use one of them"
        if value is None or isinstance(value, bool | list | Mapping):
            yield f"environment has no text for {name}: put it in quotes"
        elif re.search(r"[\n\r\0]", str(value)):
            yield f"environment has more than one line for {name}: use one"


def gpu_problems(gpus: list[str] | None) -> Iterator[str]:
    if gpus is None:
        return
    if not gpus:
        yield "gpus is empty: leave it out for all of them, or set device: none for the processor"
    for gpu in gpus:
        if not GPU.fullmatch(gpu):
            yield f"gpus has '{gpu}': use an index or a UUID, as nvidia-smi -L shows them"
    if len(set(gpus)) != len(gpus):
        yield "gpus names one twice: name each once"


def listening(instances: Any) -> list[tuple[str, int | None, bool]]:
    """By instance its name, its port and whether it listens on loopback only."""
    found = []
    for name, options in instances.items() if isinstance(instances, Mapping) else ():
        if isinstance(options, Mapping):
            try:
                port = int(options.get("port") or 0) or None
            except (TypeError, ValueError):
                port = None
            found.append((str(name), port, is_loopback(str(options.get("host") or "127.0.0.1"))))
    return found


def port_problems(instances: Mapping[str, Any], host: str) -> Iterator[str]:
    for (one, port, _), (other, same, _) in itertools.combinations(listening(instances), 2):
        if port and port == same:
            yield f"instances {one} and {other} on {host} share port {port}: give one of them another"


def llama_server_exposure(instances: Any, host: str) -> list[dict[str, Any]]:
    """What strangers can reach: of each instance ``name``, ``host``, whether it is ``exposed`` beyond loopback, and the
    ``flags`` that it is started with, a router's models included. What is malformed is told by the problems.
    """
    found = []
    for name, options in instances.items() if isinstance(instances, Mapping) else ():
        if isinstance(options, Mapping):
            values, _ = parsed(options, instance_spec())
            exposed = not is_loopback(values.get("host", "127.0.0.1"))
            flags = [flag for _, flag in said_flags(values)]
            found.append({"name": str(name), "host": host, "exposed": exposed, "flags": flags})
    return found


def said_flags(values: Options) -> Iterator[tuple[str, str]]:
    """The flags that stand for options, each with the name of its option; those of a router's models, too."""
    for option, entry in RULES["flags"].items():
        if option in values and values[option] not in ({}, []):
            flag = entry if isinstance(entry, str) else entry[0] if values[option] else entry[1]
            if flag:
                yield option, flag
    yield from (("extra_args", canonical(word)) for word in values.get("extra_args", []) if FLAG.match(word))
    for model in values.get("models", {}).values():
        if isinstance(model, Mapping):
            yield from said_flags(parsed(model, router_model_spec())[0])


def peer_problems(instances: Mapping[str, Any], host: str, peers: Mapping[str, Any]) -> Iterator[str]:
    """Ports that this host would share with another one of the play.

    Two names of the inventory may be one machine: same address, same ssh port. Or two machines behind one address, with
    a forwarded ssh port each: then what listens beyond loopback would be one endpoint for both.
    """
    if host not in peers:
        return
    address, ssh_port = place(host, peers[host])
    for peer in peers:
        its_address, its_ssh_port = place(peer, peers[peer])
        if peer == host or its_address != address:
            continue
        try:
            theirs = listening(peers[peer].get("llama_server_instances"))
        except Exception:  # noqa: S112 - what can't be read there is told by that host's own checks
            continue
        for (one, port, near), (other, its_port, its_near) in itertools.product(listening(instances), theirs):
            if port and port == its_port and (ssh_port == its_ssh_port or not (near or its_near)):
                yield (
                    f"instance {one} on {host} and instance {other} on {peer} share port {port} of {address}: give "
                    "one of them another"
                )


def place(name: str, variables: Mapping[str, Any]) -> tuple[str, str]:
    """The address of a host and the port of ssh that leads to it."""
    if variables.get("ansible_connection") == "local":
        return "this machine", ""
    return str(variables.get("ansible_host") or name), str(variables.get("ansible_port") or 22)


# ---- declaration


def llama_server_keys(instances: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The keys by instance and name, for those that have some."""
    found = {name: options.get("api_keys") or {} for name, options in instances.items()}
    return {name: {str(who): str(key) for who, key in keys.items()} for name, keys in found.items() if keys}


def llama_server_model_names(instances: Any) -> list[str]:
    """The profiles of llama_models that instances need, each once; what is malformed is told by the problems."""
    names: dict[str, None] = {}
    for options in instances.values() if isinstance(instances, Mapping) else ():
        if isinstance(options, Mapping):
            names.update(dict.fromkeys(profiles(options)))
            models = options.get("models")
            for model in models.values() if isinstance(models, Mapping) else ():
                if isinstance(model, Mapping):
                    names.update(dict.fromkeys(profiles(model)))
    return list(names)


def profiles(options: Mapping[str, Any]) -> Iterator[str]:
    """The profiles that one model needs: its own, its projector, its draft and its adapters."""
    yield from (str(options[name]) for name in PROFILES if options.get(name))
    adapters = options.get("lora")
    for adapter in adapters if isinstance(adapters, list) else ():
        if isinstance(adapter, Mapping) and adapter.get("profile"):
            yield str(adapter["profile"])


def llama_server_chat_template_names(instances: Any) -> list[str]:
    """The templates that instances choose."""
    chosen = instances.values() if isinstance(instances, Mapping) else ()
    names = [options.get("chat_template") for options in chosen if isinstance(options, Mapping)]
    return sorted({str(name) for name in names if name is not None})


def llama_server_declaration(
    instances: Mapping[str, Any],
    settings: Settings,
    release: Mapping[str, Any],
    files: Mapping[str, Any],
    chat_templates: Mapping[str, str],
) -> dict[str, Any]:
    """What the host is told, by instance: ``config``, ``files`` and ``proof``. Holds no key.

    Args:
        instances: llama_server_instances, in which llama_server_problems finds nothing.
        release: the fact of role llama_cpp.
        files: the fact of role gguf_model.
        chat_templates: texts by name.

    Raises:
        AnsibleFilterError: a model has no file.
    """
    return {
        str(name): declared(str(name), options, settings, release, files, chat_templates)
        for name, options in instances.items()
    }


def declared(
    name: str,
    options: Mapping[str, Any],
    settings: Settings,
    release: Mapping[str, Any],
    files: Mapping[str, Any],
    chat_templates: Mapping[str, str],
) -> dict[str, Any]:
    values, _ = parsed(options, instance_spec())
    models = {str(id_): parsed(model, router_model_spec())[0] for id_, model in values.get("models", {}).items()}
    mode = mode_of(values)
    inputs = (release.get("manifest") or {}).get("inputs") or {}
    # In check mode there is no manifest before the first build; the name says it too.
    backend = inputs.get("backend") or ("cuda" if "cuda" in release["name"] else "cpu")
    served = {
        id_: {
            **{key: file_of(model["model"], files)[key] for key in ("path", "size_bytes", "sha256")},
            "side_models": beside(model, files), "mode": mode_of(model), "n_gpu_layers": model.get("n_gpu_layers"),
            "uses_gpu": uses_gpu(model, backend), "load_on_startup": bool(model.get("load_on_startup")),
        }
        for id_, model in models.items()
    }  # fmt: skip
    only = None if models else file_of(values["model"], files)
    side = list({file["name"]: file for one in [values, *models.values()] for file in beside(one, files)}.values())
    size = sum(file["size_bytes"] or 0 for file in [*([only] if only else []), *served.values(), *side])
    runtime = str(values.get("runtime", settings["runtime"]))
    texts = {}
    if "chat_template" in values:
        texts["chat_template.jinja"] = chat_templates[values["chat_template"]]
    if models:
        sections = [section(id_, with_preset(model, settings), files) for id_, model in models.items()]
        texts["models.ini"] = "\n".join(sections)
    config = {
        "name": name,
        "runtime": runtime,
        "argv": [f"{release['path']}/bin/llama-server", *arguments(with_preset(values, settings), files)],
        "environment": environment_of(values, runtime),
        "host": values["host"],
        "port": values["port"],
        "local_url": local_url(values),
        "model": only,
        "models": served,
        "side_models": side,
        "release": {
            "name": release["name"],
            "path": release["path"],
            "ref": inputs.get("ref", ""),
            "commit": inputs.get("commit", ""),
            "backend": backend,
        },
        "mode": mode,
        "has_template": "chat_template.jinja" in texts,
        **{option: values.get(option) for option in ("ctx_size", "parallel", "n_gpu_layers")},
        "key_names": sorted(map(str, values.get("api_keys", {}))),
        "gpus": values.get("gpus"),
        "uses_gpu": any(model["uses_gpu"] for model in served.values()) if models else uses_gpu(values, backend),
        "image": dict(settings["docker_image"]) if runtime == "docker" else None,
    }
    return {"config": config, "files": texts, "proof": proof_limits(values, settings, size, mode)}


def llama_server_limits(
    rows: Iterable[Mapping[str, Any]], action: str, instances: Mapping[str, Any], settings: Settings
) -> dict[str, dict[str, Any]]:
    """What the proof of a start asks for, by instance, and as ``default`` for those that are not deployed.

    Args:
        rows: those of a status.
        action: start, restart or rollback.
        instances: llama_server_instances.
        settings: the role's variables.
    """
    found = {"default": proof_limits({}, settings, UNKNOWN_BYTES)}
    for row in rows:
        config = row.get("config") or {}
        models = [config.get("model"), *(config.get("models") or {}).values(), *config.get("side_models", [])]
        known = sum(model["size_bytes"] for model in models if model)
        # The earlier generation may have had another model.
        size = known if known and action != "rollback" else max(known, UNKNOWN_BYTES)
        found[row["name"]] = proof_limits(instances.get(row["name"]) or {}, settings, size)
    return found


def proof_limits(
    options: Mapping[str, Any], settings: Settings, size_bytes: float, mode: str = "completion"
) -> dict[str, Any]:
    """What the proof of an instance with models of this size asks for."""
    seconds = int(settings["start_timeout"]) + int(float(settings["start_timeout_per_gib"]) * size_bytes / GIB)
    return {
        **{floor: floor_of(floor, options, settings, mode) for floor in ("min_decode_tps", "max_regression")},
        "start_timeout": seconds,
        "tokens": int(settings["tokens"]),
        "drain_timeout": int(settings["drain_timeout"]),
    }


def beside(values: Options, files: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The files that a model needs beside its own."""
    return [file_of(profile, files) for profile in dict.fromkeys(profiles(values)) if profile != values.get("model")]


def floor_of(name: str, options: Mapping[str, Any], settings: Settings, mode: str) -> float | None:
    """A floor of the speed; none where nothing is decoded."""
    value = settings[name] if options.get(name) is None else options[name]
    return float(value) if value is not None and mode == "completion" else None


def file_of(profile: str, files: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return {"name": profile, **{key: files[profile][key] for key in ("path", "size_bytes", "sha256")}}
    except KeyError:
        raise AnsibleFilterError(
            f"model {profile} is not among the facts of role gguf_model: run playbooks/model.yml in the same run"
        ) from None


def local_url(values: Options) -> str:
    """Where the server is asked from its own host."""
    address = str(EVERYWHERE.get(values["host"], values["host"]))
    return f"http://{f'[{address}]' if ':' in address else address}:{values['port']}"


def environment_of(values: Options, runtime: str) -> dict[str, str]:
    environment = {str(name): str(value) for name, value in values.get("environment", {}).items()}
    if "gpus" in values and runtime != "docker":  # a container is given its devices
        environment |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(values["gpus"])}
    return environment | OWN_ENVIRONMENT | (ROUTER_ENVIRONMENT if mode_of(values) == "router" else {})


def with_preset(values: Options, settings: Settings) -> Options:
    """The options with the sampling that their preset stands for; what is set beside it counts more."""
    preset = given(settings["sampling_presets"][values["sampling_preset"]]) if "sampling_preset" in values else {}
    return {**preset, **values}


def arguments(values: Options, files: Mapping[str, Any]) -> list[str]:
    """The words of the command line after the program."""
    words = []
    if "model" in values:
        words += ["--model", file_of(values["model"], files)["path"], "--alias", values["model"]]
    for option, entry in RULES["flags"].items():
        if option not in values or values[option] in ({}, []):
            continue
        if isinstance(entry, str):
            words += [entry, FILES.get(option) or argument(option, values[option], files)]
        elif chosen := entry[0] if values[option] else entry[1]:
            words.append(chosen)
    return [*words, *values.get("extra_args", [])]


def argument(option: str, value: Any, files: Mapping[str, Any]) -> str:
    """The word after a flag."""
    if option in PROFILES:
        path: str = file_of(value, files)["path"]
        return path
    if option == "lora":
        return ",".join(f"{file_of(one['profile'], files)['path']}:{one['scale']}" for one in value)
    return text(value)


def text(value: Any) -> str:
    if isinstance(value, Mapping):
        return json.dumps(value, sort_keys=True)
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def section(name: str, values: Options, files: Mapping[str, Any]) -> str:
    """One model of a router, as --models-preset reads it: flags without their dashes are the keys."""
    lines = [f"[{name}]", f"model = {file_of(values['model'], files)['path']}"]
    if "load_on_startup" in values:
        lines.append(f"load-on-startup = {str(values['load_on_startup']).lower()}")
    for option, entry in RULES["flags"].items():
        if option not in values or values[option] in ({}, []):
            continue
        if isinstance(entry, str):
            lines.append(f"{entry.lstrip('-')} = {argument(option, values[option], files)}")
        elif values[option] or entry[1]:
            lines.append(f"{entry[0].lstrip('-')} = {str(values[option]).lower()}")
    return "\n".join(lines) + "\n"


class FilterModule:
    """See the module docstring."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "llama_server_problems": llama_server_problems,
            "llama_server_declaration": llama_server_declaration,
            "llama_server_exposure": llama_server_exposure,
            "llama_server_limits": llama_server_limits,
            "llama_server_keys": llama_server_keys,
            "llama_server_model_names": llama_server_model_names,
            "llama_server_chat_template_names": llama_server_chat_template_names,
        }
