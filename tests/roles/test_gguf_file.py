"""Module gguf_file, called as Ansible does on a host: downloads that go wrong, models in parts, secrets."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from plugins.plugin_utils.hub import Hub
from tests import modules
from tests.conftest import ROOT, free_port
from tests.roles.file_server import FileServer, Served, serve
from tests.support import small_disk
from tests.support.split_model import split_model

MODULE = ROOT / "plugins/modules/gguf_file.py"


@pytest.fixture
def server() -> Iterator[FileServer]:
    """Where the tests download from."""
    with serve() as running:
        yield running


def sha256(data: bytes) -> str:
    """The hash as profiles write it."""
    return hashlib.sha256(data).hexdigest()


def at_hub(server: FileServer, repo: str, *files: str, token: str | None = None) -> dict[str, Any]:
    """The arguments for a model of the hub, which has been asked about it as the controller does."""
    profile = (
        {"repo": repo, "files": [{"file": file} for file in files]} if files[1:] else {"repo": repo, "file": files[0]}
    )
    resolved = Hub(repo, "main", server.url, token).look_up([{"file": file} for file in files])
    return {**profile, "_endpoint": server.url, "_token": token, "_files": list(map(asdict, resolved))}


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


def leave_part(folder: Path, part: bytes, whole: bytes) -> None:
    """What a run that was killed leaves behind."""
    (folder / "model.gguf.partial").write_bytes(part)
    known = {"sha256": sha256(whole), "validator": '"1"'}
    (folder / "model.gguf.partial.json").write_text(json.dumps(known))


def test_a_part_that_a_killed_run_left_is_continued(tmp_path: Path, server: FileServer, content: bytes) -> None:
    server.files["/x"] = Served(content, drops=1)
    leave_part(tmp_path, content[:1000], content)
    result = module(tmp_path, url=f"{server.url}/x", sha256=sha256(content))
    assert (result["changed"], result["model"]["sha256"]) == (True, sha256(content))
    assert [request.status for request in server.asked] == [206, 206]
    assert server.asked[0].range == "bytes=1000-"


def test_a_part_that_is_whole_already_is_not_asked_for_again(
    tmp_path: Path, server: FileServer, content: bytes
) -> None:
    server.files["/x"] = Served(content)
    leave_part(tmp_path, content, content)
    assert module(tmp_path, url=f"{server.url}/x", sha256=sha256(content))["changed"]
    assert server.asked == []


def test_a_part_is_thrown_away_when_the_servers_file_changed(
    tmp_path: Path, server: FileServer, content: bytes
) -> None:
    server.files["/x"] = Served(content, etag='"2"')
    leave_part(tmp_path, b"GGUF of another day", content)
    assert module(tmp_path, url=f"{server.url}/x", sha256=sha256(content))["model"]["sha256"] == sha256(content)
    assert [request.status for request in server.asked] == [200]


def test_a_part_of_another_file_is_not_continued(tmp_path: Path, server: FileServer, content: bytes) -> None:
    server.files["/x"] = Served(content)
    leave_part(tmp_path, content[:1000], content + b"of another file")
    assert module(tmp_path, url=f"{server.url}/x", sha256=sha256(content))["changed"]
    assert [request.range for request in server.asked] == [None]


def test_what_came_of_a_download_is_kept_when_the_server_goes_away(tmp_path: Path, content: bytes) -> None:
    nobody = f"http://127.0.0.1:{free_port()}/x"
    leave_part(tmp_path, content[:1000], content)
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


def parts(folder: Path) -> list[Path]:
    """A model in three files, as llama-gguf-split writes and names them."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"m-{number:05}-of-00003.gguf" for number in (1, 2, 3)]
    for path, content in zip(paths, split_model(3), strict=True):
        path.write_bytes(content)
    return paths


def test_a_file_of_several_is_refused(tmp_path: Path, server: FileServer) -> None:
    server.files["/x"] = Served(parts(tmp_path)[0].read_bytes())
    result = module(tmp_path / "m", url=f"{server.url}/x", sha256=sha256(server.files["/x"].content))
    assert f"{server.url}/x is one of 3 files that make up the model: name all of them in the profile" in result["msg"]


def test_a_model_in_several_files_is_verified_in_all_of_them(tmp_path: Path) -> None:
    first, second, third = parts(tmp_path / "parts")
    source = {"path": str(first), "sha256": sha256(first.read_bytes())}
    done = module(tmp_path, **source)
    assert done["changed"]
    assert done["model"]["sha256"] == source["sha256"]
    assert done["model"]["parts"] == [
        {"path": str(path), "size_bytes": path.stat().st_size, "sha256": sha256(path.read_bytes())}
        for path in (second, third)
    ]
    assert module(tmp_path, **source)["changed"] is False
    os.utime(third, (1, 1))
    assert module(tmp_path, _state="probed", **source)["why"] == f"{third} changed since it was verified"
    assert module(tmp_path, **source)["changed"] is False
    content = bytearray(second.read_bytes())
    content[-1] ^= 1
    second.write_bytes(content)
    again = module(tmp_path, **source)
    assert again["changed"]
    assert again["model"]["parts"][0]["sha256"] == sha256(bytes(content))
    third.unlink()
    assert f"{third} is not there: of the model's 3 files this one is missing" in module(tmp_path, **source)["msg"]
    assert f"{second} is one of 3 files of a model; name the first" in module(tmp_path, path=str(second))["msg"]


