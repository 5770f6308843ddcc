"""nginx, which serves a gateway's reports on its host: as declared, or gone. Python 3.9's standard library only.

It listens on ``pages/sock`` below the gateway's folder, which nobody but HAProxy gets to.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Mapping
from typing import Any

from ..hostlib.files import read_text, remove_tree, write_file
from ..hostlib.pids import argv_of
from ..hostlib.programs import ProgramError, last_lines, run
from ..service.runtimes import Runtime, Service, Supervisor, Systemd, choose
from .errors import GatewayError
from .haproxy import PLACES

START_SECONDS, ANSWER_SECONDS = 20, 5
FOLDER, CONFIGURATION, SOCKET = "pages", "nginx.conf", "sock"
HAPROXY_USER = "haproxy"  # whom its workers and HAProxy's are, where root began them


def find() -> str | None:
    """The path of nginx; None where it is not installed."""
    return shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", ""), *PLACES]))


class Nginx(Service):
    """It as a service. Its processes have no arguments that could be told apart: they write a title over them."""

    def processes(self) -> list[int]:
        pid = (read_text(os.path.join(self.root, "nginx.pid")) or "").strip()
        is_ours = pid.isdigit() and any(self.mark in word for word in argv_of(int(pid)))
        return [int(pid)] if is_ours else []


def service_of(root: str, python: str) -> Service:
    """It as a service; supervisor is in the gateway's environment."""
    folder = os.path.join(root, FOLDER)
    mark = os.path.join(folder, CONFIGURATION)
    return Nginx("gateway-pages", "server of reports", folder, python, log="nginx.log", mark=mark)


def present(params: Mapping[str, Any], *, check_mode: bool) -> dict[str, Any]:
    """Have it run as declared; in check mode, say what that takes."""
    root = params["root"]
    service = service_of(root, params["python"])
    chosen, other = choose(service, params["unit"], params["runtime"], variable="gateway_runtime")
    chosen.refuse()
    program = find()
    if program is None and not check_mode:
        raise GatewayError("nginx is not installed: install the package nginx-light, or leave gateway_reports out")
    decides = json.dumps([params["files"], params["unit"]], sort_keys=True)
    configuration = hashlib.sha256(decides.encode()).hexdigest()[:16]
    texts = {
        os.path.join(service.root, name): text.replace("@ROOT@", root).replace("@CONFIGURATION@", configuration)
        for name, text in params["files"].items()
    }
    command = [program or "nginx", "-e", "stderr", "-c", service.mark]
    texts[chosen.place()] = chosen.text(command)

    differs = sorted(path for path, text in texts.items() if read_text(path) != text)
    reasons = [f"{path} is not as declared" for path in differs]
    if not (chosen.there() and _runs(service, configuration)):
        reasons.append("the server of reports does not run as declared")
    if not chosen.boots():
        reasons.append("the server of reports does not start with the host")
    if other.there():
        reasons.append(f"{other.name} runs one, too")
    result = {"changed": bool(reasons), "reasons": reasons, "runtime": chosen.name}
    if not reasons or check_mode:
        return result
    if other.there():
        other.remove()
    _have_folder(service.root)
    for path in differs:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        write_file(path, texts[path])
    _refuse_invalid(command)
    _start(chosen, service, configuration)
    return result


def _have_folder(folder: str) -> None:
    """Its folder, for its user and HAProxy's, who are one where root did not begin them."""
    os.makedirs(folder, mode=0o700, exist_ok=True)
    if os.geteuid() == 0:
        shutil.chown(folder, group=HAPROXY_USER)
        os.chmod(folder, 0o750)  # noqa: S103 - for the group of HAProxy, who connects there


def _refuse_invalid(command: list[str]) -> None:
    """Stop where nginx does not take the configuration."""
    try:
        done = run([*command, "-t"])
    except ProgramError as error:
        raise GatewayError(str(error)) from error
    if done.status != 0:
        raise GatewayError(f"nginx does not take its configuration: {last_lines(done.output) or 'it said nothing'}")


def _start(chosen: Runtime, service: Service, configuration: str) -> None:
    with contextlib.suppress(FileNotFoundError):  # of one that was killed: it would not bind again
        if not service.processes():
            os.unlink(os.path.join(service.root, SOCKET))
    chosen.start()
    deadline = time.monotonic() + START_SECONDS
    while not (chosen.runs() and _runs(service, configuration)):
        if time.monotonic() > deadline:
            said = last_lines(chosen.log()) or "nothing"
            raise GatewayError(f"nginx, which is to serve reports, does not come up. It said: {said}")
        time.sleep(0.1)


def _runs(service: Service, configuration: str) -> bool:
    """True where one answers that has this configuration."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(ANSWER_SECONDS)
            connection.connect(os.path.join(service.root, SOCKET))
            connection.sendall(b"GET /configuration HTTP/1.0\r\n\r\n")
            said = b"".join(iter(lambda: connection.recv(4096), b""))
    except OSError:
        return False
    return said.endswith(b"\r\n" + configuration.encode())


def absent(root: str, *, check_mode: bool) -> dict[str, Any]:
    """Have nothing of it left."""
    service = service_of(root, os.path.join(root, "env", "bin", "python"))
    runtimes = [runtime for runtime in (Systemd(service, ""), Supervisor(service)) if runtime.there()]
    reasons = [f"{runtime.name} runs a server of reports" for runtime in runtimes]
    if os.path.isdir(service.root):
        reasons.append(f"{service.root} is there")
    if not check_mode:
        for runtime in runtimes:
            runtime.remove()
        if reasons:
            remove_tree(service.root)
    return {"changed": bool(reasons), "reasons": reasons}
