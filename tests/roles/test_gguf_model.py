"""Role gguf_model: the role by real ansible-playbook."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.roles.file_server import Served, serve
from tests.support.split_model import split_model

PARTS = {f"big/b-0000{number}-of-00003.gguf": content for number, content in enumerate(split_model(3), 1)}


def sha256(data: bytes) -> str:
    """The hash as profiles write it."""
    return hashlib.sha256(data).hexdigest()


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
            "ANSIBLE_ROLES_PATH": str(ROOT / "roles"),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
            **env,
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert env["HF_TOKEN"] not in done.stdout + done.stderr
    assert "sesame" not in done.stdout + done.stderr
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


def one_model(**profile: Any) -> dict[str, Any]:
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
        files.files["/model.gguf?sig=sesame"] = files.files["/model.gguf"] = Served(content)
        files.files["/breaks.gguf"] = Served(content, drops=1)
        files.repositories["some/repo"] = {"a.gguf": content, "b.gguf": b"", "README.md": b"", **PARTS}
        good = {
            "generator": one_model(generator="tiny", description="Babbles"),
            "path": one_model(path=str(folder / "users.gguf")),
            "url": one_model(url=f"{files.url}/model.gguf?sig=sesame", sha256=sha256(content)),
            "breaks": one_model(url=f"{files.url}/breaks.gguf", sha256=sha256(content)),
            "hub": one_model(repo="some/repo", file="a.gguf"),
            "parts": one_model(repo="some/repo", files=list(PARTS), tool_calls=True),
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
            "no_part": one_model(repo="some/repo", files=[*list(PARTS)[:2], "big/b.gguf"]),
        }
        refused = play(folder, bad, **hub)
        yield {
            "folder": folder, "checked": checked, "left_by_check": left_by_check, "first": first,
            "asked": asked, "asked_again": asked_again, "second": second, "before": before, "refused": refused,
        }  # fmt: skip


@pytest.fixture(scope="module")
def spread(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Three hosts that share two models of the hub, and one that the controller pushes both to, from a plain mirror."""
    folder = tmp_path_factory.mktemp("spread")
    with serve() as files:
        files.repositories["some/repo"] = {"a.gguf": content, **PARTS}
        wanted: dict[str, Any] = {
            "llama_models": {
                "one": {"repo": "some/repo", "file": "a.gguf"}, "big": {"repo": "some/repo", "files": list(PARTS)},
            },
            "gguf_model_names": ["one", "big"],
        }  # fmt: skip
        sharing = {**wanted, "gguf_model_share": True, "gguf_model_share_address": "127.0.0.1"}
        mirror = folder / "mirror/some/repo"
        (mirror / "big").mkdir(parents=True)
        for name, data in files.repositories["some/repo"].items():
            (mirror / name).write_bytes(data)
        sums = subprocess.run(["sha256sum", "a.gguf", *PARTS], cwd=mirror, capture_output=True, check=True)
        (mirror / "SHA256SUMS").write_bytes(sums.stdout)
        hosts = {
            **{name: dict(sharing) for name in ("rig-1", "rig-2", "rig-3")},
            "pushed": {**wanted, "gguf_model_push": True, "gguf_model_mirror": f"file://{folder}/mirror"},
            "mirrored": {**wanted, "gguf_model_mirror": f"file://{folder}/mirror"},
        }
        hub = {"HF_ENDPOINT": files.url, "HF_TOKEN": "hf_secret"}
        results = play(folder, hosts, **hub)
        asked = list(files.asked)
        late = play(folder, {"rig-1": dict(sharing), "rig-4": dict(sharing)}, **hub)
        yield {
            "folder": folder, "results": results, "asked": asked, "late": late, "asked_late": files.asked[len(asked) :],
        }  # fmt: skip


def test_hosts_that_share_fetch_each_file_once_and_all_have_it(spread: dict[str, Any], content: bytes) -> None:
    for host in ("rig-1", "rig-2", "rig-3"):
        assert not spread["results"][host]["failed"], spread["results"][host]["msg"]
        models = spread["folder"] / host / "models"
        assert (models / "one.gguf").read_bytes() == content
        assert [(models / f"big-0000{n}-of-00003.gguf").read_bytes() for n in (1, 2, 3)] == list(PARTS.values())
    paths = [asked.path for asked in spread["asked"] if asked.range != "bytes=0-0"]
    assert len(paths) == len(set(paths)) == 1 + len(PARTS)


def test_a_host_that_comes_later_has_them_from_one_that_has_them(spread: dict[str, Any]) -> None:
    assert not spread["late"]["rig-4"]["failed"], spread["late"]["rig-4"]["msg"]
    assert spread["late"]["rig-4"]["files"]["big"]["sha256"] == spread["results"]["rig-1"]["files"]["big"]["sha256"]
    assert spread["asked_late"] == []


@pytest.mark.parametrize("host", ["pushed", "mirrored"])
def test_a_host_has_models_of_a_folder_or_by_the_controller_alone(spread: dict[str, Any], host: str) -> None:
    assert not spread["results"][host]["failed"], spread["results"][host]["msg"]
    files = spread["results"][host]["files"]
    assert files["big"]["sha256"] == sha256(next(iter(PARTS.values())))
    assert Path(files["one"]["path"]).parent == spread["folder"] / host / "models"
    cached = {path.name for path in (spread["folder"] / "cache").glob("*.gguf")}
    assert cached == {"one.gguf", *(f"big-0000{number}-of-00003.gguf" for number in (1, 2, 3))}


SOURCES = ["generator", "path", "url", "breaks", "hub", "parts"]


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
    if source == "parts":
        further = [Path(part["path"]).read_bytes() for part in fact["parts"]]
        assert [data, *further] == list(PARTS.values())
    elif source != "generator":
        assert data == content
    left = {path.name for path in Path(deployed["folder"] / source / "models").iterdir()}
    own = set() if source == "path" else {"model.gguf"}
    if source == "parts":
        own = {f"model-0000{number}-of-00003.gguf" for number in (1, 2, 3)}
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
        ("no_part", "has no file big/b.gguf: name one of b.gguf, a.gguf, big/b-00001-of-00003.gguf, "),
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
