"""What role llama_server makes of declared instances, before it touches a host, and what llama-server makes of that."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from gguf import GGUFWriter

from nexus_tasks.fleet.server_options import rules
from nexus_tasks.model_store import tiny_model
from tests import pin
from tests.conftest import ROOT, ansible, free_port

TEMPLATES = ROOT / "templates" / "chat"
KEY, OTHER_KEY = "sesame-0b9f2c-4417", "7f3d9a51c2e84b06"
GIB = 1024**3
Instances = dict[str, Any]


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


def of_models(flags: Mapping[str, Any]) -> dict[str, Any]:
    """A value for each option that a router's model takes, but for one of two that exclude each other."""
    theirs = set(flags) - set(rules().router_options) - {"chat_template", "reranking"}
    return {name: some_value(name, rules().specs["instance"][name]) for name in flags if name in theirs}


def declared_instances() -> Instances:
    """Instances that between them say everything that an instance can."""
    flags = rules().flags
    alone = {"models", "models_max", "models_autoload", "embeddings", "reranking", "pooling"}
    whole = {name: some_value(name, rules().specs["instance"][name]) for name in flags if name not in alone}
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
        "--cors-origins", "localhost",
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
        for name, entry in rules().flags.items()
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
    assert declared.config("router")["environment"]["LLAMA_ARG_API_KEY_FILE"] == "@keys"
    assert "LLAMA_ARG_API_KEY_FILE" not in declared.config("all-router")["environment"]  # it has no keys
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
        **{
            name: str(folder / value[1:]) if value[:1] == "@" else value
            for name, value in config["environment"].items()
        },
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


@pytest.mark.parametrize(("name", "read"), [("bare", False), ("main", True)])
def test_a_page_of_another_origin_reads_only_what_needs_a_key(
    declared: Declared, name: str, read: bool, tmp_path: Path
) -> None:
    with serving(declared, name, tmp_path) as client:
        strange, own = (
            client.get("/v1/models", headers={"Origin": origin}).headers.get("Access-Control-Allow-Origin")
            for origin in ("https://page.example", "http://localhost:3000")
        )
    assert (strange == "https://page.example", own) == (read, "http://localhost:3000")


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
        loaded = next(model["status"]["args"] for model in client.get("/v1/models").json()["data"]
                      if model["status"]["value"] == "loaded")  # fmt: skip
        child = f"http://127.0.0.1:{loaded[loaded.index('--port') + 1]}"
        past_the_router = httpx.post(f"{child}/completion", json={"prompt": "a", "n_predict": 1}).status_code
    assert sorted(model["id"] for model in models) == ["chat/a.1", "embed"]
    assert {model["id"]: model["status"]["value"] for model in models}["chat/a.1"] in ("loading", "loaded")
    assert (answer.status_code, vectors.status_code) == (200, 200)
    assert props["default_generation_settings"]["n_ctx"] == 512
    assert props["default_generation_settings"]["params"]["temperature"] == pytest.approx(0.1)
    assert (without_key, past_the_router) == (401, 401)


def test_a_router_knows_every_option_of_its_models(declared: Declared, tmp_path: Path) -> None:
    with serving(declared, "all-router", tmp_path) as client:
        (model,) = client.get("/v1/models").json()["data"]
    given = set(model["status"]["args"])
    spelled = rules().other_spellings
    flags = rules().flags
    spellings = {
        name: {flags[name] if isinstance(flags[name], str) else flags[name][0], *spelled.get(name, [])}
        for name in of_models(flags)
    }
    assert [name for name, any_of in spellings.items() if not given & any_of] == []
