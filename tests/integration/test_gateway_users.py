"""Users of a deployed gateway on this machine: keys, limits, usage; through HAProxy and a real server."""

from __future__ import annotations

import getpass
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from plugins.module_utils.service import pids
from tests.conftest import ROOT, ansible, changed, free_port, said, wait_for
from tests.support.haproxy import needs_haproxy
from tests.support.tools import give_tools, supervisor_tools

pytestmark = needs_haproxy

KEYS = {
    "alice": "b6f3a1c09d5e42778c1f0aa93be4d651", "bob": "77d0e95a4c2b418fb3a6c8d21f90e354",
    "carol": "0f7ac4be21d84b73a9e06d5513c8f2aa", "dave": "d1c46a08be5f4a0c8c33fe02915b7743",
}  # fmt: skip
OF_GATEWAY = "5d1cbe07a7f4439f83b0c2e96ad81f00"
LIMITS: dict[str, dict[str, Any]] = {
    "alice": {}, "bob": {"requests_per_minute": 3}, "carol": {"tokens_per_day": 40},
    "dave": {"concurrent_requests": 1, "models": ["tiny-babble"]},
}  # fmt: skip
COMPLETIONS = "/v1/completions"


@dataclass
class Gateway:
    """A gateway of this machine, with an inventory that declares it."""

    folder: Path
    port: int
    server_port: int

    @property
    def root(self) -> Path:
        return self.folder / "prefix" / "gateway"

    def declare(self, users: dict[str, Any]) -> None:
        path = self.folder / "inventory" / "host_vars" / "localhost.yml"
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "gateway_users": users}))

    def apply(self, *options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return ansible("playbooks/gateway.yml", "-i", self.folder / "inventory", "-l", "local", *options, check=check)

    def ask(self, user: str | None, path: str = COMPLETIONS, **body: Any) -> httpx.Response:
        """Ask by a user's key, or by any other."""
        key = KEYS.get(user or "", user)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        asked = {"model": "tiny-babble", "prompt": "once", "max_tokens": 4, **body}
        return httpx.post(f"http://127.0.0.1:{self.port}{path}", json=asked, headers=headers, timeout=60)

    def workers(self) -> set[int]:
        """Processes of HAProxy."""
        return set(pids.with_argument(str(self.root / "haproxy.cfg")))

    def usage(self, *words: str) -> dict[str, Any]:
        """What ``nox -s usage --json`` says, by user."""
        done = subprocess.run(
            [sys.executable, "-m", "nexus_tasks.usage", "--json", "--by", "user", *words], cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "NEXUS_INVENTORY": str(self.folder / "inventory")},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return {row["user"]: row for row in json.loads(done.stdout)["rows"]}


def users(*without: str, **more: dict[str, Any]) -> dict[str, Any]:
    told = {name: {"key": KEYS[name], **LIMITS[name]} for name in KEYS if name not in without}
    return {**told, **more}


@pytest.fixture(scope="module")
def gateway(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("gw")
    inventory = folder / "inventory"
    (inventory / "host_vars").mkdir(parents=True)
    (inventory / "group_vars").symlink_to(ROOT / "group_vars")
    here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    groups = {"local": {"hosts": {"localhost": here}}, "gpu-hosts": {"hosts": {}}}
    (inventory / "hosts.yml").write_text(yaml.safe_dump({"all": {"children": groups}}))
    made = Gateway(folder, free_port(), free_port())
    give_tools(made.root)
    own = {
        "llama_nexus_prefix": str(folder / "prefix"), "llama_server_user": getpass.getuser(),
        "llama_nexus_tools": str(supervisor_tools()), "llama_cpp_prefix": str(release.parent.parent),
        "llama_cpp_source": "pypi", "llama_cpp_require_gpu": False, "gateway_enabled": True,
        "gateway_runtime": "supervisor", "gateway_port": made.port, "gateway_users": users(),
        "llama_server_instances": {"main": {
            "model": "tiny-babble", "port": made.server_port, "parallel": 4, "ctx_size": 4096, "threads": 1,
            "context_shift": True,
            "api_keys": {"gateway": OF_GATEWAY},
        }},
    }  # fmt: skip
    (inventory / "host_vars" / "localhost.yml").write_text(yaml.safe_dump(own))
    try:
        ansible("deploy.yml", "-i", inventory, "-l", "local")
        yield made
    finally:
        ansible("playbooks/gateway.yml", "-i", inventory, "-l", "local", "-e", "gateway_enabled=false", check=False)
        ansible("playbooks/stop.yml", "-i", inventory, "-l", "local", check=False)


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_a_user_is_known_by_the_key_which_the_server_never_gets(gateway: Gateway) -> None:
    assert gateway.ask("alice").status_code == httpx.codes.OK
    anthropic = {"messages": [{"role": "user", "content": "once"}]}
    asked = {"model": "tiny-babble", "max_tokens": 4, **anthropic}
    answer = httpx.post(
        f"http://127.0.0.1:{gateway.port}/v1/messages", json=asked, headers={"X-Api-Key": KEYS["alice"]}, timeout=60
    )
    assert answer.status_code == httpx.codes.OK
    direct = f"http://127.0.0.1:{gateway.server_port}{COMPLETIONS}"
    for headers in ({}, {"Authorization": f"Bearer {KEYS['alice']}"}):
        assert httpx.post(direct, json={"prompt": "a"}, headers=headers).status_code == httpx.codes.UNAUTHORIZED


@pytest.mark.parametrize("key", [None, "wrong", "", KEYS["alice"].upper(), f"{KEYS['alice']} "[:-2], "*", "alice"])
def test_who_has_no_key_gets_401_in_openais_form(gateway: Gateway, key: str | None) -> None:
    answer = gateway.ask("", headers=None) if key is None else gateway.ask(f"{key}?" if key == "alice" else key)
    assert code(answer) == (401, "invalid_api_key")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert httpx.get(f"http://127.0.0.1:{gateway.port}/v1/models").status_code == httpx.codes.UNAUTHORIZED


@pytest.mark.parametrize("user", ["alice", "dave"])
def test_users_are_told_of_their_models(gateway: Gateway, user: str) -> None:
    headers = {"Authorization": f"Bearer {KEYS[user]}"}
    listed = httpx.get(f"http://127.0.0.1:{gateway.port}/v1/models", headers=headers).json()
    assert [model["id"] for model in listed["data"]] == ["tiny-babble"]  # dave's are named one by one


def test_who_may_use_some_models_is_told_of_no_other(gateway: Gateway) -> None:
    for user, names in (("alice", True), ("dave", False)):
        answer = gateway.ask(user, model="other")
        assert code(answer) == (404, "model_not_found")
        assert ("tiny-babble" in answer.json()["error"]["message"]) == names
        headers = {"Authorization": f"Bearer {KEYS[user]}"}
        one = httpx.get(f"http://127.0.0.1:{gateway.port}/v1/models/other", headers=headers)
        assert code(one) == (404, "model_not_found")


def test_requests_of_a_minute_are_limited(gateway: Gateway) -> None:
    answers = [gateway.ask("bob") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert code(answers[-1]) == (429, "requests_per_minute")
    assert answers[-1].headers["Retry-After"] == "60"


def test_requests_at_a_time_are_limited(gateway: Gateway) -> None:
    headers = {"Authorization": f"Bearer {KEYS['dave']}"}
    asked = {"model": "tiny-babble", "prompt": "a", "max_tokens": 100_000, "ignore_eos": True, "stream": True}
    url = f"http://127.0.0.1:{gateway.port}{COMPLETIONS}"
    with httpx.stream("POST", url, json=asked, headers=headers, timeout=60) as answer:
        assert answer.status_code == httpx.codes.OK
        parts = answer.iter_bytes()  # held: without it the connection ends
        next(parts)
        second = gateway.ask("dave")
    assert code(second) == (429, "concurrent_requests")
    assert second.headers["Retry-After"] == "1"
    wait_for(lambda: gateway.ask("dave").status_code == httpx.codes.OK, "the end of the first")


def test_tokens_of_a_day_are_limited(gateway: Gateway) -> None:
    assert gateway.ask("carol", max_tokens=60).status_code == httpx.codes.OK
    wait_for(lambda: gateway.ask("carol", max_tokens=1).status_code == httpx.codes.TOO_MANY_REQUESTS, "the limit")
    answer = gateway.ask("carol", max_tokens=1)
    assert code(answer) == (429, "tokens_per_day")
    assert 0 < int(answer.headers["Retry-After"]) <= 86400
    assert code(gateway.ask("carol", response_fields=["content"])) == (400, "no_count")
    assert code(gateway.ask("carol", "/v1/rerank", query="a", texts=["b"])) == (400, "no_count")
    assert code(gateway.ask("carol", "/embeddings")) == (400, "no_count")


def test_keys_are_drawn_anew_and_withdrawn_without_a_reload(gateway: Gateway) -> None:
    before, other = gateway.workers(), "9b1f20c4d7e84a5fa3c6e5d01b7f4c88"
    gateway.declare(users("bob", alice={"key": other}, dave={"key": KEYS["dave"], "models": ["other", "tiny-babble"]}))
    refused = gateway.apply(check=False)
    assert "gateway_users.dave.models names other, which no instance serves: it has tiny-babble" in said(refused.stdout)
    assert gateway.ask("alice").status_code == httpx.codes.OK
    gateway.declare(users("bob", alice={"key": other}))
    assert "changed=1 " in gateway.apply("--check").stdout
    assert gateway.ask("alice").status_code == httpx.codes.OK
    assert changed(gateway.apply().stdout) == 1
    assert [gateway.ask(key).status_code for key in ("alice", "bob", other)] == [401, 401, 200]
    assert gateway.workers() == before
    gateway.declare(users())
    gateway.apply()
    assert changed(gateway.apply().stdout) == 0


def test_a_key_file_that_others_can_read_is_mended_loudly(gateway: Gateway) -> None:
    path = gateway.root / "maps" / "keys.map"
    path.chmod(0o644)
    output = " ".join(gateway.apply().stdout.split())
    assert f"{path} could be read by others of the host" in output
    assert path.stat().st_mode & 0o777 == 0o600


def test_usage_is_told_by_user_and_rebuilt_from_the_log(gateway: Gateway) -> None:
    before = gateway.usage().get("alice", {"completion_tokens": 0, "requests": 0})
    for _ in range(3):
        assert gateway.ask("alice", max_tokens=5, ignore_eos=True).status_code == httpx.codes.OK
    after = gateway.usage()["alice"]
    assert after["completion_tokens"] - before["completion_tokens"] == 15
    assert after["requests"] - before["requests"] == 3
    assert gateway.usage() == gateway.usage("--since", "1h")


def test_no_key_is_where_others_could_find_it(gateway: Gateway) -> None:
    shown = gateway.apply("--diff", "-vvv").stdout
    argv = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    texts = [shown, argv, *(path.read_text() for path in (gateway.root / "log").rglob("*.jsonl"))]
    texts += [path.read_text() for path in (gateway.root / "maps").iterdir() if path.name != "instance_keys.map"]
    for key in (*KEYS.values(), OF_GATEWAY):
        assert not any(re.search(key, text) for text in texts)
