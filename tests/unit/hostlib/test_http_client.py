"""What modules on hosts send where: real servers on loopback, each port an origin of its own."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import ssl
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from plugins.module_utils.hostlib.http_client import RefusedRedirectError, open_address
from tests import modules
from tests.conftest import ROOT
from tests.roles.file_server import Served, serve

TOKEN = "Bearer hf_secret"  # noqa: S105 - for the test's own servers
USER = "Basic dTpwQHNz"  # u:p@ss


@dataclass
class Origin:
    """A server that redirects where it is told to, and what it was asked: path and Authorization."""

    url: str
    redirects: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    status: int = 302


@contextlib.contextmanager
def origin(context: ssl.SSLContext | None = None) -> Iterator[Origin]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class calls it so
            pass

        def do_GET(self) -> None:
            here.asked.append((self.path, self.headers["Authorization"]))
            here.headers.append(dict(self.headers))
            leads = here.redirects.get(self.path)
            self.send_response(here.status if leads else 200)
            if leads:
                self.send_header("Location", leads)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        here = Origin(f"{'https' if context else 'http'}://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield here
        server.shutdown()
        thread.join()


@pytest.fixture
def two() -> Iterator[tuple[Origin, Origin]]:
    with origin() as first, origin() as second:
        yield first, second


def ask(url: str, **headers: str) -> None:
    with open_address(url, headers, authorization=TOKEN):
        pass


def test_another_port_is_another_origin_and_gets_no_credential(two: tuple[Origin, Origin]) -> None:
    first, second = two
    first.redirects["/a"] = f"{second.url}/b"
    ask(f"{first.url}/a", Range="bytes=3-")
    assert first.asked == [("/a", TOKEN)]
    assert second.asked == [("/b", None)]
    assert second.headers[0]["Range"] == "bytes=3-"


def test_another_name_of_the_host_is_another_origin(two: tuple[Origin, Origin]) -> None:
    first, _ = two
    first.redirects["/a"] = first.url.replace("127.0.0.1", "localhost") + "/b"
    ask(f"{first.url}/a")
    assert first.asked == [("/a", TOKEN), ("/b", None)]


@pytest.mark.parametrize("leads", ["/b", "{}/b"])
def test_the_same_origin_gets_the_credential_again(two: tuple[Origin, Origin], leads: str) -> None:
    first, _ = two
    first.redirects["/a"] = leads.format(first.url)
    ask(f"{first.url}/a")
    assert first.asked == [("/a", TOKEN), ("/b", TOKEN)]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_every_redirect_is_followed_on_every_python(
    two: tuple[Origin, Origin], monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    # Python 3.9 and 3.10 know nothing of 308.
    monkeypatch.delattr(urllib.request.HTTPRedirectHandler, "http_error_308", raising=False)
    here, there = two
    here.status, here.redirects["/a"] = status, f"{there.url}/b"
    with open_address(f"{here.url}/a", authorization="Bearer t") as answer:
        assert answer.status == 200
    assert (here.asked, there.asked) == ([("/a", "Bearer t")], [("/b", None)])


def test_a_way_that_leads_back_gets_it_there_and_nowhere_between(two: tuple[Origin, Origin]) -> None:
    first, second = two
    first.redirects["/a"] = f"{second.url}/b"
    second.redirects["/b"] = f"{first.url}/c"
    ask(f"{first.url}/a")
    assert first.asked == [("/a", TOKEN), ("/c", TOKEN)]
    assert second.asked == [("/b", None)]


def test_a_user_in_a_redirects_address_is_for_its_origin(two: tuple[Origin, Origin]) -> None:
    first, second = two
    first.redirects["/a"] = f"{second.url.replace('//', '//u:p%40ss@')}/b"
    second.redirects["/b"] = "/c"
    second.redirects["/c"] = f"{first.url}/d"
    ask(f"{first.url}/a")
    assert second.asked == [("/b", USER), ("/c", USER)]
    assert first.asked == [("/a", TOKEN), ("/d", TOKEN)]


def test_what_a_proxy_is_told_reaches_no_server(two: tuple[Origin, Origin], monkeypatch: pytest.MonkeyPatch) -> None:
    proxy, direct = two
    monkeypatch.setenv("http_proxy", proxy.url.replace("//", "//u:p%40ss@"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    proxy.redirects["http://mirror.invalid/a"] = f"{direct.url}/b"
    ask("http://mirror.invalid/a")
    assert proxy.asked == [("http://mirror.invalid/a", TOKEN)]
    assert proxy.headers[0]["Proxy-Authorization"] == USER
    assert direct.asked == [("/b", None)]
    assert "proxy-authorization" not in {name.lower() for name in direct.headers[0]}


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """What a server on 127.0.0.1 shows, which this process trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = (
        builder.serial_number(1).not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    )
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    certificate = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (tmp_path / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    (tmp_path / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    return context


def test_from_https_to_http_is_refused_with_a_credential_and_followed_without(tls: ssl.SSLContext) -> None:
    with origin(tls) as safe, origin() as plain:
        safe.redirects["/a"] = f"{plain.url}/b?signature=hidden"
        with pytest.raises(RefusedRedirectError) as refused:
            ask(f"{safe.url}/a")
        assert str(refused.value).startswith(f"with a credential, it is not followed from https to {plain.url}/b: ")
        assert safe.asked == [("/a", TOKEN)]
        assert plain.asked == []
        with open_address(f"{safe.url}/a"):
            assert plain.asked == [("/b?signature=hidden", None)]


def test_a_folder_of_the_host_is_read_but_led_to_by_nobody(two: tuple[Origin, Origin], tmp_path: Path) -> None:
    (tmp_path / "x").write_text("of the host")
    with open_address((tmp_path / "x").as_uri()) as answer:
        assert answer.read() == b"of the host"
    first, _ = two
    for leads in ((tmp_path / "x").as_uri(), "ftp://127.0.0.1/x", "http://127.0.0.1:port/x"):
        first.redirects["/a"] = leads
        with pytest.raises((RefusedRedirectError, OSError)):
            ask(f"{first.url}/a")
    for address in ("file:///etc/passwd", "/etc/passwd"):
        with pytest.raises(ValueError, match="no http"):
            ask(address)


# --- Who uses it ---


def test_a_mirrors_redirect_does_not_carry_the_hubs_token_away(tmp_path: Path) -> None:
    with serve() as mirror, serve() as storage:
        content = gguf()
        storage.files["/kept"] = Served(content)
        mirror.repositories["some/repo"] = {"a.gguf": content}
        mirror.relays["/some/repo/resolve/main/a.gguf"] = f"{storage.url}/kept"
        found = modules.call(
            ROOT / "plugins/modules/gguf_file.py",
            {
                "name": "model", "dir": str(tmp_path), "profile": {"repo": "some/repo", "file": "a.gguf"},
                "endpoint": mirror.url, "token": "hf_secret",
                "files": [{"path": "/some/repo/resolve/main/a.gguf", "sha256": hashlib.sha256(content).hexdigest()}],
            },
        )  # fmt: skip
        assert found["changed"], found
        assert [one.authorization for one in mirror.asked] == [TOKEN]
        assert [one.authorization for one in storage.asked] == [None]


def gguf() -> bytes:
    """The least that is a GGUF file: no values, no tensors."""
    return b"GGUF" + (3).to_bytes(4, "little") + bytes(16)


def test_gits_credentials_stay_with_their_server(tmp_path: Path) -> None:
    credentials = modules.load(ROOT / "plugins/module_utils/llama_cpp/credentials.py")
    asked: list[tuple[int, str, str | None]] = []
    capabilities = b"%s refs/heads/b1\0shallow no-progress\n" % (b"1" * 40)
    refs = b"001e# service=git-upload-pack\n0000%04x%s0000" % (len(capabilities) + 4, capabilities)

    class Forge(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class calls it so
            pass

        def do_GET(self) -> None:
            given = self.headers["Authorization"]
            port = self.connection.getsockname()[1]
            asked.append((port, self.command, given))
            moved = port == old.server_port and self.command == "GET"
            self.send_response(401 if moved and not given else 301 if moved else 200 if self.command == "GET" else 404)
            self.send_header("WWW-Authenticate", 'Basic realm="x"')
            self.send_header("Location", f"http://127.0.0.1:{new.server_port}{self.path}")
            self.send_header("Content-Type", "application/x-git-upload-pack-advertisement")
            body = refs if not moved and self.command == "GET" else b""
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - the base class calls it so

    with ThreadingHTTPServer(("127.0.0.1", 0), Forge) as old, ThreadingHTTPServer(("127.0.0.1", 0), Forge) as new:
        for server in (old, new):
            threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"127.0.0.1:{old.server_port}/x.git"
        environment = credentials.git_environment(f"http://u:p%40ss@{place}")
        done = subprocess.run(
            ["git", "clone", "--depth=1", "--branch=b1", f"http://{place}", tmp_path / "x"],
            capture_output=True, text=True,
            env={"PATH": "/usr/bin:/bin", "GIT_TERMINAL_PROMPT": "0", "HOME": str(tmp_path), **environment},
            check=False,
        )  # fmt: skip
        old.shutdown()
        new.shutdown()
    assert (old.server_port, "GET", USER) in asked, done.stderr
    assert {given for port, _, given in asked if port == new.server_port} == {None}


# Those that ask their own host and follow no redirect; test_limited_socket.py looks that their answers end.
LOCAL = {
    "plugins/module_utils/llama_server/client.py",
    "plugins/module_utils/llama_server/runtimes/supervisord.py",
    "plugins/module_utils/service/ports.py",  # connects and says nothing
}
ASKING = ("urllib.request", "http.client", "ansible.module_utils.urls", "requests", "httpx")
OWN = "plugins/module_utils/hostlib/http_client.py"


def asks(source: str) -> set[str]:
    """What in a source opens addresses without http_client: names of functions, and of whole modules for them."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in (
            "urlopen",
            "build_opener",
            "install_opener",
            "urlretrieve",
        ):
            found.add(node.attr)
        made = [node.func] if isinstance(node, ast.Call) else node.bases if isinstance(node, ast.ClassDef) else []
        connections = ("HTTPConnection", "HTTPSConnection", "ServerProxy", "create_connection")
        found |= {one.attr for one in made if isinstance(one, ast.Attribute) and one.attr in connections}
        if isinstance(node, ast.ImportFrom) and node.module in ASKING:
            harmless = {"HTTPException", "HTTPMessage", "HTTPResponse"} if node.module == "http.client" else set()
            found |= {node.module} if {name.name for name in node.names} - harmless else set()
        if isinstance(node, ast.Import):
            found |= {
                name.name for name in node.names if name.name in ("requests", "httpx", "ansible.module_utils.urls")
            }
    return found


def test_host_code_asks_other_machines_by_http_client_alone() -> None:
    places = ("plugins/**/*.py", "roles/*/files/*.py")
    files = {str(path.relative_to(ROOT)): path for place in places for path in ROOT.glob(place)}
    assert LOCAL | {OWN} <= files.keys()
    wrong = {name: asks(path.read_text()) for name, path in files.items() if name not in {*LOCAL, OWN}}
    assert {name: found for name, found in wrong.items() if found} == {}


def test_tasks_ask_no_address_by_ansibles_own_modules() -> None:
    # get_url and uri repeat their headers to whatever they are redirected to.
    tasks = [*ROOT.glob("roles/*/tasks/*.yml"), *ROOT.glob("playbooks/**/*.yml")]
    words = ("builtin.get_url:", "builtin.uri:", "builtin.apt_key:", "builtin.rpm_key:")
    assert [path.name for path in tasks if any(word in path.read_text() for word in words)] == []


@pytest.mark.parametrize(
    "source",
    [
        "import urllib.request\nurllib.request.urlopen('x')\n", "from urllib.request import urlopen\n",
        "from ansible.module_utils.urls import open_url\n", "import requests\n",
        "import urllib.request as r\nr.build_opener()\n", "import http.client\nhttp.client.HTTPSConnection('x')\n",
        "from http.client import HTTPSConnection\n", "import http.client\nclass A(http.client.HTTPConnection): pass\n",
        "import socket\nsocket.create_connection(('x', 1))\n",
        "import xmlrpc.client\nxmlrpc.client.ServerProxy('x')\n",
    ],
)  # fmt: skip
def test_another_way_to_ask_is_found(source: str) -> None:
    assert asks(source)
