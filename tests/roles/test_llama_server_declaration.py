"""What role llama_server makes of declared instances, and what it refuses, before it touches a host."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from gguf import GGUFWriter

from nexus_tasks.model_store import tiny_model
from tests import pin
from tests.conftest import ROOT, ansible, free_port

ROLE = ROOT / "roles" / "llama_server"
TEMPLATES = ROOT / "templates" / "chat"
KEY, OTHER_KEY = "sesame-0b9f2c-4417", "7f3d9a51c2e84b06"
GIB = 1024**3
Instances = dict[str, Any]


def one(**options: Any) -> Instances:
    """A host's instances: one, which is right but for these options."""
    return {"main": {"model": "tiny", "port": 8600, **options}}


def router(**options: Any) -> Instances:
    """A host's instances: one router of one model, which is right but for these options of the model."""
    return {"main": {"port": 8600, "models": {"chat": {"model": "tiny", **options}}}}


@dataclass(frozen=True)
class Case:
    """Instances of localhost, the lines that refuse them, as patterns, and role variables that are not as usual."""

    instances: Any
    lines: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)


def refused(instances: Any, *lines: str, **settings: Any) -> Case:
    return Case(instances, lines, settings)


def key(value: object, said: str) -> Case:
    return refused(one(api_keys={"alice": value}), rf"instance main on localhost: key alice {said}")


def words(*said: object) -> Instances:
    return one(extra_args=list(said))


KNOWN = {
    "flags": dict.fromkeys(("--host", "--port", "--log-verbosity", "--seed", "-s"), "N"),
    "release": "b1-cpu-0a",
}
COMPILED = {"gpu": True, "fa_quants": ["f16-f16", "q8_0-q8_0"]}

