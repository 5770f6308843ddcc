"""Role llama_server with a real supervisord and real llama-servers."""

from __future__ import annotations

import getpass
import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import ansible, changed, free_port, one_thread, said, server_of, wait_for

KEY = "sesame-0b9f2c-opens"
Instances = dict[str, dict[str, Any]]


@dataclass
class Host:
    """A prefix of this machine that servers are deployed to, and what was deployed last."""

    prefix: Path
    variables: dict[str, Any]
    deployed: Instances = field(default_factory=dict)

    def deploy(self, instances: Instances, **variables: Any) -> str:
        """Run the role for these instances, and return what Ansible printed."""
        output = self.run(instances, check=True, **variables)
        self.deployed = instances
        return output

    def run(self, instances: Instances, *arguments: str, check: bool = False, **variables: Any) -> str:
        """Run the role where it may fail, or in check mode."""
        given = {**self.variables, **variables, "llama_server_instances": one_thread(instances)}
        options = ["tests/roles/llama_server.yml", "-l", "local", "-e", json.dumps(given), *arguments]
        return ansible(*options, check=check).stdout

    def with_changed(self, name: str, **options: Any) -> Instances:
        """What was deployed last, with other options for one instance."""
        return {**self.deployed, name: {**self.deployed[name], **options}}

    def instance(self, name: str) -> dict[str, Any]:
        """What is deployed under a name."""
        found: dict[str, Any] = json.loads((self.prefix / "instances" / name / "verified/instance.json").read_text())
        return found

    def pid(self, name: str) -> int:
        """The process of an instance."""
        return server_of(self.prefix / "instances" / name)

    def stop(self) -> None:
        """End everything that runs below the prefix."""
        ansible("playbooks/stop.yml", "-l", "local", "-e", f"llama_nexus_prefix={self.prefix}")


