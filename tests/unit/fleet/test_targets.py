"""Which servers a TARGET names, and what is said where there is no way to one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from nexus_tasks.core.errors import DeployError, EndpointDown, UsageError
from nexus_tasks.fleet import inventory, targets
from nexus_tasks.fleet.inventory import Deployed, Instance
from nexus_tasks.fleet.targets import Target
from tests.conftest import ROOT, free_port, wait_for

KNOWN: dict[str, Any] = {
    "openai": {"base_url": "https://api.example.com/", "api_key_env": "THEIR_KEY", "model": "gpt"},
    "beta": {"base_url": "http://gw:80/llm", "api_path": "v1beta/openai/"},
    "none": {"url": "http://gw"},
    "odd": {"base_url": "http://gw", "colour": "red"},
}


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "external_endpoints", lambda: KNOWN)


@pytest.mark.parametrize(
    "text", ["http://gpu1:8600", "http://gpu1:8600/", "http://gpu1:8600/v1", "http://gpu1:8600/v1/"]
)
def test_an_address_is_the_same_target_however_it_ends(text: str) -> None:
    assert targets.find([text], {}) == [Target("http://gpu1:8600", "http://gpu1:8600")]


def test_a_target_that_is_named_twice_is_measured_once() -> None:
    assert len(targets.find(["http://a:1", "http://b:1", "http://a:1/v1"], {})) == 2


def test_an_external_endpoint_brings_its_model_its_path_and_its_key_from_the_environment() -> None:
    [openai, beta] = targets.find(["@openai", "@beta"], {"THEIR_KEY": "sk-theirs", "LLAMA_NEXUS_API_KEY": "sk-ours"})
    assert (openai.base_url, openai.model, openai.api_key) == ("https://api.example.com", "gpt", "sk-theirs")
    assert (beta.base_url, beta.api_path, beta.api_key) == ("http://gw/llm", "/v1beta/openai", None)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("@nobody", "llama_endpoints has no 'nobody'", "beta, none, odd, openai"),
        ("@openai", "llama_endpoints.openai in group_vars needs an API key", "environment variable THEIR_KEY"),
        ("@none", "llama_endpoints.none in group_vars must have known keys only, not url", "give it base_url"),
        ("@odd", "llama_endpoints.odd in group_vars must have known keys only, not colour", "api_path"),
    ],
)
def test_an_external_endpoint_that_can_not_be_used_is_told(text: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        targets.find([text], {})
    assert caught.value.message == message
    assert hint in caught.value.hint


def on_loopback(*ssh: str) -> Target:
    instance = Instance("rig", "main", "http://127.0.0.1:8600", None, None, {}, [], "log", ssh=ssh)
    return Target("rig/main", instance.base_url, instance=instance)


def test_a_host_that_ssh_can_not_reach_is_told_with_what_ssh_said() -> None:
    with (
        pytest.raises(EndpointDown, match=r"^no ssh tunnel to rig: .*Connection refused") as caught,
        targets.reach(on_loopback("ssh", "-p", str(free_port()), "127.0.0.1")),
    ):
        pass
    assert "ssh 127.0.0.1 true" in caught.value.hint


def test_a_server_that_is_reached_directly_is_left_as_it_is() -> None:
    direct = Target("t", "http://gpu1:8600")
    with targets.reach(direct) as reached:
        assert reached is direct


@pytest.mark.parametrize("text", ["rig:8600", "rig.example.org:8600/v1", "[2001:db8::7]:8600"])
def test_an_address_without_its_scheme_is_told_how_to_write_it(text: str) -> None:
    with pytest.raises(UsageError, match="an address must begin with http://") as caught:
        targets.find([text], {})
    assert caught.value.hint == f"write http://{text}"


def test_a_host_that_can_not_be_asked_is_no_end_of_those_that_are_named_beside_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    instance = Instance("rig", "main", "http://rig:8600", None, None, {}, [], "log")

    def deployed(pattern: str | None) -> Deployed:
        if pattern != "rig":
            raise DeployError("nothing is deployed on gone\ngone: no route", hint="deploy first")
        return Deployed([instance], {})

    monkeypatch.setattr(inventory, "deployed", deployed)
    [there, lost] = targets.find(["rig", "gone"], {})
    assert (there.name, there.lost) == ("rig/main", None)
    assert (lost.name, lost.lost) == ("gone", "nothing is deployed on gone gone: no route")
    with pytest.raises(DeployError, match="nothing is deployed on gone"):
        targets.find(["gone"], {})


# --- tunnels: a program in the place of ssh, which listens where -L says


SSH = """#!{python}
import socket, sys, time
print("I am here", file=sys.stderr)
_, here, _ = sys.argv[sys.argv.index("-L") + 1].split(":", 2)
with socket.create_server(("127.0.0.1", int(here) + {off})):
    time.sleep(60)
"""


@pytest.fixture
def ssh(tmp_path: Path) -> Path:
    return program(tmp_path / "ssh")


def program(path: Path, off: int = 0) -> Path:
    path.write_text(SSH.format(python=sys.executable, off=off))
    path.chmod(0o755)
    return path


def running(program: Path) -> list[psutil.Process]:
    return [each for each in psutil.process_iter(["cmdline"]) if str(program) in (each.info["cmdline"] or ())]


def test_a_tunnel_leads_there_and_nothing_of_it_is_left(ssh: Path) -> None:
    with targets.tunnel([str(ssh), "rig"], "127.0.0.1:8600", "rig") as port:
        socket.create_connection(("127.0.0.1", port)).close()
        assert running(ssh)
    wait_for(lambda: not running(ssh), "the end of the tunnel", 20)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGKILL])
def test_a_tunnel_ends_with_the_process_that_opened_it_however_that_ends(ssh: Path, number: signal.Signals) -> None:
    code = (
        "import sys, time; from nexus_tasks.fleet import targets\n"
        "with targets.tunnel([sys.argv[1], 'rig'], '127.0.0.1:8600', 'rig') as port:\n"
        "    print(port, flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(ssh)], cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline()
        os.kill(process.pid, number)
    wait_for(lambda: not running(ssh), "the end of the tunnel", 20)


def test_a_port_that_another_process_got_meanwhile_is_not_taken_for_the_tunnel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "TUNNEL_SECONDS", 5.0)
    ssh = program(tmp_path / "ssh", off=1)
    with socket.create_server(("127.0.0.1", 0)) as other:
        monkeypatch.setattr(targets, "_free_port", lambda: other.getsockname()[1])
        with (
            pytest.raises(EndpointDown, match=r"^no ssh tunnel to rig: I am here"),
            targets.tunnel([str(ssh), "rig"], "127.0.0.1:8600", "rig"),
        ):
            pass
    wait_for(lambda: not running(ssh), "the end of the tunnel", 20)


def test_a_machine_without_ssh_is_told() -> None:
    with (
        pytest.raises(EndpointDown, match=r"^no ssh tunnel to rig: .*/nowhere/ssh.*not found"),
        targets.tunnel(["/nowhere/ssh", "rig"], "127.0.0.1:8600", "rig"),
    ):
        pass
