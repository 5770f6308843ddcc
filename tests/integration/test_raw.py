"""The raw engines with the tools of a real release: by their module alone, and beside a server that is deployed."""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from nexus_tasks.fleet.inventory import Instance
from nexus_tasks.measurement.llama_bench import engine, parsing, rows, settings, tool_plan
from nexus_tasks.measurement.llama_bench.tool_plan import BATCHED, BENCH, ENGINES, ToolPlan
from nexus_tasks.records import store
from tests import modules
from tests.conftest import ROOT, ansible, cache_folder, free_port, server_of, wait_for
from tests.fakes import tiny_moe
from tests.support.known import known

MODULE = ROOT / "plugins/modules/llama_bench.py"
# Every setting that both tools know and a processor can have.
FLAGS = (
    "--batch-size 128 --ubatch-size 64 --n-gpu-layers 3 --split-mode none --main-gpu 0 --flash-attn on --no-kv-offload "
    "--cache-type-k q8_0 --cache-type-v q8_0 --load-mode none --numa distribute --device none --tensor-split 3,1 "
    "--override-tensor blk.0.ffn_up=CPU,blk.1.ffn_up=CPU --n-cpu-moe 1 --no-op-offload --no-repack --no-host "
    "--lazy-mode off --threads 2 --threads-batch 1"
)


@pytest.fixture
def instance(release: Path, small_model: Path, tmp_path: Path) -> Instance:
    """An instance as a host keeps it, without a server."""
    folder = tmp_path / "instances" / "main" / "verified"
    folder.mkdir(parents=True)
    (folder / "instance.json").write_text(json.dumps({"runtime": "supervisor", "environment": {}}))
    argv = [str(release / "bin" / "llama-server"), "--model", str(small_model), "--fit", "off"]
    where = {"name": release.name, "path": str(release), "ref": "b1", "commit": "0", "backend": "cpu"}
    return Instance("localhost", "main", "http://127.0.0.1:1", None, {"name": "tiny"}, where, argv, "")


def with_flags(instance: Instance, *flags: str) -> Instance:
    return dataclasses.replace(instance, argv=[*instance.argv, *flags])


def arguments(asked: ToolPlan | None, folder: Path, run: str = "one", action: str = "run") -> dict[str, Any]:
    """The arguments of the module for a run in a folder."""
    where = {"action": action, "run": run, "folder": str(folder / "bench")}
    if asked is None:
        return where
    return {**where, "instance": str(folder / "instances/main"), "commands": asked.commands, "user": "nobody"}