CASES: dict[str, Case] = {
    "right": refused(one(flash_attn="on", api_keys={"alice": KEY, "ci": OTHER_KEY}, extra_args=["--seed", -1])),
    "no instances": refused({}),
    "no dict": refused(["main"], r"llama_server_instances of localhost is no dict: write NAME: OPTIONS"),
    "no options": refused({"main": "tiny"}, r"instance main on localhost: it is no dict: write its options"),
    "null is unset": refused(one(ctx_size=None, api_keys=None)),
    "unknown option": refused(
        one(ctx_sise=1), r"instance main on localhost: there is no option ctx_sise: did you mean ctx_size\? \(docs/refe"
    ),
    "unknown beside a key": refused(
        one(api_keys={"alice": KEY}, zzz=1), r"instance main on localhost: there is no option zzz: \(docs/reference\.md"
    ),
    "two wrongs": refused(
        one(ctx_sise=1, port=0), "instance main on localhost: there is no option ctx_sise", ".*: port 0 is none"
    ),
    "old name of the keys": refused(
        one(api_key=KEY), r"instance main on localhost: api_key is api_keys now: write api_keys: \{NAME: KEY\}"
    ),
    "wrong type": refused(one(ctx_size="plenty"), r"instance main on localhost: .*'ctx_size'.*plenty.*int"),
    "a list for a text": refused(one(device=["CUDA0"]), r".*: device holds what is no text: put it in quotes"),
    "yes for a text": refused(one(device=True), r".*: device holds what is no text: put it in quotes"),
    "a wrong word": refused(
        one(cache_type_k="q3_0"), r"instance main on localhost: value of cache_type_k must be one of: f32, f16.* got: q"
    ),
    "no number": refused(one(temperature="nan"), r".*: temperature is nan: use a number"),
    "no model": refused({"main": {"port": 8600}}, r"instance main on localhost: it serves nothing: set model to a pro"),
    "no port": refused({"main": {"model": "tiny"}}, r"instance main on localhost: missing required arguments: port \("),
    "a slash in the name": refused(
        {"a/b": {"model": "tiny", "port": 8600}}, r"instance a/b on localhost: its name can't be .* use lower-case lett"
    ),
    "models in a list": refused(
        {"main": {"port": 8600, "models": ["tiny"]}}, r".*: argument 'models' is of type .* unable to convert to dict"
    ),
    "an adapter that is none": refused(one(lora=["tiny"]), r".*: lora holds what is no dict: write each item"),
    "variables in a list": refused(one(environment=["A=1"]), r".*: argument 'environment' is of type .* to dict"),
    "an empty adapter": refused(one(lora=[{"scale": 1}]), r".*: missing required arguments: profile found in lora"),
    # ports and addresses
    "a port for two": refused(
        {"a": {"model": "tiny", "port": 8600}, "b": {"model": "tiny", "port": "8600"}},
        r"instances a and b on localhost share port 8600: give one of them another$",
    ),
    "a port that is none": refused(one(port=99999), r".*: port 99999 is none: use a number from 1 to 65535"),
    "open without a key": refused(
        one(host="0.0.0.0"),  # noqa: S104 - what is refused
        r"instance main on localhost: it listens on 0\.0\.0\.0 without a key: set api_keys, from Vault or the env",
    ),
    "open to a name without a key": refused(one(host="rig.example"), r".*: it listens on rig\.example without a key"),
    "loopback has many addresses": refused(one(host="127.0.0.53")),
    "two addresses": refused(one(host="127.0.0.1,::1"), r".*: host '127\.0\.0\.1,::1' is not one address: use an addr"),
    "a socket": refused(one(host="x.sock"), r".*: host 'x\.sock' is not one address"),
    # keys
    "keys in a list": refused(one(api_keys=[KEY]), r".*: api_keys is no dict: write NAME: KEY"),
    "a key for a name": refused(
        one(api_keys={OTHER_KEY.replace("7", "a"): "alice"}), r".*: a name in api_keys is none: use up to 15 letters"
    ),
    "an empty key": key("", "is empty: set the variable of the environment"),
    "no key": key(None, "is empty"),
    "a key that is a truth": key(True, "is no text: draw one"),
    "a short key": key("f3-0c9a7b21e4", "has fewer than 16 characters: draw one, as with openssl rand -hex 24"),
    "a key with a space": key("correct horse battery staple", "holds white space or what is no visible ASCII"),
    "a key with an umlaut": key("schlüssel-7f3d9a51c2e8", "holds white space or"),
    "a key with a new line": key("7f3d9a51c2e84b06\n", "holds white space or"),
    "a key that is a comment": key("#7f3d9a51c2e84b06", "begins with #, which makes it a comment for llama-server"),
    **{
        f"placeholder {value}": key(value, "is a placeholder: draw one")
        for value in (
            "changeme", "change-me-change-me", "CHANGE_ME_1234567890", "your-key-here", "your-api-key-here-123",
            "placeholder", "example", "secret", "password", "test", "xxxxxxxxxxxxxxxxxxxx", "<your-key-of-16-chars>",
            "sk-your-key-here-0000", "aaaabbbbccccaaaabbbb",
        )
    },
    "one key for two": refused(
        one(api_keys={"alice": KEY, "ci": OTHER_KEY, "bob": KEY}), r".*: keys alice and bob are the same: draw another"
    ),
    # extra_args
    "an address among the words": refused(
        words("--host", "::", "-c", 512, "--no-kv-unified"),
        r".*: extra_args hold --host, -c, --no-kv-unified: set host, ctx_size, kv_unified instead, which is checked$",
    ),
    "an underscore for a hyphen": refused(words("--ctx_size", 512), r".*: extra_args hold --ctx_size: set ctx_size in"),
    "an alias": refused(words("-a", "gpt"), r".*: extra_args hold -a: set model instead"),
    "a key file among the words": refused(words("--api-key-file", "/k"), r".*hold --api-key-file: set api_keys instea"),
    "a key among the words": refused(
        words("--api-key", KEY), r".*: extra_args hold --api-key: keys stand in no command line; set api_keys$"
    ),
    "a key glued to a word": refused(words(f"--api_key={KEY}"), r".*: extra_args hold --api_key: keys stand in no"),
    "a value glued to a word": refused(words("--seed=7"), r".*: extra_args hold --seed=…: write the value as an item"),
    "another purpose": refused(
        words("--version", "--list-devices"),
        r".*: extra_args hold --version, --list-devices: it makes the server print something and end",
    ),
    "a download": refused(words("-hf", "a/b"), r".*: extra_args hold -hf: models are fetched and verified by role ggu"),
    "tools": refused(
        words("--tools", "all", "-ag", "--ui_mcp_proxy"),
        r".*: extra_args hold --tools, -ag, --ui_mcp_proxy: whoever sends it a request could run programs with the ",
    ),
    "tools that are wanted": refused(words("--tools", "all"), allow_tools=True),
    "tools that are wanted, for strangers": refused(
        one(host="::", extra_args=["--mcp-servers-config", "/etc/mcp.json"]), r".*: it listens on :: without a key: s",
        allow_tools=True,
    ),
    "tools that are wanted, beyond loopback": refused(
        one(host="::", api_keys={"ci": KEY}, extra_args=["--agent"]), allow_tools=True
    ),
    # what another release knows
    "what the release knows": refused(words("-s", "-1", "--seed", 7), **KNOWN),
    "what it does not": refused(
        one(ctx_size=512, extra_args=["--seeds", "1", "--nextn"]),
        r".*: ctx_size becomes --ctx-size, which llama-server of release b1-cpu-0a does not know: leave it out, or mo",
        r".*: extra_args hold --seeds, which llama-server of release b1-cpu-0a does not know: did you mean --seed",
        r".*: extra_args hold --nextn, which llama-server of release b1-cpu-0a does not know: leave it out$",
        **KNOWN,
    ),
    "what a router's release does not": refused(
        router(ctx_size=512), r".*: models becomes --models-preset, which ", r".*: ctx_size becomes --ctx-size, which ",
        **KNOWN,
    ),
    "no log": refused(words("--log-disable"), r".*: extra_args hold --log-disable: the proof reads the log"),
    "TLS": refused(words("--ssl-cert-file", "/c"), r".*: extra_args hold --ssl-cert-file: the proof asks the server"),
    "a removed flag": refused(words("--draft", 4), r".*: extra_args hold --draft: it was removed .* use spec_draft_n_"),
    "yes among the words": refused(words("--fit-print", True), r".*: extra_args holds what is no text: put it in quot"),
    # environment and GPUs
    "a variable of llama-server": refused(
        one(environment={"LLAMA_ARG_THREADS": "7"}), r".*: environment sets LLAMA_ARG_THREADS: llama-server would take "
    ),
    "GPUs twice": refused(
        one(gpus=[0], environment={"CUDA_VISIBLE_DEVICES": "1"}),
        r".*: environment sets CUDA_VISIBLE_DEVICES, and so does gpus: use one of them",
    ),
    "the role's own variable": refused(one(environment={"XDG_CONFIG_HOME": "/x"}), r".*: environment sets XDG_CONFIG_"),
    "a variable's name": refused(one(environment={"a-b": "x"}), r".*: environment has the name 'a-b': use letters"),
    "a variable that is a truth": refused(one(environment={"A": True}), r".*: environment has no text for A: put it i"),
    "a variable of two lines": refused(one(environment={"A": "x\ny"}), r".*: environment has more than one line for A"),
    "a number for a variable": refused(one(environment={"A": 1})),
    "no GPU": refused(one(gpus=[]), r".*: gpus is empty: leave it out for all of them"),
    "a GPU's name": refused(one(gpus=["CUDA0"]), r".*: gpus has 'CUDA0': use an index or a UUID, as nvidia-smi -L"),
    "a GPU twice": refused(one(gpus=[1, "1"]), r".*: gpus names one twice"),
    "GPUs by UUID": refused(one(gpus=["GPU-5a1f2b3c-0d4e-11ee-be56-0242ac120002", 3])),
    # what goes with what
    "unknown preset": refused(
        one(sampling_preset="wild"), r".*: there is no sampling preset wild: use one of balanced, .*or add it to llama_"
    ),
    "unknown key of a preset": refused(
        one(),
        r"sampling preset mine in llama_sampling_presets has the unknown key temprature: it may hold temperature, top_",
        sampling_presets={"mine": {"temprature": 1}},
    ),
    "presets in a list": refused(
        one(), r"llama_sampling_presets of localhost is no dict: write NAME: OPTIONS", sampling_presets=["x"]
    ),
    "a preset that is none": refused(
        one(), r"sampling preset mine in llama_sampling_presets is no dict", sampling_presets={"mine": 1}
    ),
    "wrong value of a preset": refused(
        one(), r"sampling preset mine in llama_sampling_presets: .*'top_k'.*many.*int",
        sampling_presets={"mine": {"top_k": "many"}},
    ),
    "cache types without kernels": refused(
        one(cache_type_k="q8_0", cache_type_v="q4_0"),
        r"instance main on localhost: its K and V caches are q8_0-q4_0, for which the release has no FlashAttention "
        r"kernels.*: add q8_0-q4_0 to llama_cpp_fa_quants, or use one of f16-f16, q8_0-q8_0",
        **COMPILED,
    ),
    "cache types without kernels in a router": refused(
        router(cache_type_k="q8_0"),
        r"instance main on localhost: model chat: its K and V caches are q8_0-f16",
        **COMPILED,
    ),
    "cache types with kernels": refused(one(cache_type_k="q8_0", cache_type_v="q8_0"), **COMPILED),
    "every pair has kernels": refused(one(cache_type_k="q8_0", cache_type_v="q4_0"), gpu=True, fa_quants=["all"]),
    "kernels don't matter on the processor": refused(one(cache_type_k="q8_0", n_gpu_layers=0), **COMPILED),
    "nor in a release without a GPU": refused(one(cache_type_k="q8_0"), **{**COMPILED, "gpu": False}),
    "nor where the cache is in host memory": refused(one(cache_type_k="q8_0", kv_offload=False), **COMPILED),
    "both embeddings and reranking": refused(
        one(embeddings=True, reranking=True), r".*: it can't serve both embeddings and reranking: make two instances"
    ),
    "a template for embeddings": refused(
        one(embeddings=True, chat_template="chatml", min_decode_tps=3),
        r".*: chat_template means nothing where there is no chat \(embeddings, reranking\): leave it out",
        r".*: min_decode_tps means nothing",
    ),
    "a template without Jinja": refused(one(chat_template="chatml", jinja=False), r".*: chat_template needs the Jinja"),
    "a quiet server on a GPU": refused(
        one(log_verbosity=3), r".*: log_verbosity 3 hides the lines that prove what lies on the GPU: lea", gpu=True
    ),
    "a quiet server on the processor": refused(one(log_verbosity=3)),
    "a quiet server beside a GPU": refused(one(log_verbosity=3, n_gpu_layers=0), gpu=True),
    "a floor below the floor": refused(one(min_decode_tps=-1), r".*: min_decode_tps is -1\.0: use 0 or more"),
    "a per cent": refused(one(max_regression=20), r".*: max_regression is 20\.0: use a part from 0 to 1"),
    # routers
    "a right router": refused(router(ctx_size=512, embeddings=True, load_on_startup=True)),
    "a model and models": refused(
        {"main": {**router()["main"], "model": "tiny"}}, r".*: it has both model and models: use models for a router"
    ),
    "a router without models": refused({"main": {"port": 8600, "models": {}}}, r".*: models is empty: name at least o"),
    "a model's option at the router": refused(
        {"main": {**router()["main"], "ctx_size": 1, "top_k": 3}},
        r".*: it is a router, so ctx_size, top_k belong to each of its models: move them there$",
    ),
    "a template at the router": refused(
        {"main": {**router()["main"], "chat_template": "chatml"}}, r".*: it is a router, which has no chat_template: le"
    ),
    "the router's option at a model": refused(router(port=8601), r".*: model chat: port is the router's: set it for t"),
    "a template at a model": refused(router(chat_template="chatml"), r".*: model chat: a router's models have no chat"),
    "unknown option of a model": refused(router(ctx_sise=1), r".*: model chat: there is no option ctx_sise: did you m"),
    "a router's model without a profile": refused(
        {"main": {"port": 8600, "models": {"chat": {}}}}, r".*: model chat: missing required arguments: model"
    ),
    "a model's name": refused(
        {"main": {"port": 8600, "models": {"a b": {"model": "tiny"}}}}, r".*: model a b: its name can't be that of a se"
    ),
    "unknown preset of a model": refused(router(sampling_preset="wild"), r".*: model chat: there is no sampling prese"),
    "what ends a line": refused(
        router(override_tensor="a#b=CPU"), r".*: model chat: override_tensor holds ; or # or a new line"
    ),
    "autoload without a router": refused(one(models_autoload=True), r".*: models_autoload is for routers: set models"),
    # the role's variables
    "a prefix with a space": refused(
        one(), r"the prefix '/opt/my llamas' on localhost holds a character .*: use letters", prefix="/opt/my llamas"
    ),
    "a runtime": refused(one(), r"llama_server_runtime of localhost is upstart: use one of auto", runtime="upstart"),
    "a floor of the role": refused(one(), r"llama_server_max_regression is 3: use a part from 0", max_regression=3),
    "docker without an image": refused(
        one(runtime="docker"), r"llama_server_docker_image of localhost does not say what containers are made of: set i"
    ),
    "docker with a tag": refused(
        one(), r"llama_server_docker_image of localhost has a ref without a digest", runtime="docker",
        docker_image={"ref": "registry.example/llama:latest"},
    ),
    "docker with a relative archive": refused(
        one(), r"llama_server_docker_image of localhost has an archive that is no absolute path", runtime="docker",
        docker_image={"archive": "x.tar", "sha256": "0" * 64},
    ),
    "docker with a wrong hash": refused(
        one(), r"llama_server_docker_image of localhost has a sha256 that is not 64", runtime="docker",
        docker_image={"archive": "/x.tar", "sha256": "0"},
    ),
    "docker with a base": refused(one(), runtime="docker", docker_image={"base": "debian"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What the checks say of each case, all in one run of Ansible."""
    answer = tmp_path_factory.mktemp("refusals") / "said.json"
    cases = {name: {"instances": case.instances, "settings": case.settings} for name, case in CASES.items()}
    variables = {"cases": cases, "refusals_file": str(answer), "llama_server_instances": {}}
    ansible("tests/roles/llama_server_refusals.yml", "-l", "local", "-e", json.dumps(variables))
    told: dict[str, list[str]] = json.loads(answer.read_text())
    return told


@pytest.mark.parametrize("name", CASES)
def test_each_thing_that_is_wrong_is_refused_in_one_line_with_the_remedy(said: dict[str, list[str]], name: str) -> None:
    found = said[name]
    assert len(found) == len(CASES[name].lines), found
    for line, pattern in zip(found, CASES[name].lines, strict=True):
        assert re.match(pattern, line), line
        assert "\n" not in line


def test_no_refusal_holds_a_key(said: dict[str, list[str]]) -> None:
    told = json.dumps(said)
    assert [value for value in (KEY, OTHER_KEY, "correct horse", "f3-0c9a7b21e4") if value in told] == []


def test_all_lines_of_a_host_come_at_once_and_nothing_is_touched(tmp_path: Path) -> None:
    prefix = tmp_path / "prefix"
    instances = {
        "main": {"model": "tiny-babble", "port": 8600, "ctx_sise": 1, "api_keys": {"alice": "hunter2"}},
        "chat": {"model": "tiny-babble", "port": 8600, "chat_template": "chatlm"},
    }
    variables = {"llama_nexus_prefix": str(prefix), "llama_server_instances": instances}
    options = ["deploy.yml", "-l", "local", "-v", "-e", json.dumps(variables)]
    done = ansible(*options, check=False, NEXUS_RESULTS=str(tmp_path / "results"))
    assert done.returncode != 0
    output = " ".join(done.stdout.split())
    for line in (
        "instance main on localhost: there is no option ctx_sise: did you mean ctx_size? (docs/reference.md lists",
        "instance main on localhost: key alice has fewer than 16 characters",
        "instances main and chat on localhost share port 8600: give one of them another",
        "there is no chat template 'chatlm': use one of chatml, gpt-oss-plain-math, or write",
    ):
        assert line in output
    assert "hunter2" not in done.stdout
    assert not prefix.exists()


def test_hosts_that_would_share_a_port_are_named_both(tmp_path: Path) -> None:
    def host(address: str, port: int | str = 8600, ssh: int | None = None, **options: Any) -> dict[str, Any]:
        variables = {
            "ansible_host": address,
            "llama_server_instances": {"main": {"model": "m", "port": port, **options}},
        }
        return {**variables, **({"ansible_port": ssh} if ssh else {})}

    reached: dict[str, Any] = {"host": "0.0.0.0", "api_keys": {"alice": KEY}}  # noqa: S104 - beyond loopback
    hosts = {
        "rig": host("192.0.2.1"), "alias": host("192.0.2.1", ssh=22), "apart": host("192.0.2.1", port=8601),
        "pod-1": host("192.0.2.2", ssh=10022, **reached), "pod-2": host("192.0.2.2", ssh=10023, **reached),
        "pod-3": host("192.0.2.2", ssh=10024), "other": host("192.0.2.3"),
        "here-1": {**host("192.0.2.4", port=8700), "ansible_connection": "local"},
        "here-2": {**host("192.0.2.5", port=8700), "ansible_connection": "local"},
        "broken": host("192.0.2.1", port="{{ nothing }}"),
    }  # fmt: skip
    inventory = tmp_path / "hosts.yml"
    inventory.write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
    variables = json.dumps({"llama_nexus_prefix": "/opt/llama-nexus"})
    done = ansible("tests/roles/llama_server_peers.yml", "-i", inventory, "-e", variables, check=False)
    found = re.findall(r"instance main on (\S+) and instance main on (\S+) share port (\d+) of (.+): give", done.stdout)
    pairs = {
        ("rig", "alias", "8600", "192.0.2.1"), ("pod-1", "pod-2", "8600", "192.0.2.2"),
        ("here-1", "here-2", "8700", "this machine"),
    }  # fmt: skip
    assert set(found) == pairs | {(two, one, port, where) for one, two, port, where in pairs}


# ---- what the host is told


def write_adapter(path: Path, n_embd: int) -> None:
    """A LoRA adapter for the tiny model that changes one matrix of its first layer."""
    writer = GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 4.0)
    rng = np.random.default_rng(1)
    for part, shape in (("a", (4, n_embd)), ("b", (n_embd, 4))):
        writer.add_tensor(f"blk.0.attn_q.weight.lora_{part}", rng.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def specs(entry: str = "instance") -> dict[str, Any]:
    """The options of an entry point."""
    found: dict[str, Any] = yaml.safe_load((ROLE / "meta" / "argument_specs.yml").read_text())["argument_specs"]
    options: dict[str, Any] = found[entry]["options"]
    return options


def tables() -> dict[str, Any]:
    """The role's vars."""
    found: dict[str, Any] = yaml.safe_load((ROLE / "vars" / "main.yml").read_text())
    return found


# A value for each option that has a flag, such that llama-server takes it on a machine without a GPU.
PARTICULAR: dict[str, Any] = {
    "host": "127.0.0.1", "port": 8600, "api_keys": {"alice": KEY}, "models_max": 1, "log_verbosity": 4,
    "device": "none", "device_draft": "none", "main_gpu": 0, "tensor_split": "1", "split_mode": "layer",
    "override_tensor": "exps=CPU", "mmproj": "twin", "model_draft": "twin", "spec_type": ["draft-simple", "ngram-mod"],
    "lora": [{"profile": "adapter", "scale": 0.5}], "chat_template": "chatml", "chat_template_kwargs": {"a": "it's"},
    "reasoning_effort": "low", "reasoning_budget": 64, "reasoning_format": "deepseek",
}  # fmt: skip


def some_value(name: str, spec: dict[str, Any]) -> Any:
    """A value that an option takes."""
    if name in PARTICULAR:
        return PARTICULAR[name]
    if "choices" in spec:
        return spec["choices"][-1]
    return {"int": 2, "float": 0.5, "bool": True}[spec["type"]]


def of_models(flags: dict[str, Any]) -> dict[str, Any]:
    """A value for each option that a router's model takes, but for one of two that exclude each other."""
    theirs = set(flags) - set(tables()["__llama_server_router_options"]) - {"chat_template", "reranking"}
    return {name: some_value(name, specs()[name]) for name in flags if name in theirs}


def declared_instances() -> Instances:
    """Instances that between them say everything that an instance can."""
    flags = tables()["__llama_server_flags"]
    alone = {"models", "models_max", "models_autoload", "embeddings", "reranking", "pooling"}
    whole = {name: some_value(name, specs()[name]) for name in flags if name not in alone}
    negative = {
        name: False for name, entry in flags.items() if isinstance(entry, list) and name not in alone | {"jinja"}
    }
    return {
        "bare": {"model": "tiny", "port": free_port()},
        "main": {
            # Numbers as texts, as templates give them, and flash_attn as YAML reads an unquoted on.
            "model": "tiny", "port": free_port(), "ctx_size": "4000", "parallel": "1", "flash_attn": True,
            "metrics": True, "slots": False, "embeddings": False, "warmup": "yes", "kv_unified": False,
            "api_keys": {"ci": OTHER_KEY, "alice": KEY}, "extra_args": ["--no-perf", "--seed", 7],
            "sampling_preset": "coding", "temperature": 0.25, "min_decode_tps": 1.5, "n_predict": None,
        },
        "whole": {"model": "tiny", **whole},
        "negative": {"model": "tiny", "port": 8601, **negative},
        "embedding": {"model": "tiny", "port": 8602, "host": "::", "api_keys": {"alice": KEY}, "embeddings": True},
        "reranking": {"model": "tiny", "port": 8603, "host": "::1", "reranking": True, "pooling": "rank"},
        "big": {"model": "big", "port": 8604, "gpus": [1, "0"], "environment": {"GGML_X": 1}, "max_regression": 0.5},
        "boxed": {"model": "tiny", "port": 8605, "gpus": [0], "runtime": "docker"},
        "template": {"model": "tiny", "port": free_port(), "chat_template": "gpt-oss-plain-math", "ctx_size": 4096},
        "adapted": {
            "model": "tiny", "port": free_port(), "ctx_size": 512, "parallel": 1, "model_draft": "twin",
            "spec_type": ["draft-simple"], "lora": [{"profile": "adapter", "scale": 0.25}, {"profile": "again"}],
        },
        "router": {
            "port": free_port(), "models_max": 1, "api_keys": {"alice": KEY},
            "models": {
                "chat/a.1": {"model": "tiny", "ctx_size": 512, "load_on_startup": True, "sampling_preset": "precise"},
                "embed": {"model": "twin", "ctx_size": 256, "embeddings": True, "pooling": "mean"},
            },
        },
        "all-router": {"port": free_port(), "models": {"all": {"model": "tiny", **of_models(flags)}}},
    }  # fmt: skip


@dataclass(frozen=True)
class Declared:
    """What Ansible made of the instances above."""

    instances: Instances
    declaration: dict[str, Any]
    keys: dict[str, dict[str, str]]
    models: list[str]
    output: str
    files: dict[str, Any]
    """The fact gguf_model_files."""

    def config(self, name: str) -> dict[str, Any]:
        config: dict[str, Any] = self.declaration[name]["config"]
        return config

    def argv(self, name: str) -> list[str]:
        argv: list[str] = self.config(name)["argv"]
        return argv

    def placed(self, name: str, folder: Path) -> list[str]:
        """The command line, with the instance's files written to a folder as the host writes them."""
        texts = dict(self.declaration[name]["files"])
        texts["keys"] = "".join(f"# {who}\n{key}\n" for who, key in self.keys.get(name, {}).items())
        for file, text in texts.items():
            with (folder / file).open("w", encoding="utf-8", newline="") as stream:
                stream.write(text)
        return [str(folder / word[1:]) if word[:1] == "@" else word for word in self.argv(name)]


@pytest.fixture(scope="module")
def declared(release: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Declared:
    folder = tmp_path_factory.mktemp("declared")
    adapter = folder / "adapter.gguf"
    write_adapter(adapter, _tiny_n_embd())
    (folder / "twin.gguf").symlink_to(tiny_model)
    (folder / "again.gguf").symlink_to(adapter)
    paths = {"tiny": tiny_model, "twin": folder / "twin.gguf", "adapter": adapter, "again": folder / "again.gguf"}
    files = {
        name: {"path": str(path), "size_bytes": path.stat().st_size, "sha256": f"{number:064x}"}
        for number, (name, path) in enumerate(paths.items())
    }
    files["big"] = {"path": "/models/big.gguf", "size_bytes": 5 * GIB, "sha256": "b" * 64}
    instances = declared_instances()
    answer = folder / "declaration.json"
    variables = {
        "declaration_file": str(answer),
        "llama_nexus_prefix": str(folder / "prefix"),
        "llama_cpp_release": {
            "name": release.name,
            "path": str(release),
            "manifest": json.loads((release / "manifest.json").read_text()),
        },
        "gguf_model_files": files,
        "llama_server_instances": instances,
        "llama_server_docker_image": {"base": "debian"},
        "llama_server_max_regression": 0.2,
        "__llama_server_chat_template_dir": str(TEMPLATES),
    }
    done = ansible("tests/roles/llama_server_declaration.yml", "-l", "local", "-vv", "-e", json.dumps(variables))
    told = json.loads(answer.read_text())
    return Declared(instances, told["instances"], told["keys"], told["models"], done.stdout, files)


def _tiny_n_embd() -> int:
    return tiny_model.Shape().n_embd


def test_nothing_but_what_was_declared_reaches_the_command_line(declared: Declared, release: Path) -> None:
    assert declared.argv("bare") == [
        str(release / "bin" / "llama-server"),
        "--model", declared.files["tiny"]["path"], "--alias", "tiny",
        "--host", "127.0.0.1", "--port", str(declared.instances["bare"]["port"]), "--log-verbosity", "4",
    ]  # fmt: skip


def test_what_was_declared_reaches_the_command_line_in_order(declared: Declared) -> None:
    assert declared.argv("main")[9:] == [
        "--api-key-file", "@keys", "--metrics", "--no-slots", "--log-verbosity", "4", "--ctx-size", "4000",
        "--parallel", "1", "--no-kv-unified", "--flash-attn", "on", "--temperature", "0.25", "--top-k", "40",
        "--top-p", "0.95", "--min-p", "0.05", "--repeat-penalty", "1.1", "--frequency-penalty", "0.1",
        "--presence-penalty", "0", "--warmup", "--no-perf", "--seed", "7",
    ]  # fmt: skip


def test_every_flag_of_the_table_is_used(declared: Declared) -> None:
    used = {word for name in ("whole", "negative", "router", "embedding", "reranking") for word in declared.argv(name)}
    flags = {
        flag
        for name, entry in tables()["__llama_server_flags"].items()
        for flag in ([entry] if isinstance(entry, str) else entry)
        if flag and not name.startswith("models_auto") and flag != "--no-jinja"
    }
    assert flags - used == set()


def test_the_configuration_is_what_decides_the_process(declared: Declared, release: Path) -> None:
    port = declared.instances["main"]["port"]
    config = declared.config("main")
    assert {name: value for name, value in config.items() if name != "argv"} == {
        "name": "main", "runtime": "supervisor", "environment": {"XDG_CONFIG_HOME": "/nonexistent"},
        "host": "127.0.0.1", "port": port, "local_url": f"http://127.0.0.1:{port}",
        "model": {"name": "tiny", **declared.files["tiny"]}, "models": {}, "side_models": [],
        "release": {
            "name": release.name, "path": str(release), "ref": pin.REF,
            "commit": pin.COMMIT, "backend": "cpu",
        },
        "mode": "completion", "has_template": False, "ctx_size": 4000, "parallel": 1, "n_gpu_layers": None,
        "uses_gpu": False, "key_names": ["alice", "ci"], "gpus": None, "image": None,
    }  # fmt: skip


def test_keys_go_their_own_way(declared: Declared) -> None:
    assert declared.keys["main"] == {"alice": KEY, "ci": OTHER_KEY}
    assert [name for name in declared.keys if not declared.config(name)["key_names"]] == []
    assert KEY not in json.dumps(declared.declaration)
    assert KEY not in declared.output


def test_a_proof_asks_for_what_the_instance_says_and_else_the_role(declared: Declared) -> None:
    proofs = {name: entry["proof"] for name, entry in declared.declaration.items()}
    assert proofs["bare"] == {
        "min_decode_tps": None, "max_regression": 0.2, "start_timeout": 62, "tokens": 32, "drain_timeout": 30,
    }  # fmt: skip
    assert (proofs["main"]["min_decode_tps"], proofs["big"]["max_regression"]) == (1.5, 0.5)
    assert proofs["big"]["start_timeout"] == 60 + 5 * 30
    assert [proofs[name]["max_regression"] for name in ("embedding", "reranking", "router")] == [None, None, None]


def test_gpus_are_chosen_by_variables_and_for_a_container_by_the_engine(declared: Declared) -> None:
    chosen = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "1,0"}
    own = {"XDG_CONFIG_HOME": "/nonexistent"}
    assert declared.config("big")["environment"] == {"GGML_X": "1", **chosen, **own}
    assert declared.config("boxed")["environment"] == own
    assert (declared.config("big")["gpus"], declared.config("boxed")["gpus"]) == (["1", "0"], ["0"])
    assert (declared.config("big")["image"], declared.config("boxed")["image"]) == (None, {"base": "debian"})


def test_a_server_is_asked_at_an_address_of_its_own_host(declared: Declared) -> None:
    urls = [declared.config(name)["local_url"] for name in ("embedding", "reranking")]
    assert urls == ["http://[::1]:8602", "http://[::1]:8603"]


def test_the_modes_are_told_apart(declared: Declared) -> None:
    modes = {name: declared.config(name)["mode"] for name in declared.instances}
    assert {name for name, mode in modes.items() if mode != "completion"} == {
        "embedding", "reranking", "router", "all-router",
    }  # fmt: skip
    assert (modes["embedding"], modes["reranking"], modes["router"]) == ("embedding", "reranking", "router")


def test_models_of_every_kind_are_fetched(declared: Declared) -> None:
    assert set(declared.models) == {"tiny", "twin", "adapter", "again", "big"}
    assert [file["name"] for file in declared.config("adapted")["side_models"]] == ["twin", "adapter", "again"]
    models = declared.config("router")["models"]
    assert {id_: {key: model[key] for key in declared.files["tiny"]} for id_, model in models.items()} == {
        "chat/a.1": declared.files["tiny"], "embed": declared.files["twin"],
    }  # fmt: skip
    assert {id_: model["mode"] for id_, model in models.items()} == {"chat/a.1": "completion", "embed": "embedding"}


# ---- what llama-server makes of it


@contextlib.contextmanager
def serving(declared: Declared, name: str, folder: Path, **environment: str) -> Iterator[httpx.Client]:
    """Run an instance as its host would, and ask it with the key of alice."""
    config = declared.config(name)
    log = folder / "server.log"
    alone = httpx.Limits(max_keepalive_connections=0)  # a router closes connections that it said it would keep
    variables = {
        **os.environ,
        "LLAMA_ARG_THREADS": "1",
        **environment,
        **config["environment"],
    }  # a router's models too
    with (
        log.open("wb") as stream,
        subprocess.Popen(declared.placed(name, folder), env=variables, stdout=stream, stderr=stream) as process,
        httpx.Client(
            base_url=config["local_url"], headers={"Authorization": f"Bearer {KEY}"}, timeout=60, limits=alone
        ) as client,
    ):
        try:
            deadline = time.monotonic() + 180
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if client.get("/health").status_code == httpx.codes.OK:
                        break
                assert process.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < deadline, log.read_text()[-3000:]
                time.sleep(0.05)
            yield client
        finally:
            process.terminate()


@pytest.mark.parametrize("name", [name for name in declared_instances() if name != "boxed"])
def test_llama_server_takes_every_command_line(declared: Declared, name: str, tmp_path: Path) -> None:
    argv = [*declared.placed(name, tmp_path), "--version"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_keys_and_sampling_arrive(declared: Declared, tmp_path: Path) -> None:
    with serving(declared, "main", tmp_path) as client:
        props = client.get("/props").json()
        codes = [
            client.get("/props", headers={"Authorization": f"Bearer {given}"}).status_code for given in (OTHER_KEY, "x")
        ]
    assert codes == [200, 401]
    sampling = props["default_generation_settings"]["params"]
    expected = {
        **yaml.safe_load((ROOT / "group_vars/all/sampling.yml").read_text())["llama_sampling_presets"]["coding"]
    }
    expected["temperature"] = 0.25
    assert {name: sampling[name] for name in expected} == pytest.approx(expected)


def test_a_draft_and_adapters_are_loaded(declared: Declared, tmp_path: Path) -> None:
    with serving(declared, "adapted", tmp_path) as client:
        adapters = client.get("/lora-adapters").json()
        body = {"prompt": "a", "n_predict": 24, "ignore_eos": True, "temperature": 0}
        timings = client.post("/completion", json=body).json()["timings"]
    assert [(adapter["path"], adapter["scale"]) for adapter in adapters] == [
        (declared.files["adapter"]["path"], 0.25), (declared.files["again"]["path"], 1.0),
    ]  # fmt: skip
    assert timings["draft_n"] > 0


def test_no_file_of_the_user_adds_options(declared: Declared, tmp_path: Path) -> None:
    (tmp_path / "llama.cpp").mkdir()
    (tmp_path / "llama.cpp" / "config.ini").write_text("temp = 0.125\n")
    with serving(declared, "template", tmp_path, XDG_CONFIG_HOME=str(tmp_path)) as client:
        sampling = client.get("/props").json()["default_generation_settings"]["params"]
    assert sampling["temperature"] == pytest.approx(0.8)


def test_the_template_is_used_as_declared(declared: Declared, tmp_path: Path) -> None:
    with serving(declared, "template", tmp_path) as client:
        props = client.get("/props").json()
        body = {"messages": [{"role": "user", "content": "Half of 7?"}]}
        prompt = client.post("/apply-template", json=body).json()["prompt"]
    assert props["chat_template"] == declared.declaration["template"]["files"]["chat_template.jinja"]
    assert "never as LaTeX" in prompt
    assert prompt.endswith("<|start|>user<|message|>Half of 7?<|end|><|start|>assistant")


def hub_cache(folder: Path, model: Path) -> str:
    """A cache of the hub that holds a model which nobody declared."""
    repo, commit = folder / "hub" / "models--acme--stray-GGUF", "0123456789" * 4
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    (repo / "snapshots" / commit).mkdir(parents=True)
    (repo / "snapshots" / commit / "stray-Q8_0.gguf").symlink_to(model)
    return str(folder)


def test_a_router_serves_the_declared_models_and_no_others(
    declared: Declared, tiny_model: Path, tmp_path: Path
) -> None:
    home = hub_cache(tmp_path / "home", tiny_model)
    with serving(declared, "router", tmp_path, HF_HOME=home, MODEL_ENDPOINT="") as client:
        models = client.get("/v1/models").json()["data"]
        client.post("/models", json={"model": "acme/other-GGUF"})
        answer = client.post("/v1/completions", json={"model": "chat/a.1", "prompt": "a", "max_tokens": 3})
        props = client.get("/props", params={"model": "chat/a.1"}).json()
        vectors = client.post("/v1/embeddings", json={"model": "embed", "input": "a"})
        without_key = client.get("/props", params={"model": "embed"}, headers={"Authorization": ""}).status_code
    assert sorted(model["id"] for model in models) == ["chat/a.1", "embed"]
    assert {model["id"]: model["status"]["value"] for model in models}["chat/a.1"] in ("loading", "loaded")
    assert (answer.status_code, vectors.status_code) == (200, 200)
    assert props["default_generation_settings"]["n_ctx"] == 512
    assert props["default_generation_settings"]["params"]["temperature"] == pytest.approx(0.1)
    assert without_key == 401


def test_a_router_knows_every_option_of_its_models(declared: Declared, tmp_path: Path) -> None:
    with serving(declared, "all-router", tmp_path) as client:
        (model,) = client.get("/v1/models").json()["data"]
    given = set(model["status"]["args"])
    spelled = tables()["__llama_server_other_spellings"]
    flags = tables()["__llama_server_flags"]
    spellings = {
        name: {flags[name] if isinstance(flags[name], str) else flags[name][0], *spelled.get(name, [])}
        for name in of_models(flags)
    }
    assert [name for name, any_of in spellings.items() if not given & any_of] == []


# ---- the tables


def help_rows(server: Path) -> list[set[str]]:
    """The flags of the server, each with all its spellings."""
    from nexus_tasks.reference import parse_help

    helped = subprocess.run([server, "--help"], capture_output=True, text=True, check=True).stdout
    return [set(flag.spellings) for flag in parse_help(helped)]


def test_every_flag_of_the_tables_is_one_of_the_pinned_server(llama_server_bin: Path) -> None:
    known = set().union(*help_rows(llama_server_bin))
    rules = tables()
    entries = rules["__llama_server_flags"].values()
    used = {flag for entry in entries for flag in ([entry] if isinstance(entry, str) else entry) if flag}
    used |= {flag for flags in rules["__llama_server_other_spellings"].values() for flag in flags}
    used |= {flag for group in rules["__llama_server_refused_flags"] for flag in group["flags"]}
    assert used - known == set()


def test_extra_args_can_say_no_option_in_any_spelling(llama_server_bin: Path) -> None:
    rules = tables()
    options: dict[str, set[str]] = {}
    for name, entry in rules["__llama_server_flags"].items():
        options[name] = {flag for flag in ([entry] if isinstance(entry, str) else entry) if flag}
    for name, flags in rules["__llama_server_other_spellings"].items():
        options.setdefault(name, set()).update(flags)
    groups = [*options.values(), *(set(group["flags"]) for group in rules["__llama_server_refused_flags"])]
    for row in help_rows(llama_server_bin):
        touched = [group for group in groups if group & row]
        # A flag is one option's or refused for one reason, and all of its spellings are known; or none is.
        assert len(touched) <= 1, row
        assert not touched or row <= touched[0], row - touched[0]


def test_every_option_has_a_flag_or_a_meaning_of_its_own() -> None:
    flags, options = tables()["__llama_server_flags"], specs()
    assert set(options) - set(flags) == {
        "model", "gpus", "sampling_preset", "environment", "runtime", "min_decode_tps", "max_regression", "extra_args",
    }  # fmt: skip
    assert set(flags) <= set(options)
    booleans = {name for name, spec in options.items() if spec["type"] == "bool"}
    assert {name for name, entry in flags.items() if isinstance(entry, list)} == booleans
    assert set(tables()["__llama_server_router_options"]) <= set(options)


def test_the_presets_are_whole() -> None:
    presets = yaml.safe_load((ROOT / "group_vars/all/sampling.yml").read_text())["llama_sampling_presets"]
    assert set(presets) == {"balanced", "coding", "creative", "precise"}
    wanted = {"temperature", "top_k", "top_p", "min_p", "repeat_penalty", "frequency_penalty", "presence_penalty"}
    assert {name: set(preset) for name, preset in presets.items()} == dict.fromkeys(presets, wanted)
