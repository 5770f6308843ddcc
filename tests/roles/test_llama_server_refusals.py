"""What role llama_server refuses of declared instances, before it touches a host."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ansible

KEY, OTHER_KEY = "sesame-0b9f2c-4417", "7f3d9a51c2e84b06"
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
    "a list for a text": refused(
        one(tensor_split=[3, 1]), r'.*: tensor_split is a list: write its items as one text with .* as "3,1"'
    ),
    "a dict for a text": refused(one(device={"a": 1}), r".*: device holds what is no text: put it in quotes"),
    "a flag for an option": refused(one(ngl=99), r".*: there is no option ngl: did you mean n_gpu_layers\?"),
    "a flag with hyphens": refused(one(**{"gpu-layers": 99}), r".*: there is no option gpu-layers: did you mean n_gpu"),
    "a truth for a number": refused(one(parallel=True), r".*: parallel is no number: write one"),
    "a dict for a number": refused(one(ctx_size={}), r".*: ctx_size is no number: write one"),
    "a dict for a list": refused(one(extra_args={"--seed": 1}), r".*: extra_args is no list: write each item behind"),
    "slots of llama-server's own choice": refused(one(parallel=-1), r".*: parallel is -1: use 1 or more, or"),
    "no slots of a router's model": refused(router(parallel=0), r".*: model chat: parallel is 0: use 1 or more"),
    "a context below nothing": refused(one(ctx_size=-1), r".*: ctx_size is -1: use 0 for the model's own length"),
    "a draft without a model": refused(
        one(spec_type="draft-simple"), r".*: spec_type has draft-simple, which drafts nothing without a model: set "
    ),
    "a draft with one": refused(one(spec_type="draft-simple", model_draft="tiny")),
    "an embedding for each token": refused(
        one(embeddings=True, pooling="none"), r".*: pooling none gives an embedding for each token, .*: leave it out"
    ),
    "an adapter at a path with a comma": refused(
        one(lora=[{"profile": "a"}, {"profile": "b"}]), r".*: lora names a, whose path /m/a,b\.gguf has a comma or ",
        models={"a": {"path": "/m/a,b.gguf"}, "b": {"path": "/m/b.gguf"}},
    ),
    "numbers for names": refused(
        {0: {"model": "tiny", "port": 8600}, 1: {"model": "tiny", "port": 8600}},
        r"instances 0 and 1 on localhost share port 8600",
    ),
    "a prefix that is too long for a socket": refused(
        one(), r"the prefix '/opt/x+' on localhost is too long by 5 for supervisor's socket, whose path may have",
        prefix=f"/opt/{'x' * 73}", runtime="supervisor",
    ),
    "a long prefix without a socket": refused(one(), prefix=f"/opt/{'x' * 73}", runtime="systemd"),
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
        {"main": {"port": 8600, "models": ["tiny"]}}, r".*: models is no dict: write NAME: VALUE below it"
    ),
    "an adapter that is none": refused(one(lora=["tiny"]), r".*: lora holds what is no dict: write each item"),
    "variables in a list": refused(one(environment=["A=1"]), r".*: environment is no dict: write NAME: VALUE below it"),
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
    "a prefix with a quote": refused(
        one(),
        r"the prefix '/opt/it's' on localhost holds a character that is special to supervisor: .* and spaces only",
        prefix="/opt/it's",
    ),
    "a prefix with a space for units": refused(
        one(runtime="systemd"),
        r"the prefix '/opt/my llamas' on localhost holds .* special to supervisor or systemd: use .* \+ only",
        prefix="/opt/my llamas",
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
