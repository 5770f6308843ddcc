"""The way of a new user: quickstart, then the commands that it is made of, on an inventory of the test's own."""

from __future__ import annotations

import getpass
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from nexus_tasks.records import store
from tests import pin
from tests.conftest import ROOT, ansible, free_port
from tests.support.known import known


@dataclass(frozen=True)
class User:
    """Somebody at a terminal in a folder, with an inventory."""

    folder: Path
    inventory: Path

    def runs(self, module: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a task module as its nox session does."""
        return subprocess.run(
            [sys.executable, "-m", f"nexus_tasks.{module}", *arguments],
            cwd=self.folder,
            env={
                **os.environ, "PYTHONPATH": str(ROOT), "NEXUS_INVENTORY": str(self.inventory), "COLUMNS": "80",
                "TERM": "dumb", **environment,
            },
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def deploys(self, *arguments: str) -> str:
        """Run deploy.yml for this machine, and return what Ansible printed."""
        return ansible("deploy.yml", "-l", "local", *arguments, ANSIBLE_INVENTORY=str(self.inventory)).stdout


@pytest.fixture(scope="module")
def user(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    """Has this repository's inventory, but for the places that belong to the test."""
    folder = tmp_path_factory.mktemp("user")
    inventory = folder / "inventory"
    (inventory / "host_vars").mkdir(parents=True)
    (inventory / "hosts.yml").symlink_to(ROOT / "inventory" / "hosts.yml")
    (inventory / "group_vars").symlink_to(ROOT / "group_vars")
    own = {
        "llama_nexus_prefix": str(folder / "prefix"),
        "llama_server_user": getpass.getuser(),  # others can't enter these folders
        "llama_cpp_prefix": str(release.parent.parent),
        "llama_server_instances": {"main": {"model": "{{ quickstart_model }}", "port": free_port(), "threads": 1}},
    }
    (inventory / "host_vars" / "localhost.yml").write_text(yaml.safe_dump(own))
    user = User(folder, inventory)
    yield user
    user.runs("control", "stop", "local")


@pytest.fixture(scope="module")
def quickstart(user: User) -> subprocess.CompletedProcess[str]:
    """What it printed, for somebody whose home is elsewhere than the user database says, and who came by ``su``."""
    home = user.folder / "a home"
    home.mkdir()
    return user.runs("quickstart", HOME=str(home), USER="daemon", LOGNAME="daemon", XDG_CACHE_HOME=str(home / "cache"))


def test_quickstart_ends_with_a_table_and_the_places_of_report_and_logs(
    user: User, quickstart: subprocess.CompletedProcess[str]
) -> None:
    assert quickstart.returncode == 0, quickstart.stdout + quickstart.stderr
    report = re.search(r"^report\s+file://(\S+\.html)$", quickstart.stdout, re.MULTILINE)
    log = re.search(r"^deploy log\s+(\S+)$", quickstart.stdout, re.MULTILINE)
    assert report
    assert log
    assert "localhost/main" in Path(report[1]).read_text()
    assert "PLAY RECAP" in (user.folder / log[1]).read_text()
    assert re.search(r"decode, tokens/s +\d", quickstart.stdout)
    assert "nox -s stop" in quickstart.stdout


def test_its_output_fits_a_terminal_but_for_addresses(quickstart: subprocess.CompletedProcess[str]) -> None:
    assert [line for line in quickstart.stdout.splitlines() if len(line) > 80 and "/" not in line] == []


def test_its_record_says_what_was_measured(user: User, quickstart: subprocess.CompletedProcess[str]) -> None:
    (record,) = map(store.load, store.paths("benchmark", user.folder / "results"))
    assert record.header.target == "localhost/main"
    assert record.header.model.name == "tiny-babble"
    assert len(known(record.header.model.sha256)) == 64
    assert known(record.header.server.argv)[0].endswith("/bin/llama-server")
    assert known(record.header.server.build).startswith(pin.BUILD_INFO)
    assert [row.output_tokens for row in record.requests] == [64] * 4
    assert record.summary
    assert record.summary.ok


def test_deploying_again_changes_nothing(user: User, quickstart: subprocess.CompletedProcess[str]) -> None:
    assert " changed=0 " in user.deploys()


def test_benchmark_without_a_target_measures_what_is_deployed_here(
    user: User, quickstart: subprocess.CompletedProcess[str]
) -> None:
    done = user.runs("benchmark", "--preset", "quick", "--requests", "1", "--json")
    (answer,) = json.loads(done.stdout)
    assert answer["target"] == "localhost/main"
    assert answer["ok"]
    # Where other work kept the load generator from its own, the run says so.
    assert done.returncode == (0 if answer["valid"] else 1), done.stderr


def test_a_host_that_can_not_be_reached_is_told_and_the_others_are_measured_and_shown(
    user: User, quickstart: subprocess.CompletedProcess[str], tmp_path: Path
) -> None:
    gone = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": free_port()}
    (tmp_path / "more.yml").write_text(yaml.safe_dump({"local": {"hosts": {"gone": gone}}}))
    both = f"{user.inventory},{tmp_path / 'more.yml'}"
    sizes = ["--prompt-tokens", "16", "--output-tokens", "4", "--requests", "1", "--results", str(tmp_path)]
    measured = user.runs("benchmark", "local", *sizes, "--json", NEXUS_INVENTORY=both)
    assert [answer["target"] for answer in json.loads(measured.stdout)] == ["localhost/main"]
    assert measured.returncode == 1
    assert re.search(r"error: gone: .*Connection refused", measured.stderr), measured.stderr
    shown = user.runs("monitor", "local", "--once", "--json", NEXUS_INVENTORY=both)
    rows = {row["instance"]: row for row in json.loads(shown.stdout)["instances"]}
    assert rows["localhost/main"]["up"], shown.stderr
    assert "Connection refused" in rows["gone"]["problem"]


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        ("quickstart", ["--preset", "slow"], "unknown preset 'slow'\n hint: the presets are quick, standard"),
        ("quickstart", ["--model", "gpt-9"], "gpt-9"),
        ("benchmark", ["nowhere"], "the inventory has no host that matches nowhere\n hint: ansible-inventory --graph"),
        ("benchmark", ["localhost/second"], "localhost has no instance second\n hint: those declared are: main"),
        ("report", ["--results", "empty"], "no benchmark records in empty/benchmark\n hint: measure something first"),
    ],
)
def test_what_does_not_exist_is_named_with_what_does(
    user: User, quickstart: subprocess.CompletedProcess[str], module: str, arguments: list[str], message: str
) -> None:
    done = user.runs(module, *arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 2
    assert "Traceback" not in done.stdout + done.stderr


def test_check_mode_on_a_bare_host_says_what_would_change_and_makes_nothing(user: User, tmp_path: Path) -> None:
    bare = {
        "llama_nexus_prefix": str(tmp_path / "bare"),
        "llama_server_user": getpass.getuser(),  # others can't enter these folders
        "llama_server_instances": {"main": {"model": "tiny-babble", "port": free_port()}},
    }
    output = user.deploys("--check", "-e", json.dumps(bare))
    assert re.search(r"changed=[1-9]", output)
    assert not (tmp_path / "bare").exists()


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="only root can mount")
def test_quickstart_needs_no_home_folder_and_no_umask_of_its_own(
    user: User, quickstart: subprocess.CompletedProcess[str], release: Path, tmp_path: Path
) -> None:
    checkout, home = tmp_path / "a checkout", tmp_path / "a home"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.rstrip("\0").split("\0"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, checkout / name, follow_symlinks=False)
    home.mkdir()
    own = {
        "llama_nexus_prefix": str(tmp_path / "a prefix"),
        "llama_server_user": getpass.getuser(),  # others can't enter these folders
        "llama_nexus_tools": str(user.folder / "prefix/tools"),
        "llama_cpp_prefix": str(release.parent.parent),
        "llama_server_instances": {"main": {"model": "tiny-babble", "port": free_port(), "threads": 1}},
    }
    inventory = tmp_path / "inventory"
    (inventory / "host_vars").mkdir(parents=True)
    (inventory / "hosts.yml").symlink_to(ROOT / "inventory" / "hosts.yml")
    (inventory / "group_vars").symlink_to(ROOT / "group_vars")
    (inventory / "host_vars" / "localhost.yml").write_text(yaml.safe_dump(own))
    # For the programs alone, the home that is given and that of the user database can't be written to.
    mounts = 'for home do mount --bind "$home" "$home" && mount -o remount,bind,ro "$home" || exit; done'
    script = f"umask 077; {mounts}; exec {sys.executable} -m nexus_tasks.quickstart"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", home, Path("~root").expanduser()], cwd=tmp_path,
        env={
            **os.environ, "HOME": str(home), "PYTHONPATH": str(checkout), "NEXUS_INVENTORY": str(inventory),
            "TERM": "dumb", "TMPDIR": str(tmp_path),
        },
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    try:
        assert re.search(r"decode, tokens/s +\d", done.stdout), done.stdout + done.stderr
        assert re.search(r"^report +file://.*\.html$", done.stdout, re.MULTILINE)
        [record] = map(store.load, store.paths("benchmark", tmp_path / "results"))
        assert record.summary
        assert record.summary.ok
        assert list(home.iterdir()) == []
        assert (tmp_path / "llama-nexus-home-0/.cache/llama-nexus/models").is_dir()
        # Everything but what is closed on purpose is open to the servers' user.
        folders = [path for path in (tmp_path / "a prefix").rglob("*") if path.is_dir() and not path.is_symlink()]
        assert [path for path in folders if path.stat().st_mode & 0o055 != 0o055] == []
    finally:
        user.runs("control", "stop", "local", NEXUS_INVENTORY=str(inventory))


# The last one: it ends what the others use.
def test_stop_ends_the_server_and_says_so(user: User, quickstart: subprocess.CompletedProcess[str]) -> None:
    assert user.runs("control", "stop", "local").stdout.splitlines()[-1] == "localhost/main: stopped"
    assert user.runs("control", "stop", "local").stdout.splitlines()[-1] == "localhost/main: was not running"
    refused = user.runs("benchmark", "localhost/main")
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