@pytest.fixture(scope="module")
def host(release: Path, small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    prefix = tmp_path_factory.mktemp("prefix")
    twin = prefix / "twin.gguf"
    shutil.copyfile(small_model, twin)
    models = {
        name: {
            "path": str(path), "size_bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for name, path in (("tiny", small_model), ("twin", twin))
    }  # fmt: skip
    manifest = json.loads((release / "manifest.json").read_text())
    variables = {
        "llama_nexus_prefix": str(prefix),
        "llama_server_user": getpass.getuser(),  # others can't enter these folders
        "llama_cpp_release": {"name": release.name, "path": str(release), "manifest": manifest},
        "llama_models": {"tiny": {"path": models["tiny"]["path"]}},
        "llama_own_models": {
            "twin": {"path": str(twin), "recommended": {"batch_size": 256, "ctx_size": 9000, "n_gpu_layers": 99}}
        },
        "gguf_model_files": models,
    }
    host = Host(prefix, variables)
    yield host
    host.stop()


@pytest.fixture(scope="module")
def served(host: Host) -> dict[str, Any]:
    """Two instances, deployed twice; ``first`` and ``second`` are what Ansible printed."""
    instances: Instances = {
        "main": {
            "model": "tiny", "port": free_port(), "api_keys": {"ops": KEY}, "ctx_size": 4000, "parallel": 1,
            "flash_attn": True, "metrics": True, "slots": False, "embeddings": False, "warmup": True,
            "ui": False, "extra_args": ["--seed", 7],
        },
        # Numbers as strings, as templates give them.
        "other": {"model": "twin", "port": free_port(), "ctx_size": "2048", "parallel": "2"},
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as shell:
        shell.setenv("LLAMA_ARG_THREADS", "7")  # llama-server would take it for an option
        first = host.deploy(instances)
    second = host.deploy(instances)
    return {"instances": instances, "first": first, "second": second}


def test_a_second_run_changes_nothing(served: dict[str, Any]) -> None:
    assert changed(served["first"]) > 0
    assert changed(served["second"]) == 0


# flash_attn is declared as YAML reads an unquoted on.
def test_the_server_runs_with_exactly_what_was_declared(host: Host, served: dict[str, Any], release: Path) -> None:
    argv = Path(f"/proc/{host.pid('main')}/cmdline").read_text().split("\0")[:-1]
    assert argv == host.instance("main")["argv"]
    flags = set(itertools.pairwise(argv))
    assert argv[0] == str(release / "bin" / "llama-server")
    assert flags >= {
        ("--model", host.variables["gguf_model_files"]["tiny"]["path"]), ("--alias", "tiny"),
        ("--host", "127.0.0.1"), ("--port", str(served["instances"]["main"]["port"])), ("--log-verbosity", "4"),
        ("--ctx-size", "4000"), ("--parallel", "1"), ("--flash-attn", "on"), ("--seed", "7"),
        ("--api-key-file", f"{host.prefix}/instances/main/generations/{host.instance('main')['id']}/keys"),
    }  # fmt: skip
    switches = {word for word in argv if word.startswith("--")} - {flag for flag, value in flags if value[0] != "-"}
    assert switches == {"--metrics", "--no-slots", "--no-ui", "--warmup"}


def test_a_server_has_what_its_model_recommends_beneath_what_is_declared(host: Host, served: dict[str, Any]) -> None:
    flags = set(itertools.pairwise(host.instance("other")["argv"]))
    assert flags >= {("--batch-size", "256"), ("--ctx-size", "2048"), ("--parallel", "2")}
    assert "--n-gpu-layers" not in host.instance("other")["argv"]  # this host has no GPU


def test_options_from_the_environment_of_who_deployed_do_not_reach_the_server(
    host: Host, served: dict[str, Any]
) -> None:
    assert "LLAMA_ARG_" not in Path(f"/proc/{host.pid('main')}/environ").read_text()


def test_the_key_opens_the_server_and_stands_in_its_own_file_only(host: Host, served: dict[str, Any]) -> None:
    url = host.instance("main")["local_url"]
    assert httpx.get(f"{url}/props").status_code == 401
    assert httpx.get(f"{url}/props", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
    keys = host.prefix / "instances/main/generations" / host.instance("main")["id"] / "keys"
    assert keys.stat().st_mode & 0o777 == 0o600
    files = [path for path in host.prefix.rglob("*") if path.is_file() and path.suffix != ".gguf"]
    found = {path.resolve() for path in files if KEY in path.read_text(errors="replace")}
    assert found == {keys.resolve()}
    assert KEY not in served["first"]


def test_another_key_restarts_its_instance_and_no_other(host: Host, served: dict[str, Any]) -> None:
    before = host.pid("main"), host.pid("other")
    assert changed(host.deploy(host.with_changed("main", api_keys={"ops": "a-newer-key-0b9f2c"}))) > 0
    url = host.instance("main")["local_url"]
    assert httpx.get(f"{url}/props", headers={"Authorization": f"Bearer {KEY}"}).status_code == 401
    assert httpx.get(f"{url}/props", headers={"Authorization": "Bearer a-newer-key-0b9f2c"}).status_code == 200
    assert host.pid("main") != before[0]
    assert host.pid("other") == before[1]


def test_a_killed_server_comes_back_by_itself_and_is_proven(host: Host, served: dict[str, Any]) -> None:
    killed = host.pid("main")
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: host.pid("main") not in (0, killed), "supervisor to start the server again")
    assert changed(host.deploy(host.deployed)) == 0


def test_check_mode_shows_the_command_and_touches_nothing(host: Host, served: dict[str, Any]) -> None:
    before = host.instance("other"), host.pid("other")
    output = host.run(host.with_changed("other", ctx_size=8192), "--check", "--diff")
    assert changed(output) > 0
    assert re.search(r'^\+\s+"8192",', output, re.MULTILINE)
    assert (host.instance("other"), host.pid("other")) == before


def test_a_port_of_another_process_is_named_and_the_old_server_stays(host: Host, served: dict[str, Any]) -> None:
    before = host.pid("other"), host.instance("other")
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        port = squatter.getsockname()[1]
        message = said(host.run(host.with_changed("other", port=port)))
    assert f"port {port} on 127.0.0.1 is taken by process {os.getpid()} (" in message
    assert "give instance other another" in message
    assert (host.pid("other"), host.instance("other")) == before


def test_an_argument_that_the_server_refuses_is_said_before_anything_is_touched(
    host: Host, served: dict[str, Any]
) -> None:
    before = host.pid("main")
    broken = {"model": "tiny", "port": free_port(), "extra_args": ["--rope-freq-base", "x"]}
    message = said(host.run({**host.deployed, "broken": broken}))
    assert "instance broken: llama-server of release" in message
    assert 'refuses the command line: error while handling argument "--rope-freq-base": ' in message
    assert host.pid("main") == before
    assert not (host.prefix / "instances/broken").exists()


def test_a_server_that_can_not_start_is_shown_with_the_end_of_its_log_and_stopped(
    host: Host, served: dict[str, Any]
) -> None:
    broken = {"model": "tiny", "port": free_port(), "extra_args": ["--override-kv", "llama.block_count=int:99"]}
    message = said(host.run({**host.deployed, "broken": broken}))
    assert "instance broken does not serve what was declared: the server ends while it starts" in message
    assert "there was nothing proven to go back to" in message
    assert "error loading model" in message
    assert not (host.prefix / "instances/broken/verified").exists()
    assert "broken" not in (host.prefix / "instances/supervisord.conf").read_text()
    host.run(host.deployed, check=True, llama_server_prune=True)


# Without a trial: in fleet/test_runtimes.py.
@pytest.mark.parametrize("trial", ["always", pytest.param("never", marks=pytest.mark.soak)])
def test_the_old_server_serves_on_when_the_new_one_can_not_start(
    host: Host, served: dict[str, Any], trial: str
) -> None:
    before, pid = host.instance("other"), host.pid("other")
    broken = host.with_changed("other", extra_args=["--override-kv", "llama.block_count=int:99"])
    message = said(host.run(broken, llama_server_trial=trial))
    if trial == "always":
        assert "the old one never stopped serving" in message
        assert host.pid("other") == pid
    else:
        assert "the old one was restored and proven" in message
    assert host.instance("other") == before
    assert httpx.get(f"{before['local_url']}/health").status_code == 200
    assert changed(host.deploy(host.deployed)) == 0


def test_routers_embeddings_and_reranking_are_proven_by_what_they_serve(host: Host, served: dict[str, Any]) -> None:
    models = {"a": {"model": "tiny", "ctx_size": 512}, "b": {"model": "twin", "ctx_size": 512}}
    more: Instances = {
        "router": {"port": free_port(), "models": models, "models_max": 1, "api_keys": {"ops": KEY}},
        "embed": {"model": "tiny", "port": free_port(), "embeddings": True, "ctx_size": 512, "pooling": "mean"},
        "rank": {"model": "tiny", "port": free_port(), "reranking": True, "ctx_size": 512},
    }
    output = host.run({**host.deployed, **more}, check=True)
    for check in ("models", "a completes", "a prompt", "b completes", "b prompt", "embedding", "reranking"):
        assert re.search(rf"^ +{check} .* ok$", output, re.MULTILINE), check
    assert changed(host.run({**host.deployed, **more}, check=True)) == 0
    host.run(host.deployed, check=True, llama_server_prune=True)


# After what needs both.
def test_an_instance_that_is_no_longer_declared_is_stopped_where_that_is_wanted(
    host: Host, served: dict[str, Any]
) -> None:
    url = host.instance("other")["local_url"]
    main = {"main": host.deployed["main"]}
    output = host.run(main, check=True)
    assert "instance other runs here and is not declared: declare it, or set llama_server_prune: true" in output
    assert changed(output) == 0
    assert httpx.get(f"{url}/health").status_code == 200
    host.deploy(main, llama_server_prune=True)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")
    assert not (host.prefix / "instances/other").exists()


def test_servers_that_outlived_supervisor_make_way_for_a_deployment(host: Host, served: dict[str, Any]) -> None:
    orphan = host.pid("main")
    supervisord = int((host.prefix / "instances" / "supervisord.pid").read_text())
    os.kill(supervisord, signal.SIGKILL)
    host.deploy({"main": host.deployed["main"]})
    assert host.pid("main") != orphan
