"""A model in several files, fetched from servers that fail by processes that are killed: absent or right."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from plugins.module_utils.gguf_model.model_file import ModelFile
from tests.conftest import ROOT
from tests.roles.file_server import FileServer, Served, serve
from tests.support.split_model import split_model

# Kills itself at the N-th thing that it does to a file or a connection.
KILLED_AT = """\
import json, os, sys
sys.path.insert(0, sys.argv[1])
from plugins.module_utils.gguf_model.model_file import ModelFile
left = int(sys.argv[2])
def hook(event, arguments):
    global left
    if event in ("open", "os.rename", "os.remove", "os.chmod", "os.mkdir", "socket.connect"):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), 9)
sys.addaudithook(hook)
ModelFile(json.load(sys.stdin)).have()
"""


@pytest.fixture
def server() -> Iterator[FileServer]:
    """Where the tests download from."""
    with serve() as running:
        yield running


OTHERS = ("generator_version", "files", "token", "endpoint", "mirror")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def wanted(folder: Path, server: FileServer, parts: Sequence[bytes], version: str = "") -> dict[str, Any]:
    """The module's arguments for a model in these files, which the server has from now on."""
    urls = []
    for number, content in enumerate(parts, 1):
        path = f"/{version}m-{number:05}-of-{len(parts):05}.gguf"
        server.files.setdefault(path, Served(content, etag=f'"{sha256(content)}"'))
        urls.append({"url": server.url + path, "sha256": sha256(content)})
    keys = ("path", "url", "repo", "file", "files", "generator", "sha256")
    return {
        "name": "model", "dir": str(folder), **dict.fromkeys(OTHERS),
        "profile": {**dict.fromkeys(keys), "urls": urls, "revision": "main"},
    }  # fmt: skip


