"""What the tests share: a real llama-server built by the role, the tiny model, and a running server."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from tests.locks import Ports
from tests.workers import once, tell

T = TypeVar("T")

# What a shell runs in the background ignores Ctrl-C, and so would every program that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["tests.schedule", "tests.bed.fixtures", "tests.fakes.fixtures"]

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent  # the environment's programs, activated or not
# The version that was pinned before, as its own index has it; optimized less, which takes the compiler half the time.
EARLIER = {
    "llama_cpp_ref": "b11312",
    "llama_cpp_commit": "0c1e57098bba43ac29e6e3b677cdceebdd22334f",
    "llama_cpp_pypi_package": "llama-cpp-python",
    "llama_cpp_pypi_version": "0.3.36",
    "llama_cpp_pypi_sha256": "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
    "llama_cpp_pypi_tree": "b2da53584951ec8aa40680229509a6646a637560",
    "llama_cpp_targets": ["llama-server"],
    "llama_cpp_cmake_options": {"CMAKE_C_FLAGS_RELEASE": "-O1", "CMAKE_CXX_FLAGS_RELEASE": "-O1"},
    "llama_nexus_tools": "{{ llama_nexus_prefix | dirname }}/tools",
}
RESULTS = tempfile.TemporaryDirectory(prefix="llama-nexus-results-")  # the user's own are none of the tests' business


@dataclass(frozen=True)
class RunningServer:
    """A llama-server of the tests' own, on loopback."""

    base_url: str
    model: Path
    log: Path
    process: subprocess.Popen[bytes]


@functools.cache
def _ports() -> Ports:
    return Ports(cache_folder() / "ports.lock")


def free_port() -> int:
    """A TCP port on loopback that nothing listens on, and that no other test of this machine was given."""
    while True:
        port = _ports().take()
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def one_thread(instances: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Instances of role llama_server with one thread each, where a test doesn't declare others.

    Of two threads on a busy machine each waits for the other, spinning: a token takes a second.
    """

    def declared(options: Mapping[str, Any]) -> dict[str, Any]:
        if "models" in options:  # threads are those of a router's models
            return {**options, "models": one_thread(options["models"])}
        return {"threads": 1, **options}

    return {name: declared(options) for name, options in instances.items()}


@contextlib.contextmanager
def run_server(binary: Path, model: Path, log: Path, *flags: str) -> Iterator[RunningServer]:
    """Run llama-server until the block is left; it answers requests when the block is entered."""
    port = free_port()
    argv: Sequence[str | Path] = [
        binary, "--model", model, "--alias", "tiny", "--port", str(port), "--ctx-size", "4096",
        "--parallel", "1", "--threads", "1", "--no-ui", *flags,  # as one_thread()
    ]  # fmt: skip
    with log.open("wb") as stream, subprocess.Popen(argv, stdout=stream, stderr=subprocess.STDOUT) as process:
        try:
            base_url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 180
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(f"{base_url}/health").status_code == httpx.codes.OK:
                        break
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"llama-server did not start:\n{log.read_text()[-3000:]}")
                time.sleep(0.1)
            yield RunningServer(base_url, model, log, process)
        finally:
            process.kill()


def cache_folder() -> Path:
    """Where the tests keep what is slow to make: a prefix of their own, with the release and its tools."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llama-nexus" / "tests"


def ansible(*arguments: str | Path, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ansible-playbook from the repository's root. Its output, both streams, is in ``stdout``."""
    done = subprocess.run(
        [BIN / "ansible-playbook", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "COLUMNS": "200", "NEXUS_RESULTS": RESULTS.name, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    if check and done.returncode != 0:
        raise AssertionError(f"ansible-playbook {arguments} failed:\n{done.stdout[-5000:]}")
    return done


def changed(output: str) -> int:
    """The count of changes in Ansible's recap of one host."""
    found = re.search(r"changed=(\d+)", output)
    assert found, output
    return int(found[1])


def said(output: str) -> str:
    """What Ansible printed, its line breaks folded; the play must have failed."""
    assert "fatal:" in output or "failed:" in output, output
    return " ".join(output.split())


def wait_for(condition: Callable[[], T], what: str, seconds: float = 180) -> T:
    """Wait until a condition holds, and return what it gave; AssertionError after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain for {what}"
        time.sleep(0.05)
    return found


def server_of(folder: Path) -> int:
    """The process of an instance under supervisor, by its folder; 0 where none runs."""
    from plugins.module_utils.llama_server.processes import with_variable

    return next(iter(with_variable("LLAMA_NEXUS_INSTANCE", str(folder))), 0)


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a test's own; its path is short, since those of unix sockets below it may have 107 characters."""
    return tmp_path_factory.mktemp("t")


@pytest.fixture(scope="session")
def release(request: pytest.FixtureRequest) -> Path:
    """The release that role llama_cpp makes of the pinned version, built on the first run and kept in the cache."""
    return Path(once(request.config, "release", functools.partial(_build, request.config, {})))


@pytest.fixture(scope="session")
def earlier_release(request: pytest.FixtureRequest) -> Path:
    """A release of the version before the pinned one, with nothing but the server."""
    return Path(once(request.config, "earlier_release", functools.partial(_build, request.config, EARLIER)))


def _build(config: pytest.Config, variables: Mapping[str, Any]) -> str:
    prefix = cache_folder() / str(variables.get("llama_cpp_ref", ""))
    build: list[str | Path] = [BIN / "ansible-playbook", "playbooks/build.yml", "-l", "local"]
    build += ["-e", json.dumps({"llama_nexus_prefix": str(prefix), **variables})]
    output = []
    with subprocess.Popen(build, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            output.append(line)
            if line.startswith("  localhost "):
                tell(config, line.strip())
    assert process.returncode == 0, "".join(output[-60:])
    return str((prefix / "current").resolve())


@pytest.fixture(scope="session")
def llama_server_bin(release: Path) -> Path:
    """The llama-server of the release."""
    return release / "bin" / "llama-server"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quickstart's model."""
    from nexus_tasks.model_store import tiny_model

    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    tiny_model.write(path)
    return path


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that loads and decodes in no time, where a deployment is the matter; any user can read it."""
    from nexus_tasks.model_store import tiny_model

    folder = tmp_path_factory.mktemp("shelf")
    shape = tiny_model.Shape(n_layer=4, n_embd=128, n_head=4, n_head_kv=2, n_ff=384)
    tiny_model.write(folder / "tiny.gguf", shape=shape)
    (folder / "tiny.gguf").chmod(0o644)
    folder.chmod(0o755)
    return folder / "tiny.gguf"


@pytest.fixture(scope="session")
def gemma_model() -> Path:
    """A real small model, for answers that have to mean something; 240 MB are fetched once."""
    from tests.support import gemma

    return gemma.make(cache_folder())


@pytest.fixture(scope="session")
def server(
    llama_server_bin: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """A llama-server that serves the tiny model without a key."""
    log = tmp_path_factory.mktemp("server") / "server.log"
    with run_server(llama_server_bin, tiny_model, log) as running:
        yield running
