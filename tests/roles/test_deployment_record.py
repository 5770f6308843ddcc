"""The record of a deployment: real runs of ansible-playbook, with modules that report what they are told to."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from nexus_tasks.records import store
from nexus_tasks.records.deployment_rows import DeploymentSummary, FailedTask, HostCounts, HostRow, InstanceRow
from nexus_tasks.records.store import DeploymentRecord
from tests.conftest import BIN, ROOT, ansible, wait_for
from tests.support.known import known

REPORTS = """
from ansible.module_utils.basic import AnsibleModule
module = AnsibleModule({"instances": {"type": "raw"}, "says": {}, "name": {}}, supports_check_mode=True)
rows, says = module.params["instances"], module.params["says"]
if module.params["name"] == "large":
    rows[0]["checks"] = [{"check": "large", "ok": True, "found": ["x" * 7000] * 600}]
if says:
    module.fail_json(msg=says, instances=rows)
module.exit_json(changed=any(row["changed"] for row in rows or []), instances=rows, name=module.params["name"])
"""
MODULES = ("llama_cpp_release", "llama_server_plan", "llama_server_converge", "llama_server_control", "another_module")
UNREACHABLE = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 9}


def instance(name: str = "main", state: str = "verified", **more: Any) -> dict[str, Any]:
    """A row as the modules of role llama_server report it, in brief."""
    return {"name": name, "state": state, "changed": state == "verified", "checks": [], "error": None, **more}


@dataclass(frozen=True)
class Project:
    """A folder with a playbook that is called deploy.yml, hosts and modules."""

    folder: Path

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def command(self, tasks: Any, *, playbook: str = "deploy.yml", hosts: Any = None, **play: Any) -> list[str | Path]:
        """Write a playbook of one play, or of those given as a list of plays; return the arguments that run it."""
        local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        inventory = {"all": {"hosts": {name: local | own for name, own in (hosts or {"one": {}}).items()}}}
        (self.folder / "hosts.json").write_text(json.dumps(inventory))
        plays = tasks if any("tasks" in task for task in tasks) else [{"tasks": tasks}]
        plays = [{"hosts": "all", "gather_facts": False, **play, **one} for one in plays]
        (self.folder / playbook).write_text(yaml.safe_dump(plays))
        return ["-i", self.folder / "hosts.json", self.folder / playbook]

    def run(self, tasks: Any, *arguments: str, records: Path | None = None, **how: Any) -> str:
        """Run a playbook, whether it succeeds or not, and return what Ansible printed."""
        environment = {"NEXUS_RESULTS": str(records or self.results)}
        return ansible(*self.command(tasks, **how), *arguments, check=False, **environment).stdout

    def record(self) -> DeploymentRecord:
        """The record of the one run there was."""
        [path] = store.paths("deployment", self.results)
        return store.load(path, "deployment")

    def text(self) -> str:
        """All that was recorded."""
        return "".join(path.read_text() for path in store.paths("deployment", self.results))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    library = tmp_path / "library"
    library.mkdir()
    for module in MODULES:
        (library / f"{module}.py").write_text(REPORTS)
    return Project(tmp_path)


def hosts_of(record: DeploymentRecord) -> dict[str, HostRow]:
    return {row.host: row for row in record.hosts}


def summary_of(record: DeploymentRecord) -> DeploymentSummary:
    return known(record.summary)


def recorded(*instances: dict[str, Any]) -> list[InstanceRow]:
    """What modules report of instances, as a record has it."""
    return msgspec.convert(instances, list[InstanceRow])


def test_a_deployment_leaves_one_record_with_a_row_for_each_host(project: Project) -> None:
    plan = {"llama_server_plan": {"instances": [instance(state="planned"), instance("gone", "undeclared")]}}
    row = instance(tokens_per_second=212.5, buffers_mib={"CUDA0": {"model": 10694.15}}, gpu_processes_mib=None)
    project.run(
        [{"llama_cpp_release": {"name": "b1-cpu-0a"}}, plan, {"llama_server_converge": {"instances": [row]}}],
        hosts={"one": {}, "two": {}},
    )
    record = project.record()
    assert record.header.target == "all"
    assert record.header.playbook == "deploy.yml"
    assert (record.header.check, record.header.limit, record.header.tags) == (False, None, [])
    assert record.header.ansible.startswith("2.")
    assert len(known(record.header.git.commit)) == 40
    assert record.header.controller.user
    assert record.header.controller.host
    hosts = hosts_of(record)
    assert hosts.keys() == {"one", "two"}
    for host in hosts.values():
        assert host.release == "b1-cpu-0a"
        assert host.instances == recorded(row, instance("gone", "undeclared"))  # what converge says replaces the plan
        assert (host.ok, host.failed, host.unreachable, host.changed) == (True, False, False, 1)
        assert host.failed_task is None
        assert 0 < host.seconds <= summary_of(record).wall_s
    summary = summary_of(record)
    assert (summary.ok, summary.interrupted) == (True, False)
    assert summary.hosts == HostCounts(ok=2, changed=2, failed=0, unreachable=0)


def test_a_run_that_changes_nothing_is_recorded_too(project: Project) -> None:
    project.run([{"llama_server_converge": {"instances": [instance(changed=False)]}}])
    assert hosts_of(project.record())["one"].changed == 0
    assert summary_of(project.record()).hosts == HostCounts(ok=1, changed=0, failed=0, unreachable=0)


def test_a_check_says_that_it_was_one_and_what_was_asked_for(project: Project) -> None:
    tasks = [{"llama_server_plan": {"instances": [instance(state="planned")]}, "tags": "serve"}]
    project.run(tasks, "--check", "--limit", "one", "--tags", "serve", "--skip-tags", "slow", playbook="rollback.yml")
    header = project.record().header
    assert (header.check, header.playbook) == (True, "rollback.yml")
    assert (header.target, header.limit, header.tags, header.skip_tags) == (
        "one",
        "one",
        ["serve"],
        ["slow"],
    )
    assert hosts_of(project.record())["one"].instances[0].state == "planned"


def test_failed_instances_are_recorded_with_the_end_of_their_log(project: Project) -> None:
    failed = instance(state="failed", error="it died", log_tail=[f"line {n}" for n in range(60)])
    tasks = [
        {"llama_server_plan": {"instances": [instance(state="planned")]}},
        {"llama_server_converge": {"instances": [failed], "says": "main is not what was declared"}, "name": "Switch"},
    ]
    output = project.run(tasks)
    assert "failed=1" in output
    host = hosts_of(project.record())["one"]
    assert host.failed_task == FailedTask(name="Switch", role=None, message="main is not what was declared")
    assert host.instances == recorded({**failed, "log_tail": [f"line {n}" for n in range(40, 60)]})
    assert summary_of(project.record()).ok is False
    assert summary_of(project.record()).hosts == HostCounts(ok=0, changed=0, failed=1, unreachable=0)


def test_a_failure_before_any_instance_says_which_task_and_why(project: Project) -> None:
    role = project.folder / "roles" / "builder" / "tasks"
    role.mkdir(parents=True)
    log = "\n".join(f"compiler line {n}" for n in range(300))
    task = {"name": "Build", "llama_cpp_release": {"name": "b1-cpu-0a", "says": f"the build failed\n{log}"}}
    (role / "main.yml").write_text(yaml.safe_dump([task]))
    project.run([{"include_role": {"name": "builder"}}, {"llama_server_converge": {"instances": [instance()]}}])
    host = hosts_of(project.record())["one"]
    assert (host.instances, host.failed) == ([], True)
    assert (known(host.failed_task).name, known(host.failed_task).role) == ("Build", "builder")
    lines = known(host.failed_task).message.splitlines()
    assert lines[0] == "the build failed"
    assert lines[-1] == "compiler line 299"
    assert len(lines) == 25
    assert lines[4] == "(277 lines left out)"


def test_a_host_in_trouble_does_not_hide_the_others(project: Project) -> None:
    converge = {"llama_server_converge": {"instances": [instance()]}}
    stop = {"fail": {"msg": "no room"}, "when": "inventory_hostname == 'full'"}
    project.run([stop, converge], hosts={"well": {}, "full": {}, "away": UNREACHABLE})
    hosts = hosts_of(project.record())
    assert hosts["well"].ok
    assert (hosts["full"].failed, known(hosts["full"].failed_task).message) == (True, "no room")
    assert (hosts["away"].unreachable, hosts["away"].failed) == (True, False)
    assert "Connection refused" in known(hosts["away"].failed_task).message
    assert summary_of(project.record()).hosts == HostCounts(ok=1, changed=1, failed=1, unreachable=1)


def test_what_was_rescued_or_ignored_is_no_failure(project: Project) -> None:
    broken = {"fail": {"msg": "broken"}}
    tasks = [
        {"block": [broken], "rescue": [{"debug": {"msg": "mended"}}]},
        {**broken, "ignore_errors": True},
        {"command": "true", "failed_when": True, "ignore_errors": True},
        {"llama_server_converge": {"instances": [instance()]}},
        {"block": [broken], "rescue": [{"fail": {"msg": "not to be mended"}}], "when": "inventory_hostname == 'two'"},
        {"block": [broken], "always": [{"debug": {"msg": "tidied up"}}], "when": "inventory_hostname == 'three'"},
    ]
    project.run(tasks, hosts={"one": {}, "two": {}, "three": {}})
    hosts = hosts_of(project.record())
    assert (hosts["one"].ok, hosts["one"].failed_task, hosts["one"].changed) == (True, None, 2)
    assert (hosts["two"].failed, known(hosts["two"].failed_task).message) == (True, "not to be mended")
    assert (hosts["three"].failed, known(hosts["three"].failed_task).message) == (True, "broken")


def test_a_loop_fails_with_the_messages_of_its_items(project: Project) -> None:
    project.run([{"fail": {"msg": "no {{ item }}"}, "loop": ["disk", "network", "clock"], "when": "item != 'clock'"}])
    assert known(hosts_of(project.record())["one"].failed_task).message == "no disk\nno network"


def test_batches_and_plays_make_one_row_a_host(project: Project) -> None:
    plays = [
        {"tasks": [{"llama_server_plan": {"instances": [instance(state="planned")]}}]},
        {"tasks": [{"llama_server_converge": {"instances": [instance()]}}], "serial": 1},
    ]
    project.run(plays, hosts={"one": {}, "two": {}, "three": {}})
    hosts = hosts_of(project.record())
    assert list(hosts) == ["one", "two", "three"]
    assert [host.instances[0].state for host in hosts.values()] == ["verified"] * 3


def test_other_playbooks_on_the_command_line_have_no_part_in_the_record(project: Project) -> None:
    hosts: dict[str, Any] = {"one": {}, "two": {}}
    tasks = [{"command": "true"}, {"block": [{"fail": {}}], "rescue": [{"debug": {}}]}]
    other = project.command(tasks, playbook="other.yml", hosts=hosts)[-1]
    converge = {"llama_server_converge": {"instances": [instance()]}}
    command = project.command([{"hosts": "one", "tasks": [converge]}], hosts=hosts)
    output = ansible("-i", command[1], other, command[-1], other, NEXUS_RESULTS=str(project.results)).stdout
    assert "changed=3" in output
    assert {name: row.changed for name, row in hosts_of(project.record()).items()} == {"one": 1}


def test_other_playbooks_leave_no_record(project: Project) -> None:
    project.run([{"llama_server_converge": {"instances": [instance()]}}], playbook="stop.yml")
    project.run([{"debug": {}}], "--list-tasks")
    project.run([{"debug": {}}], "--syntax-check")
    assert not project.results.exists()


def test_only_rows_of_what_was_done_about_an_instance_count(project: Project) -> None:
    project.run(
        [
            {"another_module": {"instances": [instance()]}},
            {"llama_server_converge": {"instances": []}},
            {"llama_server_converge": {"instances": [{"name": "main", "changed": False}]}},
            {"llama_server_control": {"instances": [instance(state="stopped", phase="verified")]}},  # a status
        ]
    )
    assert hosts_of(project.record())["one"].instances == []


def test_the_result_of_a_job_that_was_followed_counts(project: Project) -> None:
    job = {"llama_server_converge": {"instances": [instance()]}, "async": 60, "poll": 0, "register": "job"}
    follow = {"job": "{{ job }}", "progress": str(project.folder / "progress"), "limit": "a_limit"}
    project.run([job, {"llama.nexus.follow": follow}])
    assert [row.state for row in hosts_of(project.record())["one"].instances] == ["verified"]


def test_no_secret_and_no_argument_reaches_the_record(project: Project) -> None:
    tasks = [
        {"debug": {"msg": "{{ key }}"}},
        {"command": "echo {{ key }}", "no_log": True},
        {"fail": {"msg": "{{ key }}"}, "no_log": True, "ignore_errors": True},
        {"llama_server_converge": {"instances": [instance("{{ key }}")]}, "no_log": True},
        {"llama_server_converge": {"instances": [instance(invocation={"key": "{{ key }}"})], "name": "{{ key }}"}},
        {"fail": {"msg": "{{ item }}"}, "loop": ["{{ key }}", "2"], "no_log": True, "name": "Fail"},
    ]
    told = "sk-4f1e-do-not-tell"
    output = project.run(tasks, "-e", json.dumps({"key": told, "port": 8600}), "-e", "other=1")
    assert told in output  # it was there to be told
    assert told not in project.text()
    record = project.record()
    assert record.header.extra_vars == ["key", "other", "port"]
    assert [row.name for row in hosts_of(record)["one"].instances] == ["main"]
    assert known(hosts_of(record)["one"].failed_task).message == "hidden: the task has no_log"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_an_interrupted_run_keeps_what_it_had_done(project: Project, number: signal.Signals) -> None:
    reached = project.folder / "reached"
    tasks = [
        {"llama_server_converge": {"instances": [instance()]}},
        {"block": [{"fail": {}, "when": "inventory_hostname == 'two'"}], "rescue": [{"debug": {}}]},
        {"fail": {"msg": "full"}, "when": "inventory_hostname == 'three'"},
        {"shell": f"touch {reached}; sleep 20"},
    ]
    command = [BIN / "ansible-playbook", *project.command(tasks, hosts={"one": {}, "two": {}, "three": {}})]
    log = project.folder / "log"
    with (
        log.open("wb") as stream,
        subprocess.Popen(
            list(map(str, command)), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT,
            env={**os.environ, "NEXUS_RESULTS": str(project.results)},
        ) as play,
    ):  # fmt: skip
        wait_for(reached.exists, "the last task")
        play.send_signal(number)
        play.wait(60)
    output = log.read_text()
    # As without a record: Ansible's own status for Ctrl-C, death by the signal for the others.
    assert play.returncode == (99 if number == signal.SIGINT else -number), output
    record = project.record()
    hosts = hosts_of(record)
    assert [row.state for row in hosts["one"].instances] == ["verified"]
    if number == signal.SIGKILL:
        assert record.summary is None
        return
    summary = summary_of(record)
    assert (summary.ok, summary.interrupted) == (False, True)
    assert summary.hosts == HostCounts(ok=2, changed=2, failed=1, unreachable=0)
    assert hosts["two"].ok
    assert known(hosts["three"].failed_task).message == "full"
    assert "recorded" not in output


def test_an_error_that_ends_ansible_itself_is_an_interrupted_run(project: Project) -> None:
    plays = [
        {"tasks": [{"llama_server_converge": {"instances": [instance()]}}]},
        {"tasks": [{"debug": {}}], "strategy": "no_such_strategy"},
    ]
    project.run(plays)
    assert summary_of(project.record()).interrupted is True
    assert hosts_of(project.record())["one"].ok


@pytest.mark.parametrize("place", ["/proc/results", "a-file"])
def test_a_record_that_cannot_be_written_is_one_warning_and_nothing_else(project: Project, place: str) -> None:
    (project.folder / "a-file").write_text("")
    tasks = [{"llama_server_converge": {"instances": [instance()]}}, {"debug": {}}]
    command = project.command(tasks)
    done = ansible(*command, NEXUS_RESULTS=str(project.folder / place), COLUMNS="1000")
    assert "ok=2" in done.stdout
    assert done.stdout.count("[WARNING]") == 1
    assert "no more is recorded of this deployment, which goes on: cannot write a run record to" in done.stdout
    assert "NEXUS_RESULTS" in done.stdout


def test_where_nexus_tasks_is_not_installed_one_warning_says_what_has_it(project: Project) -> None:
    (project.folder / "path" / "nexus_tasks").mkdir(parents=True)
    (project.folder / "path" / "nexus_tasks" / "__init__.py").write_text("")
    command = project.command([{"debug": {}}])
    path = str(project.folder / "path")
    done = ansible(*command, NEXUS_RESULTS=str(project.results), PYTHONPATH=path, COLUMNS="1000")
    assert "ok=1" in done.stdout
    assert done.stdout.count("[WARNING]") == 1
    assert "no record is written of this deployment, which goes on: " in done.stdout
    assert "(No module named 'nexus_tasks.records')" in done.stdout
    assert f"{ROOT}/.venv/bin/ansible-playbook has it" in done.stdout
    assert not project.results.exists()


def test_a_disk_that_fills_up_is_one_warning_and_the_play_goes_on(project: Project) -> None:
    converge = {"llama_server_converge": {"instances": [instance()], "name": "large"}}
    command = [
        BIN / "ansible-playbook",
        *project.command([{"llama_server_converge": {"instances": [instance("small")]}}, converge, converge]),
    ]
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, "NEXUS_RESULTS": str(project.results), "COLUMNS": "1000"}, text=True, check=True,
        # A limit on file sizes cuts writes as a full disk does; Ansible's own files are smaller.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000)),
    )  # fmt: skip
    assert "ok=3" in done.stdout
    assert done.stdout.count("[WARNING]") == 1
    assert "cannot write on to" in done.stdout
    assert [row.name for row in hosts_of(project.record())["one"].instances] == ["small"]
    assert project.record().summary is None


def test_two_plays_at_once_write_two_records(project: Project) -> None:
    command = project.command([{"llama_server_converge": {"instances": [instance()]}}])
    plays = [
        subprocess.Popen(
            [str(BIN / "ansible-playbook"), *map(str, command)], cwd=ROOT, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT,
            env={**os.environ, "NEXUS_RESULTS": str(project.results)},
        )
        for _ in range(2)
    ]  # fmt: skip
    assert [play.wait(120) for play in plays] == [0, 0]
    records = [store.load(path, "deployment") for path in store.paths("deployment", project.results)]
    assert [hosts_of(record)["one"].ok for record in records] == [True, True]


def test_passwords_and_signatures_in_addresses_are_not_recorded(project: Project) -> None:
    said = project.run([{"fail": {"msg": "cannot get https://ada:tok-1@host/x?sig=tok-2"}}])
    assert "tok-1" in said  # it was there to be told
    assert "tok-" not in project.record().path.read_text()
    assert "cannot get https://host/x?…" in known(project.record().hosts[0].failed_task).message


def test_a_run_without_role_llama_cpp_records_no_release(project: Project) -> None:
    project.run([{"llama_server_converge": {"instances": [instance()]}}, {"fail": {"msg": "no room"}}])
    assert project.record().releases == []