def paths(folder: Path, count: int = 3) -> list[Path]:
    return [folder / f"model-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]


def bytes_sent(server: FileServer) -> dict[str, list[str | None]]:
    """By path the ranges that were asked for, without the first look at the size."""
    by_path: dict[str, list[str | None]] = {}
    for asked in server.asked:
        if asked.range != "bytes=0-0":
            by_path.setdefault(asked.path, []).append(asked.range)
    return by_path


def test_all_files_are_fetched_under_names_that_llama_cpp_finds(tmp_path: Path, server: FileServer) -> None:
    parts = split_model(3)
    params = wanted(tmp_path, server, parts)
    assert ModelFile(params).have() == (True, "fetched")
    probe = ModelFile(params).probe()
    assert probe.present
    found = ModelFile(params).found(probe.record)
    assert [found["path"], *(part["path"] for part in found["parts"])] == list(map(str, paths(tmp_path)))
    assert [path.read_bytes() for path in paths(tmp_path)] == parts
    assert {path.name for path in tmp_path.iterdir()} == {
        *(path.name for path in paths(tmp_path)), ".model.lock", "model.gguf.nexus.json",
    }  # fmt: skip


def test_one_missing_file_is_told_before_a_byte_of_the_others_is_fetched(tmp_path: Path, server: FileServer) -> None:
    params = wanted(tmp_path, server, split_model(3))
    del server.files["/m-00003-of-00003.gguf"]
    with pytest.raises(Exception, match=r"m-00003-of-00003.gguf answers 401"):
        ModelFile(params).have()
    assert bytes_sent(server) == {}
    assert not list(tmp_path.glob("*.partial"))


def test_files_that_are_whole_are_not_fetched_again(tmp_path: Path, server: FileServer) -> None:
    parts = split_model(3)
    params = wanted(tmp_path, server, parts)
    server.files["/m-00002-of-00003.gguf"].content = parts[1][:-1] + b"!"
    with pytest.raises(Exception, match=r"wrong sha256: .*m-00002-of-00003.gguf has"):
        ModelFile(params).have()
    assert not ModelFile(params).probe().present
    server.files["/m-00002-of-00003.gguf"].content = parts[1]
    server.asked.clear()
    whole = {f"/m-0000{number}-of-00003.gguf" for number in (1, 3) if sha256_of_partial(tmp_path, number) is not None}
    assert ModelFile(params).have() == (True, "fetched")
    assert not whole & set(bytes_sent(server))


def sha256_of_partial(folder: Path, number: int) -> str | None:
    """The hash of a partial file that is there and whole; None for others."""
    path, parts = paths(folder)[number - 1].with_suffix(".gguf.partial"), split_model(3)
    content = path.read_bytes() if path.exists() else b""
    return sha256(content) if content == parts[number - 1] else None


def test_of_a_model_that_is_damaged_in_one_file_only_that_is_fetched(tmp_path: Path, server: FileServer) -> None:
    parts = split_model(3)
    params = wanted(tmp_path, server, parts)
    ModelFile(params).have()
    server.asked.clear()
    paths(tmp_path)[1].write_bytes(parts[1][:-1] + b"!")
    assert ModelFile(params).have() == (True, "fetched")
    assert set(bytes_sent(server)) == {"/m-00002-of-00003.gguf"}
    assert [path.read_bytes() for path in paths(tmp_path)] == parts


def test_files_that_are_no_one_model_are_refused_and_not_kept(tmp_path: Path, server: FileServer) -> None:
    first, second, third = split_model(3)
    with pytest.raises(Exception, match="says that it is file 3 of 3, the profile has it as 2 of 3"):
        ModelFile(wanted(tmp_path, server, [first, third, second], "turned-")).have()
    *_, other = split_model(3, tensors_of_last=2)
    with pytest.raises(Exception, match="have 4 tensors, 3 make up the model"):
        ModelFile(wanted(tmp_path, server, [first, second, other], "mixed-")).have()
    assert {path.name for path in tmp_path.iterdir()} == {".model.lock"}


def fetched_until_killed(params: dict[str, Any], at: int) -> bool:
    """Fetch in a process that kills itself at that event; False once it has ended before."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT, ROOT, str(at)], input=json.dumps(params), text=True, check=False,
        capture_output=True,
    )  # fmt: skip
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


def state(folder: Path, *models: Sequence[bytes]) -> int | None:
    """The number of the model that is there by the name of its first file, which must be whole; None for none."""
    if not paths(folder)[0].exists():
        return None
    content = [path.read_bytes() for path in paths(folder)]
    return [list(model) for model in models].index(content)


EVENTS = 60  # of a fetch of three files, and some more


@pytest.mark.parametrize("at", [
    *random.Random(16).sample(range(5, EVENTS), 6),  # noqa: S311 - not for secrets
    *(pytest.param(at, marks=pytest.mark.soak) for at in range(1, EVENTS)),
])  # fmt: skip
def test_whoever_is_killed_leaves_the_former_model_none_or_the_new_one(
    tmp_path: Path, server: FileServer, at: int
) -> None:
    former, new = split_model(3, seed=1), split_model(3, seed=2)
    ModelFile(wanted(tmp_path, server, former, "former-")).have()
    params = wanted(tmp_path, server, new)
    fetched_until_killed(params, at)
    there = state(tmp_path, former, new)
    assert ModelFile(params).probe().present == (there == 1 and json_names_new(tmp_path, new))
    whole = {number for number in (1, 2, 3) if is_whole(tmp_path, number, new[number - 1])}
    server.asked.clear()
    ModelFile(params).have()
    assert not {f"/m-0000{number}-of-00003.gguf" for number in whole} & set(bytes_sent(server))
    assert state(tmp_path, former, new) == 1
    assert ModelFile(params).probe().present


def is_whole(folder: Path, number: int, content: bytes) -> bool:
    path = paths(folder)[number - 1]
    return any(file.exists() and file.read_bytes() == content for file in (path, path.with_suffix(".gguf.partial")))


def json_names_new(folder: Path, new: Sequence[bytes]) -> bool:
    """Whether the record is that of the new model."""
    record = json.loads((folder / "model.gguf.nexus.json").read_text())
    return bool(record["sha256"] == sha256(new[0]))


FAULTS: dict[str, dict[str, Any]] = {
    "breaks off": {"drops": 3},
    "ignores ranges": {"ranges": False, "drops": 1},
    "tells no length": {"length": False},
    "tells no length and breaks off": {"length": False, "drops": 1},
    "has no etag": {"etag": None, "drops": 1},
    "is cut": {"cut": 50},
    "has more": {"more": b"more"},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_fails_leaves_the_model_absent_or_right(tmp_path: Path, server: FileServer, fault: str) -> None:
    parts, how = split_model(3), dict(FAULTS[fault])
    served = parts[1][: -how.pop("cut")] if "cut" in how else parts[1] + how.pop("more", b"")
    server.files["/m-00002-of-00003.gguf"] = Served(served, **how)
    params = wanted(tmp_path, server, parts)
    if served == parts[1]:
        assert ModelFile(params).have() == (True, "fetched")
    else:
        with pytest.raises(Exception, match="wrong sha256"):
            ModelFile(params).have()
        assert not paths(tmp_path)[0].exists()
        server.files["/m-00002-of-00003.gguf"] = Served(parts[1])  # mended
        assert ModelFile(params).have() == (True, "fetched")
    assert [path.read_bytes() for path in paths(tmp_path)] == parts


def test_a_server_that_tells_no_length_and_breaks_off_each_time_is_told_as_such(
    tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    parts = split_model(3)
    server.files["/m-00002-of-00003.gguf"] = Served(parts[1], etag=None, length=False, drops=99)
    with pytest.raises(Exception, match=r"broke off at 0 MiB .* bytes came, and the file's header tells of more"):
        ModelFile(wanted(tmp_path, server, parts)).have()


def test_there_is_room_for_all_files_or_none_is_begun(
    tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = split_model(3)
    params = wanted(tmp_path, server, parts)
    free = sum(map(len, parts)) - 1
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=free))
    with pytest.raises(Exception, match="no space: "):
        ModelFile(params).have()
    assert bytes_sent(server) == {}


def test_a_file_of_a_folder_is_copied_and_continued_after_a_kill(tmp_path: Path, server: FileServer) -> None:
    parts = split_model(3)
    params = wanted(tmp_path / "models", server, parts)
    (tmp_path / "models").mkdir()
    for number, entry in enumerate(params["profile"]["urls"]):
        (tmp_path / f"{number} of.gguf").write_bytes(parts[number])
        entry["url"] = f"file://{tmp_path}/{number}%20of.gguf"
    fetched_until_killed(params, 30)
    assert ModelFile(params).have() == (True, "fetched")
    assert [path.read_bytes() for path in paths(tmp_path / "models")] == parts
    assert server.asked == []


def padded(content: bytes, mib: int) -> bytes:
    """A model's file of so many MiB; what lies behind the tensors is nobody's."""
    return content + bytes((mib << 20) - len(content))


def looked_up(params: dict[str, Any], server: FileServer, parts: Sequence[bytes]) -> dict[str, Any]:
    """The same arguments, with sizes that were looked up before: the first request for each file is for its bytes."""
    files = [
        {"path": f"/m-{number:05}-of-{len(parts):05}.gguf", "size_bytes": len(part), "sha256": sha256(part)}
        for number, part in enumerate(parts, 1)
    ]
    return {**params, "files": files, "endpoint": server.url}


def test_a_server_that_stalls_is_hung_up_on_and_what_came_is_kept(
    tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plugins.module_utils.gguf_model.download.TIMEOUT_SECONDS", 0.2)
    parts = [padded(part, 3) for part in split_model(3)]
    server.files["/m-00002-of-00003.gguf"] = Served(parts[1], stalls_at=(2 << 20) + 5)
    params = looked_up(wanted(tmp_path, server, parts), server, parts)
    assert ModelFile(params).have() == (True, "fetched")
    assert bytes_sent(server)["/m-00002-of-00003.gguf"][-1] == f"bytes={2 << 20}-"
    assert [path.read_bytes() for path in paths(tmp_path)] == parts


AFTERWARDS = ("the same", "changed", "cut", "without ranges")


@pytest.mark.parametrize("seed", [
    *range(4), *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(4, 100)),
])  # fmt: skip
def test_whoever_is_killed_at_any_byte_has_the_model_in_the_end_and_no_wrong_one_before(
    tmp_path: Path, server: FileServer, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311 - not for secrets
    parts = [padded(part, mib) for part, mib in zip(split_model(3), (1, 3, 2), strict=True)]
    number = chance.randrange(3)
    at = chance.randrange(len(parts[number]))
    params = looked_up(wanted(tmp_path, server, parts), server, parts)
    path = f"/m-0000{number + 1}-of-00003.gguf"
    server.files[path] = stalling = Served(parts[number], etag=server.files[path].etag, stalls_at=at)
    command = [sys.executable, "-c", KILLED_AT, str(ROOT), "-1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps(params))
        process.stdin.close()
        assert stalling.stalled.wait(60)
        process.kill()
    assert not paths(tmp_path)[0].exists()
    afterwards = AFTERWARDS[seed % len(AFTERWARDS)]
    served = {
        "the same": Served(parts[number], etag=stalling.etag),
        "changed": Served(parts[number][:-1] + b"!", etag='"changed"'),
        "cut": Served(parts[number][:-1], etag=stalling.etag),
        "without ranges": Served(parts[number], etag=stalling.etag, ranges=False),
    }
    server.files[path] = served[afterwards]
    if afterwards in ("changed", "cut"):
        with pytest.raises(Exception, match="wrong sha256"):
            ModelFile(params).have()
        assert not paths(tmp_path)[0].exists()
        server.files[path] = served["the same"]
    assert ModelFile(params).have() == (True, "fetched")
    assert [file.read_bytes() for file in paths(tmp_path)] == parts
