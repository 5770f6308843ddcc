"""The exporter of telemetry on a host: as declared, or gone; idempotent. Python 3.9's standard library only."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import shutil
import time
import urllib.request
from collections.abc import Mapping
from typing import Any

from ..hostlib.files import read_text, write_file
from ..hostlib.http_client import open_address
from ..hostlib.programs import last_lines
from ..service import pids
from ..service.errors import ServiceError
from ..service.ports import is_taken, reached
from ..service.runtimes import Service, Supervisor, Systemd, choose

START_SECONDS = 20
# NVML takes seconds a GPU to begin with where nothing keeps the driver's state.
ANSWER_SECONDS = 30


def present(params: Mapping[str, Any], *, check_mode: bool) -> dict[str, Any]:
    """Have it run as declared; in check mode, say what that takes."""
    root, host, port = params["root"], params["host"], params["port"]
    service = _service(root, params["python"])
    chosen, other = choose(service, params["unit"], params["runtime"], variable="telemetry_exporter_runtime")
    chosen.refuse()

    decides = [
        params["files"],
        params["requirements"],
        params["unit"] if chosen.name == "systemd" else "",
        host,
        port,
        chosen.name,
    ]
    configuration = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]
    # Not -I: it imports what lies beside it, where nobody but the deploying user writes.
    command = [params["python"], "-E", "-s", os.path.join(root, "exporter.py"), "--host", host, "--port", str(port),
               "--configuration", configuration]  # fmt: skip
    texts = {os.path.join(root, name): text for name, text in params["files"].items()}
    texts[chosen.place()] = chosen.text(command)

    before = {path: read_text(path) for path in texts}
    runs = chosen.there() and chosen.runs()
    running = running_configuration(host, port) if runs else None
    reasons = [f"{path} is not as declared" for path, text in sorted(texts.items()) if before[path] != text]
    if not runs:
        reasons.append("the exporter does not run")
    elif running != configuration:
        reasons.append("the exporter was started with another configuration")
    if not chosen.boots():
        reasons.append("the exporter does not start with the host")
    if other.there():
        reasons.append(f"{other.name} runs one, too")
    _refuse_taken(service, host, port)
    url = url_of(host, port)
    result: dict[str, Any] = {"changed": bool(reasons), "reasons": reasons, "runtime": chosen.name, "url": url}
    place, text = chosen.place(), texts[chosen.place()]
    if before[place] != text:  # the command line is in it, and a hash of everything else
        result["diff"] = {"before_header": place, "after_header": place, "before": before[place] or "", "after": text}
    if not reasons or check_mode:
        return result

    if other.there():
        other.remove()
    os.makedirs(root, mode=0o755, exist_ok=True)
    for path, text in texts.items():
        if before[path] != text:
            write_file(path, text)
    chosen.start()
    deadline = time.monotonic() + START_SECONDS
    while running_configuration(host, port) != configuration or not chosen.runs():
        if time.monotonic() > deadline:
            raise ServiceError(
                f"the exporter does not answer at {url}. It said: {last_lines(chosen.log()) or 'nothing'}"
            )
        time.sleep(0.2)
    return result


def _service(root: str, python: str) -> Service:
    return Service(
        "telemetry", "exporter", root, python, log="exporter.log", mark=os.path.join(root, "exporter.py")
    )  # fmt: skip


def _refuse_taken(service: Service, host: str, port: int) -> None:
    """Stop where something else has the port; one of ours that is about to be replaced may have it."""
    if not pids.with_argument(service.mark, "--port", str(port)) and is_taken(
        host, port, variable="telemetry_exporter_host"
    ):
        raise ServiceError(f"port {port} of {host} is taken: set telemetry_exporter_port to another")


def absent(root: str, *, check_mode: bool) -> dict[str, Any]:
    """Have nothing of it left."""
    service = _service(root, os.path.join(root, "env", "bin", "python"))
    runtimes = (Systemd(service, ""), Supervisor(service))
    reasons = [f"{runtime.name} runs an exporter" for runtime in runtimes if runtime.there()]
    if os.path.isdir(root):
        reasons.append(f"{root} is there")
    if reasons and not check_mode:
        for runtime in runtimes:
            if runtime.there():
                runtime.remove()
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(root)
    return {"changed": bool(reasons), "reasons": reasons}


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
