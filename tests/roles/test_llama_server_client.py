"""Requests that carry a key, and who hears them: real sockets of several processes."""

from __future__ import annotations

import ast
import itertools
import multiprocessing
import os
import re
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils.hostlib.instances import Instance
from plugins.module_utils.llama_server.client import Hidden, Server, Stranger, Unanswered
from plugins.module_utils.llama_server.sockets import holder, listeners
from tests import port_takers
from tests.conftest import ROOT, RunningServer, free_port, wait_for
from tests.port_takers import running

KEY = "a-key-that-is-long-enough"
# Who else sends credentials from a host: by one client, to origins that are not on this host (test_http_client.py).
OTHERS = {
    "plugins/module_utils/hostlib/http_client.py",
    "plugins/modules/container_engine_key.py",
    "plugins/module_utils/gguf_model/address.py",
    "plugins/module_utils/gguf_model/download.py",
    "plugins/module_utils/gguf_model/origins.py",
    "plugins/module_utils/gguf_model/share.py",  # which hears them
    "plugins/module_utils/llama_cpp/credentials.py",
    "plugins/module_utils/llama_cpp/index.py",
    "plugins/module_utils/nvidia/packages.py",
    "roles/gateway/templates/haproxy.cfg.j2",  # an instance's own key, to the servers of its backend
    "roles/gateway/templates/users_known.cfg.j2",  # which hears those of users, and lets none pass
}


def server_of(pid: int | None, port: int, host: str = "127.0.0.1") -> Any:
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    return Server(Instance(name="main", local_url=url), pid)


