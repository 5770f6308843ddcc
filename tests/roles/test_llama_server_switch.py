"""The switch as modules run it on a host, with a real supervisord and real llama-servers.

A play that is cut off in the middle is in tests/fleet; here are the moments that a play can't be stopped at.
"""

from __future__ import annotations

import base64
import dataclasses
import errno
import multiprocessing
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from plugins.module_utils.hostlib.files import read_json
from plugins.module_utils.hostlib.pids import argv_of
from plugins.module_utils.llama_server.commands import run
from plugins.module_utils.llama_server.control import restart, rollback, start, stop
from plugins.module_utils.llama_server.converge import converge
from plugins.module_utils.llama_server.difference import difference
from plugins.module_utils.llama_server.errors import HostError
from plugins.module_utils.llama_server.failures import failure_message
from plugins.module_utils.llama_server.folder import folders, used_releases
from plugins.module_utils.llama_server.plan import plan
from plugins.module_utils.llama_server.runtimes.docker import Docker
from plugins.module_utils.llama_server.runtimes.supervisor import Supervisor
from plugins.module_utils.llama_server.status import status as instance_status
from tests.bed import Bed
from tests.conftest import free_port, wait_for
from tests.fakes import tiny_mmproj
from tests.roles.machine import Machine, deploy, status


def kill_while_switching(host: Any, runtime: Any) -> None:
    """Run a switch in a process of its own, and kill that when the new server runs."""
    old = runtime.status("main").pid
    switch = multiprocessing.get_context("fork").Process(target=converge, args=(host, ["main"]))
    switch.start()
    wait_for(lambda: runtime.status("main").pid not in (None, old) or not switch.is_alive(), "the new server")
    os.kill(switch.pid or 0, signal.SIGKILL)
    switch.join()


def test_a_first_deployment_that_was_killed_is_taken_up_by_the_next_run(machine: Machine) -> None:
    host = machine.declaring(machine.instance("main"))
    kill_while_switching(host, Supervisor(host.settings))
    left = status(host).pid

    [row] = plan(host)
    assert (row["reason"], row["error"]) == ("the last run ended while it was switching", None)
    # What was left answers on the port, and has nothing to do with what is declared by now.
    changed = machine.declaring(machine.instance("main", "--ctx-size", "512"))
    [row] = deploy(changed)
    assert (row["state"], row["error"]) == ("verified", None)
    assert row["pid"] != left
    assert not argv_of(left)
    assert [row["changed"] for row in plan(changed)] == [False]