def test_of_a_model_in_several_files_a_former_record_of_the_first_is_not_enough(tmp_path: Path) -> None:
    first, *_ = parts(tmp_path / "parts")
    module(tmp_path, path=str(first))
    record = tmp_path / "model.gguf.nexus.json"
    former = json.loads(record.read_text())
    del former["parts"]
    record.write_text(json.dumps(former))
    assert module(tmp_path, _state="probed", path=str(first))["why"] == "its other files have not been verified"
    done = module(tmp_path, path=str(first))
    assert (done["changed"], len(done["model"]["parts"])) == (True, 2)


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


@small_disk.needs_mount
def test_a_full_disk_is_told_with_numbers_and_nothing_is_lost(
    tmp_path: Path, server: FileServer, content: bytes
) -> None:
    padded = content + b"\0" * (4 << 20)
    server.files |= {
        "/told": Served(padded),
        "/untold": Served(padded, length=False),
        "/small": Served(content),
    }
    with small_disk.mounted(tmp_path, "2m"):
        assert module(tmp_path, url=f"{server.url}/small", sha256=sha256(content))["changed"]
        for path in ("/told", "/untold"):
            result = module(tmp_path, url=f"{server.url}{path}", sha256=sha256(padded))
            assert result["failed"]
            assert "no space: " in result["msg"]
            assert "MiB are free on its file system; free some, or set gguf_model_dir" in result["msg"]
            assert (tmp_path / "model.gguf").read_bytes() == content
            # Where the server told the size, nothing was fetched in vain.
            assert (tmp_path / "model.gguf.partial").exists() == (path == "/untold")


def test_the_hub_gets_the_token_and_its_storage_does_not(tmp_path: Path, server: FileServer, content: bytes) -> None:
    server.repositories["some/gated"] = {"a.gguf": content}
    server.gated.add("some/gated")
    source = at_hub(server, "some/gated", "a.gguf", token="hf_right")  # noqa: S106  (a token of the test's own server)
    answer = module(tmp_path, **source)
    assert answer["model"]["sha256"] == sha256(content)
    assert [request.authorization for request in server.asked] == [None]
    assert server.credentials == [(server.url.removeprefix("http://"), "Bearer hf_right")]


# --- What is secret, and what can't be verified ---


def everything_left(folder: Path) -> str:
    """The text of all files that a run leaves, of models nothing."""
    return "".join(path.read_text() for path in folder.rglob("*") if path.is_file() and path.suffix == ".json")


def test_a_password_and_a_signature_stand_in_no_result_record_or_error(
    tmp_path: Path, server: FileServer, content: bytes
) -> None:
    name, query = "/My%20Gr%C3%B6%C3%9Fe.gguf", "?X-Amz-Signature=sesame"
    server.files[name + query] = Served(content)
    host = server.url.removeprefix("http://")
    wanted = {"url": f"http://me:opensesame@{host}/My Größe.gguf{query}", "sha256": sha256(content)}
    done = module(tmp_path, **wanted)
    assert done["model"]["sha256"] == sha256(content)
    assert {request.authorization for request in server.asked} == {"Basic bWU6b3BlbnNlc2FtZQ=="}
    # Another signature is the same file.
    assert module(tmp_path, **{**wanted, "url": wanted["url"] + "2"})["changed"] is False
    gone = module(tmp_path / "2", **{**wanted, "url": f"http://me:opensesame@{host}/none{query}"})
    wrong = module(tmp_path / "3", **{**wanted, "url": f"http://me:opensesame@{host}:x/none{query}"})
    assert f"http://{host}/none?… answers 401" in gone["msg"]
    assert "url can't be asked for: it is no http(s) address" in wrong["msg"]
    assert "sesame" not in json.dumps([done, gone, wrong]) + everything_left(tmp_path)


def test_an_address_without_a_secret_is_told_in_errors(tmp_path: Path, server: FileServer) -> None:
    result = module(tmp_path, url=f"{server.url}/none", sha256="0" * 64)
    assert f"{server.url}/none answers 401" in result["msg"]
    assert result["invocation"]["module_args"]["profile"]["url"] == f"{server.url}/none"


def test_a_mirror_that_has_moved_is_followed_and_believed_by_the_hash_only(
    tmp_path: Path, server: FileServer, content: bytes
) -> None:
    server.moved["/some/repo/resolve"] = f"{server.url.replace('127.0.0.1', 'localhost')}/moved"
    path = "/some/repo/resolve/main/a.gguf"
    told = {"path": path, "sha256": sha256(content)}
    hub = {"repo": "some/repo", "file": "a.gguf", "_endpoint": server.url, "_files": [told]}
    server.files[f"/moved{path}"] = Served(content[:-1] + b"!")
    assert "wrong sha256" in module(tmp_path, **hub)["msg"]
    assert not (tmp_path / "model.gguf").exists()
    server.files[f"/moved{path}"] = Served(content)
    assert module(tmp_path, **hub)["model"]["sha256"] == sha256(content)


@pytest.mark.parametrize("token", ["hf_sesame\n", "hf_sesame\r", "hf_ses\x1bame"])
def test_a_token_with_a_line_end_is_refused_and_not_told(tmp_path: Path, server: FileServer, token: str) -> None:
    told = {"path": "/a.gguf", "sha256": "0" * 64}
    hub = {"repo": "some/repo", "file": "a.gguf", "_endpoint": server.url, "_files": [told]}
    result = module(tmp_path, **hub, _token=token)
    assert result["msg"].startswith("model model: HF_TOKEN in the controller's environment has a line end")
    assert "ses" not in json.dumps(result)
