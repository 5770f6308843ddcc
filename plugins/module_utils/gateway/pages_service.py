"""nginx, which serves a gateway's reports on its host: as declared, or gone. Python 3.9's standard library only.

It listens on ``pages/sock`` below the gateway's folder, which nobody but HAProxy gets to.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Mapping
from typing import Any

from ..hostlib.files import read_text
from ..hostlib.pids import argv_of
from ..hostlib.programs import ProgramError, last_lines, run
from ..service import deployed
from ..service.errors import ServiceError
from ..service.runtimes import Service
from .haproxy import PLACES

ANSWER_SECONDS = 5
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


def service_of(root: str) -> Service:
    """It as a service; supervisor is in the gateway's environment."""
    folder = os.path.join(root, FOLDER)
    python = os.path.join(root, "env", "bin", "python")
    mark = os.path.join(folder, CONFIGURATION)
    return Nginx("gateway-pages", "server of reports", folder, python, log="nginx.log", mark=mark)


class DeclaredNginx(deployed.Declared):
    """It checks a configuration itself, and does not bind to a socket that a killed one has left."""

    def prepare(self) -> None:
        folder = self.service.root
        if os.geteuid() == 0:
            shutil.chown(folder, group=HAPROXY_USER)
        os.chmod(folder, 0o750 if os.geteuid() == 0 else 0o700)  # HAProxy connects there, by its group or as this user
        try:
            done = run([*self.command, "-t"])
        except ProgramError as error:
            raise ServiceError(str(error)) from error
        if done.status != 0:
            raise ServiceError(f"nginx does not take its configuration: {last_lines(done.output) or 'it said nothing'}")
        with contextlib.suppress(FileNotFoundError):
            if not self.service.processes():
                os.unlink(os.path.join(folder, SOCKET))


def present(params: Mapping[str, Any], *, check_mode: bool) -> dict[str, Any]:
    """Have it run as declared; in check mode, say what that takes."""
    root, service, program = params["root"], service_of(params["root"]), find()
    if program is None and not check_mode:
        raise ServiceError("nginx is not installed: install the package nginx-light, or leave gateway_reports out")
    configuration = deployed.hash_of(params["files"], params["unit"])
    declared = DeclaredNginx(
        service=service,
        runtime=params["runtime"],
        variable="gateway_runtime",
        unit=params["unit"],
        command=[program or "nginx", "-e", "stderr", "-c", service.mark],
        files={
            name: text.replace("@ROOT@", root).replace("@CONFIGURATION@", configuration)
            for name, text in params["files"].items()
        },
        configuration=configuration,
        running=lambda: _running(service),
    )
    return deployed.present(declared, check_mode=check_mode)


def _running(service: Service) -> str | None:
    """The configuration that one which answers tells."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(ANSWER_SECONDS)
            connection.connect(os.path.join(service.root, SOCKET))
            connection.sendall(b"GET /configuration HTTP/1.0\r\n\r\n")
            said = b"".join(iter(lambda: connection.recv(4096), b""))
    except OSError:
        return None
    return said.rpartition(b"\r\n")[2].decode(errors="replace")


def absent(params: Mapping[str, Any], *, check_mode: bool) -> dict[str, Any]:
    """Have nothing of it left."""
    return deployed.absent(service_of(params["root"]), check_mode=check_mode)
