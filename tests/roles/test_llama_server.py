"""Role llama_server with a real supervisord and real llama-servers."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.conftest import BIN, ROOT, ansible, free_port
from tests.roles.waiting import wait_for

ROLE = ROOT / "roles" / "llama_server"
KEY = "sesame-0b9f2c"
Instances = dict[str, dict[str, Any]]


@dataclass
class Host:
    """A prefix of this machine that servers are deployed to, and what was deployed last."""

    prefix: Path
    variables: dict[str, Any]
    deployed: Instances = field(default_factory=dict)

    def deploy(self, instances: Instances) -> str:
        """Run the role for these instances, and return what Ansible printed."""
        output = self.run(instances, check=True)
        self.deployed = instances
        return output

    def run(self, instances: Instances, *arguments: str, check: bool = False) -> str:
        """Run the role where it may fail, or in check mode."""
        variables = {**self.variables, "llama_server_instances": instances}
        options = ["tests/roles/llama_server.yml", "-l", "local", "-e", json.dumps(variables), *arguments]
        return ansible(*options, check=check).stdout

    def with_changed(self, name: str, **options: Any) -> Instances:
        """What was deployed last, with other options for one instance."""
        return {**self.deployed, name: {**self.deployed[name], **options}}

    def instance(self, name: str) -> dict[str, Any]:
        """What is deployed under a name."""
        found: dict[str, Any] = json.loads((self.prefix / "instances" / f"{name}.json").read_text())
        return found

    def pid(self, name: str) -> int:
        """The process of an instance."""
        return int(json.loads((self.prefix / "instances" / f"{name}.process").read_text())["pid"])

    def stop(self) -> None:
        """End everything that runs below the prefix."""
        ansible("playbooks/stop.yml", "-l", "local", "-e", f"llama_nexus_prefix={self.prefix}")


def changed(output: str) -> int:
    """The count of changes in Ansible's recap."""
    found = re.search(r"changed=(\d+)", output)
    assert found, output
    return int(found[1])


def error(output: str) -> str:
    """The message of the task that failed, its line breaks folded."""
    assert "fatal:" in output or "failed:" in output, output
    return " ".join(output.split())


