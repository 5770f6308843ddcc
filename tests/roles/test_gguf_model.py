"""Role gguf_model: the role by real ansible-playbook, its module by calling it as Ansible does on a host."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFWriter

from nexus_tasks.model_store import tiny_model
from tests import modules
from tests.conftest import ROOT, free_port
from tests.roles.file_server import FileServer, Served, serve

MODULE = ROOT / "plugins/modules/gguf_file.py"
SMALL = tiny_model.Shape(n_layer=1, n_embd=64, n_head=2, n_head_kv=1, n_ff=64)


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small real GGUF file."""
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    tiny_model.write(path, shape=SMALL)
    return path.read_bytes()


@pytest.fixture
def server() -> Iterator[FileServer]:
    """Where the tests download from."""
    with serve() as running:
        yield running


def sha256(data: bytes) -> str:
    """The hash as profiles write it."""
    return hashlib.sha256(data).hexdigest()


# --- The role ---


def play(folder: Path, hosts: dict[str, dict[str, Any]], *options: str, **env: str) -> dict[str, Any]:
    """Run the role on all hosts at once. Returns by host: changed, failed, msg, and files (the fact)."""
    for name, variables in hosts.items():
        variables.setdefault("llama_nexus_prefix", str(folder / name))
    shared = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "llama_nexus_jobs": "{{ llama_nexus_prefix }}/jobs",
        "gguf_model_controller_cache": str(folder / "cache"),
    }
    inventory = folder / "hosts.json"
    inventory.write_text(json.dumps({"all": {"hosts": hosts, "vars": shared}}))
    bin_dir = Path(sys.executable).parent
    done = subprocess.run(
        [bin_dir / "ansible-playbook", "-i", inventory, ROOT / "tests/roles/gguf_model.yml", *options],
        env={
            **os.environ,
            "PATH": f"{bin_dir}:{os.environ['PATH']}",
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_ROLES_PATH": f"{ROOT / 'tests/roles/stubs'}:{ROOT / 'roles'}",
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
            **env,
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert env["HF_TOKEN"] not in done.stdout + done.stderr
    assert "\n{\n" in "\n" + done.stdout, done.stdout + done.stderr
    report = json.loads("{\n" + ("\n" + done.stdout).rpartition("\n{\n")[2])
    results: dict[str, Any] = {
        host: {"changed": stats["changed"], "failed": bool(stats["failures"]), "msg": "", "files": None}
        for host, stats in report["stats"].items()
    }
    for task in report["plays"][0]["tasks"]:
        for host, result in task["hosts"].items():
            if result.get("failed"):
                failed = [item for item in result.get("results", []) if item.get("failed")]
                results[host]["msg"] = (failed[0] if failed else result)["msg"]
            results[host]["files"] = result.get("gguf_model_files", results[host]["files"])
    return results


def one_model(**profile: str) -> dict[str, Any]:
    """A host's variables: a catalogue of one model, and it wanted."""
    return {"llama_models": {"model": profile}, "gguf_model_names": ["model"]}


@pytest.fixture(scope="module")
def deployed(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A host for each source, seen in check mode, then twice, then with what is wrong."""
    folder = tmp_path_factory.mktemp("deployed")
    (folder / "users.gguf").write_bytes(content)
    (folder / "cut.gguf").write_bytes(content[:-100])
    (folder / "page.gguf").write_bytes(b"<!doctype html>")
    with serve() as files:
        files.files["/model.gguf"] = Served(content)
        files.files["/breaks.gguf"] = Served(content, drops=1)
        files.repositories["some/repo"] = {"a.gguf": content, "b.gguf": b"", "README.md": b""}
        good = {
            "generator": one_model(generator="tiny", description="Babbles"),
            "path": one_model(path=str(folder / "users.gguf")),
            "url": one_model(url=f"{files.url}/model.gguf", sha256=sha256(content)),
            "breaks": one_model(url=f"{files.url}/breaks.gguf", sha256=sha256(content)),
            "hub": one_model(repo="some/repo", file="a.gguf"),
        }
        hub = {"HF_ENDPOINT": files.url, "HF_TOKEN": "hf_secret"}
        checked = play(folder, good, "--check", **hub)
        left_by_check = sorted(path.name for path in folder.iterdir())
        first = play(folder, good, "-vvv", **hub)
        asked = list(files.asked)
        second = play(folder, good, **hub)
        asked_again = files.asked[len(asked) :]
        before = (folder / "url/models/model.gguf").read_bytes()
        bad = {
            "unknown_name": {"llama_models": {"a": {}, "b": {}}, "gguf_model_names": ["c"]},
            "unknown_key": one_model(path="/x", shasum="0"),
            "two_sources": one_model(path="/x", url="http://x/y"),
            "no_source": one_model(description="x"),
            "url_without_sha256": one_model(url="http://x/y"),
            "not_a_path": one_model(path="models/x.gguf"),
            "missing": one_model(path="/nowhere/x.gguf"),
            "truncated": one_model(path=str(folder / "cut.gguf")),
            "not_gguf": one_model(path=str(folder / "page.gguf")),
            "wrong_sha256": {
                **one_model(url=f"{files.url}/model.gguf", sha256="0" * 64),
                "llama_nexus_prefix": str(folder / "url"),
            },
            "no_repo": one_model(repo="some/other", file="a.gguf"),
            "no_file": one_model(repo="some/repo", file="c.gguf"),
        }
        refused = play(folder, bad, **hub)
        yield {
            "folder": folder, "checked": checked, "left_by_check": left_by_check, "first": first,
            "asked": asked, "asked_again": asked_again, "second": second, "before": before, "refused": refused,
        }  # fmt: skip


SOURCES = ["generator", "path", "url", "breaks", "hub"]


@pytest.mark.parametrize("source", SOURCES)
def test_check_mode_says_changed_and_leaves_everything_alone(deployed: dict[str, Any], source: str) -> None:
    assert not deployed["checked"][source]["failed"], deployed["checked"][source]["msg"]
    assert deployed["checked"][source]["changed"] == 1
    assert deployed["checked"][source]["files"]["model"]["sha256"] is None
    assert deployed["left_by_check"] == ["cut.gguf", "hosts.json", "page.gguf", "users.gguf"]


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_gives_a_verified_file(deployed: dict[str, Any], source: str, content: bytes) -> None:
    assert not deployed["first"][source]["failed"], deployed["first"][source]["msg"]
    assert deployed["first"][source]["changed"] > 0
    fact = deployed["first"][source]["files"]["model"]
    data = Path(fact["path"]).read_bytes()
    assert (fact["size_bytes"], fact["sha256"]) == (len(data), sha256(data))
    if source != "generator":
        assert data == content
    left = {path.name for path in Path(deployed["folder"] / source / "models").iterdir()}
    own = set() if source == "path" else {"model.gguf"}
    assert left == own | {"model.gguf.nexus.json", ".model.lock"}


@pytest.mark.parametrize("source", SOURCES)
def test_a_second_run_changes_nothing_and_asks_nobody(deployed: dict[str, Any], source: str) -> None:
    assert not deployed["second"][source]["failed"]
    assert deployed["second"][source]["changed"] == 0
    assert deployed["second"][source]["files"] == deployed["first"][source]["files"]
    assert deployed["asked_again"] == []


def test_an_interrupted_download_is_continued(deployed: dict[str, Any], content: bytes) -> None:
    asked = [(request.range, request.status) for request in deployed["asked"] if request.path == "/breaks.gguf"]
    assert asked == [(None, 200), (f"bytes={len(content) // 2}-", 206)]


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("unknown_name", "there is no model c in llama_models: use one of a, b, or add it there"),
        (
            "unknown_key",
            "model model in llama_models has the unknown key shasum: a profile has description, ",
        ),
        ("two_sources", "has 2 sources (path and url): give it one of path, url + sha256"),
        ("no_source", "has no source: give it one of"),
        ("url_without_sha256", "has url without sha256: add sha256"),
        ("not_a_path", "has path: models/x.gguf, which is relative: write it from / on"),
        ("missing", "model model: there is no file /nowhere/x.gguf: put it there, or correct path"),
        ("truncated", "cut.gguf is truncated: header says"),
        ("not_gguf", "page.gguf is not a GGUF file: it begins with b'<!do'"),
        ("wrong_sha256", f"{'0' * 64} is wanted; correct sha256, or the source"),
        ("no_repo", "the hub has no repository some/other: correct repo, or if it is private set HF_TOKEN"),
        ("no_file", "the hub's repository some/repo has no file c.gguf: name one of a.gguf, b.gguf"),
    ],
)
def test_bad_input_is_one_line_that_names_the_remedy(deployed: dict[str, Any], case: str, says: str) -> None:
    result = deployed["refused"][case]
    assert result["failed"]
    assert says in result["msg"]
    assert "\n" not in result["msg"]


@pytest.mark.parametrize("case", ["unknown_name", "unknown_key", "two_sources", "no_source", "url_without_sha256"])
def test_a_wrong_declaration_is_refused_before_the_host_is_touched(deployed: dict[str, Any], case: str) -> None:
    assert not (deployed["folder"] / case).exists()


def test_a_wrong_sha256_leaves_the_old_file_and_no_part_of_the_new(deployed: dict[str, Any]) -> None:
    models = deployed["folder"] / "url/models"
    assert (models / "model.gguf").read_bytes() == deployed["before"]
    assert not list(models.glob("*.partial*"))


# --- The module ---


def module(folder: Path, **args: Any) -> dict[str, Any]:
    """Call the module as Ansible does; options of the profile by their names, others with a leading ``_``."""
    profile = {key: value for key, value in args.items() if not key.startswith("_")}
    options = {key[1:]: value for key, value in args.items() if key.startswith("_")}
    arguments = {"name": "model", "dir": str(folder), "profile": profile, **options}
    return modules.call(MODULE, arguments)


def test_a_damaged_header_is_one_line_with_the_models_name(tmp_path: Path, content: bytes) -> None:
    damaged = bytearray(content)
    damaged[16:24] = b"\xff" * 8
    (tmp_path / "mine.gguf").write_bytes(damaged)
    message = module(tmp_path, path=str(tmp_path / "mine.gguf"))["msg"]
    assert message.startswith(f"model model: {tmp_path}/mine.gguf is damaged: it claims to have 18446744073709551615 ")
    assert "copy or download it again" in message
    assert "\n" not in message


def leave_part(folder: Path, part: bytes, url: str) -> None:
    """What a run that was killed leaves behind."""
    (folder / "model.gguf.partial").write_bytes(part)
    (folder / "model.gguf.partial.json").write_text(json.dumps({"identity": url, "validator": '"1"'}))


def test_a_part_that_a_killed_run_left_is_continued(tmp_path: Path, server: FileServer, content: bytes) -> None:
    server.files["/x"] = Served(content, drops=1)
    leave_part(tmp_path, content[:1000], f"{server.url}/x")
    result = module(tmp_path, url=f"{server.url}/x", sha256=sha256(content))
    assert (result["changed"], result["model"]["sha256"]) == (True, sha256(content))
    assert [request.status for request in server.asked] == [206, 206]
    assert server.asked[0].range == "bytes=1000-"


def test_a_part_that_is_whole_already_is_not_sent_again(tmp_path: Path, server: FileServer, content: bytes) -> None:
    server.files["/x"] = Served(content)
    leave_part(tmp_path, content, f"{server.url}/x")
    assert module(tmp_path, url=f"{server.url}/x", sha256=sha256(content))["changed"]
    assert [request.status for request in server.asked] == [416]


def test_a_part_is_thrown_away_when_the_servers_file_changed(
    tmp_path: Path, server: FileServer, content: bytes
) -> None:
    server.files["/x"] = Served(content, etag='"2"')
    leave_part(tmp_path, b"GGUF of another day", f"{server.url}/x")
    assert module(tmp_path, url=f"{server.url}/x", sha256=sha256(content))["model"]["sha256"] == sha256(content)
    assert [request.status for request in server.asked] == [200]


def test_a_part_of_another_file_is_not_continued(tmp_path: Path, server: FileServer, content: bytes) -> None:
    server.files["/x"] = Served(content)
    leave_part(tmp_path, content[:1000], f"{server.url}/y")
    assert module(tmp_path, url=f"{server.url}/x", sha256=sha256(content))["changed"]
    assert [request.range for request in server.asked] == [None]


def test_what_came_of_a_download_is_kept_when_the_server_goes_away(tmp_path: Path, content: bytes) -> None:
    nobody = f"http://127.0.0.1:{free_port()}/x"
    leave_part(tmp_path, content[:1000], nobody)
    result = module(tmp_path, url=nobody, sha256=sha256(content))
    assert "the download broke off at 0 MiB" in result["msg"]
    assert "run it again: it goes on from there" in result["msg"]
    assert (tmp_path / "model.gguf.partial").read_bytes() == content[:1000]


@pytest.mark.parametrize("served", [{"ranges": False}, {"etag": None}], ids=["no-ranges", "no-etag"])
def test_a_server_that_cannot_continue_is_asked_from_the_start(
    tmp_path: Path, server: FileServer, content: bytes, served: dict[str, Any]
) -> None:
    server.files["/x"] = Served(content, drops=1, **served)
    result = module(tmp_path, url=f"{server.url}/x", sha256=sha256(content))
    assert result["model"]["sha256"] == sha256(content)
    assert [request.status for request in server.asked] == [200, 200]


def test_nothing_but_a_whole_verified_file_takes_the_name(tmp_path: Path, server: FileServer, content: bytes) -> None:
    cut = content[:-100]
    server.files |= {"/cut": Served(cut), "/page": Served(b"<html>no"), "/model": Served(content)}
    assert "is truncated" in module(tmp_path, url=f"{server.url}/cut", sha256=sha256(cut))["msg"]
    assert "not a GGUF file" in module(tmp_path, url=f"{server.url}/page", sha256="0" * 64)["msg"]
    wrong = module(tmp_path, url=f"{server.url}/model", sha256="0" * 64)["msg"]
    assert sha256(content) in wrong
    assert "0" * 64 in wrong
    assert "answers 401" in module(tmp_path, url=f"{server.url}/none", sha256="0" * 64)["msg"]
    assert [path.name for path in tmp_path.iterdir()] == [".model.lock"]


def test_a_file_of_several_is_refused(tmp_path: Path, server: FileServer) -> None:
    writer = GGUFWriter(tmp_path / "part", "llama")
    writer.add_uint16("split.count", 3)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    server.files["/x"] = Served((tmp_path / "part").read_bytes())
    result = module(tmp_path / "m", url=f"{server.url}/x", sha256=sha256(server.files["/x"].content))
    assert "one of 3 that make up the model: merge them with llama-gguf-split --merge" in result["msg"]


def test_a_touched_file_is_verified_again_and_a_damaged_one_fetched_again(
    tmp_path: Path, server: FileServer, content: bytes
) -> None:
    server.files["/x"] = Served(content)
    source = {"url": f"{server.url}/x", "sha256": sha256(content)}
    assert module(tmp_path, **source)["changed"]
    file = tmp_path / "model.gguf"
    os.utime(file, (1, 1))
    assert module(tmp_path, _state="probed", **source)["present"] is False
    assert module(tmp_path, **source)["changed"] is False
    assert module(tmp_path, _state="probed", **source)["present"] is True
    file.write_bytes(b"x" * len(content))
    assert module(tmp_path, **source)["changed"]
    assert file.read_bytes() == content
    assert len(server.asked) == 2


def test_a_changed_source_is_fetched_and_the_file_put_there_by_hand_adopted(
    tmp_path: Path, server: FileServer, content: bytes
) -> None:
    server.files |= {"/x": Served(content), "/y": Served(content + b"\0" * 32)}
    (tmp_path / "model.gguf").write_bytes(content)
    assert module(tmp_path, url=f"{server.url}/x", sha256=sha256(content))["present"]
    assert server.asked == []
    longer = server.files["/y"].content
    assert module(tmp_path, url=f"{server.url}/y", sha256=sha256(longer))["model"]["size_bytes"] == len(longer)


def test_the_record_of_a_users_file_is_not_put_beside_it(tmp_path: Path, content: bytes) -> None:
    home, models = tmp_path / "home", tmp_path / "models"
    home.mkdir()
    (home / "mine.gguf").write_bytes(content)
    assert module(models, path=str(home / "mine.gguf"), sha256=sha256(content))["changed"]
    assert [path.name for path in home.iterdir()] == ["mine.gguf"]
    wrong = module(models, path=str(home / "mine.gguf"), sha256="0" * 64)
    assert wrong["failed"]
    assert (home / "mine.gguf").read_bytes() == content


def test_two_runs_at_once_fetch_once(tmp_path: Path, server: FileServer, content: bytes) -> None:
    server.files["/x"] = Served(content, drops=1)  # the pause before the second attempt keeps the first run busy
    arguments = {
        "name": "model",
        "dir": str(tmp_path),
        "profile": {"url": f"{server.url}/x", "sha256": sha256(content)},
    }
    request = json.dumps({"ANSIBLE_MODULE_ARGS": arguments})
    runs = [
        subprocess.Popen(modules.command(MODULE), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for run in runs:
        assert run.stdin is not None
        run.stdin.write(request)
        run.stdin.close()
    outputs = []
    for run in runs:
        assert run.stdout is not None
        with run.stdout:
            outputs.append(json.loads(run.stdout.read()))
        run.wait()
    assert sorted(output["changed"] for output in outputs) == [False, True]
    assert [request.status for request in server.asked] == [200, 206]


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mount") is None, reason="only root can mount the small file system"
)
def test_a_full_disk_is_told_with_numbers_and_nothing_is_lost(
    tmp_path: Path, server: FileServer, content: bytes
) -> None:
    padded = content + b"\0" * (4 << 20)
    server.files |= {
        "/told": Served(padded),
        "/untold": Served(padded, length=False),
        "/small": Served(content),
    }
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", tmp_path], check=True)
    try:
        assert module(tmp_path, url=f"{server.url}/small", sha256=sha256(content))["changed"]
        for path in ("/told", "/untold"):
            result = module(tmp_path, url=f"{server.url}{path}", sha256=sha256(padded))
            assert result["failed"]
            assert "no space: " in result["msg"]
            assert "MiB are free on its file system; free some, or set gguf_model_dir" in result["msg"]
            assert (tmp_path / "model.gguf").read_bytes() == content
            # Where the server told the size, nothing was fetched in vain.
            assert (tmp_path / "model.gguf.partial").exists() == (path == "/untold")
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_the_hubs_storage_gets_no_token_and_a_gated_repository_needs_one(
    tmp_path: Path, server: FileServer, content: bytes
) -> None:
    server.repositories["some/gated"] = {"a.gguf": content}
    server.gated.add("some/gated")
    source = {"repo": "some/gated", "file": "a.gguf", "_hub_endpoint": server.url}
    refused = module(tmp_path, **source)["msg"]
    assert "some/gated is gated: accept its terms on its page and set HF_TOKEN" in refused
    answer = module(tmp_path, _hub_token="hf_right", **source)  # noqa: S106  (a token of the test's own server)
    assert answer["model"]["sha256"] == sha256(content)
    assert [request.authorization for request in server.asked] == [None]


def test_what_the_hub_lacks_is_named(tmp_path: Path, server: FileServer, content: bytes) -> None:
    server.repositories["some/repo"] = {"a.gguf": content}
    hub = {"repo": "some/repo", "file": "a.gguf", "_hub_endpoint": server.url}
    assert "has no revision v9: correct revision" in module(tmp_path, **hub, revision="v9")["msg"]
    known = module(tmp_path, **hub, sha256="0" * 64)["msg"]
    assert f"has {sha256(content)}, {'0' * 64} is wanted" in known
    assert server.asked == []
    nobody = f"http://127.0.0.1:{free_port()}"
    away = module(tmp_path, **{**hub, "_hub_endpoint": nobody})["msg"]
    assert f"the hub {nobody} can't be reached" in away
    assert "use a path or url source" in away
