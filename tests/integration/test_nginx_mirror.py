"""Models from a plain file server, nginx: continued after kills at any point on both sides, and never damaged."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from nexus_tasks.model_store.model_sources import open_model
from tests import modules
from tests.conftest import ROOT
from tests.memory_model_list import WHOLE
from tests.memory_models import write
from tests.support.known_models import small
from tests.support.nginx import Nginx, nginx

MODULE = ROOT / "plugins/modules/gguf_file.py"
REPO = "some/repo-GGUF"
RATE = "2m"  # bytes a second: the file takes four
SLACK_BYTES = 16  # of requests for the first byte


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """The folder of a mirror with one model of some MiB, and the list of its hashes."""
    folder = tmp_path / "mirror" / REPO
    folder.mkdir(parents=True)
    content = bytearray(write(folder / "m.gguf", small(4096)).read_bytes())
    content[len(content) // 2 :] = random.Random(1).randbytes(len(content) - len(content) // 2)  # noqa: S311 - weights
    (folder / "m.gguf").write_bytes(content)
    (folder / "SHA256SUMS").write_text(f"{hashlib.sha256(content).hexdigest()}  m.gguf\n")
    return tmp_path / "mirror"


def arguments(server: Nginx, folder: Path) -> dict[str, Any]:
    profile = {"repo": REPO, "file": "m.gguf"}
    return {"name": "m", "dir": str(folder), "profile": profile, "mirror": server.url}


def begin(server: Nginx, folder: Path) -> subprocess.Popen[str]:
    """The module, as Ansible runs it on a host."""
    process = subprocess.Popen(
        modules.command(MODULE), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdin
    process.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": arguments(server, folder)}))
    process.stdin.close()
    process.stdin = None  # communicate() would write to it
    return process


def arrived(folder: Path) -> int:
    """Bytes of the partial file."""
    partial = folder / "m.gguf.partial"
    return partial.stat().st_size if partial.exists() else 0


def wait_until_arrived(process: subprocess.Popen[str], folder: Path, wanted: int) -> None:
    deadline = time.monotonic() + 120
    while process.poll() is None and arrived(folder) < wanted:
        assert time.monotonic() < deadline, f"{arrived(folder)} of {wanted} bytes have come"
        time.sleep(0.01)


def test_a_model_comes_from_nginx_in_one_go(mirror: Path, tmp_path: Path) -> None:
    with nginx(mirror, tmp_path / "nginx") as server:
        done = modules.call(MODULE, arguments(server, tmp_path / "models"))
        assert done["changed"], done
        again = modules.call(MODULE, arguments(server, tmp_path / "models"))
        assert not again["changed"]
    content = (mirror / REPO / "m.gguf").read_bytes()
    assert (tmp_path / "models/m.gguf").read_bytes() == content
    assert server.sent(f"/{REPO}/m.gguf") == len(content)


@pytest.mark.parametrize("kills", [3, pytest.param(100, marks=pytest.mark.soak)])
def test_whatever_is_killed_and_when_the_file_is_absent_or_right_and_not_fetched_twice(
    mirror: Path, tmp_path: Path, kills: int
) -> None:
    chance, models = random.Random(kills), tmp_path / "models"  # noqa: S311 - moments
    content = (mirror / REPO / "m.gguf").read_bytes()
    with nginx(mirror, tmp_path / "nginx", rate=RATE) as server:
        for number in range(kills):
            before = arrived(models)
            process = begin(server, models)
            wait_until_arrived(process, models, before + chance.randrange(1, len(content) // (kills + 1)))
            if number % 2:
                process.kill()
            else:
                server.kill()
                server.start()
                process.kill()  # or it would go on by itself
            process.communicate()
            if (models / "m.gguf").exists():  # it was whole before it could be killed
                assert (models / "m.gguf").read_bytes() == content
                shutil.rmtree(models)
            else:
                assert arrived(models) >= before
        begun, kept = len(server.lines()), arrived(models)
        done = modules.call(MODULE, arguments(server, models))
    assert done["present"], done
    assert (models / "m.gguf").read_bytes() == content
    last = [line for line in server.lines()[begun:] if line[1].endswith("m.gguf") and line[0] == "GET"]
    assert sum(int(line[3]) for line in last) <= len(content) - kept + SLACK_BYTES


def test_a_server_that_comes_back_is_gone_on_with_by_the_same_run(mirror: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    size = (mirror / REPO / "m.gguf").stat().st_size
    with nginx(mirror, tmp_path / "nginx", rate=RATE) as server:
        process = begin(server, models)
        wait_until_arrived(process, models, size // 3)
        server.kill()
        server.start()
        out, err = process.communicate(timeout=300)
    assert json.loads(out)["changed"], out + err
    assert (models / "m.gguf").read_bytes() == (mirror / REPO / "m.gguf").read_bytes()
    assert any(line[2] == "206" for line in server.lines())


def test_a_file_that_is_replaced_meanwhile_is_begun_anew(mirror: Path, tmp_path: Path) -> None:
    models, served = tmp_path / "models", mirror / REPO / "m.gguf"
    with nginx(mirror, tmp_path / "nginx", rate=RATE) as server:
        process = begin(server, models)
        wait_until_arrived(process, models, served.stat().st_size // 3)
        process.kill()
        process.communicate()
        content = bytearray(served.read_bytes())
        content[-1] ^= 1
        replaced = served.with_name("new")
        replaced.write_bytes(content)
        replaced.replace(served)
        (served.parent / "SHA256SUMS").write_text(f"{hashlib.sha256(content).hexdigest()}  m.gguf\n")
        done = modules.call(MODULE, arguments(server, models))
    assert done["present"], done
    assert (models / "m.gguf").read_bytes() == bytes(content)


def test_a_plan_of_a_model_of_gigabytes_takes_its_header_alone_from_nginx(tmp_path: Path) -> None:
    folder = tmp_path / "www"
    folder.mkdir()
    path = write(folder / "large.gguf", WHOLE["gpt-oss-20b-mxfp4"])
    assert path.stat().st_size > 10 << 30
    with nginx(folder, tmp_path / "nginx") as server:
        shape = open_model(f"{server.url}/large.gguf", {})
    assert shape.size_bytes > 10 << 30
    assert {line[2] for line in server.lines()} == {"206"}
    assert server.sent("/large.gguf") < 16 << 20
