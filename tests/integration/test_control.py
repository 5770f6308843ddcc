"""Deploying and looking after servers from the command line: real Ansible, real servers, this machine as two hosts.

The tests go through an operator's day, and each also runs alone: what it needs of the day before, it deploys.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from nexus_tasks.records import store
from tests.bed import Bed
from tests.conftest import ROOT, ansible, free_port, server_of, wait_for
from tests.support.tools import supervisor_tools

Row = dict[str, Any]


@dataclass(frozen=True)
class Operator:
    """Somebody at a terminal in a folder, with an inventory: ``rig`` is in gpu-hosts, ``localhost`` in local."""

    folder: Path
    inventory: Path

    def command(self, module: str, *arguments: str) -> subprocess.Popen[str]:
        """Begin a task module as its nox session does."""
        return subprocess.Popen(
            [sys.executable, "-m", f"nexus_tasks.{module}", *arguments],
            cwd=self.folder,
            env={
                **os.environ, "PYTHONPATH": str(ROOT), "NEXUS_INVENTORY": str(self.inventory), "COLUMNS": "80",
                "TERM": "dumb",
            },
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def runs(self, module: str, *arguments: str, status: int = 0) -> tuple[str, str]:
        """Run one to its end, which must have this exit status: what it printed, and its errors."""
        process = self.command(module, *arguments)
        stdout, stderr = process.communicate()
        assert process.returncode == status, stdout + stderr
        assert "Traceback" not in stdout + stderr
        return stdout, stderr

    def status(self, pattern: str = "rig", status: int = 0) -> dict[str, Row]:
        """What ``status --json`` says, by HOST/INSTANCE."""
        stdout, _ = self.runs("control", "status", "--json", pattern, status=status)
        return {f"{row['host']}/{row['name']}": row for row in json.loads(stdout)}

    def declare(self, host: str, **options: Any) -> None:
        """Write the options of ``main`` on a host into the inventory."""
        path = self.inventory / "host_vars" / f"{host}.yml"
        variables = yaml.safe_load(path.read_text())
        variables["llama_server_instances"]["main"] = {
            "model": "tiny-babble", "port": variables["llama_server_instances"]["main"]["port"], "parallel": 1,
            "ctx_size": 1024, "context_shift": True, "threads": 1, **options,
        }  # fmt: skip
        path.write_text(yaml.safe_dump(variables))

    def port(self, host: str) -> int:
        variables = yaml.safe_load((self.inventory / "host_vars" / f"{host}.yml").read_text())
        return int(variables["llama_server_instances"]["main"]["port"])

    def note(self, host: str, name: str) -> Row:
        """What the host has written down of ``main``, as ``state.json``."""
        noted: Row = json.loads((self.folder / host / "instances" / "main" / name).read_text())
        return noted

    def pid(self, host: str) -> int:
        return server_of(self.folder / host / "instances" / "main")

    def context(self, host: str, link: str = "verified") -> int | None:
        """The context size of ``main`` in the generation that a link names; None where there is none."""
        try:
            argv = self.note(host, f"{link}/instance.json")["argv"]
        except FileNotFoundError:
            return None
        return int(argv[argv.index("--ctx-size") + 1])

    def serve(self, host: str, ctx_size: int) -> None:
        """Have ``main`` declared and deployed with this context; a deployment costs seconds, and may have been made."""
        self.declare(host, ctx_size=ctx_size)
        if self.context(host) != ctx_size:
            self.runs("deploy", "-l", host)


@pytest.fixture(scope="module")
def operator(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    folder = tmp_path_factory.mktemp("operator")
    inventory = folder / "inventory"
    (inventory / "host_vars").mkdir(parents=True)
    (inventory / "group_vars").symlink_to(ROOT / "group_vars")
    here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    groups = {"local": {"hosts": {"localhost": here}}, "gpu-hosts": {"hosts": {"rig": here}}}
    (inventory / "hosts.yml").write_text(yaml.safe_dump({"all": {"children": groups}}))
    operator = Operator(folder, inventory)
    for host in ("localhost", "rig"):
        own = {
            "llama_nexus_prefix": str(folder / host),
            "llama_server_user": getpass.getuser(),  # others can't enter these folders
            "llama_nexus_tools": str(supervisor_tools()),
            "llama_cpp_prefix": str(release.parent.parent),
            "llama_cpp_source": "pypi",
            "llama_cpp_require_gpu": False,
            "llama_server_runtime": "supervisor",
            "llama_server_drain_timeout": 120,
            "llama_server_instances": {"main": {"port": free_port()}},
        }
        (inventory / "host_vars" / f"{host}.yml").write_text(yaml.safe_dump(own))
        operator.declare(host)
    yield operator
    operator.runs("control", "stop", "gpu-hosts:local")


@contextlib.contextmanager
def a_long_answer(port: int) -> Iterator[None]:
    """Have the server work on a request until the block is left: with context_shift there is no other end to it."""
    done = threading.Event()

    def ask() -> None:
        body = {"prompt": "a", "n_predict": -1, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", f"http://127.0.0.1:{port}/completion", json=body, timeout=60) as answer:
            for _ in answer.iter_bytes():
                if done.is_set():
                    return

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        wait_for(lambda: httpx.get(f"http://127.0.0.1:{port}/slots").json()[0]["is_processing"], "a busy slot")
        yield
    finally:
        done.set()
        asking.join()


@pytest.fixture(scope="module")
def deployed(operator: Operator) -> str:
    """What the first deployment printed."""
    stdout, _ = operator.runs("deploy", "-l", "gpu-hosts:local")
    return stdout


def test_a_deployment_ends_with_the_proofs_and_a_line_a_host(operator: Operator, deployed: str) -> None:
    assert re.search(r"^localhost/main: changed and verified$", deployed, re.MULTILINE)
    assert re.search(r"^rig/main: changed and verified$", deployed, re.MULTILINE)
    assert len(re.findall(r"^  completion +200 +200 +ok$", deployed, re.MULTILINE)) == 2
    assert re.search(r"^localhost +changed$", deployed, re.MULTILINE)
    assert re.search(r"^rig +changed$", deployed, re.MULTILINE)


def test_it_says_where_its_record_and_its_log_are(operator: Operator, deployed: str) -> None:
    places = dict(re.findall(r"^(record|log) +(\S+)$", deployed, re.MULTILINE))
    assert "PLAY RECAP" in (operator.folder / places["log"]).read_text()
    record = store.load(operator.folder / places["record"], "deployment")
    assert record.summary
    assert record.summary.hosts.changed == 2


def test_its_output_fits_a_terminal(deployed: str) -> None:
    assert [line for line in deployed.splitlines() if len(line) > 80] == []


def test_deployed_again_nothing_changes_and_programs_get_json(operator: Operator, deployed: str) -> None:
    stdout, stderr = operator.runs("deploy", "-l", "rig", "--json")
    (row,) = json.loads(stdout)
    assert (row["host"], row["name"], row["state"], row["changed"]) == ("rig", "main", "verified", False)
    assert re.search(r"^rig +unchanged$", stderr, re.MULTILINE)


def test_a_busy_server_is_left_alone_by_a_deployment_that_changes_nothing(operator: Operator, deployed: str) -> None:
    operator.serve("rig", 1024)
    pid = operator.pid("rig")
    with a_long_answer(operator.port("rig")):
        stdout, stderr = operator.runs("deploy", "-l", "rig")
        assert operator.status("rig/main")["rig/main"]["busy"] == 1
    assert re.search(r"^  busy +1 of 1 slots +1 of 1 slots +note$", stdout, re.MULTILINE)
    assert re.search(r"^rig +unchanged$", stdout + stderr, re.MULTILINE)
    assert operator.pid("rig") == pid


def test_without_a_pattern_status_is_about_the_gpu_hosts(operator: Operator, deployed: str) -> None:
    stdout, stderr = operator.runs("control", "status")
    assert [line.split()[:3] for line in stdout.splitlines() if not line.startswith(" ")] == [
        ["INSTANCE", "STATE", "MODEL"],
        ["rig/main", "running", "tiny-babble"],
    ]
    assert f"http://127.0.0.1:{operator.port('rig')}" in stdout
    assert stderr == ""


def test_without_a_pattern_stop_asks_which(operator: Operator, deployed: str) -> None:
    _, stderr = operator.runs("control", "stop", status=1)
    assert stderr.startswith("error: stop needs a pattern of hosts")
    assert psutil.pid_exists(operator.pid("rig"))


def test_status_says_how_many_slots_are_busy(operator: Operator, deployed: str) -> None:
    with a_long_answer(operator.port("rig")):
        row = operator.status("rig/main")["rig/main"]
    assert (row["busy"], row["slots"], row["n_ctx"], row["declared"]) == (1, 1, 1024, True)
    assert row["tokens_per_second"] > 0


def test_the_playbook_shows_the_same_table(operator: Operator, deployed: str) -> None:
    shown = ansible("playbooks/status.yml", "-i", operator.inventory, "-l", "rig").stdout
    (line,) = re.findall(r"^ +main +running +tiny-babble .*$", shown, re.MULTILINE)
    assert len(line) <= 80
    assert " changed=0 " in shown


def test_each_line_of_the_logs_says_whose_it_is(operator: Operator, deployed: str) -> None:
    stdout, _ = operator.runs("control", "logs", "gpu-hosts:local", "--lines", "3")
    assert [line.partition(" | ")[0] for line in stdout.splitlines()] == ["localhost/main"] * 3 + ["rig/main"] * 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["status", "nowhere"], "the inventory has no host that matches nowhere\n hint: ansible-inventory --graph"),
        (["restart", "gpu-hosts:local", "--instance", "chat"],
         "no instance chat is deployed on these hosts; those that are: localhost/main, rig/main\n hint: nox -s status"),
        (["logs", "rig/chat"], "no instance chat is deployed on these hosts; those that are: rig/main"),
        (["rollback", "rig"], "no instance on these hosts has an earlier generation to go back to"),
        (["logs", "--lines", "0"], "--lines must be 1 or more, not 0"),
    ],
)  # fmt: skip
def test_what_does_not_exist_is_said_with_what_does(
    operator: Operator, deployed: str, arguments: list[str], message: str
) -> None:
    _, stderr = operator.runs("control", *arguments, status=1)
    assert message in stderr
    assert stderr.count("error: ") == 1


def test_check_and_diff_show_what_a_deployment_would_change(operator: Operator, deployed: str) -> None:
    operator.serve("rig", 1024)
    pid = operator.pid("rig")
    operator.declare("rig", ctx_size=2048)
    stdout, _ = operator.runs("deploy", "-l", "rig", "--check", "--diff")
    assert re.search(r'^ +- +"1024",?$', stdout, re.MULTILINE)
    assert re.search(r'^ +\+ +"2048",?$', stdout, re.MULTILINE)
    assert "rig/main: would change\n  because the declaration changed" in stdout
    assert re.search(r"^rig +would change$", stdout, re.MULTILINE)
    assert operator.pid("rig") == pid
    assert psutil.pid_exists(pid)


def test_a_deployment_that_is_interrupted_goes_on_on_the_host(operator: Operator, deployed: str) -> None:
    operator.serve("rig", 1024)
    operator.declare("rig", ctx_size=2048)
    with a_long_answer(operator.port("rig")):
        process = operator.command("deploy", "-l", "rig")
        wait_for(lambda: operator.note("rig", "state.json")["phase"] == "draining", "the switch")
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate()
        assert process.returncode == 130
        assert "what was begun on the hosts goes on there, up to a proven server: nox -s status shows it" in stderr
        row = operator.status()["rig/main"]
        assert (row["switching"], row["trouble"], row["n_ctx"]) == (True, None, 1024)
        assert "a run is switching it (draining)" in row["remark"]
    wait_for(lambda: operator.note("rig", "state.json")["phase"] == "verified", "the end of the switch")
    props = httpx.get(f"http://127.0.0.1:{operator.port('rig')}/props").json()
    assert props["default_generation_settings"]["n_ctx"] == 2048
    record = max((operator.folder / "results" / "deployment").iterdir())
    summary = store.load(record, "deployment").summary
    assert summary
    assert summary.interrupted


def test_a_deployment_that_fails_says_so_and_that_the_old_server_is_back(operator: Operator, deployed: str) -> None:
    serves = operator.context("rig")
    operator.declare("rig", ctx_size=serves, extra_args=["--override-kv", "llama.block_count=int:99"])
    stdout, stderr = operator.runs("deploy", "-l", "rig", status=1)
    assert "rig/main: FAILED; the old server was not touched" in stdout
    assert re.search(r"^rig +failed$", stdout, re.MULTILINE)
    assert stderr.startswith("error: rig: instance main does not serve what was declared: ")
    assert "lines of its log" in stderr
    row = operator.status()["rig/main"]
    assert (row["state"], row["n_ctx"], row["trouble"]) == ("running", serves, None)
    assert row["remark"].startswith("the last deployment failed its trial, and this server served on")


def test_rollback_goes_back_and_forth_between_two_proven_servers(operator: Operator, deployed: str) -> None:
    if operator.context("rig", "previous") is None:
        operator.serve("rig", 2048)
    for n_ctx in (operator.context("rig", "previous"), operator.context("rig")):
        stdout, _ = operator.runs("control", "rollback", "rig/main")
        assert "rig/main: changed and verified" in stdout
        assert re.search(rf"^  context per slot +{n_ctx} +{n_ctx} +ok$", stdout, re.MULTILINE)


def test_restart_in_check_mode_touches_nothing(operator: Operator, deployed: str) -> None:
    pid = operator.pid("rig")
    shown = ansible("playbooks/restart.yml", "-i", operator.inventory, "-l", "rig", "--check").stdout
    assert "main: running, would change" in shown
    assert " changed=1 " in shown
    assert operator.pid("rig") == pid
    assert psutil.pid_exists(pid)


def test_restart_stops_at_the_first_host_that_fails(operator: Operator, deployed: str) -> None:
    pid = operator.pid("localhost")
    # The proof reads the file's hash again: no server that starts now is what was declared.
    model = operator.folder / "rig" / "models" / "tiny-babble.gguf"
    content = model.read_bytes()
    model.chmod(0o644)
    model.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    _, stderr = operator.runs("control", "restart", "gpu-hosts:local", status=1)
    assert stderr.startswith("error: rig: instance main does not serve what was declared: model sha256")
    assert operator.pid("localhost") == pid
    assert operator.status(status=1)["rig/main"]["trouble"].startswith("the last deployment failed, and")
    model.write_bytes(content)
    assert "rig/main: changed and verified" in operator.runs("control", "start", "rig/main")[0]


def test_stopped_is_as_it_should_be_and_dead_is_not(operator: Operator, deployed: str) -> None:
    assert operator.runs("control", "stop", "rig/main")[0].splitlines()[-1] == "rig/main: stopped"
    assert operator.runs("control", "stop", "rig")[0].splitlines()[-1] == "rig/main: was not running"
    row = operator.status()["rig/main"]
    assert (row["state"], row["trouble"]) == ("stopped", None)
    assert "rig/main: changed and verified" in operator.runs("control", "start", "rig")[0]

    # As after a reboot: nothing starts supervisord with the host.
    supervisord = int((operator.folder / "rig" / "instances" / "supervisord.pid").read_text())
    server = operator.pid("rig")
    for pid in (supervisord, server):
        psutil.Process(pid).kill()
    wait_for(lambda: not psutil.pid_exists(server) or is_zombie(server), "the end of the server")
    stdout, _ = operator.runs("control", "status", "rig", status=1)
    assert re.search(r"^rig/main +DOWN ", stdout, re.MULTILINE)
    assert "it should run: start it" in stdout
    assert "rig/main: changed and verified" in operator.runs("control", "start", "rig/main")[0]


def is_zombie(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    return True


def test_a_host_out_of_reach_is_shown_and_the_others_still_are(operator: Operator, deployed: str) -> None:
    gone = operator.folder / "gone.ini"
    gone.write_text("[gpu-hosts]\ngone ansible_host=127.0.0.1 ansible_port=1 ansible_connection=ssh\n")
    both = Operator(operator.folder, Path(f"{operator.inventory},{gone}"))
    stdout, stderr = both.runs("control", "status", "gpu-hosts", status=1)
    assert stderr == ""
    assert re.search(r"^gone +UNREACHABLE ", stdout, re.MULTILINE)
    assert re.search(r"^rig/main +running ", stdout, re.MULTILINE)
    assert "connect to host 127.0.0.1 port 1" in " ".join(stdout.split())


def test_a_host_whose_key_nobody_has_confirmed_is_refused_and_not_waited_for(
    operator: Operator, deployed: str, bed: Bed, tmp_path: Path
) -> None:
    def asked(known_hosts: Path, status: int) -> str:
        options = f"-o UserKnownHostsFile={known_hosts} -o GlobalKnownHostsFile=/dev/null"
        declared = host.inventory(ansible_ssh_common_args=options, llama_server_instances={})["all"]["hosts"]
        hosts = tmp_path / "hosts.json"
        hosts.write_text(json.dumps({"all": {"children": {"gpu-hosts": {"hosts": declared}}}}))
        both = Operator(operator.folder, Path(f"{operator.inventory},{hosts}"))
        return both.runs("control", "status", host.name, status=status)[0]

    with bed.host("plain", "stranger") as host:
        refused = asked(tmp_path / "nobody", status=1)
        assert "UNREACHABLE" in refused
        assert "Host key verification failed" in " ".join(refused.split())
        scan = ["ssh-keyscan", "-T", "10", host.address]
        confirmed = tmp_path / "confirmed"
        confirmed.write_text(subprocess.run(scan, capture_output=True, text=True, check=True).stdout)
        assert asked(confirmed, status=0) == "stranger: nothing is deployed\n"


def test_status_compares_with_what_is_declared_and_needs_no_key_for_it(operator: Operator, deployed: str) -> None:
    path = operator.inventory / "host_vars" / "rig.yml"
    declared = path.read_text()
    variables = yaml.safe_load(declared)
    main = variables["llama_server_instances"].pop("main")
    variables["llama_server_instances"]["other"] = {**main, "api_keys": {"ops": "{{ key_of_somebody_else }}"}}
    path.write_text(yaml.safe_dump(variables))
    rows = operator.status()
    path.write_text(declared)
    assert rows["rig/main"]["declared"] is False
    assert rows["rig/other"]["state"] == "not deployed"
