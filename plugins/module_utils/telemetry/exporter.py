"""The exporter of telemetry on a host: as declared, or gone; idempotent. Python 3.9's standard library only."""

from __future__ import annotations

import http.client
import os
import re
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..hostlib.http_client import open_address
from ..service import deployed, pids
from ..service.errors import ServiceError
from ..service.ports import is_taken, reached
from ..service.runtimes import Service

# NVML takes seconds a GPU to begin with where nothing keeps the driver's state.
ANSWER_SECONDS = 30


@dataclass(frozen=True)
class DeclaredExporter(deployed.Declared):
    """It has a port of its own."""

    address: tuple[str, int]

    def refuse(self) -> None:
        """Stop where something else has the port; one of ours that is about to be replaced may have it."""
        host, port = self.address
        if not pids.with_argument(self.service.mark, "--port", str(port)) and is_taken(
            host, port, variable="telemetry_exporter_host"
        ):
            raise ServiceError(f"port {port} of {host} is taken: set telemetry_exporter_port to another")


def present(params: Mapping[str, Any], *, check_mode: bool) -> dict[str, Any]:
    """Have it run as declared; in check mode, say what that takes."""
    root, host, port = params["root"], params["host"], params["port"]
    service = _service(root, params["python"])
    configuration = deployed.hash_of(params["files"], params["requirements"], params["unit"], host, port)
    # Not -I: it imports what lies beside it, where nobody but the deploying user writes.
    command = [params["python"], "-E", "-s", service.mark, "--host", host, "--port", str(port),
               "--configuration", configuration]  # fmt: skip
    declared = DeclaredExporter(
        service=service,
        runtime=params["runtime"],
        variable="telemetry_exporter_runtime",
        unit=params["unit"],
        command=command,
        files=params["files"],
        configuration=configuration,
        running=lambda: running_configuration(host, port),
        address=(host, port),
    )
    return {**deployed.present(declared, check_mode=check_mode), "url": url_of(host, port)}


def _service(root: str, python: str) -> Service:
    return Service(
        "telemetry", "exporter", root, python, log="exporter.log", mark=os.path.join(root, "exporter.py")
    )  # fmt: skip


def absent(params: Mapping[str, Any], *, check_mode: bool) -> dict[str, Any]:
    """Have nothing of it left."""
    root = params["root"]
    return deployed.absent(_service(root, os.path.join(root, "env", "bin", "python")), check_mode=check_mode)


def running_configuration(host: str, port: int) -> str | None:
    """The configuration that the exporter which answers there was started with; None where none answers."""
    # Whatever a proxy variable of the user says, this is the host itself.
    direct = [urllib.request.ProxyHandler({})]
    try:
        with open_address(url_of(host, port), timeout=ANSWER_SECONDS, handlers=direct) as answer:
            match = re.search(r'^llama_nexus_exporter_info\{configuration="(\w*)"\}', answer.read().decode(), re.M)
    except (OSError, ValueError, http.client.HTTPException):
        return None
    return match[1] if match else None


def url_of(host: str, port: int) -> str:
    """The address of the exporter on its own host."""
    address = reached(host)
    return f"http://[{address}]:{port}/metrics" if ":" in address else f"http://{address}:{port}/metrics"