@pytest.fixture
def boxable(release: Path, tiny_model: Path, bed: Bed) -> Iterator[Machine]:
    """The same where a container's user may read: not in a home, and not where a container has a /tmp of its own."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        copy = Path(folder) / release.name
        shutil.copytree(release, copy, symlinks=True)
        here = Machine(Path(folder), copy, Path(shutil.copy(tiny_model, folder)))
        here.user = "nobody"
        Path(folder).chmod(0o755)
        host = here.declaring()
        try:
            yield here
        finally:
            Docker(host.settings).forget("main")
            here.shut_down()
            for path in Path(folder).iterdir():
                made_here = f"label=llama-nexus.path={path}"
                run("docker", "image", "prune", "--all", "--force", "--filter", made_here)


def test_what_a_killed_change_of_runtime_left_is_removed(boxable: Machine, bed: Bed) -> None:
    machine = boxable
    deploy(machine.declaring(machine.instance("main")))
    boxed = machine.declaring(machine.instance("main", runtime="docker", image={"base": bed.image("base")}))
    container = Docker(boxed.settings)
    kill_while_switching(boxed, container)
    assert container.status("main").state == "running"

    # Another prefix of this machine has nothing to do with it.
    elsewhere = dataclasses.replace(boxed.settings, root="/elsewhere")
    assert Docker(elsewhere).status("main").state == "stopped"

    # Who stops it stops what runs, whichever runtime was to run it.
    row = stop(boxed, boxed.folder("main"), {"drain_timeout": 0})
    assert (row["state"], row["changed"]) == ("stopped", True)
    assert container.status("main").state != "running"
    assert boxed.pids(boxed.folder("main")) == set()

    # Who goes back to what served must not find the other one in the way, nor leave it behind.
    back = machine.declaring(machine.instance("main"))
    [row] = deploy(back)
    assert (row["state"], row["error"]) == ("verified", None)
    assert status(back).pid == row["pid"]
    assert container._containers("main") == []


def test_what_a_killed_switch_left_does_not_outlive_a_refused_one(machine: Machine) -> None:
    host = machine.declaring(machine.instance("main", "--ctx-size", "512"), trial="always")
    [verified] = deploy(host)
    killed = machine.declaring(machine.instance("main", "--ctx-size", "1024"))
    kill_while_switching(killed, Supervisor(host.settings))
    left = status(host).pid
    # It is declared to have more slots than it gets: the proof fails.
    wrong = machine.declaring(machine.instance("main", "--ctx-size", "2048", parallel=2), trial="always")
    [row] = deploy(wrong)
    assert row["error"].startswith("slots: expected 2, found 1")
    assert row["restored"]["error"] is None
    assert status(host).pid not in (left, None)
    [row] = plan(host)
    assert (row["changed"], row["generation"]) == (False, verified["generation"])


def test_a_killed_trial_leaves_the_server_alone_and_the_next_run_removes_it(machine: Machine) -> None:
    host = machine.declaring(machine.instance("main"))
    deploy(host)
    serving = status(host).pid
    changed = machine.declaring(machine.instance("main", "--ctx-size", "512"), trial="always")
    switch = multiprocessing.get_context("fork").Process(target=converge, args=(changed, ["main"]))
    switch.start()
    tried = wait_for(lambda: status(host, "main.trial").pid, "the trial")
    os.kill(switch.pid or 0, signal.SIGKILL)
    switch.join()

    # Who thinks better of it gets rid of the trial, and the server is not even restarted.
    [row] = deploy(host)
    assert (row["state"], row["changed"], row["pid"]) == ("verified", False, serving)
    assert not argv_of(tried)
    assert [row["changed"] for row in plan(host)] == [False]


def test_servers_that_outlived_supervisord_are_taken_up_one_by_one(machine: Machine) -> None:
    other = free_port()
    main, chat = machine.instance("main"), machine.instance("chat", port=other, local_url=f"http://127.0.0.1:{other}")
    chat["config"]["argv"][chat["config"]["argv"].index("--port") + 1] = str(other)
    host = machine.declaring(main, chat)
    deploy(host)
    outlived = {name: status(host, name).pid for name in ("main", "chat")}
    os.kill(int((machine.folder / "instances/supervisord.pid").read_text()), signal.SIGKILL)
    wait_for(lambda: status(host, "chat").state == "unsupervised", "supervisord's end")

    rows = deploy(host)
    assert {row["name"]: (row["state"], row["error"]) for row in rows} == dict.fromkeys(
        ("main", "chat"), ("verified", None)
    )
    assert not any(argv_of(pid) for pid in outlived.values())


def test_a_runtime_that_is_gone_from_the_host_can_be_left(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*arguments: object, **options: object) -> None:
        raise HostError("docker can't be run")

    for name in ("status", "stop", "forget"):
        monkeypatch.setattr(Docker, name, gone)
    boxed = machine.declaring(machine.instance("main", runtime="docker", image={"base": "debian"}))
    folder, declaration = boxed.folder("main"), boxed.declared["main"]
    Path(folder.path).mkdir()
    folder.link("verified", folder.write(declaration, "0" * 12, None))
    folder.note("verified")

    row = instance_status(boxed, folder)
    assert (row["state"], row["why"]) == ("unknown", "docker can't be run")
    with pytest.raises(HostError, match="docker can't be run"):  # it would come back with its engine
        stop(boxed, folder, {"drain_timeout": 0})

    host = machine.declaring(machine.instance("main"))
    # As long as somebody answers where it would, it is not gone.
    with socket.create_server(("127.0.0.1", machine.port)):
        [row] = converge(host, ["main"])
        assert (row["state"], row["error"].split(";")[0]) == ("failed", "docker can't be run")
    [row] = deploy(host)
    assert (row["state"], row["error"]) == ("verified", None)
    assert row["checks"][-1]["cause"] == "the old one can't be removed: docker can't be run"
    [row] = deploy(machine.declaring(machine.instance("main", "--ctx-size", "512")))
    assert (row["state"], row["error"]) == ("verified", None)
    [row] = deploy(machine.declaring(prune=True))
    assert (row["state"], row["error"]) == ("stopped", None)


def test_what_fails_on_the_way_back_is_told_beside_the_cause(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise HostError("supervisord is stuck")

    monkeypatch.setattr(Supervisor, "forget", fail)
    [row] = deploy(machine.declaring(machine.instance("main", parallel=2)))
    assert row["error"].startswith("slots: expected 2, found 1")
    assert row["error"].endswith("it can't be stopped: supervisord is stuck")
    assert (row["state"], row["changed"]) == ("failed", True)
    monkeypatch.undo()

    # Who must look after what would not start with the host is told so.
    deploy(machine.declaring(machine.instance("main")))
    monkeypatch.setattr(Supervisor, "settle", fail)
    [row] = deploy(machine.declaring(machine.instance("main", "--ctx-size", "512")))
    assert row["error"] == (
        "it was proven, but that can't be written down: supervisord is stuck; "
        "the old one may not start with the host: supervisord is stuck"
    )
    assert (row["state"], row["restored"]["error"]) == ("restored", None)


def test_a_disk_that_fills_in_the_middle_of_a_switch_ends_nothing(machine: Machine) -> None:
    def full(line: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    host = machine.declaring(machine.instance("main"), progress=full)
    [row] = deploy(host)
    assert (row["state"], row["error"]) == ("verified", None)
    [row] = deploy(machine.declaring(machine.instance("main", parallel=2), progress=full))
    assert (row["state"], row["restored"]["error"]) == ("restored", None)


def test_a_start_leaves_alone_what_serves_and_is_proven(machine: Machine) -> None:
    instance = machine.instance("main")
    host = machine.declaring(instance)
    deploy(host)
    [row] = deploy(machine.declaring(machine.instance("main", parallel=2)))
    assert row["state"] == "restored"
    serving = status(host).pid
    folder = host.folder("main")
    assert start(host, folder, instance["proof"])["changed"] is False
    assert status(host).pid == serving

    # One that is slow after a stop and a start serves on all the same, and the next run does not restart it.
    stop(host, folder, instance["proof"])
    row = start(host, folder, {**instance["proof"], "min_decode_tps": 1e6})
    assert row["error"].startswith("decode speed: ")
    assert failure_message([row]).splitlines()[0].endswith("; what ran before runs on")
    assert plan(host)[0]["changed"] is False


@pytest.mark.parametrize("action", [restart, rollback])
def test_a_server_is_not_stopped_for_one_that_can_not_start(machine: Machine, action: Any, tmp_path: Path) -> None:
    release, model = tmp_path / "release", tmp_path / "tiny.gguf"
    shutil.copytree(machine.release, release, symlinks=True)
    shutil.copyfile(machine.model["path"], model)
    mine = Machine(machine.folder, release, model)
    mine.port = machine.port
    keys = {"main": {"ops": "sesame-0b9f2c-4417"}}
    declared = mine.instance("main", "--api-key-file", "@keys", key_names=["ops"])
    host = mine.declaring(declared, keys=keys)
    deploy(host)
    if action is rollback:
        deploy(machine.declaring(machine.instance("main", "--ctx-size", "512")))
    folder, serving = host.folder("main"), status(host)
    started = folder.linked("previous" if action is rollback else "verified")
    assert started
    binary = release / "bin/llama-server"
    for missing in (binary, model, Path(started.folder) / "launch.py", Path(started.key_file or "")):
        missing.rename(missing.with_suffix(".away"))
        with pytest.raises(HostError, match=rf"^instance main can't be started, {missing} is missing: deploy it; what"):
            action(host, folder, declared["proof"])
        missing.with_suffix(".away").rename(missing)
    binary.rename(binary.with_suffix(".away"))
    binary.write_text("#!/bin/sh\necho 'error: libllama.so is missing' >&2\nexit 1\n")
    binary.chmod(0o755)
    with pytest.raises(HostError, match=r"refuses the command line: error: libllama\.so is missing; nothing was"):
        action(host, folder, declared["proof"])
    binary.with_suffix(".away").rename(binary)
    settings = dataclasses.replace(host.settings, supervisor_python=str(tmp_path / "nothing/python"))
    with pytest.raises(HostError, match="nothing/python is missing: deploy instance main"):
        action(dataclasses.replace(host, settings=settings), folder, declared["proof"])
    assert status(host) == serving
    assert not folder.linked("pending")
    row = action(host, folder, declared["proof"])
    assert (row["state"], row["error"]) == ("verified", None)


def test_supervisord_says_itself_why_it_does_not_start(machine: Machine) -> None:
    deep = machine.folder / ("a" * 100)
    deep.mkdir()
    [row] = deploy(Machine(deep, machine.release, Path(machine.model["path"])).declaring(machine.instance("main")))
    assert "AF_UNIX path too long" in row["error"]


def test_an_instance_under_another_name_takes_the_port_when_the_old_one_is_removed(machine: Machine) -> None:
    deploy(machine.declaring(machine.instance("main")))
    renamed = machine.instance("chat")
    with pytest.raises(HostError, match="is taken by instance main, which runs there"):
        plan(machine.declaring(renamed))
    host = machine.declaring(renamed, prune=True)
    assert [(row["name"], row["state"]) for row in deploy(host)] == [("main", "stopped"), ("chat", "verified")]
    assert [folder.name for folder in folders(host.root)] == ["chat"]


def test_keys_that_are_damaged_keep_nobody_from_deploying(machine: Machine) -> None:
    instance = machine.instance("main", "--api-key-file", "@keys", key_names=["ci"])
    host = machine.declaring(instance, keys={"main": {"ci": "a-key-that-is-long-enough"}})
    deploy(host)
    keys = Path(host.folder("main").linked("verified").key_file)
    keys.unlink()
    keys.mkdir()
    assert "keys on the host was altered" in plan(host)[0]["reason"]
    assert '"keys": "changed"' in difference(host)["after"]
    [row] = deploy(host)
    assert (row["state"], row["error"]) == ("verified", None)
    assert keys.stat().st_mode & 0o777 == 0o600


def test_every_model_of_a_router_answers_before_it_is_kept_and_later_only_what_is_loaded(machine: Machine) -> None:
    model = {**machine.model, "side_models": [], "n_gpu_layers": None, "uses_gpu": False, "load_on_startup": False}
    twin = machine.folder / "twin.gguf"
    shutil.copy(machine.model["path"], twin)
    at_once = {**model, "mode": "completion", "load_on_startup": True}
    models = {"chat": at_once, "embed": {**model, "mode": "embedding", "path": str(twin)}}
    sections = (
        f"[chat]\nmodel = {machine.model['path']}\nctx-size = 512\nload-on-startup = true\n\n"
        f"[embed]\nmodel = {twin}\nctx-size = 512\nembeddings = true\npooling = mean\n"
    )
    instance = machine.instance(
        "main", "--models-preset", "@models.ini", "--models-max", "1", "--no-models-autoload",
        mode="router", model=None, models=models, files={"models.ini": sections},
    )  # fmt: skip
    host = machine.declaring(instance)
    [row] = deploy(host)
    assert row["error"] is None
    assert {"chat completes", "embed embedding"} <= {check["check"] for check in row["checks"] if check["ok"]}
    assert len(row["placements"]) == 2
    # The one that loads with the router took the place of the other: only what is loaded holds memory.
    weights = row["buffers_mib"]["CPU_Mapped"]["model"]
    assert weights == pytest.approx(machine.model["size_bytes"] / (1 << 20), rel=0.02)
    assert machine.loaded() == {"chat"}

    [row] = plan(host)
    assert (row["error"], row["changed"]) == (None, False)
    assert [check["check"] for check in row["checks"] if check["check"].startswith(("chat", "embed"))] == [
        "embed sha256", "chat sha256", "chat completes", "chat prompt",
    ]  # fmt: skip
    assert machine.loaded() == {"chat"}


def test_the_processes_of_a_routers_models_are_proven_to_need_a_key(machine: Machine) -> None:
    model = {**machine.model, "side_models": [], "n_gpu_layers": None, "uses_gpu": False, "load_on_startup": True}
    rows = []
    for environment in ({}, {"LLAMA_ARG_API_KEY_FILE": "@keys"}):
        router = machine.instance(
            "main", "--models-preset", "@models.ini", "--api-key-file", "@keys", mode="router", model=None,
            models={"chat": {**model, "mode": "completion"}}, key_names=["ops"], environment=environment,
            files={"models.ini": f"[chat]\nmodel = {machine.model['path']}\nctx-size = 512\n"},
        )  # fmt: skip
        rows += deploy(machine.declaring(router, keys={"main": {"ops": "sesame-0b9f2c-4417"}}))
    assert rows[0]["error"].startswith(
        "chat without a key: expected 401, found 200 (every user of this host can ask it"
    )
    assert (rows[1]["state"], rows[1]["error"]) == ("verified", None)
    assert {check["check"]: check["found"] for check in rows[1]["checks"]}["chat without a key"] == 401


def test_a_server_with_a_projector_is_proven_to_take_images(machine: Machine) -> None:
    path = machine.folder / "mmproj.gguf"
    tiny_mmproj.write(path)
    projector = {"name": "projector", "path": str(path), "size_bytes": path.stat().st_size, "sha256": ""}
    arguments = ("--ctx-size", "512", "--mmproj", str(path))
    [row] = deploy(machine.declaring(machine.instance("main", *arguments, side_models=[projector])))
    assert row["error"] is None
    assert {check["check"]: check["found"] for check in row["checks"]}["modalities"].startswith("vi")

    text = {"type": "text", "text": "What is this?"}
    url = f"data:image/bmp;base64,{base64.b64encode(tiny_mmproj.image()).decode()}"
    image = {"type": "image_url", "image_url": {"url": url}}
    tokens = []
    for parts in ([text], [text, image]):
        body = {"messages": [{"role": "user", "content": parts}], "max_tokens": 2}
        answer = httpx.post(f"http://127.0.0.1:{machine.port}/v1/chat/completions", json=body, timeout=60)
        assert answer.status_code == 200
        tokens.append(answer.json()["usage"]["prompt_tokens"])
    assert tokens[1] == tokens[0] + tiny_mmproj.TOKENS


def test_where_memory_went_is_remembered_from_life_to_life(machine: Machine) -> None:
    host = machine.declaring(machine.instance("main"))
    deploy(host)
    killed = status(host).pid
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: status(host).pid not in (None, killed), "another process")
    before = read_json(host.folder("main").file("proof.json"))
    plan(host, remember=False)  # as in check mode
    assert read_json(host.folder("main").file("proof.json")) == before
    [row] = plan(host)
    assert (row["error"], row["changed"]) == (None, False)
    (machine.folder / "logs/main.log").write_text("what it said was rotated away\n")
    [again] = plan(host)
    assert again["buffers_mib"] == row["buffers_mib"] != {}


def test_a_model_in_a_home_is_refused_where_the_servers_user_can_not_enter_it(machine: Machine) -> None:
    model = {"name": "tiny", **machine.model, "path": "/root/models/tiny.gguf"}
    host = machine.declaring(machine.instance("main", runtime="docker", image={"base": "debian"}, model=model))
    with pytest.raises(HostError, match="lies in a home, which its user can't enter under docker"):
        plan(host)


def test_what_supervisord_refuses_is_told_in_one_line(machine: Machine) -> None:
    host = machine.declaring(machine.instance("main"))
    deploy(host)
    proxy = Supervisor(host.settings)._connect()
    assert proxy
    with pytest.raises(HostError, match="supervisord refuses: BAD_NAME: nobody"):
        proxy.supervisor.startProcess("nobody")


def test_an_image_goes_with_its_release_and_not_before(boxable: Machine, bed: Bed) -> None:
    def images() -> set[str]:
        tags = run("docker", "images", "llama-nexus/llama-server", "--format", "{{.Tag}}").split()
        return {tag.partition("-")[0] for tag in tags if tag.startswith(("one-", "two-", "three-"))}

    releases = [Path(shutil.copytree(boxable.release, boxable.folder / name)) for name in ("one", "two", "three")]
    kept = []
    for release in releases:
        boxable.release = release
        [row] = deploy(boxable.declaring(boxable.instance("main", runtime="docker", image={"base": bed.image("base")})))
        assert (row["state"], row["error"]) == ("verified", None)
        used = used_releases(str(boxable.folder / "instances"))
        kept.append((sorted(Path(path).name for path in used), images()))
    assert kept == [
        (["one"], {"one"}),
        (["one", "two"], {"one", "two"}),
        (["three", "two"], {"two", "three"}),
    ]