def told(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """What the tools said of themselves and of their settings."""
    return [json.loads(line["text"]) for line in measured["lines"] if line["text"].startswith("{")]


# --- the tools


def test_llama_bench_measures_with_the_settings_of_the_server(instance: Instance, tmp_path: Path) -> None:
    asked = tool_plan.plan_for(with_flags(instance, *FLAGS.split()), BENCH, 16, 4, 2, [1])
    assert asked.warnings == ()
    before = time.monotonic()
    measured = modules.call(MODULE, arguments(asked, tmp_path))["measured"]
    assert measured["status"] == 0, measured["said"]
    assert before < measured["begun_at"] < time.monotonic()  # on a clock that nobody sets
    prompt, generation = told(measured)
    for found in (prompt, generation):
        assert (found["n_batch"], found["n_ubatch"], found["n_gpu_layers"], found["n_cpu_moe"]) == (128, 64, 3, 1)
        assert (found["type_k"], found["type_v"], found["no_kv_offload"]) == ("q8_0", "q8_0", True)
        assert (found["split_mode"], found["load_mode"], found["devices"]) == ("none", "none", "none")
        assert found["tensor_split"].startswith("3.00/1.00")
        assert found["tensor_buft_overrides"] == "blk.0.ffn_up=CPU;blk.1.ffn_up=CPU"
        assert (found["no_op_offload"], found["no_host"], found["repack"]) == (1, True, False)
    assert (prompt["n_prompt"], prompt["n_gen"], prompt["n_depth"], prompt["n_threads"]) == (16, 0, 0, 1)
    assert (generation["n_prompt"], generation["n_gen"], generation["n_depth"]) == (0, 4, 16)
    assert generation["n_threads"] == 2
    first, second = parsing.bench_samples(measured["lines"])
    assert first.prefill_s
    assert first.decode_s
    # When each began is what the tool said of its progress.
    assert second.start_s >= first.start_s > 0  # both lines may come in one read


def test_llama_batched_bench_measures_each_concurrency_as_often_as_asked(instance: Instance, tmp_path: Path) -> None:
    flags = FLAGS.replace("--device none ", "").split()
    asked = tool_plan.plan_for(with_flags(instance, *flags), BATCHED, 16, 48, 2, [1, 3])
    measured = modules.call(MODULE, arguments(asked, tmp_path))["measured"]
    assert measured["status"] == 0, measured["said"]
    assert [(row["pl"], row["pp"], row["tg"]) for row in told(measured)[:6]] == [(1, 16, 48)] * 3 + [(3, 16, 48)] * 3
    echoed = told(measured)[0]
    assert (echoed["n_batch"], echoed["n_ubatch"], echoed["flash_attn"]) == (128, 64, 1)
    assert (echoed["n_threads"], echoed["n_threads_batch"]) == (2, 1)
    requests, stages = rows.rows_of(asked, parsing.batched_samples(measured["lines"], asked), 0.0)
    assert [row.phase for row in requests] == ["warmup", "run", "run"] * 2
    assert all(known(stage.metrics["decode_tps"]).n == 2 for stage in stages)


def test_experts_are_kept_in_host_memory_as_the_server_keeps_them(instance: Instance, tmp_path: Path) -> None:
    tiny_moe.write(tmp_path / "moe.gguf")
    flags = ["--model", str(tmp_path / "moe.gguf"), "--cpu-moe"]
    asked = tool_plan.plan_for(with_flags(instance, *flags), BENCH, 8, 2, 1, [1])
    measured = modules.call(MODULE, arguments(asked, tmp_path))["measured"]
    assert measured["status"] == 0, measured["said"]
    assert told(measured)[0]["tensor_buft_overrides"] == settings.EXPERTS
    server = (Path(instance.release["path"]) / "bin" / "libllama-common.so").read_bytes()
    assert settings.EXPERTS.removesuffix("=CPU").encode() in server  # the very expression of --cpu-moe


def test_a_tool_that_fails_says_why(instance: Instance, tmp_path: Path) -> None:
    asked = tool_plan.plan_for(with_flags(instance, "--model", "/nowhere.gguf"), BENCH, 8, 2, 1, [1])
    measured = modules.call(MODULE, arguments(asked, tmp_path))["measured"]
    assert measured["lines"][-1]["command"] == 0  # the second was not tried
    failure = engine._failure(asked, parsing.bench_samples(measured["lines"]), measured)
    assert failure is not None
    assert "(exit status 1): llama_model_load: error loading model: " in failure


def test_a_release_without_the_tool_is_told_how_to_get_it(instance: Instance, tmp_path: Path) -> None:
    asked = tool_plan.plan_for(instance, BENCH, 8, 2, 1, [1])
    commands = [[str(tmp_path / "llama-bench"), *asked.commands[0][1:]]]
    answer = modules.call(MODULE, {**arguments(asked, tmp_path), "commands": commands})
    assert answer["failed"]
    assert "name it in llama_cpp_targets" in answer["msg"]


# --- runs that are ended


@contextlib.contextmanager
def endless(instance: Instance, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], psutil.Process]]:
    """A run of hours, and its tool, which measures its first repetitions."""
    asked = tool_plan.plan_for(instance, BATCHED, 8, 200, 5_000, [1])
    given = json.dumps({"ANSIBLE_MODULE_ARGS": arguments(asked, folder)}).encode()
    with subprocess.Popen(modules.command(MODULE), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as module:
        assert module.stdin
        module.stdin.write(given)
        module.stdin.close()
        module.stdin = None
        try:
            lines = folder / "bench" / "lines.jsonl"
            wait_for(lambda: lines.exists() and lines.read_text().count("\n") > 2, "the first repetition")
            (tool,) = psutil.Process(module.pid).children()
            yield module, tool
        finally:
            module.kill()


def has_ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_run_is_ended_by_its_name_and_what_it_measured_is_kept(instance: Instance, tmp_path: Path) -> None:
    with endless(instance, tmp_path) as (_, tool):
        other = modules.call(MODULE, arguments(None, tmp_path, run="another", action="end"))["measured"]
        assert other == {"lines": []}
        assert tool.is_running()
        ended = modules.call(MODULE, arguments(None, tmp_path, action="end"))["measured"]
        assert has_ended(tool)
    samples = parsing.batched_samples(ended["lines"], tool_plan.plan_for(instance, BATCHED, 8, 200, 5_000, [1]))
    assert len(samples) >= 2
    assert all(sample.decode_s for sample in samples)
    # Once more: there is nothing left to end.
    assert modules.call(MODULE, arguments(None, tmp_path, action="end"))["measured"] == ended


def test_a_run_that_was_ended_while_its_job_was_on_its_way_does_not_begin(instance: Instance, tmp_path: Path) -> None:
    asked = tool_plan.plan_for(instance, BENCH, 8, 2, 1, [1])
    assert modules.call(MODULE, arguments(None, tmp_path, action="end"))["measured"] == {"lines": []}
    assert modules.call(MODULE, arguments(asked, tmp_path))["msg"] == "the run was ended before it began"
    assert modules.call(MODULE, arguments(asked, tmp_path, run="two"))["measured"]["status"] == 0


def test_two_runs_do_not_measure_each_other(instance: Instance, tmp_path: Path) -> None:
    asked = tool_plan.plan_for(instance, BENCH, 8, 2, 1, [1])
    with endless(instance, tmp_path):
        answer = modules.call(MODULE, arguments(asked, tmp_path, run="two"))
    assert "another llama-bench or llama-batched-bench measures on this host" in answer["msg"]


@pytest.mark.parametrize(
    "runtime",
    [
        "supervisor",
        pytest.param("systemd", marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")),
    ],
)
def test_a_tool_ends_with_its_job_and_goes_before_the_server_where_memory_runs_out(
    instance: Instance, tmp_path: Path, runtime: str
) -> None:
    proven = tmp_path / "instances" / "main" / "verified" / "instance.json"
    proven.write_text(json.dumps({"runtime": runtime, "environment": {}}))
    # One that prints nothing: those that print end by themselves when nobody reads.
    asked = tool_plan.plan_for(instance, BENCH, 8, 2, 1, [1])
    given = {**arguments(asked, tmp_path), "commands": [["/bin/sleep", "300"]]}
    with subprocess.Popen(modules.command(MODULE), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as module:
        assert module.stdin
        module.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": given}))
        module.stdin.close()
        module.stdin = None
        try:
            children = psutil.Process(module.pid).children
            tool = wait_for(lambda: next((child for child in children() if child.name() == "sleep"), None), "the tool")
            assert tool
            assert tool.username() == ("nobody" if runtime == "systemd" else psutil.Process().username())
            asked_of_kernel = Path(f"/proc/{tool.pid}/oom_score_adj")
            wait_for(lambda: asked_of_kernel.read_text().strip() == "1000", "its place when memory runs out")
        finally:
            module.kill()
        wait_for(lambda: has_ended(tool), "the end of the tool")


def test_what_a_tool_reads_from_the_environment_is_the_servers(instance: Instance, tmp_path: Path) -> None:
    folder = tmp_path / "instances" / "main" / "verified"
    (folder / "instance.json").write_text(json.dumps({"runtime": "supervisor", "environment": {"FROM_SERVER": "1"}}))
    script = tmp_path / "tool"
    script.write_text("#!/bin/sh\nenv | grep -E '^(FROM_SERVER|LLAMA_|CUDA_)' >&2\nexit 3\n")
    script.chmod(0o755)
    given = {**arguments(tool_plan.plan_for(instance, BENCH, 8, 2, 1, [1]), tmp_path), "commands": [[str(script)]]}
    measured = modules.call(MODULE, given, LLAMA_ARG_THREADS="1")["measured"]
    assert measured["status"] == 3
    assert measured["said"] == ["FROM_SERVER=1"]
    # A container is given its GPUs by Docker; the tool runs beside it, and gets the same ones.
    container = {"runtime": "docker", "environment": {"FROM_SERVER": "1"}, "gpus": ["2", "GPU-8a"]}
    (folder / "instance.json").write_text(json.dumps(container))
    measured = modules.call(MODULE, {**given, "run": "two"})["measured"]
    assert sorted(measured["said"]) == [
        "CUDA_DEVICE_ORDER=PCI_BUS_ID", "CUDA_VISIBLE_DEVICES=2,GPU-8a", "FROM_SERVER=1"
    ]  # fmt: skip


# --- beside a server that is deployed


@dataclasses.dataclass(frozen=True)
class Rig:
    """This machine as a host of gpu-hosts, with an instance ``main``."""

    folder: Path
    inventory: Path

    def measure(self, engine: str, *sizes: int | list[int], stop_server: bool) -> subprocess.Popen[str]:
        """Begin a run as the benchmark does."""
        program = (
            "import json, sys; from pathlib import Path; from rich.console import Console\n"
            "from nexus_tasks.fleet import inventory\n"
            "from nexus_tasks.measurement.llama_bench import engine, tool_plan\n"
            "from nexus_tasks.core.errors import command_line\n"
            "tool, sizes, stops, root = json.loads(sys.argv[1])\n"
            "@command_line\n"
            "def main(argv):\n"
            "    (instance,) = inventory.deployed('rig/main').instances\n"
            "    asked = tool_plan.plan_for(instance, tool, *sizes)\n"
            "    engine.run(instance, asked, root=Path(root), console=Console(), stop_server=stops)\n"
            "    return 0\n"
            "sys.exit(main())\n"
        )
        given = json.dumps([engine, sizes, stop_server, str(self.folder / "results")])
        return subprocess.Popen(
            [sys.executable, "-c", program, given],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "NEXUS_INVENTORY": str(self.inventory), "COLUMNS": "80"},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "instances/main/state.json").read_text())
        return found

    def server(self) -> int:
        return server_of(self.folder / "instances/main")

    def serves(self) -> bool:
        return self.state()["phase"] == "verified" and self.server() > 0

    def tools(self) -> list[psutil.Process]:
        """The tools of this rig that run, by the model that they have open in their command line."""
        found = []
        for process in psutil.process_iter(["name", "cmdline"]):
            words = process.info["cmdline"] or []
            if words and Path(words[0]).name in ENGINES and str(self.folder) in " ".join(words):
                found.append(process)
        return found

    def playbooks(self) -> list[str]:
        """The command lines of runs of this rig that go on."""
        found = [" ".join(each.info["cmdline"] or ()) for each in psutil.process_iter(["cmdline"])]
        return [words for words in found if "raw.yml" in words and str(self.folder) in words]

    def records(self) -> list[store.BenchmarkRecord]:
        return [store.load(path) for path in store.paths("benchmark", self.folder / "results", required=False)]


@pytest.fixture(scope="module")
def rig(release: Path, small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("rig")
    inventory = folder / "inventory"
    (inventory / "host_vars").mkdir(parents=True)
    (inventory / "group_vars").symlink_to(ROOT / "group_vars")
    here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "ansible_become": False}
    (inventory / "hosts.yml").write_text(yaml.safe_dump({"all": {"children": {"gpu-hosts": {"hosts": {"rig": here}}}}}))
    model = folder / "tiny.gguf"
    model.write_bytes(small_model.read_bytes())
    file = {
        "path": str(model), "size_bytes": model.stat().st_size, "sha256": hashlib.sha256(model.read_bytes()).hexdigest()
    }  # fmt: skip
    manifest = json.loads((release / "manifest.json").read_text())
    options = {"model": "tiny", "port": free_port(), "parallel": 1, "ctx_size": 512, "threads": 1}
    variables = {
        "llama_nexus_prefix": str(folder),
        "llama_server_user": getpass.getuser(),  # others can't enter these folders
        "llama_nexus_tools": str(cache_folder() / "tools"),
        "llama_cpp_release": {"name": release.name, "path": str(release), "manifest": manifest},
        "llama_models": {"tiny": {"path": str(model)}},
        "gguf_model_files": {"tiny": file},
        "llama_server_runtime": "supervisor",
        "llama_server_verify_tokens": 8,
        "llama_server_instances": {"main": options},
    }
    (inventory / "host_vars" / "rig.yml").write_text(yaml.safe_dump(variables))
    ansible("tests/roles/llama_server.yml", "-i", inventory)
    yield Rig(folder, inventory)
    ansible("playbooks/stop.yml", "-i", inventory)


def test_a_run_without_the_server_ends_with_a_record_and_the_server_back(rig: Rig) -> None:
    before = rig.server()
    process = rig.measure(BATCHED, 16, 8, 2, [1, 2], stop_server=True)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    record = rig.records()[-1]
    assert record.summary
    assert (record.summary.ok, record.summary.requests) == (True, 6)
    assert (record.header.target, record.header.load.engine) == ("rig/main", BATCHED)
    assert record.header.load.servers_beside == []
    assert record.header.started_at < record.summary.finished_at
    assert [stage.concurrency for stage in record.stages] == [1, 2]
    assert all(sample.t_s >= 0 for sample in record.samples)
    assert record.samples[-1].t_s > known(record.requests[-1].start_s) > known(record.requests[0].start_s) > 0
    assert rig.serves()
    assert rig.server() != before
    assert "Traceback" not in output


def test_beside_a_server_people_are_told_so_and_the_server_is_left_alone(rig: Rig) -> None:
    before = rig.server()
    process = rig.measure(BENCH, 16, 8, 2, [1], stop_server=False)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert "rig/main runs beside llama-bench" in " ".join(output.split())
    record = rig.records()[-1]
    assert record.summary
    assert known(record.summary.metrics["decode_tps"]).n == 2
    assert record.header.load.servers_beside == ["rig/main"]
    assert rig.server() == before


def test_after_ctrl_c_the_tool_has_ended_the_server_is_back_and_the_record_is_whole(rig: Rig) -> None:
    process = rig.measure(BATCHED, 16, 200, 5_000, [1], stop_server=True)
    wait_for(rig.tools, "the tool")
    assert rig.state()["phase"] == "stopped"
    lines = rig.folder / "bench" / "lines.jsonl"
    wait_for(lambda: lines.read_text().count("\n") > 3, "the first repetitions")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate()
    assert process.returncode == 130, output
    assert rig.tools() == []
    assert rig.serves()
    record = rig.records()[-1]
    assert record.summary
    assert (record.summary.interrupted, record.summary.ok) == (True, False)
    assert known(record.summary.metrics["decode_tps"]).n >= 1


def test_a_run_that_is_killed_leaves_no_tool_and_the_server_back(rig: Rig) -> None:
    process = rig.measure(BATCHED, 16, 200, 5_000, [1], stop_server=True)
    wait_for(rig.tools, "the tool")
    process.kill()
    process.communicate()
    wait_for(rig.serves, "the server", 300)
    assert rig.tools() == []
    wait_for(lambda: not rig.playbooks(), "the end of the play", 60)