@pytest.mark.parametrize(
    ("bound", "asked"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", "::1"), ("::", "127.0.0.1")],  # noqa: S104 - not bound
)
def test_the_process_itself_hears_the_key_at_any_address(bound: str, asked: str, tmp_path: Path) -> None:
    port = free_port()
    with port_takers.listening(port, tmp_path / "notes", address=bound) as itself:
        server = server_of(itself.pid, port, asked)
        assert server.is_listening()
        assert server.ask("/slots", key=KEY) == (200, {"status": "ok"})
        wait_for(itself.heard().strip, "the request")
        assert f"Authorization: Bearer {KEY}".encode() in itself.heard()
        assert holder(listeners(asked, port)) == itself.pid


@pytest.mark.parametrize("bound", ["127.0.0.1", "0.0.0.0"])  # noqa: S104 - the other one is more precise then
def test_of_two_that_listen_on_one_port_only_the_server_hears_a_key(bound: str, tmp_path: Path) -> None:
    port = free_port()
    with (
        port_takers.listening(port, tmp_path / "its", address=bound, shared=True) as itself,
        port_takers.listening(port, tmp_path / "other", shared=True) as other,
    ):
        server = server_of(itself.pid, port)
        refused = []
        for _ in range(40):
            try:
                server.ask("/slots", key=KEY)
            except Stranger as error:
                refused.append(str(error))
        assert not other.heard().strip()
        assert refused  # the kernel hands connections to both, or all of them to the more precise one
        assert all(f"port {port} on 127.0.0.1 is held by process {other.pid} (" in message for message in refused)
        assert (KEY.encode() in itself.heard()) is (bound == "127.0.0.1")


def test_who_listens_and_takes_no_connection_is_named_before_time_is_up() -> None:
    with (
        running(time.sleep, 600) as bystander,
        socket.create_server(("127.0.0.1", 0)) as listener,
        running(time.sleep, 600) as pid,  # which inherits the socket
    ):
        with pytest.raises(Stranger, match=f"is held by process ({os.getpid()}|{pid}) "):
            server_of(bystander, listener.getsockname()[1]).ask("/health", timeout=60)
        with pytest.raises(Unanswered, match="no answer within 2 s, and its process does nothing") as out:
            server_of(pid, listener.getsockname()[1]).ask("/health", timeout=2)
        assert out.value.idle


def test_without_a_process_nobody_hears_a_key(tmp_path: Path) -> None:
    port = free_port()
    with port_takers.listening(port, tmp_path / "notes") as stranger:
        with pytest.raises(Stranger, match="not by instance main, which is down"):
            server_of(None, port).ask("/slots", key=KEY)
        assert not stranger.heard().strip()


def test_a_number_that_passed_to_another_process_hears_no_key(tmp_path: Path) -> None:
    port = free_port()
    with port_takers.listening(port, tmp_path / "notes") as stranger:
        server = server_of(stranger.pid, port)
        server._born = "0"  # when the process was started to which the number belonged
        with pytest.raises(ConnectionResetError, match=f"process {stranger.pid} has ended"):
            server.ask("/slots", key=KEY)
        assert not stranger.heard().strip()


def test_where_descriptors_can_not_be_read_no_key_is_sent_and_the_message_says_what_to_do(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to be somebody who may read less")
    port = free_port()

    here, there = multiprocessing.Pipe()

    def ask(pid: int) -> None:
        os.setgroups([])
        os.setgid(port_takers.NOBODY)
        os.setuid(port_takers.NOBODY)
        server = server_of(pid, port)
        there.send([server.is_listening(), server.ask("/health")[0]])
        try:
            server.ask("/slots", key=KEY)
        except Hidden as error:
            there.send(str(error))

    with (
        port_takers.listening(port, tmp_path / "notes", shared=True) as server,
        running(ask, server.pid),
    ):  # it stays root
        assert here.recv() == [False, 200]  # what is no secret is asked all the same
        said = f"descriptors of process {server.pid} of instance main can't be read: deploy as its user, or as root"
        assert said in here.recv()
        assert b"uthorization" not in server.heard()


def test_where_a_server_redirects_to_is_not_asked(tmp_path: Path) -> None:
    def redirect(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.recv(65536)
        connection.sendall(f"HTTP/1.1 302 Found\r\nLocation: {elsewhere}\r\nContent-Length: 0\r\n\r\n".encode())
        time.sleep(60)

    port = free_port()
    with (
        port_takers.listening(port, tmp_path / "notes") as stranger,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        elsewhere = f"http://127.0.0.1:{port}/"
        with running(redirect, listener) as pid:
            here = listener.getsockname()[1]
            listener.close()
            assert server_of(pid, here).ask("/slots", key=KEY) == (302, {})
        assert stranger.heard() == b""


def test_a_real_server_is_asked_with_a_key(server: RunningServer) -> None:
    port = int(server.base_url.rpartition(":")[2])
    code, slots = server_of(server.process.pid, port).ask("/slots", key=KEY)
    assert (code, len(slots)) == (200, 1)


def host_code() -> list[Path]:
    """What of the repository runs on hosts."""
    places = ["files", "tasks", "handlers", "templates"]
    found = [path for place in places for path in ROOT.glob(f"roles/*/{place}/**/*") if path.is_file()]
    found += [*ROOT.glob("plugins/module*/**/*.py"), *ROOT.glob("playbooks/*")]
    return [path for path in found if path.suffix != ".txt" and "__pycache__" not in path.parts and path.is_file()]


def test_no_other_code_on_hosts_sends_credentials() -> None:
    """One function sends keys, and only over a connection that it knows; who needs one goes through it."""
    word = re.compile(r"authorization|bearer|x-api-key", re.IGNORECASE)
    senders = {str(path.relative_to(ROOT)) for path in host_code() if word.search(path.read_text(errors="replace"))}
    client = "plugins/module_utils/llama_server/client.py"
    assert senders == {client, *OTHERS}
    assert len(word.findall((ROOT / client).read_text())) == 2  # the header's name and its value, once

    def imports(path: Path) -> set[str]:
        tree = ast.walk(ast.parse(path.read_text()))
        return {node.module or "" for node in tree if isinstance(node, ast.ImportFrom)} | {
            name.name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import)
            for name in node.names
        }

    # What asks servers otherwise could be given a key one day. http.client speaks with supervisord, on its own socket.
    places = ("plugins/module_utils/llama_server/**/*.py", "plugins/modules/llama_server_*.py")
    for path in itertools.chain.from_iterable(map(ROOT.glob, places)):
        assert not any(name.startswith("urllib.request") for name in imports(path)), path