@pytest.fixture(scope="module")
def host(release: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    prefix = tmp_path_factory.mktemp("prefix")
    twin = prefix / "twin.gguf"
    shutil.copyfile(tiny_model, twin)
    models = {
        name: {"path": str(path), "size_bytes": path.stat().st_size, "sha256": "0" * 64}
        for name, path in (("tiny", tiny_model), ("twin", twin))
    }
    manifest = json.loads((release / "manifest.json").read_text())
    variables = {
        "llama_nexus_prefix": str(prefix),
        "llama_cpp_release": {"name": release.name, "path": str(release), "manifest": manifest},
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
            "model": "tiny", "port": free_port(), "api_key": KEY, "ctx_size": 4000, "parallel": 1,
            "flash_attn": True, "metrics": True, "slots": False, "embeddings": False, "warmup": True,
            "extra_args": ["--no-ui", "--seed", 7],
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
    assert argv == [
        str(release / "bin" / "llama-server"),
        "--model", host.variables["gguf_model_files"]["tiny"]["path"], "--alias", "tiny",
        "--host", "127.0.0.1", "--port", str(served["instances"]["main"]["port"]),
        "--ctx-size", "4000", "--parallel", "1", "--flash-attn", "on",
        "--metrics", "--no-slots", "--warmup",
        "--api-key-file", str(host.prefix / "instances" / "main.keys"), "--no-ui", "--seed", "7",
    ]  # fmt: skip


def test_options_from_the_environment_of_who_deployed_do_not_reach_the_server(
    host: Host, served: dict[str, Any]
) -> None:
    assert "LLAMA_ARG_" not in Path(f"/proc/{host.pid('main')}/environ").read_text()


def test_the_key_opens_the_server_and_stands_in_its_own_file_only(host: Host, served: dict[str, Any]) -> None:
    url = host.instance("main")["local_url"]
    assert httpx.get(f"{url}/props").status_code == 401
    assert httpx.get(f"{url}/props", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
    keys = host.prefix / "instances" / "main.keys"
    assert keys.stat().st_mode & 0o777 == 0o600
    files = [path for path in host.prefix.rglob("*") if path.is_file() and path.suffix != ".gguf"]
    assert [path for path in files if KEY in path.read_text(errors="replace")] == [keys]
    assert KEY not in served["first"]


def test_another_key_restarts_its_instance_and_no_other(host: Host, served: dict[str, Any]) -> None:
    before = host.pid("main"), host.pid("other")
    assert changed(host.deploy(host.with_changed("main", api_key="a-newer-key"))) > 0
    url = host.instance("main")["local_url"]
    assert httpx.get(f"{url}/props", headers={"Authorization": f"Bearer {KEY}"}).status_code == 401
    assert httpx.get(f"{url}/props", headers={"Authorization": "Bearer a-newer-key"}).status_code == 200
    assert host.pid("main") != before[0]
    assert host.pid("other") == before[1]


def test_a_killed_server_comes_back_by_itself_and_is_proven(host: Host, served: dict[str, Any]) -> None:
    killed = host.pid("main")
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: host.pid("main") != killed, "supervisor to start the server again")
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
        message = error(host.run(host.with_changed("other", port=port)))
    assert f"port {port} on 127.0.0.1 is taken by process {os.getpid()} (" in message
    assert "give instance other another port" in message
    assert (host.pid("other"), host.instance("other")) == before


def test_a_server_that_can_not_start_is_shown_with_the_end_of_its_log(host: Host, served: dict[str, Any]) -> None:
    before = host.pid("main")
    broken = {"model": "tiny", "port": free_port(), "extra_args": ["--no-such-flag"]}
    message = error(host.run({**host.deployed, "broken": broken}))
    assert "instance broken does not serve what was declared: the server ends while it starts" in message
    assert "invalid argument: --no-such-flag" in message
    assert host.pid("main") == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": {"name": "gpt-oss", "path": "/nowhere"}}, "model id: expected ['gpt-oss'], found ['twin']"),
        ({"ctx_size": 32768}, "context per slot: expected 16384, found 1024"),
        ({"parallel": 4}, "slots: expected 4, found 2"),
        ({"argv": ["llama-server"]}, "command line: expected ['llama-server'], found"),
        ({"release": {"commit": "f" * 40}}, "build: expected fffffffff, found b11312-0c1e57098"),
    ],
)
def test_the_proof_names_what_is_not_as_declared(
    host: Host, served: dict[str, Any], change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    declared = tmp_path / "instance.json"
    declared.write_text(json.dumps({**host.instance("other"), **change}))
    verify = ["-M", str(ROLE / "library"), "-m", "llama_server_verify", "-a", f"instance={declared}"]
    done = subprocess.run(
        [BIN / "ansible", "localhost", *verify], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert said in done.stdout


# After what needs both.
def test_an_instance_that_is_no_longer_declared_is_stopped(host: Host, served: dict[str, Any]) -> None:
    url = host.instance("other")["local_url"]
    host.deploy({"main": host.deployed["main"]})
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")
    assert list(host.prefix.glob("instances/other.*")) == []


def test_servers_that_outlived_supervisor_make_way_for_a_deployment(host: Host, served: dict[str, Any]) -> None:
    orphan = host.pid("main")
    supervisord = int((host.prefix / "instances" / "supervisord.pid").read_text())
    os.kill(supervisord, signal.SIGKILL)
    host.deploy({"main": host.deployed["main"]})
    assert host.pid("main") != orphan


CASES: dict[str, tuple[Instances, str]] = {
    "right": ({"main": {"model": "tiny", "port": 8600, "flash_attn": "on"}}, ""),
    "unknown option": (
        {"main": {"model": "tiny", "port": 8600, "ctx_sise": 1}},
        r"instance main on localhost: ctx_sise\. Supported parameters include: .*ctx_size.*roles/llama_server/README",
    ),
    "wrong type": (
        {"main": {"model": "tiny", "port": 8600, "ctx_size": "plenty"}},
        r"instance main on localhost: .*ctx_size.*plenty.*int",
    ),
    "a value that is none of the choices": (
        {"main": {"model": "tiny", "port": 8600, "cache_type_k": "q3_0"}},
        r"instance main on localhost: value of cache_type_k must be one of: f32, f16.* got: q3_0",
    ),
    "no port": ({"main": {"model": "tiny"}}, r"instance main on localhost: missing required arguments: port"),
    "one port": (
        {"a": {"model": "tiny", "port": 8600}, "b": {"model": "tiny", "port": 8600}},
        r"the ports on localhost \(a: 8600, b: 8600\): give each instance one of its own",
    ),
    "no port at all": (
        {"a": {"model": "tiny", "port": 99999}},
        r"the ports on localhost \(a: 99999\): .* from 1 to 65535",
    ),
    "a typo beside a key": (
        {"main": {"model": "tiny", "port": 8600, "api_key": KEY, "ctx_sise": 1}},
        r"instance main on localhost: ctx_sise\. Supported",
    ),
    "an address among the arguments": (
        {"main": {"model": "tiny", "port": 8600, "extra_args": ["--host", "::", "-c", 512]}},
        r"extra_args of instance main on localhost hold --host, -c: use the option for it",
    ),
    "a name with a slash": (
        {"a/b": {"model": "tiny", "port": 8600}},
        r"instance name 'a/b' on localhost: use lower-case letters, digits and hyphens",
    ),
    "open without a key": (
        {"main": {"model": "tiny", "port": 8600, "host": "0.0.0.0"}},  # noqa: S104 - what is refused
        r"instance main on localhost listens on 0\.0\.0\.0 without a key: set api_key",
    ),
    "an empty key": (
        {"main": {"model": "tiny", "port": 8600, "api_key": ""}},
        r"the api_key of instance main on localhost is empty: set the variable",
    ),
    "a key among the arguments": (
        {"main": {"model": "tiny", "port": 8600, "extra_args": ["--api-key=secret"]}},
        r"extra_args of instance main on localhost hold --api-key: use the option for it",
    ),
}


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    answer = tmp_path_factory.mktemp("refusals") / "said.json"
    variables = {"cases": {name: instances for name, (instances, _) in CASES.items()}, "refusals_file": str(answer)}
    done = ansible("tests/roles/llama_server_refusals.yml", "-l", "local", "-v", "-e", json.dumps(variables))
    assert KEY not in done.stdout
    said: dict[str, str] = json.loads(answer.read_text())
    return said


@pytest.mark.parametrize("name", CASES)
def test_what_can_not_be_right_is_refused_in_one_line_with_the_remedy(refusals: dict[str, str], name: str) -> None:
    expected = CASES[name][1]
    assert "\n" not in refusals[name]
    assert re.match(expected or "$", refusals[name]), refusals[name]


def test_every_flag_of_the_table_is_one_of_the_pinned_server(llama_server_bin: Path) -> None:
    helped = subprocess.run([llama_server_bin, "--help"], capture_output=True, text=True, check=True).stdout
    known = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", helped))
    table: dict[str, str | list[str | None]] = yaml.safe_load((ROLE / "vars" / "main.yml").read_text())[
        "__llama_server_flags"
    ]
    used = {flag for entry in table.values() for flag in ([entry] if isinstance(entry, str) else entry) if flag}
    assert used - known == set()


def instance_options() -> dict[str, Any]:
    specs = yaml.safe_load((ROLE / "meta" / "argument_specs.yml").read_text())["argument_specs"]
    options: dict[str, Any] = specs["instance"]["options"]
    return options


def test_extra_args_may_not_repeat_an_option_in_any_spelling(llama_server_bin: Path) -> None:
    helped = subprocess.run([llama_server_bin, "--help"], capture_output=True, text=True, check=True).stdout
    variables = yaml.safe_load((ROLE / "vars" / "main.yml").read_text())
    table = [entry if isinstance(entry, list) else [entry] for entry in variables["__llama_server_flags"].values()]
    said = {flag for entry in table for flag in entry if flag} | {"--model", "--alias", "--api-key", "--api-key-file"}
    refused = said | set(variables["__llama_server_other_spellings"])
    for line in helped.splitlines():
        spellings = re.findall(r"(?:^|, +)(--?[a-z][\w-]*)", line) if line.startswith("-") else []
        if said & set(spellings):
            assert set(spellings) - refused == set(), line


def test_every_option_of_an_instance_has_a_flag_or_a_meaning_of_its_own() -> None:
    options = instance_options()
    table = yaml.safe_load((ROLE / "vars" / "main.yml").read_text())["__llama_server_flags"]
    assert set(options) - set(table) == {"model", "api_key", "extra_args"}
    assert set(table) <= set(options)
    booleans = {name for name, spec in options.items() if spec["type"] == "bool"}
    assert {name for name, entry in table.items() if isinstance(entry, list)} == booleans


def test_the_readme_lists_every_option() -> None:
    options = instance_options()
    readme = (ROLE / "README.md").read_text()
    assert [name for name in options if f"| `{name}`" not in readme and f"`{name}` (required)" not in readme] == []
