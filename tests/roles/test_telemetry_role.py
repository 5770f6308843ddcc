"""Role telemetry's module on this machine, with supervisor and a real exporter: what hosts of the bed don't show."""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from nexus_tasks.fleet import inventory
from tests import modules
from tests.conftest import ROOT, ansible, free_port, wait_for

ROLE = ROOT / "roles/telemetry"
MODULE = ROOT / "plugins/modules/telemetry_exporter.py"
Result = dict[str, Any]


class Exporter:
    """What is declared for this machine, below a folder of the test's."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "prefix/telemetry"
        self.port = free_port()

    def have(self, *, check: bool = False, **changes: Any) -> Result:
        """Call the module as the role does, in the environment of the tests."""
        arguments = {
            "root": str(self.root), "runtime": "supervisor", "host": "127.0.0.1", "port": self.port,
            "python": sys.executable, "requirements": "of the tests", "unit": "",
            "files": {
                "exporter.py": (ROLE / "files/exporter.py").read_text(),
                "telemetry.py": (ROOT / "nexus_tasks/telemetry/sampling.py").read_text(),
            },
            "_ansible_check_mode": check, **changes,
        }  # fmt: skip
        return modules.call(MODULE, arguments, LLAMA_NEXUS_API_KEY="secret-of-who-deploys")

    def remove(self) -> None:
        """End it as somebody with a hammer would, where the module did not."""
        for process in (*self.processes("supervisord"), *self.processes("exporter.py")):
            process.kill()

    def processes(self, what: str) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter(["cmdline"]):
            words = " ".join(process.info["cmdline"] or ())
            if str(self.root) in words and what in words:
                found.append(process)
        return found

    @property
    def process(self) -> psutil.Process:
        [process] = self.processes("exporter.py")
        return process

    def metrics(self) -> str:
        return httpx.get(f"http://127.0.0.1:{self.port}/metrics").text


@pytest.fixture
def exporter(tmp_path: Path) -> Iterator[Exporter]:
    made = Exporter(tmp_path)
    yield made
    made.remove()


def test_it_is_started_once_and_left_alone_while_it_is_as_declared(exporter: Exporter) -> None:
    planned = exporter.have(check=True)
    assert planned["changed"]
    assert not exporter.root.exists()
    done = exporter.have()
    assert (done["changed"], done["runtime"], done["reasons"]) == (True, "supervisor", planned["reasons"])
    before = exporter.process.pid
    again = exporter.have()
    assert (again["changed"], again["reasons"], exporter.process.pid) == (False, [], before)
    assert exporter.metrics().startswith("# HELP llama_nexus_exporter_info")
    # Neither variables of Python's nor a home's packages run in it.
    assert exporter.process.cmdline()[1:3] == ["-E", "-s"]


@pytest.mark.parametrize(
    "change", [{"requirements": "newer"}, {"host": "localhost"}, {"files": {"exporter.py": "", "telemetry.py": ""}}]
)  # fmt: skip
def test_a_change_restarts_it_and_a_check_only_says_so(exporter: Exporter, change: dict[str, Any]) -> None:
    exporter.have()
    before = exporter.process.pid
    if "files" in change:  # the same programs, a comment later
        change = {"files": {path.name: f"{path.read_text()}# newer\n" for path in sorted(exporter.root.glob("*.py"))}}
    planned = exporter.have(check=True, **change)
    assert (planned["changed"], exporter.process.pid) == (True, before)
    done = exporter.have(**change)
    assert done["reasons"] == planned["reasons"]
    assert exporter.process.pid != before
    assert exporter.have(**change)["changed"] is False


def test_a_change_that_was_cut_off_before_the_restart_is_finished(exporter: Exporter) -> None:
    configuration = exporter.root / "supervisord.conf"
    exporter.have(requirements="newer")
    newer = configuration.read_text()
    exporter.have()
    configuration.write_text(newer)  # as far as the change came
    assert exporter.have(requirements="newer")["reasons"] == ["the exporter was started with another configuration"]
    assert exporter.have(requirements="newer")["changed"] is False


def test_a_file_that_somebody_changed_is_put_back(exporter: Exporter) -> None:
    exporter.have()
    (exporter.root / "exporter.py").write_text("raise SystemExit(1)\n")
    done = exporter.have()
    assert done["reasons"] == [f"{exporter.root}/exporter.py is not as declared"]
    assert exporter.have()["changed"] is False


def test_one_that_was_stopped_by_hand_is_started(exporter: Exporter) -> None:
    exporter.have()
    exporter.remove()
    wait_for(lambda: not exporter.processes("exporter.py"), "its end")
    assert exporter.have()["reasons"] == ["the exporter does not run"]
    assert exporter.metrics()


def test_one_that_outlived_its_supervisord_is_replaced(exporter: Exporter) -> None:
    exporter.have()
    left = exporter.process
    for process in exporter.processes("supervisord"):
        process.kill()
        process.wait(60)
    assert exporter.have()["reasons"] == ["the exporter does not run"]
    assert exporter.process.pid != left.pid


def test_a_port_that_is_taken_is_refused_before_anything_is_touched(exporter: Exporter) -> None:
    with socket.create_server(("127.0.0.1", exporter.port)):
        for check in (True, False):
            result = exporter.have(check=check)
            expected = f"port {exporter.port} of 127.0.0.1 is taken: set telemetry_exporter_port to another"
            assert (result["failed"], result["msg"]) == (True, expected)
    assert not exporter.root.exists()


def test_an_address_that_the_host_does_not_have_is_refused(exporter: Exporter) -> None:
    result = exporter.have(host="192.0.2.1")
    assert result["failed"]
    assert result["msg"].startswith("telemetry_exporter_host 192.0.2.1 can't be listened on (")
    assert not exporter.root.exists()


def test_an_exporter_that_cannot_start_is_told_with_what_it_said(exporter: Exporter) -> None:
    files = {"exporter.py": "raise SystemExit('it has a bad day')\n", "telemetry.py": ""}
    result = exporter.have(files=files)
    assert result["failed"]
    assert "the exporter does not come up. It said: it has a bad day" in result["msg"]
    assert "\n" not in result["msg"]
    assert exporter.have()["changed"]  # and with a good one it runs
    assert exporter.metrics()


def test_it_gets_nothing_of_the_environment_of_who_deploys(exporter: Exporter) -> None:
    exporter.have()
    assert "secret-of-who-deploys" not in str(exporter.process.environ())
    assert stat.S_IMODE(os.stat(exporter.root / "supervisor.sock").st_mode) == 0o700  # noqa: PTH116 - a socket


def test_what_is_not_wanted_any_more_is_removed_whole(exporter: Exporter) -> None:
    exporter.have()
    planned = exporter.have(state="absent", check=True)
    assert planned["changed"]
    assert exporter.metrics()
    assert exporter.have(state="absent")["reasons"] == planned["reasons"]
    assert not exporter.root.exists()
    assert not exporter.processes("")
    assert exporter.have(state="absent")["changed"] is False


def test_the_unit_lets_it_have_the_gpus_and_no_rights() -> None:
    unit = (ROLE / "templates/llama-nexus-telemetry.service.j2").read_text().splitlines()
    for line in ("DynamicUser=yes", "DeviceAllow=char-195 rw", "CapabilityBoundingSet=", "ProtectSystem=strict"):
        assert line in unit


def test_the_unit_is_tried_again_for_ever() -> None:
    unit = (ROLE / "templates/llama-nexus-telemetry.service.j2").read_text().splitlines()
    assert "Restart=always" in unit
    assert "StartLimitIntervalSec=0" in unit


def test_one_that_takes_long_to_answer_is_not_started_again(exporter: Exporter) -> None:
    slow = "time.sleep(6)  # as NVML does with many GPUs\n            return [*self._machine()]\n"
    program = (ROLE / "files/exporter.py").read_text()
    begin, _, rest = program.partition("            self._asked = time.monotonic()\n")
    program = f"{begin}            {slow}{rest[rest.index('    def let_go') :]}"
    files = {"exporter.py": program, "telemetry.py": (ROOT / "nexus_tasks/telemetry/sampling.py").read_text()}
    assert exporter.have(files=files)["changed"]
    assert exporter.have(files=files)["changed"] is False


def test_programs_log_in_as_ansible_does(tmp_path: Path) -> None:
    (tmp_path / "group_vars").symlink_to(ROOT / "group_vars")
    hosts = {
        "old": {
            "ansible_ssh_host": "192.0.2.9", "ansible_ssh_user": "ops", "ansible_private_key_file": "/key",
            "ansible_ssh_common_args": "-o 'ProxyJump={{ hop }}'", "ansible_ssh_port": 2222, "hop": "gate",
        },
        "plain": {},
    }  # fmt: skip
    # Of all hosts, this one too, as long as it does not say otherwise; nobody asks for a password here.
    become = {"ansible_become": True, "ansible_become_exe": "/nowhere/sudo", "ansible_become_user": "nobody"}
    here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    groups = {"gpu-hosts": {"hosts": hosts}, "local": {"hosts": {"localhost": here}}}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"all": {"vars": become, "children": groups}}))
    file = tmp_path / "exporters.json"
    ansible(
        "playbooks/exporters.yml", "-i", tmp_path, "-l", "gpu-hosts", "-e", f"exporters_file={file}",
        ANSIBLE_REMOTE_USER="of-ansible", ANSIBLE_SSH_ARGS="-F /ssh_config",
    )  # fmt: skip
    old, plain = json.loads(file.read_text())
    assert (old["address"], old["ssh"]["user"], old["ssh"]["port"], old["ssh"]["key"]) == (
        "192.0.2.9", "ops", 2222, "/key"
    )  # fmt: skip
    assert old["ssh"]["arguments"].split() == ["-F", "/ssh_config", "-o", "'ProxyJump=gate'"]
    assert (plain["ssh"]["user"], plain["ssh"]["port"], plain["ssh"]["key"]) == ("of-ansible", None, None)
    assert inventory.ssh_to(plain) == ("ssh", "-F", "/ssh_config", "-l", "of-ansible", "plain")


def test_the_environment_has_what_the_exporter_imports_with_hashes() -> None:
    text = (ROLE / "files/telemetry.txt").read_text()
    for package in (ROLE / "files/telemetry.in").read_text().split():
        assert f"\n{package}==" in text
    assert text.count("==") <= text.count("--hash=sha256:")


@pytest.mark.parametrize(
    ("variable", "value"), [("telemetry_exporter_port", "eight"), ("telemetry_exporter_runtime", "docker")]
)
def test_what_cannot_be_right_is_refused(tmp_path: Path, variable: str, value: str) -> None:
    (tmp_path / "group_vars").symlink_to(ROOT / "group_vars")
    host = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, variable: value,
            "telemetry_exporter": True, "llama_nexus_prefix": str(tmp_path / "prefix")}  # fmt: skip
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"local": {"hosts": {"localhost": host}}}))
    output = ansible("playbooks/telemetry.yml", "-i", tmp_path, check=False).stdout
    assert "Validation of arguments failed" in output
    assert variable in output
    assert not (tmp_path / "prefix").exists()
